"""Visits the site, which `python .ci/book.py site SITE` has built: python .ci/visit.py SITE [PICTURES]

Every link leads somewhere, nothing is loaded from elsewhere; with Chromium, if there is one, pages are opened and the demo is
tried and compared with the package. Pictures of what was seen go to a folder, if one is named."""

import base64
import shutil
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image
from skimage.data import chelsea, rocket

from petseg.cutouts import render, see
from petseg.draw import draw_pet
from petseg.netfiles import find_net_file, read_card
from petseg.predict import Segmenter
from petseg.requests import png_bytes

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
READY = "Ready. From here on it needs no network."


@contextmanager
def served(site, unpacks=False):
    """The address of a site in a sub-folder of a server; one that `unpacks` tells the browser that .gz files are packed."""

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self):
            if unpacks and self.path.endswith(".gz"):
                self.send_header("Content-Encoding", "gzip")
            super().end_headers()

        def log_message(self, *said):
            pass

    with tempfile.TemporaryDirectory() as root:
        Path(root, "petseg").symlink_to(Path(site).resolve())
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=root))
        server.handle_error = lambda *about: None  # a visitor who left
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/petseg/"
        finally:
            server.shutdown()
            server.server_close()


class Visit:
    """A visitor with one page open, who notes what goes wrong on it."""

    def __init__(self, context, url):
        self.page, self.faults, self.url = context.new_page(), [], url
        self.page.on("console", lambda m: self.faults.extend([m.text] if m.type in ("error", "warning") else []))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._asked)
        self.page.on("response", lambda r: self.faults.extend([f"{r.status}: {r.url}"] if r.status >= 400 else []))

    def _asked(self, request):
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"it asks for {request.url}")

    def open(self, note=READY):
        self.page.goto(f"{self.url}demo/index.html")
        self.hear(note)

    def hear(self, start):
        """Wait for a sentence that starts so."""
        wanted = f"document.getElementById('note').textContent.startsWith({start!r})"
        self.page.wait_for_function(wanted, timeout=60_000)

    def bring(self, how, name, data):
        """Drop or paste a file."""
        script = """([how, name, text]) => {
            const data = new DataTransfer()
            data.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt())], name))
            const more = how === 'drop' ? {dataTransfer: data} : {clipboardData: data}
            const kind = how === 'drop' ? DragEvent : ClipboardEvent
            document.body.dispatchEvent(new kind(how, {bubbles: true, cancelable: true, ...more}))
        }"""
        self.page.evaluate(script, [how, name, base64.b64encode(data).decode()])

    def saved(self):
        """The name and the pixels of the file that the button saves."""
        with self.page.expect_download() as download:
            self.page.click("#save")
        return download.value.suggested_filename, np.asarray(Image.open(download.value.path()))

    def scores(self):
        """The probabilities of the last photo, (h, w, C)."""
        script = """() => [shown.scores.height, shown.scores.width,
            ...shown.scores.planes.map(p => btoa(new Uint8Array(p.buffer).reduce((s, b) => s + String.fromCharCode(b), '')))]"""
        height, width, *planes = self.page.evaluate(script)
        planes = [np.frombuffer(base64.b64decode(p), "float32").reshape(height, width) for p in planes]
        return np.stack(planes, -1)


class Links(HTMLParser):
    """What a page links and loads, and the places in it that may be linked."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids = [], [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.ids |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        elif tag in ("img", "script", "iframe", "source") and "src" in found:
            self.loads.append(found["src"])
        elif tag == "link" and set(found.get("rel", "").split()) & {"stylesheet", "preload", "icon"}:
            self.loads.append(found["href"])


def dead(site):
    """Links and anchors that lead nowhere, and what pages load from elsewhere."""
    pages = {path.resolve(): Links(path) for path in Path(site).rglob("*.html")}
    for path, page in pages.items():
        name = path.relative_to(Path(site).resolve())
        for link in page.links + page.loads:
            where = urlsplit(link)
            if where.scheme or where.netloc:
                if link in page.loads and where.scheme != "data":
                    yield f"{name} loads {link}"
                continue
            there = (path.parent / unquote(where.path)).resolve() if where.path else path
            there = there / "index.html" if there.is_dir() else there
            if not there.is_file():
                yield f"{name} links {link}, which is not there"
            elif where.fragment and there in pages and unquote(where.fragment) not in pages[there].ids:
                yield f"{name} links {link}, and there is no such place"


SCREENS = ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark"))
LOOKED_AT = [
    "index",
    "00_tour",
    "02_model",
    "07_losses",
    "11_matting",
    "glossary",
    "workshop/rooms",
    "workshop/browser",
]
LOOKED_AT += ["benchmarks/edges", "reference/index", "reference/cutouts", "search"]


def read(browser, url, pictures):
    """Faults that a reader meets on some pages, wide and narrow, light and dark."""
    for width, scheme in SCREENS:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        for name in LOOKED_AT:
            visit = Visit(context, url)
            query = "?q=Segmenter" if name == "search" else ""
            visit.page.goto(f"{url}{name}.html{query}", wait_until="load")
            if name == "07_losses":
                visit.page.wait_for_selector("mjx-container")
            if name == "search":
                visit.page.wait_for_selector("#search-results li")
            if visit.page.evaluate("document.documentElement.scrollWidth") > width:
                visit.faults.append(f"wider than {width} pixels")
            if pictures:
                visit.page.screenshot(path=Path(pictures, f"{name.replace('/', '-')}-{width}-{scheme}.png"))
            yield from (f"{name}, {width} pixels, {scheme}: {fault}" for fault in visit.faults)
            visit.page.close()
        context.close()


NAMES = ("chelsea.png", "far.png", "large.png", "rocket.png")


def photos():
    """{name: bytes}: a photo, one whose pet is far, one of more than 512 pixels, one without a pet, and none."""
    far = np.full((700, 1100, 3), (120, 140, 90), "uint8")
    far[300:600, 200:651] = chelsea()
    large = draw_pet((9, 7), 1100).photo
    return {
        name: png_bytes(Image.fromarray(picture))
        for name, picture in zip(NAMES, (chelsea(), far, large, rocket()), strict=True)
    } | {"cat.jpg": b"a cat"}


def expect(true, fault):
    if not true:
        raise AssertionError(fault)


def agrees(visit, how, name, data, segmenter):
    """A photo is found on the page where the package finds it, with the same probabilities, alpha and colours."""
    visit.bring(how, name, data)
    found = see(data, segmenter)
    share, sure = f"{found.place.share:.0%}", f"{found.place.confidence:.0%}"
    visit.hear(f"Found the pet: {share} of the photo, {sure} sure")
    off = abs(visit.scores() - found.scores).max()
    expect(off <= 1e-4, f"{name}: a probability is off by {off}")
    file, pixels = visit.saved()
    expect(file == f"{Path(name).stem}-cut.png", f"{name} is saved as {file}")
    off = abs(pixels.astype(int) - np.asarray(found.cutout))
    expect(pixels.shape == off.shape, f"{name}: {pixels.shape}")
    expect(
        (off > 1).mean() < 1e-4, f"{name}: {(off > 1).sum()} numbers are off by more than a level, one by {off.max()}"
    )
    return found


def try_it(browser, url, pictures):
    """All that a visitor does, with a mouse, a keyboard, a phone, and without a network."""
    segmenter, files = Segmenter("small"), photos()
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    visit = Visit(context, url)
    visit.open()
    card, text = read_card(find_net_file("small")), visit.page.inner_text("#card")
    for score in ("mean IoU", "pet + border IoU"):
        expect(f"{card['scores'][score]:.3f}".lstrip("0") in text, f"the page's card says another {score}: {text}")
    context.set_offline(True)
    for name, how in zip(NAMES[:3], ("drop", "paste", "drop"), strict=True):
        found = agrees(visit, how, name, files[name], segmenter)
    by_keyboard(visit, found)
    visit.bring("drop", NAMES[3], files[NAMES[3]])
    visit.hear(f"{NAMES[3]}: no pet found.")
    visit.bring("paste", "cat.jpg", files["cat.jpg"])
    visit.hear("cat.jpg: this browser cannot read it as a picture")
    expect(visit.page.get_attribute("#note", "role") == "alert", "an error is not an alert")
    context.close()
    for width, scheme in SCREENS:
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        small = Visit(context, url)
        small.open()
        small.page.get_by_text("Chelsea, a cat").click()
        small.hear("Found the pet: 83%")
        expect(small.page.evaluate("document.documentElement.scrollWidth") <= width, f"wider than {width} pixels")
        if pictures:
            small.page.screenshot(path=Path(pictures, f"demo-{width}-{scheme}.png"), full_page=True)
        visit.faults += small.faults
        context.close()
    return visit.faults


def by_keyboard(visit, found):
    """The line is moved, a colour chosen and the result saved without a mouse."""
    page, order = visit.page, []
    while order[-1:] != ["save"] and len(order) < 20:
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id"))
        if order[-1] in ("line", "clear"):  # the line to the right; the other choice
            page.keyboard.press("ArrowRight")
    expect({"file", "line", "colour", "save"} <= set(order), f"Tab goes to {order}")
    expect(
        page.evaluate("getComputedStyle(document.getElementById('cut')).getPropertyValue('--at')") == "51%", "no move"
    )
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    off = abs(np.asarray(Image.open(download.value.path()), int)[..., :3] - render(found, background="#28a046"))
    expect((off > 1).mean() < 1e-4, f"on a colour {(off > 1).sum()} numbers are off, one by {off.max()}")


def old_browsers(browser, url):
    """What a browser without WebAssembly shows, and one to which a net does not come."""
    context = browser.new_context()
    context.add_init_script("delete self.WebAssembly")
    visit = Visit(context, url)
    visit.open("This needs JavaScript, WebAssembly")
    faults = visit.faults
    context = browser.new_context()
    context.route("**/net.tflite.gz", lambda route: route.fulfill(status=404))
    lost = Visit(context, url)
    lost.open("The page: net.tflite.gz did not come (404). Reload the page.")
    return faults


def main(site, pictures=None):
    faults = list(dead(site))
    if CHROMIUM:
        from playwright.sync_api import sync_playwright

        if pictures:
            Path(pictures).mkdir(parents=True, exist_ok=True)
        with sync_playwright() as p, served(site) as url, served(site, unpacks=True) as other:
            browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            faults += [*read(browser, url, pictures), *try_it(browser, url, pictures), *old_browsers(browser, url)]
            visit = Visit(browser.new_context(), other)
            visit.open()
            faults += visit.faults
            browser.close()
    if faults:
        sys.exit("\n".join([*faults, f"{len(faults)} faults"]))
    print(
        "every link leads somewhere;",
        "pages are whole, the demo agrees" if CHROMIUM else "no Chromium: no page was opened",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
