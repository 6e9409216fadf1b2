"""Opens each chapter alone: python .ci/alone.py PYTHON DIST. In the environment of PYTHON petseg is taken away, and the chapter's
first cell has to bring it back, from the wheel in DIST, with all that the chapter imports. No chapter is run to its end."""

import ast
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent


def imports(nb):
    """The lines that a chapter imports by, but not within functions."""
    for cell in nb.cells:
        if cell.cell_type == "code" and "#| eval: false" not in cell.source and not cell.source.startswith("%"):
            yield from (
                ast.unparse(n) for n in ast.parse(cell.source).body if isinstance(n, ast.Import | ast.ImportFrom)
            )


def main(python, dist):
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= quiet | {"PIP_FIND_LINKS": str(Path(dist).resolve()), "MPLBACKEND": "agg", "TF_CPP_MIN_LOG_LEVEL": "3"}
    chapters = {}
    for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")):
        nb = nbformat.read(path, as_version=4)
        chapters.setdefault(nb.cells[1].source, []).append((path.name, list(imports(nb))))
    for first, some in chapters.items():  # those with the same first cell together
        program = "\n".join([first, *dict.fromkeys(line for _, lines in some for line in lines)])
        subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "petseg"], env=env, check=True)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([python, "-c", program], cwd=folder, env=env, check=True)
        print(*(name for name, _ in some), "run alone", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
