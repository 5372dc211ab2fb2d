"""Headless Chromium, driven through a pipe with its own protocol: no driver, no network, no package."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync")
FLAGS += ("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars")
LONGEST = 120.0  # seconds that an answer may take before the test fails


def chromium() -> str | None:
    """The program of a browser, or None where there is none."""
    found = [shutil.which(name) for name in PROGRAMS]
    fetched = sorted(Path.home().glob(".cache/ms-playwright/chromium*/chrome-*/*chrome*"))
    return next((each for each in (*found, *map(str, fetched)) if each and os.access(each, os.X_OK)), None)


class Browser:
    """A browser with one page.

    Attributes:
        requested: Addresses that pages asked for.
        errors: What scripts of pages complained of.
    """

    def __init__(self, program: str, folder: Path):
        self.requested: list[str] = []
        self.errors: list[str] = []
        self._number, self._buffer, self._seen = 0, b"", set()
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (theirs_in, theirs_out)]  # away from 3 and 4
        os.close(theirs_in)
        os.close(theirs_out)
        started = (program, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={folder}")
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{ends[0]} 4>&{ends[1]}', "bash", *started, "about:blank"],
            pass_fds=ends,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in ends:
            os.close(end)
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End the browser."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters) -> dict:
        """The result of a command of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._number:
                assert "error" not in found, (method, found["error"])
                return found["result"]

    def open(self, path: Path, width: int = 1400, height: int = 900, dark: bool = False) -> None:
        """Load a file, in a window of that size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.prefer("dark" if dark else "light")
        self._seen.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while "Page.loadEventFired" not in self._seen:
            self._read()
        self.settle()

    def prefer(self, scheme: str) -> None:
        """The user prefers light or dark."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def in_grey(self, grey: bool = True) -> None:
        """Take the colours away."""
        self.call("Emulation.setEmulatedVisionDeficiency", type="achromatopsia" if grey else "none")

    def settle(self) -> None:
        """Returns when what was changed is laid out and observers have been told."""
        frame = "new Promise((done) => requestAnimationFrame(() => setTimeout(done)))"
        self.run(f"{frame}.then(() => {frame})")

    def run(self, expression: str):
        """The value of an expression of the page's script, or of what it promises."""
        wanted = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        found = self.call("Runtime.evaluate", **wanted)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """A key of the keyboard, such as Tab or ArrowRight."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        codes |= {"End": 35, "Home": 36}
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=codes[key])
        self.settle()

    def write(self, text: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)
        self.settle()

    def point_at(self, selector: str, click: bool = False) -> None:
        """Move the mouse onto the first element of a selector, and click it."""
        box = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{box}.scrollIntoView({{ block: 'center' }})")
        self.settle()
        x, y = self.run(f"(({{ x, y, width, height }}) => [x + width / 2, y + height / 2])({box}.getClientRects()[0])")
        for kind in ("mouseMoved", *(("mousePressed", "mouseReleased") if click else ())):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if click else "none", clickCount=1)
        self.settle()

    def picture(self, path: Path) -> None:
        """What is seen, as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))

    def _read(self) -> dict:
        ends = time.monotonic() + LONGEST
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, ends - time.monotonic()))
            part = os.read(self._in, 2**20) if ready else b""
            if not part:
                raise TimeoutError("the browser ended or says nothing")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, told: dict) -> None:
        self._seen.add(event)
        if event == "Network.requestWillBeSent":
            self.requested.append(told["request"]["url"])
        if event == "Runtime.exceptionThrown":
            self.errors.append(told["exceptionDetails"]["text"])
        if event == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            self.errors.append(str(told["args"]))
