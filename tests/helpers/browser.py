"""A real browser for the tests of pages: Chromium without a window, spoken to through a pipe."""

import atexit
import base64
import contextlib
import fcntl
import io
import json
import os
import select
import shutil
import signal
import tempfile
import time

import matplotlib.image

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
SECONDS = 60
# Windows key codes, which is what the protocol wants.
KEYS = {"Tab": 9, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39,
        "ArrowDown": 40, "Space": 32, "Enter": 13, "Escape": 27, "KeyM": 77,
        "Delete": 46}  # fmt: skip
TEXTS = {"Space": " ", "Enter": "\r"}


def executable():
    """Return the path of a browser, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextlib.contextmanager
def opener():
    """Yield a function that opens pages; they close with it."""
    with contextlib.ExitStack() as stack:
        yield lambda path, **options: stack.enter_context(Page(path, **options))


def pixels(png):
    """Return the colours of a screenshot, ``[height, width, 3]``."""
    return matplotlib.image.imread(io.BytesIO(png), format="png")[..., :3]


class Browser:
    """The process that the pages of all tests share, for it takes a second to start."""

    current = None

    @classmethod
    def running(cls):
        """Return the browser that runs; start one if there is none."""
        if cls.current is None:
            cls.current = cls()
            atexit.register(cls.current.close)
        return cls.current

    def __init__(self):
        self._count, self._buffer, self.pages = 0, b"", {}
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        read, child_writes = os.pipe()
        child_reads, write = os.pipe()
        options = [
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
            "--disable-dev-shm-usage", "--force-device-scale-factor=1",
            "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}",
        ]  # fmt: skip
        # The browser expects its pipes as 3 and 4; copies beyond 9 are not overwritten by them.
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 10) for fd in (child_reads, child_writes)]
        actions = [
            *((os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)),
            *((os.POSIX_SPAWN_DUP2, fd, wanted) for fd, wanted in zip(copies, (3, 4), strict=True)),
        ]
        name = executable()
        self._pid = os.posix_spawn(name, [name, *options], os.environ, file_actions=actions)
        for fd in (child_reads, child_writes, *copies):
            os.close(fd)
        self._read, self._write = read, write

    def close(self):
        """End the process: it must not outlive the tests."""
        atexit.unregister(self.close)
        Browser.current = None
        os.close(self._write)
        os.close(self._read)
        os.kill(self._pid, signal.SIGTERM)
        os.waitpid(self._pid, 0)
        self._profile.cleanup()

    def _message(self):
        while b"\0" not in self._buffer:
            found = b""
            if not select.select([self._read], [], [], SECONDS)[0]:
                problem = TimeoutError("the browser does not answer")
            elif not (found := os.read(self._read, 1 << 16)):
                problem = RuntimeError("the browser ended")
            if not found:
                self.close()  # the next page gets another one
                raise problem
            self._buffer += found
        text, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(text)

    def call(self, method, session=None, **parameters):
        """Call a method of the DevTools protocol; tell the pages what happens meanwhile."""
        self._count += 1
        request = {"id": self._count, "method": method, "params": parameters}
        if session is not None:
            request["sessionId"] = session
        os.write(self._write, json.dumps(request).encode() + b"\0")
        while True:
            message = self._message()
            if message.get("id") == self._count:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            if page := self.pages.get(message.get("sessionId")):
                page.hear(message)


class Page:
    """One page, which shares nothing with others; a context manager."""

    def __init__(self, path, *, dark=False, width=1280, height=1000, script=True):
        self._path = path
        self._dark, self._size, self._script = dark, (width, height), script
        self.errors, self.requests, self.bodies = [], [], []

    def __enter__(self):
        self._browser = Browser.running()
        ask = self._browser.call
        self._context = ask("Target.createBrowserContext")["browserContextId"]
        target = ask("Target.createTarget", url="about:blank", browserContextId=self._context)
        attached = ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        self._browser.pages[self._session] = self
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}
        self.call("Emulation.setEmulatedMedia", media="screen", features=[scheme])
        self.resize(*self._size)
        self.call("Emulation.setScriptExecutionDisabled", value=not self._script)
        self.go(self._path if isinstance(self._path, str) else self._path.as_uri())
        return self

    def go(self, url):
        """Load a page, from a file or a server."""
        self.call("Page.navigate", url=url)
        self.until(f"location.protocol + document.readyState == '{url.split(':')[0]}:complete'")

    def reload(self):
        """Load the page again, and wait until it is there."""
        self.run("window.isOld = true")
        self.call("Page.reload")
        self.until("!window.isOld && document.readyState === 'complete'")

    def until(self, expression, seconds=SECONDS):
        """Wait until an expression holds."""
        end = time.monotonic() + seconds
        while not self.run(f"Boolean({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"it never holds: {expression}")
            time.sleep(0.02)

    def __exit__(self, *_):
        self._browser.pages.pop(self._session)
        if self._browser is Browser.current:
            self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)

    def hear(self, message):
        """Remember errors and requests."""
        method, given = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(given["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.errors.append(given["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(given["request"]["url"])
            self.bodies.append(given["request"].get("postData"))

    def call(self, method, **parameters):
        """Call a method of the DevTools protocol on this page."""
        return self._browser.call(method, self._session, **parameters)

    def resize(self, width, height):
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    def run(self, script):
        """Return the value of an expression."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def press(self, *keys, held=0):
        """Press keys, with Alt (1), Control (2) and Shift (8) held."""
        for key in keys:
            named = {"key": " " if key == "Space" else key, "code": key, "modifiers": held}
            named["windowsVirtualKeyCode"] = KEYS[key]
            self.call("Input.dispatchKeyEvent", type="rawKeyDown", **named)
            if key in TEXTS and not held:
                self.call("Input.dispatchKeyEvent", type="char", text=TEXTS[key], **named)
            self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def type(self, text):
        self.call("Input.insertText", text=text)

    def drag(self, *points):
        """Press the mouse at the first point, move it along the others, let go at the last."""
        for kind, (x, y) in (
            ("mousePressed", points[0]), *(("mouseMoved", point) for point in points),
            ("mouseReleased", points[-1]),
        ):  # fmt: skip
            self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1,
                clickCount=1,
            )  # fmt: skip

    def click(self, selector):
        """Click the middle of an element."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{box}.scrollIntoView({{block: 'center'}})")
        self.drag(self.run(
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])({box}"
            ".getBoundingClientRect())"
        ))  # fmt: skip

    def point(self, x, y):
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def screenshot(self, *, whole=False):
        """Return what is seen, or the whole page, as a PNG."""
        options = {"captureBeyondViewport": True} if whole else {}
        if whole:
            size = self.call("Page.getLayoutMetrics")["cssContentSize"]
            options["clip"] = {"x": 0, "y": 0, "scale": 1,
                               "width": size["width"], "height": size["height"]}  # fmt: skip
        return base64.b64decode(
            self.call("Page.captureScreenshot", format="png", **options)["data"]
        )
