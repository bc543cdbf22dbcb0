"""Chromium without a window, driven over its debugging pipe: no library, no open port.

Messages are those of the Chrome DevTools Protocol, ended by NUL, on the
descriptors 3 and 4 of the browser (--remote-debugging-pipe).
"""

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

SECONDS = 120.0  # a limit, not a wait
NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",  # root cannot have one
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-dev-shm-usage",
    "--force-device-scale-factor=1",
    "--window-size=1280,1000",
    "--remote-debugging-pipe",
)


def executable() -> str | None:
    """The browser there is, if any."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A running browser; `open` shows a file in it."""

    def __init__(self, program: str, profile: Path) -> None:
        down_read, self._down = os.pipe()
        self._up, up_write = os.pipe()
        script = f'exec "$0" "$@" 3<&{down_read} 4>&{up_write}'
        flags = [*_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *flags],
            pass_fds=(down_read, up_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down_read)
        os.close(up_write)
        self._rest = b""
        self._number = 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        """The result of one command; events that come meanwhile go to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._down, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def wait(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first event like that, of those that came and those to come."""
        for event in self.events:
            if wanted(event):
                return event
        while True:
            event = self._next()
            self.events.append(event)
            if wanted(event):
                return event

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            left = deadline - time.monotonic()
            ready = select.select([self._up], [], [], max(0, left))[0]
            assert ready, "the browser does not answer"
            more = os.read(self._up, 1 << 20)
            assert more, f"the browser ended: {self._process.poll()}"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def open(self, path: Path) -> "Tab":
        """Show a file; returns when it has loaded."""
        self.events.clear()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.call("Page.navigate", url=path.as_uri())
        self.wait(
            lambda event: (
                event.get("method") == "Page.loadEventFired" and event.get("sessionId") == session
            )
        )
        return tab

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._down)
        os.close(self._up)


class Tab:
    """A page that is shown."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command to this page."""
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """What a JavaScript expression comes to, promises awaited."""
        result = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def key(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code
            )

    def click(self, selector: str) -> None:
        """Press the left button in the middle of an element."""
        script = f"""(() => {{ const e = document.querySelector({json.dumps(selector)});
            e.scrollIntoView({{block: 'center'}}); const b = e.getBoundingClientRect();
            return [b.x + b.width / 2, b.y + b.height / 2]; }})()"""
        x, y = self.evaluate(script)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def move(self, x: float, y: float) -> None:
        """The pointer to a place in the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def requests(self) -> list[str]:
        """The addresses that were asked for."""
        return [
            event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent")
        ]

    def complaints(self) -> list[str]:
        """What a console would show in red: errors, exceptions, violations of the policy."""
        said = [str(event["params"]) for event in self._events("Runtime.exceptionThrown")]
        for event in self._events("Runtime.consoleAPICalled"):
            if event["params"]["type"] in ("error", "warning", "assert"):
                said.append(str(event["params"]))
        for event in self._events("Log.entryAdded"):
            if event["params"]["entry"]["level"] in ("error", "warning"):
                said.append(str(event["params"]["entry"]["text"]))
        return said

    def _events(self, method: str) -> list[dict[str, Any]]:
        self.evaluate("new Promise((done) => setTimeout(done))")  # what is on its way has come
        return [
            event
            for event in self._browser.events
            if event.get("method") == method and event.get("sessionId") == self._session
        ]
