"""The link that plain ssh shows: who asks is told, and a security key approves a lease."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.auth.test_auth_factors import Ann
from tests.auth.test_auth_session_mfa import ADDRESS, Careful, careful
from tests.web.chromium import Browser, browser, missing
from tests.web.web_rig import RunningWeb, web_before

from teleport.api import messages as m
from teleport.api import routes
from teleport.identity import SystemRole
from teleport.testing.auth import RunningAuth, present_clock, running_auth
from teleport.testing.authenticator import Authenticator


@asynccontextmanager
async def asked(tmp_path: Path) -> AsyncIterator[tuple[RunningAuth, RunningWeb, Careful, Authenticator, str]]:
    """Somebody with a security key whom ssh has just shown a link; its path."""
    async with running_auth(tmp_path, clock=present_clock()) as auth, web_before(auth, tmp_path) as web:
        await auth.set_second_factor("on")
        lea = await careful(auth, "lea")
        proxy = await auth.host(SystemRole.PROXY)
        key = await Ann(auth, proxy, lea.who, lea.secret).add_key()
        request = m.LeaseChallengeRequest(certificate=lea.line, client_addr=ADDRESS)
        link = (await auth.call(proxy, routes.LEASE_CHALLENGE, request)).link
        yield auth, web, lea, key, link.partition("/web/lease/")[2]


async def _leases(auth: RunningAuth) -> int:
    return len((await auth.call(await auth.admin(), routes.LIST["mfa_lease"], m.ListRequest())).items)


def _signed(key: Authenticator, shown: dict[str, Any]) -> dict[str, Any]:
    """What the page sends."""
    options = shown["webauthn_challenge"]["publicKey"]
    answer = key.sign(
        m.WebauthnChallenge(
            challenge=options["challenge"],
            rp_id=options["rpId"],
            credentials=[one["id"] for one in options["allowCredentials"]],
        )
    )
    response = {
        "clientDataJSON": answer.client_data,
        "authenticatorData": answer.authenticator_data,
        "signature": answer.signature,
        "userHandle": answer.user_handle,
    }
    return {
        "challenge_id": shown["challenge_id"],
        "webauthn_challenge_response": {"id": answer.credential_id, "response": response},
    }


async def test_the_page_is_told_who_asks_and_approves_once(tmp_path: Path) -> None:
    async with asked(tmp_path) as (auth, web, lea, key, token):
        page = await web.ask("GET", f"/web/lease/{token}")
        assert page.status == 200
        assert "lease.js" in page.text
        assert token not in page.text
        shown = await web.ask("GET", f"/webapi/mfa/lease/{token}")
        assert (shown.json["user"], shown.json["client_addr"]) == ("lea", ADDRESS)
        assert shown.json["key_fingerprint"] == lea.key.public.fingerprint()
        body = _signed(key, shown.json)
        foreign = await web.ask(
            "POST", f"/webapi/mfa/lease/{token}", json=body, headers={"Origin": "https://evil.example.com"}
        )
        assert (foreign.status, await _leases(auth)) == (403, 0)
        done = await web.ask("POST", f"/webapi/mfa/lease/{token}", json=body)
        assert (done.status, done.json, await _leases(auth)) == (200, {"message": "ok"}, 1)
        for again in (
            await web.ask("POST", f"/webapi/mfa/lease/{token}", json=body),
            await web.ask("GET", f"/webapi/mfa/lease/{token}"),
        ):
            assert again.status == 404
        assert await _leases(auth) == 1


async def test_a_wrong_link_and_a_wrong_answer_approve_nothing(tmp_path: Path) -> None:
    async with asked(tmp_path) as (auth, web, _, key, token):
        assert (await web.ask("GET", "/webapi/mfa/lease/nonsense")).status == 404
        shown = await web.ask("GET", f"/webapi/mfa/lease/{token}")
        stranger = Authenticator(keys=dict(key.keys))
        for made in stranger.keys.values():
            made.private = ec.generate_private_key(ec.SECP256R1())
        wrong = await web.ask("POST", f"/webapi/mfa/lease/{token}", json=_signed(stranger, shown.json))
        assert wrong.status == 403
        assert await _leases(auth) == 0


def _plug_in(window: Browser, key: Authenticator) -> None:
    """Gives the browser's virtual authenticator (WebDriver extension of Web Authentication, section 11) our key."""
    options = {"protocol": "ctap2", "transport": "usb", "isUserConsenting": True, "automaticPresenceSimulation": True}
    made = window._call("POST", f"{window._session}/webauthn/authenticator", options)
    for name, held in key.keys.items():
        private = held.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        window._call(
            "POST",
            f"{window._session}/webauthn/authenticator/{made}/credential",
            {
                "credentialId": name,
                "isResidentCredential": False,
                "rpId": held.rp_id,
                "privateKey": base64.urlsafe_b64encode(private).decode().rstrip("="),
                "signCount": 10,
            },
        )


@pytest.mark.skipif(bool(missing()), reason=missing() or "-")
async def test_in_a_browser_a_touch_approves(tmp_path: Path) -> None:
    async with asked(tmp_path) as (auth, web, _, key, token):

        def work() -> None:
            with browser(tmp_path / "chromium") as window:
                window.go(web.url)
                _plug_in(window, key)
                window.go(f"{web.url}/web/lease/{token}")
                window.wait("return !document.getElementById('form').hidden", "who asks")
                assert window.text("#user") == "lea"
                assert window.text("#address") == ADDRESS
                window.click("#send")
                window.wait("return !document.getElementById('done').hidden", "that it is done")
                assert window.text("#done") == "Approved. Go back to the terminal and press Enter."
                window.go(f"{web.url}/web/lease/{token}")
                window.wait("return !document.getElementById('problem').hidden", "that it was used")
                assert "Connect again" in window.text("#problem")
                assert [said for said in window.complaints() if "404" not in said] == []

        await asyncio.to_thread(work)
        assert await _leases(auth) == 1
