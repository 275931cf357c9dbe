"""A headless Chromium, steered by the DevTools protocol over two pipes: no library, no port.

``Browser.page()`` opens a page; ``page.evaluate`` runs JavaScript in it, ``page.wait`` until an expression is true.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
ANSWER_S = 60.0
WAIT_S = 90.0


class Browser:
    """One process, with a profile of its own in ``directory``. A context manager."""

    def __init__(self, directory) -> None:
        # The browser reads commands from descriptor 3 and answers on 4; the shell puts them there.
        read_end, self._commands = os.pipe()
        self._answers, write_end = os.pipe()
        os.set_inheritable(read_end, True)
        os.set_inheritable(write_end, True)
        options = [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-extensions", "--disable-component-update", "--mute-audio",
            "--no-proxy-server", "--remote-debugging-pipe", f"--user-data-dir={directory}", "about:blank",
        ]  # fmt: skip
        steps = f'exec "$@" 3<&{read_end} 4>&{write_end}'
        self.process = subprocess.Popen(
            ["bash", "-c", steps, "bash", CHROMIUM, *options],
            pass_fds=(read_end, write_end), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        os.close(read_end)
        os.close(write_end)
        self._last, self._buffer = 0, b""
        self.errors: list[str] = []
        """What pages have thrown."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.call("Browser.close")
            self.process.wait(10)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()
        finally:
            os.close(self._commands)
            os.close(self._answers)

    def call(self, method, session=None, **parameters):
        """Return the result of a command of the protocol."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        until_s = time.monotonic() + ANSWER_S
        while True:
            said = self._next(until_s)
            if said.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(said["params"]["exceptionDetails"])[:500])
            if said.get("id") == self._last:
                assert "error" not in said, said
                return said["result"]

    def _next(self, until_s):
        while b"\0" not in self._buffer:
            if not select.select([self._answers], [], [], max(0.0, until_s - time.monotonic()))[0]:
                raise TimeoutError("the browser does not answer")
            data = os.read(self._answers, 1 << 16)
            if not data:
                raise OSError("the browser has ended")
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def page(self, url, *, width=1280, height=900, dark=False):
        """Open a page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
        page.call("Page.enable")
        page.call("Runtime.enable")
        page.show_as(width, height, dark=dark)
        page.call("Page.navigate", url=url)
        return page


class Page:
    """One page."""

    def __init__(self, browser, session) -> None:
        self.browser = browser
        self._session = session

    def call(self, method, **parameters):
        return self.browser.call(method, self._session, **parameters)

    def show_as(self, width, height, *, dark=False):
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def evaluate(self, expression):
        """Return the value of a JavaScript expression."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, expression, what=""):
        """Wait until an expression is true; it may fail while the page changes."""
        until_s = time.monotonic() + WAIT_S
        while True:
            if self.evaluate(f"(() => {{ try {{ return !!({expression}) }} catch (e) {{ return false }} }})()"):
                return
            shown = self.text() if time.monotonic() > until_s else ""
            assert time.monotonic() < until_s, f"{what or expression}: not within {WAIT_S} s; the page shows: {shown}"
            time.sleep(0.1)

    def text(self):
        """Return what a reader sees."""
        return self.evaluate("document.body.innerText")

    def picture(self, path):
        """Write a PNG of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))
