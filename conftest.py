"""How notebooks are run, by pytest and by .ci/book.py: the environment, the limit, the cells that are left alone."""

import os
from pathlib import Path

import pytest

CELL_SECONDS = 600  # a cell that takes longer fails

# Kernels inherit these: less noise, and on processors where TensorFlow leaves oneDNN off, twice the speed.
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "1"}

# Real photos and weights, where a machine has them.
for _name, _folder in (("PETSEG_DATA", "pets"), ("PETSEG_WEIGHTS", "weights")):
    _shared = Path(__file__).resolve().parent.parent / "shared" / _folder
    if _shared.is_dir():
        os.environ.setdefault(_name, str(_shared.resolve()))
REAL = os.environ.get("PETSEG_DATA")


def real_photos(wanted: bool) -> bool:
    """Whether kernels that start from now on find real photos. What the chapters show and store are drawings: rooms only want them."""
    if wanted and REAL:
        os.environ["PETSEG_DATA"] = REAL
    else:
        os.environ.pop("PETSEG_DATA", None)
    return "PETSEG_DATA" in os.environ


def is_left_alone(source: str) -> bool:
    """Whether nbdev would not run a cell of this source."""
    first = source.lstrip().splitlines()[:3]
    return "#| eval: false" in first or "#| slow" in first or "nbdev_export(" in source


def pytest_configure(config):
    config.option.nbval_cell_timeout = CELL_SECONDS


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    real_photos(item.path.parent.name == "workshop")


def pytest_collection_modifyitems(items):
    """Compare every cell (clean notebooks have no execution counts) and leave alone what nbdev would not run."""
    for item in items:
        if type(item).__name__ == "IPyNbCell":
            item.cell.execution_count = 1
            # Stored notebooks have no stderr: TensorFlow's greeting there holds times and process ids.
            if "stderr" not in item.parent.skip_compare:
                item.parent.skip_compare += ("stderr",)
            if is_left_alone(item.cell.source):
                item.options["skip"] = True
