"""Writes the page that cuts photos in a visitor's browser: python .ci/demo.py DEST [NET.tflite]

Its code is that of nbs/workshop/browser.ipynb; what runs the nets comes from npm. Another net file takes the place of `small`.
"""

import base64
import gzip
import hashlib
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import nbformat
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
CHAPTER = ROOT / "nbs" / "workshop" / "browser.ipynb"
CACHE = Path.home() / ".cache" / "petseg-site"
CORE = (
    "@litertjs/core@2.5.3",
    "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
)
UTILS = (
    "@litertjs/wasm-utils@2.5.3",
    "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
)


def npm_package(name, sha512):
    """The files of a package of npm, {path: bytes}; fetched once. SystemExit if it is not the one that was tried."""
    packed = CACHE / f"{re.sub(r'[@/]+', '-', name).strip('-')}.tgz"
    if not packed.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            subprocess.run(["npm", "pack", "--silent", name], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            next(Path(folder).iterdir()).rename(packed)
    if base64.b64encode(hashlib.sha512(packed.read_bytes()).digest()).decode() != sha512:
        packed.unlink()
        sys.exit(f"{name} from npm is not the package that this was written for")
    with tarfile.open(packed) as archive:
        files = [m for m in archive if m.isfile()]
        return {m.name.partition("/")[2]: archive.extractfile(m).read() for m in files}


def code():
    """{name: text} of the page's files, from the fenced blocks of the chapter, each of which begins with its file's name."""
    parts = {}
    for cell in nbformat.read(CHAPTER, as_version=4).cells:
        if cell.cell_type == "markdown":
            for first, text in re.findall(
                r"^```(?:js|html|css)\n(.*?)\n(.*?)^```", cell.source, re.MULTILINE | re.DOTALL
            ):
                name = re.search(r"[\w.]+\.(?:js|html|css)", first)[0]
                parts.setdefault(name, []).append(text)
    return {name: "\n".join(texts) for name, texts in parts.items()}


def examples():
    """{name: picture} to try."""
    from skimage.data import chelsea

    from petseg.draw import draw_pet

    return {"chelsea.jpg": chelsea(), "drawing.jpg": draw_pet((9, 21), 480).photo}


def licences():
    """The texts of what is published beside the page."""
    about = """The page's code is petseg's, under the Apache License 2.0. litert/ is LiteRT.js 2.5.3 of Google
(https://github.com/google-ai-edge/LiteRT), unchanged but for the name of a file that it imports, under the same
licence, whose text is the last below. chelsea.jpg is by Stefan van der Walt, in the public domain (CC0), as is
drawing.jpg. Of the nets says LICENSE-WEIGHTS:"""
    parts = [about, *((ROOT / name).read_text(encoding="utf-8") for name in ("LICENSE-WEIGHTS", "LICENSE"))]
    return "\n\n".join(parts)


def write_demo(dest, net=None):
    """The page, with all that it needs, into a folder."""
    core, utils = npm_package(*CORE), npm_package(*UTILS)
    weights = ROOT / "petseg" / "weights"
    loaded = {
        "litert/compat.wasm.gz": core["wasm/litert_wasm_compat_internal.wasm"],
        "net.tflite.gz": Path(net or weights / "small.tflite").read_bytes(),
        "edges.tflite.gz": (weights / "edges.tflite").read_bytes(),
    }
    files = {name: gzip.compress(data, 9, mtime=0) for name, data in loaded.items()}
    size = sum(map(len, files.values()))
    files["litert/compat.js"] = core["wasm/litert_wasm_compat_internal.js"]
    files["litert/core.js"] = core["dist/index.js"].replace(b'"@litertjs/wasm-utils"', b'"./utils.js"')
    files["litert/utils.js"] = utils["dist/index.js"]
    for name in ("litert/core.js", "litert/utils.js"):
        files[name] = re.sub(rb"//# sourceMappingURL=.*", b"", files[name])
    files |= {name: text.replace("SIZE", str(size)).encode() for name, text in code().items()}
    files["LICENSES.txt"] = licences().encode()
    for name, data in files.items():
        path = Path(dest, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for name, picture in examples().items():
        Image.fromarray(picture).save(Path(dest, name), quality=90)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    sys.path.insert(0, str(ROOT))
    write_demo(*sys.argv[1:])
