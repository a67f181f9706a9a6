"""The pages in a real browser: an invitation followed to its end, and what is said when that cannot be."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.web.chromium import Browser, browser, missing
from tests.web.web_rig import invite, login_body, web_before

from teleport.api import messages as m
from teleport.api import routes
from teleport.pki.keys import generate_p256
from teleport.store import records
from teleport.testing.auth import PASSWORD, RunningAuth, running_auth

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


def problem(window: Browser) -> str:
    """The message on the page, once there is one."""
    window.wait("return !document.getElementById('problem').hidden", "a message")
    return window.text("#problem")


def opened(window: Browser, url: str) -> None:
    window.go(url)
    window.wait("return Boolean(document.getElementById('form'))", "the form")


def there(window: Browser, css: str) -> bool:
    return bool(window.run(f"return Boolean(document.querySelector('{css}'))"))


def assert_code_is_drawn(window: Browser) -> None:
    script = "const i = document.getElementById('qr'); return i.complete && i.naturalWidth > 0 && i.naturalWidth"
    assert window.wait(script, "the QR code") >= 100
    assert window.shown("#qr")


def follow_invitation(window: Browser, url: str, auth: RunningAuth, shots: Path) -> str:
    """What a person does; returns the secret that the page shows for those without a camera."""
    opened(window, url)
    assert window.text("#title") == "Welcome to example.com"
    assert window.run("return document.getElementById('user').value") == "alice"
    assert_code_is_drawn(window)
    window.screenshot(shots / "form.png")
    secret = window.text("#secret")

    window.type("#password", PASSWORD)
    window.type("#again", PASSWORD + "!")
    window.type("#code", auth.code(secret))
    window.click("#send")
    assert problem(window) == "The two passwords differ."
    window.screenshot(shots / "differ.png")

    window.type("#again", PASSWORD)
    window.type("#code", "000000")
    window.click("#send")
    assert "code" in window.wait("return document.getElementById('problem').textContent", "a refusal")
    window.wait("return !document.getElementById('send').disabled", "another try")

    window.type("#code", auth.code(secret))
    window.click("#send")
    window.wait("return document.getElementById('title').textContent === 'Done'", "the end")
    assert not there(window, "#form")
    assert not window.shown("#problem")
    assert "--user=alice" in window.text("#done")
    assert url.split("/")[2] in window.text("#done"), "the command names this proxy"
    assert not there(window, "#password"), "nothing is left in the page"
    window.screenshot(shots / "done.png")

    window.go(url)
    window.wait("return document.getElementById('title')?.textContent === 'This link cannot be used'", "a used link")
    said = "this link was used, has expired, or never existed. ask an administrator for a new one."
    assert problem(window).lower() == said
    assert not there(window, "#form")
    window.screenshot(shots / "used.png")
    return secret


@pytest.mark.parametrize(
    "dark", [pytest.param(False, id="light"), pytest.param(True, id="dark", marks=pytest.mark.long)]
)
async def test_an_invitation_is_followed_to_its_end(tmp_path: Path, dark: bool) -> None:
    async with running_auth(tmp_path) as auth, web_before(auth, tmp_path) as web:
        link = await invite(auth, "alice")

        def work() -> tuple[str, list[str]]:
            with browser(tmp_path / "browser", dark=dark) as window:
                found = follow_invitation(window, f"{web.url}/web/invite/{link.token}", auth, tmp_path)
                assert window.run("return matchMedia('(prefers-color-scheme: dark)').matches") is dark
                return found, window.complaints()

        secret, complaints = await asyncio.to_thread(work)
        assert not [text for text in complaints if "Content Security Policy" in text or "Error" in text], complaints
        answer = await web.ask(
            "POST", "/webapi/ssh/certs", json=login_body(generate_p256(), "alice", auth.code(secret, periods=1))
        )
        assert answer.status == 200, answer.text


async def test_a_reset_and_hostile_or_unknown_links_in_the_browser(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, web_before(auth, tmp_path) as web:
        await auth.person("bob")
        link = await auth.call(await auth.admin(), routes.RESET_USER, m.ResetUserRequest(name="bob"))

        def work() -> None:
            with browser(tmp_path / "browser") as window:
                opened(window, f"{web.url}/web/reset/{link.token}")
                assert window.text("#title") == "Choose a new password"
                window.type("#password", "short")
                window.type("#again", "short")
                window.type("#code", "123456")
                window.click("#send")
                assert window.run("return document.getElementById('password').validity.valid") is False
                assert window.text("#title") == "Choose a new password", "the browser itself asks for more"

                for path in ("/web/invite/" + "0" * 32, "/web/invite/%3Cimg%20src=x%20onerror=alert(1)%3E"):
                    window.go(web.url + path)
                    script = "return document.getElementById('title')?.textContent === 'This link cannot be used'"
                    window.wait(script, "a refusal")
                    assert problem(window)
                    assert window.run("return document.images.length") == 0

                window.go(f"{web.url}/")
                window.wait("return location.pathname === '/web/signin'", "the way")
                wanted = f"tsh login --proxy={web.url.removeprefix('https://')} --user=NAME"
                window.wait(f"return document.querySelector('pre')?.textContent === '{wanted}'", "the command")
                window.screenshot(tmp_path / "landing.png")

        await asyncio.to_thread(work)


# security keys


@pytest.mark.parametrize("setting", ["optional"])
async def test_an_invitation_is_followed_with_a_security_key(tmp_path: Path, setting: str) -> None:
    """Chromium's virtual authenticator is registered; without one the page says what to do and nothing is set."""
    async with running_auth(tmp_path) as auth, web_before(auth, tmp_path) as web:
        await auth.set_second_factor(setting)
        link = await invite(auth, "alice")

        def work() -> tuple[list[dict[str, Any]], list[str]]:
            with browser(tmp_path / "browser") as window:
                opened(window, f"{web.url}/web/invite/{link.token}")
                assert window.shown("#choice") is (setting != "webauthn")
                assert window.shown("input[value=none]") is (setting == "optional")
                window.type("#password", PASSWORD)
                window.type("#again", PASSWORD)
                if setting != "webauthn":
                    assert window.shown("#code")
                    window.click("input[value=key]")
                assert not there(window, "#code")
                key = window.plug_in_key()
                window.screenshot(tmp_path / "key.png")
                window.click("#send")
                window.wait("return document.getElementById('title').textContent === 'Done'", "the end")
                return window.credentials(key), window.complaints()

        made, complaints = await asyncio.to_thread(work)
        assert not [text for text in complaints if "Content Security Policy" in text or "Error" in text], complaints
        found = await auth.service.state.record(records.USER_SECRETS + "alice", records.UserSecret)
        assert found is not None
        (device,) = found[0].devices
        assert (device.kind, device.credential_id) == ("webauthn", made[0]["credentialId"].rstrip("="))
        (event,) = await auth.events("mfa.add")
        assert (event["user"], event["mfa_device"]["mfa_device_type"]) == ("alice", "webauthn")
