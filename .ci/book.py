"""Keeps the book in order: python .ci/book.py run [NOTEBOOK ...] | real | sync | check | lint [NOTEBOOK ...] | site DIR

run    executes notebooks in place (all of them if none is named), then syncs
real   executes the chapters that can do with real photos on those of PETSEG_DATA, and stores nothing
sync   cleans the notebooks, folds what is hidden, links chapters, exports petseg/ and writes README.md
check  fails if sync would change a file, or if lint finds something
lint   says where a lesson is none, and which links lead nowhere (all notebooks if none is named)
site   builds the site in DIR: the notebooks, a reference, and a demo that runs in the visitor's browser
"""

import configparser
import hashlib
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
LESSONS = r"\d\d"  # the chapters
sys.path.insert(0, str(ROOT))
from conftest import CELL_SECONDS, is_left_alone, real_photos  # its environment too


class Client(NotebookClient):
    """Runs a notebook, except the cells that nbdev would not run."""

    async def async_execute_cell(self, cell, cell_index, **kwargs):
        if is_left_alone(cell.source):
            return cell
        return await super().async_execute_cell(cell, cell_index, **kwargs)


def notebooks():
    return sorted(p for folder in (NBS, NBS / "workshop") for p in folder.glob("*.ipynb") if not p.name.startswith("_"))


def execute(path):
    print("running", path, flush=True)
    nb = nbformat.read(path, as_version=4)
    Client(nb, timeout=CELL_SECONDS, resources={"metadata": {"path": str(path.parent)}}).execute()
    return nb


def real():
    """Run the chapters whose cells take real photos, where there are any."""
    if not real_photos(True):
        print("no real photos here: PETSEG_DATA names none")
        return
    with ProcessPoolExecutor(2) as pool:  # a notebook keeps one core busy
        list(pool.map(execute, sorted(NBS.glob("0[0-5]_*.ipynb"))))


def run(paths):
    for path in paths:
        real_photos(path.parent != NBS)
        nb = execute(path)
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


def is_hidden(cell):
    return cell.cell_type == "code" and re.match(r"#\| hide\b", cell.source)


def is_exported(cell):
    return cell.cell_type == "code" and re.search(r"^#\| exporti?\b", cell.source, re.MULTILINE)


def lines(cell):
    """The lines of a cell that a reader reads."""
    return [line for line in cell.source.splitlines() if line.strip() and not line.startswith("#|")]


def fold():
    """Hidden cells, and long ones that are exported, are folded wherever the notebook is opened."""
    for path in notebooks():
        nb = nbformat.read(path, as_version=4)
        before = nbformat.writes(nb)
        for cell in nb.cells:
            if is_hidden(cell) or (is_exported(cell) and len(lines(cell)) > 15):
                cell.metadata["jupyter"] = {"source_hidden": True}
        if nbformat.writes(nb) != before:
            nbformat.write(nb, path)


INSTALL = """#| hide
# Opened alone, as in Colab, this notebook first installs the package that it is a part of, with the tables that it reads.
import subprocess
import sys
from importlib import metadata, util
from pathlib import Path

if not util.find_spec("petseg"):
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "{package}"], check=True)
    for file in metadata.files("petseg"):
        _, beside, place = file.as_posix().partition("share/petseg/")
        if beside:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).write_bytes(file.read_binary())"""
EXTRAS = {"06": ",classical", "13": ",export", "14": ",scale", "15": ",app"}


def settings():
    """What settings.ini says."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "settings.ini")
    return parser["DEFAULT"]


def navigate():
    """Every chapter links the one before and the one after, and brings what it needs where it is opened alone."""
    url, branch = settings()["git_url"], settings()["branch"]
    paths = sorted(NBS.glob("[0-9][0-9]_*.ipynb"))
    books = [nbformat.read(path, as_version=4) for path in paths]
    titles = [nb.cells[0].source.splitlines()[0].removeprefix("# ") for nb in books]
    for i, (path, nb) in enumerate(zip(paths, books, strict=True)):
        before = nbformat.writes(nb)
        links = [f"[← {titles[i - 1]}]({paths[i - 1].name})"] if i else []
        links += ["[Contents](index.ipynb)"]
        links += [f"[{titles[i + 1]} →]({paths[i + 1].name})"] if i + 1 < len(paths) else []
        if url.startswith("https://github.com/"):
            there = f"{url.removeprefix('https://github.com/')}/blob/{branch}/nbs/{path.name}"
            links += [f"[Open in Colab](https://colab.research.google.com/github/{there})"]
            links += [f"[in Kaggle](https://kaggle.com/kernels/welcome?src=https://github.com/{there})"]
        title, promise, *rest = nb.cells[0].source.split("\n\n")
        rest = [part for part in rest if "[Contents](index.ipynb)" not in part]
        nb.cells[0].source = "\n\n".join([title, promise, " · ".join(links), *rest])
        package = f"petseg[train,book{EXTRAS.get(path.name[:2], '')}]" + (f" @ git+{url}" if url else "")
        if nb.cells[1].id != "install":
            nb.cells.insert(1, nbformat.v4.new_code_cell(id="install"))
        nb.cells[1].source = INSTALL.format(package=package)
        if nbformat.writes(nb) != before:
            nbformat.write(nb, path)


LINK = re.compile(r"\]\(([^)\s]+)\)")


@cache
def words(path):
    """The text of a notebook's markdown cells, or of a file of text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n".join(c.source for c in nbformat.reads(text, as_version=4).cells if c.cell_type == "markdown")


def anchors(path):
    """What a link may name: headings in small letters, which GitHub, JupyterLab and a page all write alike."""
    heads = re.findall(r"^#+ +(.+?) *$", words(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).replace(" ", "-") for head in heads if head == head.lower()}


def dead_links(path):
    for link in LINK.findall(words(path)):
        if "://" in link or link.startswith("mailto:"):
            continue
        name, _, anchor = link.partition("#")
        there = (path.parent / name).resolve() if name else path
        if not there.exists():
            yield f"link to {link}, which is not there"
        elif anchor and anchor not in anchors(there):
            yield f"link to {link}, and {there.name} has no such heading"


def faults(path):
    """What keeps a chapter from being a lesson."""
    nb = nbformat.read(path, as_version=4)
    cells = [c for c in nb.cells if not is_hidden(c) and not c.source.startswith("#| default_exp")]
    yield from (f"a hidden cell that shows something: {lines(c)[0]}" for c in nb.cells if is_hidden(c) and c.outputs)
    text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    shown, before = [], None
    for cell in cells:
        if cell.cell_type == "markdown":
            if before is not None and before in shown and len(cell.source.split()) < 3:
                yield f"a figure without a caption: {cell.source!r}"
            before = cell
            continue
        own = not is_exported(cell)
        first = (lines(cell) or [""])[0]
        if own and len(lines(cell)) > 15:
            yield f"{len(lines(cell))} lines in a cell, 15 are the most: {first}"
        if own and re.match(r"(assert\b|test_\w+\()", (lines(cell) or [""])[-1].strip()):
            yield f"a cell ends in an assertion and shows nothing: {first}"
        if before is not None and before.cell_type == "code":
            yield f"two cells without a word between: {first}"
        if any(kind.startswith("image/") for out in cell.outputs for kind in out.get("data", {})):
            shown.append(cell)
            if "#| fig-alt:" not in cell.source:
                yield f"a figure without `#| fig-alt:`: {first}"
        before = cell
    if before in shown:
        yield "the last figure has no caption"
    if not shown or cells.index(shown[0]) > len(cells) / 4:
        yield "no figure in its first quarter"
    for wanted in ("## Exercises", "(solutions.ipynb)", "**Next:**", "[Contents](index.ipynb)"):
        if wanted not in text:
            yield f"no {wanted}"
    more = sum(len(lines(c)) for c in nb.cells if is_hidden(c) or is_exported(c))
    own = sum(len(lines(c)) for c in nb.cells if c.cell_type == "code") - more
    if more > 3 * own:
        yield f"{more} lines are exported or hidden, and {own} are the reader's"


def lint(paths=None):
    found = []
    for path in paths or [*notebooks(), *ROOT.glob("*.md")]:
        some = list(dead_links(path))
        if path.parent == NBS and re.match(LESSONS, path.name):
            some += faults(path)
        found += [f"{path.relative_to(ROOT)}: {fault}" for fault in some]
    if found:
        sys.exit("\n".join([*found, f"{len(found)} faults"]))


def for_readers(path):
    """A notebook without hidden cells and nbdev's directive lines; a figure's words go to its picture."""
    nb = nbformat.read(path, as_version=4)
    nb.cells = [c for c in nb.cells if not re.match(r"#\| (hide|default_exp)\b", c.source)]
    for cell in nb.cells:
        if cell.cell_type == "code":
            if words := re.search(r"^#\| fig-alt: (.*)$", cell.source, re.MULTILINE):
                cell.metadata["mystnb"] = {"image": {"alt": words[1]}}
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
    text = re.sub(r"\]\((\w+\.ipynb|images/|benchmarks/|workshop/)", r"](nbs/\1", text).replace("](../", "](")
    (ROOT / "README.md").write_text(re.sub(r"\n{3,}", "\n\n", text).strip() + "\n", encoding="utf-8")


def sync():
    bin_dir = Path(sys.executable).parent
    for command in ("nbdev_clean", "nbdev_export"):
        subprocess.run([str(bin_dir / command)], cwd=ROOT, check=True)
    navigate()
    fold()
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
    lint()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", *names]:
            run([Path(n).resolve() for n in names] or notebooks())
            sync()
        case ["real"]:
            real()
        case ["sync"]:
            sync()
        case ["check"]:
            check()
        case ["lint", *names]:
            lint([Path(n).resolve() for n in names])
        case ["site", out]:
            from site_of_book import build

            build(out, for_readers, settings())
        case _:
            sys.exit(__doc__)
