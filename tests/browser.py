"""A page in Debian's Chromium without a window, spoken to through a pipe."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
PATIENCE = 60  # seconds


class Page:
    """A page that has been loaded, and what the browser said of it.

    Attributes:
        events: (method, parameters) in the order they came.
    """

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest, self._number = to, back, b"", 0
        self._session: dict[str, str] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol, and return its result."""
        self._number += 1
        command = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            read = os.read(self._back, 1 << 16)
            assert read, "the browser has ended"
            self._rest += read
        first, self._rest = self._rest.split(b"\0", 1)
        message = json.loads(first)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def open(self, path: Path) -> None:
        """Load a file, and wait until it is there."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in [method for method, _ in self.events]:
            self._next()

    def value(self, script: str) -> Any:
        """Return what a line of JavaScript is."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def width(self, pixels: int, *, dark: bool = False) -> None:
        """Give the page the width of a screen, and its colours."""
        size = {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": pixels < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Start Chromium, with a profile in `folder`; end it."""
    (theirs_in, to), (back, theirs_out) = os.pipe(), os.pipe()
    command = ["chromium", *FLAGS, f"--user-data-dir={folder}"]
    script = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *command],
        pass_fds=(theirs_in, theirs_out),
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs_in)
    os.close(theirs_out)
    try:
        yield Page(to, back)
    finally:
        process.terminate()
        process.wait(PATIENCE)
        os.close(to)
        os.close(back)
