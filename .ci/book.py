"""Keeps the book in order: python .ci/book.py run [NOTEBOOK ...] | sync | check | html [DIR]

run    executes notebooks in place (all of them if none is named), then syncs
sync   cleans the notebooks, exports petseg/ and writes README.md
check  fails if sync would change a file
html   renders every notebook to a page in DIR (default _docs)
"""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
sys.path.insert(0, str(ROOT))
from conftest import CELL_SECONDS, is_left_alone  # its environment too


class Client(NotebookClient):
    """Runs a notebook, except the cells that nbdev would not run."""

    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if is_left_alone(cell.source):
            return cell
        return await super().async_execute_cell(cell, cell_index, **kwargs)


def notebooks():
    return sorted(p for folder in (NBS, NBS / "workshop") for p in folder.glob("*.ipynb") if not p.name.startswith("_"))


def run(paths):
    for path in paths:
        print("running", path, flush=True)
        nb = nbformat.read(path, as_version=4)
        Client(nb, timeout=CELL_SECONDS, resources={"metadata": {"path": str(path.parent)}}).execute()
        nb.metadata.pop("language_info", None)
        drop_stderr(nb)
        nbformat.write(nb, path)


def drop_stderr(nb):
    """Show here, and do not store, what was written to stderr: TensorFlow's greeting holds times and process ids."""
    for cell in nb.cells:
        for out in cell.get("outputs", []):
            if out.get("name") == "stderr":
                lines = [line for line in out.text.splitlines() if not re.match(r"[IWE]0000|WARNING: All log", line)]
                print(*lines, sep="\n", end="\n" if lines else "")
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]


def for_readers(path):
    """A notebook without hidden cells and nbdev's directive lines."""
    nb = nbformat.read(path, as_version=4)
    nb.cells = [c for c in nb.cells if not re.match(r"#\| (hide|default_exp)\b", c.source)]
    for cell in nb.cells:
        if cell.cell_type == "code":
            cell.source = re.sub(r"^#\|.*\n", "", cell.source, flags=re.MULTILINE)
    return nb


def readme():
    """README.md from index.ipynb, without its hidden cells; links lead to nbs/."""
    from nbconvert import MarkdownExporter
    from nbconvert.preprocessors import TagRemovePreprocessor

    nb = for_readers(NBS / "index.ipynb")
    exporter = MarkdownExporter()
    exporter.register_preprocessor(TagRemovePreprocessor(remove_input_tags=["hide-input"]), enabled=True)
    text, _ = exporter.from_notebook_node(nb)
    text = re.sub(r"\]\((\d\d\w+\.ipynb|images/|benchmarks/|workshop/)", r"](nbs/\1", text).replace("](../", "](")
    (ROOT / "README.md").write_text(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", encoding="utf-8")


def sync():
    bin_dir = Path(sys.executable).parent
    for command in ("nbdev_clean", "nbdev_export"):
        subprocess.run([str(bin_dir / command)], cwd=ROOT, check=True)
    readme()


def digest():
    """A hash per file that sync may touch, new and uncommitted ones included."""
    out = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "nbs", "petseg", "README.md"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    return {f: hashlib.sha256((ROOT / f).read_bytes()).hexdigest() for f in out if f and (ROOT / f).is_file()}


def check():
    before = digest()
    sync()
    after = digest()
    changed = sorted(f for f in before.keys() | after.keys() if before.get(f) != after.get(f))
    if changed:
        sys.exit(f"out of sync: {', '.join(changed)}\nrun `python .ci/book.py sync` and commit what it changes")
    print("in sync:", len(after), "files")


def html(out):
    """Pages without nbdev's directive lines, as a reader of the site sees them."""
    from nbconvert import HTMLExporter

    out.mkdir(parents=True, exist_ok=True)
    for path in notebooks():
        (out / f"{path.stem}.html").write_text(
            HTMLExporter().from_notebook_node(for_readers(path))[0], encoding="utf-8"
        )


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", *names]:
            run([Path(n).resolve() for n in names] or notebooks())
            sync()
        case ["sync"]:
            sync()
        case ["check"]:
            check()
        case ["html", *rest]:
            html(Path(rest[0]) if rest else ROOT / "_docs")
        case _:
            sys.exit(__doc__)
