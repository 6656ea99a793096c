"""Chromium without a window, spoken to through pipes: what tests open pages in."""

import base64
import fcntl
import io
import json
import os
import select
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


class Browser:
    """Chromium without a window, spoken to in its DevTools protocol over two pipes."""

    FLAGS = (
        "--headless=new --no-sandbox --disable-gpu --use-angle=swiftshader "
        "--enable-unsafe-swiftshader --disable-quic --no-first-run --disable-sync "
        "--disable-background-networking --disable-component-update --hide-scrollbars "
        "--window-size=1200,900 --remote-debugging-pipe"
    )

    def __init__(self, program: str, profile: Path, seconds: float = 60) -> None:
        """`seconds`: after that any call raises a TimeoutError."""
        self.deadline = time.monotonic() + seconds
        self.events: list[dict] = []
        self._number, self._buffer, self._session = 0, b"", {}
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        # Chromium reads from 3 and writes to 4; from 10 on, the copies are in nobody's way.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (read, write)]
        self.process = subprocess.Popen(
            [program, *self.FLAGS.split(), f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=lambda: [os.dup2(end, number) for number, end in enumerate(ends, 3)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (read, write, *ends):
            os.close(end)

    def attach(self) -> None:
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        found = self.call("Target.attachToTarget", targetId=page, flatten=True)
        self._session = {"sessionId": found["sessionId"]}
        for domain in ("Runtime", "Log", "Page", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._read)
        os.close(self._write)

    def call(self, method: str, **params: Any) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _next(self) -> dict:
        while b"\0" not in self._buffer:
            left = max(0, self.deadline - time.monotonic())
            if not select.select([self._read], [], [], left)[0]:
                raise TimeoutError("Chromium did not answer in time.")
            received = os.read(self._read, 1 << 20)
            if not received:
                raise RuntimeError(f"Chromium ended with status {self.process.wait()}.")
            self._buffer += received
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        while not self.value(expression):
            time.sleep(0.05)

    def open(self, page: Path | str) -> None:
        """Open a file, or an address."""
        url = page.as_uri() if isinstance(page, Path) else page
        self.events.clear()
        self.call("Page.navigate", url=url)
        self.until(f"location.href == {url!r} && document.readyState == 'complete'")

    def shows_dark(self, is_dark: bool) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def width(self, pixels: int) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=pixels,
            height=900,
            deviceScaleFactor=1,
            mobile=False,
        )

    def place(self, selector: str) -> dict[str, float]:
        """x, y, width and height of an element after scrolling to it."""
        return self.value(
            f"(() => {{ const e = document.querySelector({selector!r});"
            "e.scrollIntoView({behavior: 'instant', block: 'center'});"
            "const r = e.getBoundingClientRect();"
            "return {x: r.x, y: r.y, width: r.width, height: r.height}; })()"
        )

    def screenshot(self, selector: str) -> np.ndarray:
        """(H, W, 3) of an element, once the page has been drawn again."""
        place = self.place(selector)
        self.value("new Promise((r) => requestAnimationFrame(() => requestAnimationFrame(r)))")
        shot = self.call("Page.captureScreenshot", format="png")["data"]
        page = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB"))
        x, y = round(place["x"]), round(place["y"])
        return page[y : y + round(place["height"]), x : x + round(place["width"])].astype(int)

    def drag(self, selector: str, by: int) -> None:
        place = self.place(selector)
        x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
        for kind, dx in [("mousePressed", 0), ("mouseMoved", by), ("mouseReleased", by)]:
            where = {"x": x + dx, "y": y, "button": "left", "buttons": 1, "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, **where)
            time.sleep(0.1)

    def errors(self) -> list[dict]:
        """Errors on the console, uncaught exceptions, and dialogs that a page opened."""
        return [e for e in self.events if _is_error(e["method"], e.get("params", {}))]

    def requests(self) -> list[str]:
        sent = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        return [e["params"]["request"]["url"] for e in sent]


def _is_error(method: str, params: dict) -> bool:
    return (
        method in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening")
        or (method == "Log.entryAdded" and params["entry"]["level"] == "error")
        or (method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"))
    )
