"""Builds the site of the book: pages of the notebooks, a reference made from the package, the demo. See `.ci/book.py site`."""

import ast
import inspect
import io
import re
import shutil
import sys
import tempfile
import time
import tokenize
from contextlib import chdir
from dataclasses import is_dataclass
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace

import nbformat
from demo import npm_package, write_demo
from fastcore.docments import docments

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
MATHJAX = "mathjax@3.2.2", "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw=="
BESIDE = ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "LICENSE-WEIGHTS")


def build(out, for_readers, settings):
    """The whole site into a folder."""
    from sphinx.application import Sphinx

    start = time.monotonic()
    out = Path(out).resolve()
    if out.exists() and any(out.iterdir()) and not (out / "searchindex.js").exists():
        sys.exit(f"{out} is there, and no site; name a new folder")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "source")
        rooms = room_order()
        homes = home_of(rooms)
        entries = write_reference(source, rooms, homes)
        write_pages(source, rooms, homes, for_readers, entries)
        write_static(source / "_static")
        conf = configuration(source, settings)
        with chdir(source):
            app = Sphinx(
                source, None, Path(folder, "made"), Path(folder, "trees"), "html", conf, warning=sys.stderr, status=None
            )
            app.build()
        if app._warncount:
            sys.exit(f"{app._warncount} warnings")
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(Path(folder, "made"), out)  # from a folder of its own: myst-nb writes beside it
    for path in (out / "_static").glob("*macros.html"):  # the theme's own, which no page shows
        path.unlink()
    write_demo(out / "demo")
    (out / ".nojekyll").touch()
    files = [p for p in out.rglob("*") if p.is_file()]
    pages, size = sum(p.suffix == ".html" for p in files), sum(p.stat().st_size for p in files)
    print(f"{pages} pages, {size / 1e6:.1f} MB, {time.monotonic() - start:.0f} s: {out}")


def room_order():
    """The names of the package's modules, in the order in which they build on each other."""
    code = "\n".join(c.source for c in nbformat.read(NBS / "workshop" / "rooms.ipynb", 4).cells)
    words = re.findall(r'^ROOMS = f?"(?:\{ROOMS\} )?(.*?)"', code, re.MULTILINE)
    return " ".join(words).split()


def notebooks():
    """Of all notebooks: the path within nbs, without its ending."""
    return sorted(
        p.relative_to(NBS).with_suffix("").as_posix() for p in NBS.rglob("*.ipynb") if "." not in p.parent.name
    )


def home_of(rooms):
    """{module: its notebook, as in `notebooks`}"""
    homes = {}
    for name in notebooks():
        found = re.search(r'"#\| default_exp (\w+)', (NBS / f"{name}.ipynb").read_text(encoding="utf-8"))
        if found and found[1] in rooms:
            homes[found[1]] = name
    return homes


def write_pages(source, rooms, homes, for_readers, entries):
    """The notebooks as a visitor reads them, and what they link."""
    workshop = [homes[room] for room in rooms if homes[room].startswith("workshop/")]
    more = [name for name in notebooks() if name.startswith("workshop/") and name not in workshop]
    parts = {
        "Lesson": [f"{n[:2]} {title(n)} <{n}>" for n in notebooks() if re.match(r"\d\d_", n)]
        + ["solutions", "glossary"],
        "Workshop": sorted(more, key=lambda name: name != "workshop/rooms") + workshop,
        "Measured": [n for n in notebooks() if n.startswith("benchmarks/")],
        "Reference": ["reference/index", "CHANGELOG", "CONTRIBUTING"],
    }
    for name in notebooks():
        nb = for_readers(NBS / f"{name}.ipynb")
        entries["own"][name] = own_words(nb, homes, name)
        for cell in nb.cells:
            cell.source = for_site(cell, name, entries)
        if name == "index":
            nb.cells.append(nbformat.v4.new_markdown_cell("\n\n".join(toctree(*part) for part in parts.items())))
        path = source / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, path)
    for path in (*NBS.rglob("*.csv"), *NBS.rglob("*.png"), *NBS.rglob("*.jpg")):
        place = source / path.relative_to(NBS)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    for name in BESIDE:
        shutil.copy(ROOT / name, source / name)


def title(name):
    return nbformat.read(NBS / f"{name}.ipynb", 4).cells[0].source.splitlines()[0].removeprefix("# ")


def toctree(caption, names):
    heading = [f":caption: {caption}"] if caption else []
    return "\n".join(["```{toctree}", ":hidden:", *heading, ":maxdepth: 1", "", *names, "```"])


def for_site(cell, name, entries):
    """A cell's source for the site; what is folded in the notebook is folded there."""
    text = cell.source
    if cell.cell_type == "markdown":
        parts = [part for part in text.split("\n\n") if not re.match(r"\[.*\]\((\.\./)?index\.ipynb\)", part)]
        text = "\n\n".join(parts)
        if name == "index":
            text = text.replace("](../", "](")
            text = re.sub(
                r"!\[[^]]*\]\(images/demo-page.jpg\)|\bsuch a page\b", r'<a href="demo/index.html">\g<0></a>', text
            )
        return with_links(text, name, entries)
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        cell.metadata["tags"] = sorted({*cell.metadata.get("tags", []), "hide-input"})
    return text


def own_words(nb, homes, name):
    """Names that a page imports from petseg, or exports: on it, `fit` and the like are petseg's, and not another library's."""
    code = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "code")
    imported = re.findall(r"^ *from petseg\.\w+ import (\([^)]*\)|.*)", code, re.MULTILINE)
    exported = [import_module(f"petseg.{room}").__all__ for room, home in homes.items() if home == name]
    return {*re.findall(r"\w+", " ".join(imported)), *(word for words in exported for word in words)}


def with_links(text, name, entries):
    """Words of a cell, in which the first mention of each public name leads to the reference; not in headings, links, code blocks, tables."""
    up, linked = "../" * name.count("/"), entries["seen"].setdefault(name, set())

    def link(match):
        word = match[1].partition("(")[0]
        distinct = re.search("[A-Z_]", word) or word in entries["own"][name]
        if word in linked or word not in entries["at"] or not distinct:
            return match[0]
        linked.add(word)
        return f"[{match[0]}]({up}reference/{entries['at'][word]})"

    lines, fenced = [], False
    for line in text.split("\n"):
        fenced ^= line.startswith("```")
        if not fenced and not line.startswith(("#", "|", "```", "![", "*", ">")):
            pieces = re.split(r"(\[[^\]]*\]\([^)]*\)|\$[^$]*\$)", line)
            pieces[::2] = [re.sub(r"(?<!`)`([A-Za-z_]\w*(?:\([^`]*\))?)`(?!`)", link, piece) for piece in pieces[::2]]
            line = "".join(pieces)
        lines.append(line)
    return "\n".join(lines)


def write_reference(source, rooms, homes):
    """A page for each module; gives where each public name is, and a place to note which page has linked it."""
    folder, at, twice = source / "reference", {}, set()
    folder.mkdir(parents=True)
    lines = [
        "# Reference",
        "",
        "Every public name of the package, in the order in which its modules build on each other.",
        "",
    ]
    lines += ["| module | what it is for |", "|---|---|"]
    for room in rooms:
        module = import_module(f"petseg.{room}")
        own = [name for name in module.__all__ if defined_in(module, name)]
        passed = [name for name in module.__all__ if name not in own]
        text = [
            f"# petseg.{room}",
            "",
            f"{module.__doc__.strip()}",
            "",
            f"Written in [{homes[room]}](../{homes[room]}.ipynb).",
            "",
        ]
        for name in own:
            kind_of = "class" if inspect.isclass(getattr(module, name)) else "the"
            anchor = f"{room}-{kind_of}-{name.lower()}"  # ids are for all pages together, and have no capitals
            text += [f"({anchor})=", *entry(name, getattr(module, name))]
            twice |= {name} & at.keys()
            at[name] = f"{room}.md#{anchor}"
        if passed:
            text += ["## Passed on", "", *(f"- `{name}`: see {whose(module, name)}" for name in passed), ""]
        (folder / f"{room}.md").write_text("\n".join(text), encoding="utf-8")
        lines.append(f"| [petseg.{room}]({room}.md) | {module.__doc__.strip()} |")
    lines += ["", toctree(None, rooms)]
    (folder / "index.md").write_text("\n".join(lines), encoding="utf-8")
    return {"at": {name: place for name, place in at.items() if name not in twice}, "seen": {}, "own": {}}


def whose(module, name):
    """The module that makes what another one passes on, linked."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.ImportFrom) and node.level and name in [a.asname or a.name for a in node.names]:
            other = import_module(f"petseg.{node.module}")
            return f"[{other.__name__}]({node.module}.md)" if defined_in(other, name) else whose(other, name)
    home = getattr(module, name).__module__  # another name for it
    return f"[{home}]({home.removeprefix('petseg.')}.md), `{getattr(module, name).__name__}`"


def defined_in(module, name):
    """Whether a module makes what it has under this name, and not another one."""
    value = getattr(module, name)
    if hasattr(value, "__module__") and (inspect.isroutine(value) or inspect.isclass(value)):
        return value.__module__ == module.__name__
    tree = ast.parse(inspect.getsource(module))
    targets = [t for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign) for t in ast.walk(node)]
    return any(isinstance(t, ast.Name) and t.id == name and isinstance(t.ctx, ast.Store) for t in targets)


def entry(name, value):
    """The lines on a function, class or constant."""
    if inspect.isclass(value):
        yield from (f"## {name}", "", *code(f"class {name}" + signature(value)), *told(value))
        if not issubclass(value, BaseException):
            yield from (*told(vars(value).get("__init__")), *arguments(value))
        for own, member in sorted(vars(value).items(), key=lambda item: item[0] != "__call__"):
            wrapped = (
                getattr(member, "func", None) or getattr(member, "fget", None) or getattr(member, "__func__", member)
            )
            if (own.startswith("_") and own != "__call__") or not inspect.isfunction(wrapped):
                continue
            title = name if own == "__call__" else f"{name}.{own}"
            call = wrapped is member or hasattr(member, "__func__")
            yield from (f"### {title}" + ("()" if own == "__call__" else ""), "")
            yield from (*code(title + (signature(wrapped) if call else "")), *told(wrapped), *arguments(wrapped))
    elif callable(value):
        yield from (f"## {name}", "", *code(name + signature(value)), *told(value), *arguments(value))
    else:
        text = bare(value)
        yield from (f"## {name}", "", *code(f"{name} = {text if len(text) < 300 else text[:300] + ' ...'}"))


def code(text):
    return ["```python", text, "```", ""]


def signature(value):
    """Names and defaults, a line each where they are many."""
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return ""
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values() if p.name != "self"]
    text = str(found.replace(parameters=bare, return_annotation=found.empty))
    text = re.sub(r"<(function|class)[^>]*>", "...", text.replace("<factory>", "{}"))
    return text if len(text) < 62 else "(\n    " + ",\n    ".join(map(str, plain(text))) + ",\n)"


def plain(text):
    """The parameters of a signature, as texts."""
    arguments = ast.parse(f"def f{text}: pass").body[0].args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    for argument, default in zip(positional, defaults, strict=True):
        yield argument.arg + (f"={ast.unparse(default)}" if default else "")
    if arguments.vararg or arguments.kwonlyargs:
        yield f"*{arguments.vararg.arg}" if arguments.vararg else "*"
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield argument.arg + (f"={ast.unparse(default)}" if default else "")
    if arguments.kwarg:
        yield f"**{arguments.kwarg.arg}"


def told(value):
    text = "" if value is None or is_generated(value) else inspect.cleandoc(value.__doc__ or "")
    return [text, ""] if text else []


def is_generated(value):
    """Whether there is no docstring but the one that Python or `dataclass` makes."""
    own = (value.__doc__ or "").startswith(f"{value.__name__}(")
    return (
        is_dataclass(value) and own or value.__name__ == "__init__" and value.__doc__ in (None, object.__init__.__doc__)
    )


def arguments(value):
    """A table of what is given and returned, from the comments beside it."""
    try:
        found = docments(value, full=True)
    except (OSError, TypeError, SyntaxError, AttributeError):
        return
    rows, more = [], comments_beside(value)
    typed = inspect.get_annotations(value.__init__ if inspect.isclass(value) and not is_dataclass(value) else value)
    if "return" in more:
        found.setdefault("return", SimpleNamespace(default=inspect.Parameter.empty, docment=None))
    for name, about in found.items():
        what, anno = about.docment or more.get(name, ""), typed.get(name)  # docments takes a default's type for one
        if name == "self" or (name == "return" and not what and anno is None):
            continue
        first = "*returns*" if name == "return" else f"`{name}`"
        default = "" if name == "return" else shown(about.default)
        what = " ".join(what.split()).replace("|", "\\|")
        rows.append(f"| {first} | {what} | {kind(anno)} | {default} |")
    if rows:
        yield from ("| | | type | default |", "|---|---|---|---|", *rows, "")


def comments_beside(value):
    """What docments does not see: comments after a type of several lines, or on a result without a type."""
    function = inspect.unwrap(value.__init__ if inspect.isclass(value) else value)
    if is_dataclass(value) or not inspect.isfunction(function):
        return {}
    source = inspect.cleandoc(f"\n{inspect.getsource(function)}")
    tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
    notes = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    node = ast.parse(source).body[0]
    end = next(t.start[0] for t in tokens if t.type == tokenize.NEWLINE and t.start[0] >= node.lineno)
    given = node.args
    order = sorted(
        filter(None, [*given.posonlyargs, *given.args, given.vararg, *given.kwonlyargs, given.kwarg]), key=place
    )
    last = max(
        [place(x) for x in [*order, *given.defaults, *filter(None, given.kw_defaults)]], default=(node.lineno, 0)
    )[0]
    found = {}
    for argument, after in zip_longest(order, order[1:]):
        until = after.lineno if after else last + 1
        found[argument.arg] = next((notes[n] for n in range(argument.lineno, until) if n in notes and n < end), "")
    found["return"] = next((notes[n] for n in range(end, last - 1, -1) if n in notes and (n == end or n > last)), "")
    return {name: note for name, note in found.items() if note}


def place(node):
    return node.end_lineno, node.end_col_offset


def kind(anno):
    """A type, without the modules of its names."""
    if anno in (inspect._empty, None):
        return ""
    text = anno.__name__ if isinstance(anno, type) and not hasattr(anno, "__args__") else str(anno)
    return "`" + re.sub(r"\b(?:\w+\.)+(?=\w)", "", text).replace("|", "\\|") + "`"


def bare(value):
    """A value as text, functions by their names and not by their places in memory."""
    return re.sub(r"<(function|class) (?:\w+\.)*(\w+).*?>", r"\2", repr(value))


def shown(default):
    if default is inspect._empty:
        return ""
    text = bare(default).replace("|", "\\|")
    return f"`{text}`" if len(text) < 60 else f"`{text[:56]} ...`"


def write_static(folder):
    """Formulas' program and letters, and the site's own style."""
    files = npm_package(*MATHJAX)
    wanted = ("es5/tex-chtml.js", "es5/output/chtml/fonts/woff-v2/", "LICENSE")
    for name, data in files.items():
        if name.startswith(wanted):
            path = folder / "mathjax" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    for name in ("site.css", "icon.svg"):
        shutil.copy(ROOT / ".ci" / "site" / name, folder / name)


def configuration(source, settings):
    """Sphinx's settings."""
    templates = source / "_templates"
    shutil.copytree(ROOT / ".ci" / "site" / "templates", templates)
    return {
        "project": settings["title"],
        "author": settings["author"],
        "copyright": settings["copyright"],
        "version": settings["version"],
        "extensions": ["myst_nb"],
        "root_doc": "index",
        "templates_path": [str(templates)],
        "html_theme": "sphinx_book_theme",
        "html_title": settings["title"],
        "html_static_path": [str(source / "_static")],
        "html_css_files": ["site.css"],
        "html_favicon": str(source / "_static" / "icon.svg"),
        "html_context": {"default_mode": "auto"},
        "html_copy_source": False,
        "html_show_sourcelink": False,
        "html_sidebars": {
            "**": ["navbar-logo.html", "try-it.html", "search-button-field.html", "sbt-sidebar-nav.html"]
        },
        "html_theme_options": {
            "home_page_in_toc": False,
            "navbar_persistent": [],
            "use_download_button": False,
            "show_toc_level": 2,
            "show_navbar_depth": 1,
            **({"repository_url": settings["git_url"], "use_repository_button": True} if settings["git_url"] else {}),
        },
        "mathjax_path": "mathjax/es5/tex-chtml.js",
        "myst_enable_extensions": ["dollarmath"],
        "myst_heading_anchors": 4,
        "nb_execution_mode": "off",
        "nb_ipywidgets_js": {},
        "nb_merge_streams": True,
        "nb_render_markdown_format": "myst",
        "pygments_style": "default",
        "suppress_warnings": [
            "mystnb.unknown_mime_type",  # widgets and plots of other programs, beside which a picture stands
            "myst.header",  # the glossary's words are small headings
        ],
        "language": "en",
    }
