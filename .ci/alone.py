"""Opens each chapter alone: python .ci/alone.py PYTHON DIST [NUMBER ...]. In the environment of PYTHON petseg is taken away, and the
chapter's first cell has to bring it back, from the wheel in DIST, with all that the chapter imports and reads beside it. Chapters
whose numbers are named are then run to their end, in an empty folder."""

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from conftest import is_left_alone


def cells(nb):
    return [c for c in nb.cells if c.cell_type == "code" and not is_left_alone(c.source)]


def imports(nb):
    """The lines that a chapter imports by, but not within functions."""
    for cell in cells(nb):
        if not cell.source.startswith("%%"):
            yield from (
                ast.unparse(n) for n in ast.parse(cell.source).body if isinstance(n, ast.Import | ast.ImportFrom)
            )


def beside(nb):
    """Patterns of the files that a chapter reads beside it."""
    text = "\n".join(c.source for c in nb.cells)
    named = re.findall(r"""["'(]((?:benchmarks|runs|images)/[^"'()\s]+\.(?:csv|json|png|jpg))["')]""", text)
    patterns = sorted({re.sub(r"\{\w+\}", "*", name) for name in named})
    return [pattern for pattern in patterns if any((ROOT / "nbs").glob(pattern))]


def main(python, dist, *numbers):
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_CONSTRAINT": str(ROOT / "constraints.txt")}
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PETSEG_DATA")}
    env |= quiet | {"PIP_FIND_LINKS": str(Path(dist).resolve()), "MPLBACKEND": "agg", "TF_CPP_MIN_LOG_LEVEL": "3"}
    chapters = {}
    for path in sorted((ROOT / "nbs").glob("[0-9][0-9]_*.ipynb")):
        nb = nbformat.read(path, as_version=4)
        chapters.setdefault(nb.cells[1].source, {})[path] = nb
    for first, some in chapters.items():  # those with the same first cell together
        lines = [first, *dict.fromkeys(line for nb in some.values() for line in imports(nb))]
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "petseg"], env=env, check=True)
            subprocess.run([python, "-c", "\n".join(lines)], cwd=folder, env=env, check=True)
            for path, nb in some.items():
                missing = [name for name in beside(nb) if not any(Path(folder).glob(name))]
                if missing:
                    sys.exit(f"{path.name} alone lacks {', '.join(missing)}: setup.py says what comes with the package")
        print(*(path.name for path in some), "opened alone", flush=True)
        for path in some:
            if path.name[:2] in numbers:
                run_whole(path, some[path], python, env)


def run_whole(path, nb, python, env):
    """Run a chapter from its first cell to its last in an empty folder, petseg not being there."""
    subprocess.run([python, "-m", "pip", "uninstall", "-q", "-y", "petseg"], env=env, check=True)
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(nbformat.v4.new_notebook(cells=cells(nb)), Path(folder, path.name))
        command = [python, "-m", "nbconvert", "--to", "notebook", "--execute", "--output", "done", path.name]
        env = env | {"MPLBACKEND": "module://matplotlib_inline.backend_inline"}
        subprocess.run(command, cwd=folder, env=env, check=True)
    print(path.name, "run alone", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
