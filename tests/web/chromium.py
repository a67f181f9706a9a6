"""A real Chromium, driven through chromedriver's W3C WebDriver protocol with the standard library."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # W3C WebDriver section 12: the key of an element reference
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--ignore-certificate-errors",  # the proxy's own pair
    "--window-size=900,1100",
)


def missing() -> str:
    """Why there can be no browser here; empty when there can."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"{program} is not installed (apt-get install chromium chromium-driver)"
    return ""


class Browser:
    """One window."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._session = ""

    def _call(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            value = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{value['error']}: {value['message'].splitlines()[0]}")
        return value

    def open(self, profile: Path, *, dark: bool) -> None:
        flags = [*FLAGS, f"--user-data-dir={profile}"]
        if dark:
            flags.append("--blink-settings=preferredColorScheme=0")
        wanted = {
            "browserName": "chrome",
            "acceptInsecureCerts": True,
            "goog:chromeOptions": {"args": flags, "binary": shutil.which("chromium")},
            "goog:loggingPrefs": {"browser": "ALL"},
        }
        found = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self._session = f"/session/{found['sessionId']}"

    def plug_in_key(self, *, passkeys: bool = False) -> str:
        """A security key that is touched whenever it is asked (Web Authentication Level 3, section 11), and keeps
        passkeys and checks its owner if it is to; its id."""
        key = {
            "protocol": "ctap2",
            "transport": "usb",
            "hasResidentKey": passkeys,
            "hasUserVerification": passkeys,
            "isUserVerified": passkeys,
            "isUserConsenting": True,
        }
        return str(self._call("POST", f"{self._session}/webauthn/authenticator", key))

    def unplug_key(self, key: str) -> None:
        self._call("DELETE", f"{self._session}/webauthn/authenticator/{key}")

    def credentials(self, key: str) -> list[dict[str, Any]]:
        """What a key holds."""
        found: list[dict[str, Any]] = self._call("GET", f"{self._session}/webauthn/authenticator/{key}/credentials")
        return found

    def close(self) -> None:
        if self._session:
            self._call("DELETE", self._session)

    def go(self, url: str) -> None:
        self._call("POST", f"{self._session}/url", {"url": url})

    def run(self, script: str) -> Any:
        """What JavaScript in the page returns."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": []})

    def wait(self, script: str, what: str) -> Any:
        """The first answer of a script that is true."""
        deadline = time.monotonic() + 15
        while True:
            answer = self.run(script)
            if answer:
                return answer
            assert time.monotonic() < deadline, f"not in time: {what}; the page says: {self.text('main')}"
            time.sleep(0.05)

    def _element(self, css: str) -> str:
        found = self._call("POST", f"{self._session}/element", {"using": "css selector", "value": css})
        return f"{self._session}/element/{found[ELEMENT]}"

    def text(self, css: str) -> str:
        """What a person reads there."""
        return str(self._call("GET", f"{self._element(css)}/text"))

    def shown(self, css: str) -> bool:
        return bool(self._call("GET", f"{self._element(css)}/displayed"))

    def type(self, css: str, text: str) -> None:
        """Clears a field and types into it."""
        element = self._element(css)
        self._call("POST", f"{element}/clear", {})
        self._call("POST", f"{element}/value", {"text": text})

    def click(self, css: str) -> None:
        self._call("POST", f"{self._element(css)}/click", {})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("GET", f"{self._session}/screenshot")))

    def complaints(self) -> list[str]:
        """What the browser wrote to its console: refused scripts, failed requests, errors."""
        found = self._call("POST", f"{self._session}/se/log", {"type": "browser"})
        return [str(entry["message"]) for entry in found]


@contextmanager
def browser(folder: Path, *, dark: bool = False) -> Iterator[Browser]:
    """A browser with a profile of its own; it and all that it started end with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    profile = folder / "profile"
    profile.mkdir(parents=True)
    with (folder / "chromedriver.log").open("wb") as log:
        driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=log,
            stderr=log,
            env={"PATH": os.environ.get("PATH", ""), "HOME": str(folder), "LANG": "C.UTF-8"},
            start_new_session=True,
        )
        window = Browser(port)
        try:
            _until(lambda: _listens(port), "chromedriver listens")
            window.open(profile, dark=dark)
            yield window
        finally:
            with contextlib.suppress(AssertionError, OSError):
                window.close()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
            driver.wait(10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _until(found: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 15
    while not found():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.05)
