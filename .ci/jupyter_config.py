"""For `jupyter lab nbs --config .ci/jupyter_config.py`: notebooks are saved as `book.py` keeps them, so that a diff shows changes only."""

from pathlib import Path

from nbdev.clean import clean_nb, get_config


def clean(model, **_):
    """Clean a notebook before it is saved, as nbdev does, and leave out stderr, which holds times and process ids."""
    if model["type"] != "notebook":
        return
    nb, cfg = model["content"], get_config(path=Path(__file__).parent.parent)
    keys = cfg.allowed_metadata_keys.split(), cfg.allowed_cell_metadata_keys.split()
    clean_nb(nb, cfg.clear_all, *keys, cfg.clean_ids)
    for cell in nb["cells"]:
        if "outputs" in cell:
            cell["outputs"] = [out for out in cell["outputs"] if out.get("name") != "stderr"]


c.ContentsManager.pre_save_hook = clean  # noqa: F821
