"""Visits the page that cuts photos in the browser, and compares it with the package: python .ci/visit_demo.py SITE [PICTURES]"""

import base64
import io
import shutil
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
from PIL import Image
from skimage.data import chelsea, coffee

from petseg.cutouts import render, see
from petseg.draw import draw_pet
from petseg.netfiles import find_net_file, read_card
from petseg.predict import Segmenter

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
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/petseg/"
        finally:
            server.shutdown()
            server.server_close()


def png(picture):
    """A picture (H, W, 3) as a file's bytes."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def photos():
    """{name: bytes}: a photo, one whose pet is far, one of more than 512 pixels, one without a pet, and none."""
    far = np.full((700, 1100, 3), (120, 140, 90), "uint8")
    far[300:600, 200:651] = chelsea()
    large = draw_pet((9, 7), 1100).photo
    return {name: png(picture) for name, picture in zip(NAMES, (chelsea(), far, large, coffee()), strict=True)} | {
        "cat.jpg": b"a cat"
    }


NAMES = ("chelsea.png", "far.png", "large.png", "coffee.png")


class Visit:
    """A visitor with one page open, who notes what goes wrong on it."""

    def __init__(self, context, url):
        self.page, self.faults, self.url = context.new_page(), [], url
        self.page.on("console", lambda m: self.faults.append(f"{m.type}: {m.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("request", self._asked)

    def _asked(self, request):
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"it asks for {request.url}")

    def open(self, note=READY):
        self.page.goto(f"{self.url}demo/index.html")
        self.hear(note)

    def hear(self, start):
        """Wait for a sentence that starts so, and give it."""
        wanted = f"document.getElementById('note').textContent.startsWith({start!r})"
        self.page.wait_for_function(wanted, timeout=60_000)
        return self.page.inner_text("#note")

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
    expect((off > 1).mean() < 1e-4, f"{name}: {(off > 1).sum()} numbers are off by more than a level, one by {off.max()}")
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
    for width, scheme in ((1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")):
        context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        small = Visit(context, url)
        small.open()
        small.page.get_by_text("Chelsea, a cat").click()
        small.hear("Found the pet: 82%")
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
    expect(page.evaluate("getComputedStyle(document.getElementById('cut')).getPropertyValue('--at')") == "51%", "no move")
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
    if not CHROMIUM:
        print("no Chromium: the demo is not visited")
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p, served(site) as url, served(site, unpacks=True) as other:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        faults = try_it(browser, url, pictures) + old_browsers(browser, url)
        visit = Visit(browser.new_context(), other)
        visit.open()
        browser.close()
    if faults + visit.faults:
        sys.exit("\n".join(faults + visit.faults))
    print("the demo agrees with the package")


if __name__ == "__main__":
    main(*sys.argv[1:])
