"""Lets nbval run notebooks as nbdev keeps them, and tells their tests where real photos and weights are."""

import os
from pathlib import Path

# Kernels inherit these: less noise, and on processors where TensorFlow leaves oneDNN off, twice the speed.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "1"

for _name, _folder in (("PETSEG_DATA", "pets"), ("PETSEG_WEIGHTS", "weights")):
    _shared = Path(__file__).parent.parent / "shared" / _folder
    if _name not in os.environ and _shared.is_dir():
        os.environ[_name] = str(_shared.resolve())


def pytest_collection_modifyitems(items):
    """Compare every cell (clean notebooks have no execution counts) and leave alone what nbdev would not run."""
    for item in items:
        if type(item).__name__ == "IPyNbCell":
            item.cell.execution_count = 1
            # Stored notebooks have no stderr: TensorFlow's greeting there holds times and process ids.
            if "stderr" not in item.parent.skip_compare:
                item.parent.skip_compare += ("stderr",)
            first = item.cell.source.lstrip().splitlines()[:3]
            if "#| eval: false" in first or "#| slow" in first or "nbdev_export(" in item.cell.source:
                item.options["skip"] = True
