"""A page in Debian's Chromium without a window, controlled through a pipe."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
TIMEOUT = 60  # seconds

needs_chromium = pytest.mark.skipif(
    not shutil.which("chromium"), reason="Chromium is not installed: apt-get install chromium"
)


class Page:
    """A page, and the events of the browser.

    Attributes:
        events: (method, parameters), in order of arrival.
    """

    def __init__(self, requests: int, responses: int) -> None:
        self._requests, self._responses, self._unread, self._id = requests, responses, b"", 0
        self._session: dict[str, str] = {}
        self.events: list[tuple[str, dict[str, Any]]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol, and return its result."""
        self._id += 1
        command = {"id": self._id, "method": method, "params": parameters, **self._session}
        os.write(self._requests, json.dumps(command).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._id:
                assert "error" not in message, message
                return message["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            data = os.read(self._responses, 1 << 16)
            assert data, "the browser has ended"
            self._unread += data
        first, self._unread = self._unread.split(b"\0", 1)
        message = json.loads(first)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def open(self, path: Path) -> None:
        """Load a file in a new tab, and wait until it is loaded; forget the events of before."""
        self._session = {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        self.events.clear()
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=path.as_uri())
        while "Page.loadEventFired" not in [method for method, _ in self.events]:
            self._next()

    def value(self, script: str) -> Any:
        """Return the value of a line of JavaScript."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def set_screen(self, width: int, *, dark: bool = False) -> None:
        """Set the width of the screen in pixels, and light or dark colours."""
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """Start Chromium with a profile in `folder`, and end it afterwards."""
    (child_input, requests), (responses, child_output) = os.pipe(), os.pipe()
    script = f'exec "$@" 3<&{child_input} 4>&{child_output}'
    command = ["bash", "-c", script, "bash", "chromium", *FLAGS, f"--user-data-dir={folder}"]
    pipes = (child_input, child_output)
    process = subprocess.Popen(command, pass_fds=pipes, stderr=subprocess.DEVNULL)
    for pipe in pipes:
        os.close(pipe)
    try:
        yield Page(requests, responses)
    finally:
        os.close(requests)
        os.close(responses)
        process.terminate()
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
