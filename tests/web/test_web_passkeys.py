"""Passkeys at the proxy: a browser's session without a name and a password, and what is refused on the way."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.web.session_rig import Browser, Person, proxy_with_sessions
from tests.web.web_rig import Answer, RunningWeb

from teleport.api import messages as m
from teleport.pki.keys import generate_p256
from teleport.testing.auth import RunningAuth, present_clock, running_auth
from teleport.testing.authenticator import Authenticator
from teleport.web.origin import CSRF_HEADER
from teleport.web.sessions import COOKIE

ASK, ENTER = "/webapi/mfa/login/passkey", "/webapi/sessions/passkey"


@dataclass
class Here:
    """Ann, whose passkey was added on her account page, and a proxy."""

    auth: RunningAuth
    web: RunningWeb
    ann: Person
    key: Authenticator

    async def answer(self, window: Browser) -> dict[str, Any]:
        asked = await window.ask("POST", ASK, json={})
        assert asked.status == 200, asked.text
        options = asked.json["webauthn_challenge"]["publicKey"]
        assert (options["allowCredentials"], options["userVerification"]) == ([], "required")
        challenge = m.WebauthnChallenge(challenge=options["challenge"], rp_id=options["rpId"], credentials=[])
        signed = self.key.sign(challenge)
        response = {
            "clientDataJSON": signed.client_data,
            "authenticatorData": signed.authenticator_data,
            "signature": signed.signature,
            "userHandle": signed.user_handle,
        }
        return {
            "challenge_id": asked.json["challenge_id"],
            "webauthn_challenge_response": {"id": signed.credential_id, "response": response},
        }


@asynccontextmanager
async def here(folder: Path) -> AsyncIterator[Here]:
    async with running_auth(folder, clock=present_clock()) as auth:
        await auth.set_second_factor("on")
        async with proxy_with_sessions(auth, folder) as web:
            ann, key = await Person.made(auth, "ann"), Authenticator(verified=True)
            window = await ann.browser(web)
            body = {"name": "laptop", "type": "webauthn", "passwordless": True, "second_factor_token": ann.code()}
            begun = await window.ask("POST", "/webapi/mfa/devices/begin", json=body)
            assert begun.status == 200, begun.text
            options = begun.json["webauthn"]["publicKey"]
            chosen = {"residentKey": "required", "requireResidentKey": True, "userVerification": "required"}
            assert options["authenticatorSelection"] == chosen
            made = key.create(
                m.WebauthnCreation(
                    challenge=options["challenge"],
                    rp_id=options["rp"]["id"],
                    rp_name="",
                    user_id=options["user"]["id"],
                    user_name="ann",
                    algorithms=[-7],
                    exclude=[],
                )
            )
            response = {"clientDataJSON": made.client_data, "attestationObject": made.attestation_object}
            new = {"id": begun.json["id"], "webauthn_creation_response": {"id": "x", "response": response}}
            assert (await window.ask("POST", "/webapi/mfa/devices", json=new)).status == 200
            listed = (await window.ask("GET", "/webapi/mfa/devices")).json
            assert (listed["passwordless"], [one["passwordless"] for one in listed["devices"]]) == (True, [False, True])
            yield Here(auth, web, ann, key)


async def test_a_browser_signs_in_with_a_passkey(tmp_path: Path) -> None:
    async with here(tmp_path) as site:
        window = Browser(site.web)
        entered = await window.ask("POST", ENTER, json=await site.answer(window))
        assert (entered.status, entered.json["user"]) == (200, "ann")
        assert COOKIE in window.cookies
        window.token = entered.json["token"]
        status = (await window.ask("GET", "/webapi/user/status")).json
        assert (status["user"], status["factor"]) == ("ann", "passkey")


async def test_what_is_refused_reads_as_a_wrong_password(tmp_path: Path) -> None:
    async with here(tmp_path) as site:
        window = Browser(site.web)
        site.key.verified = False
        refused = await window.ask("POST", ENTER, json=await site.answer(window))
        wrong = await Browser(site.web).log_in("ann", "000000", password="not the password")
        assert (refused.status, refused.json) == (wrong.status, wrong.json)
        assert COOKIE not in window.cookies


async def test_an_answer_is_taken_from_our_own_page_alone(tmp_path: Path) -> None:
    """Else a stranger's page could have a browser signed in as the stranger."""
    async with here(tmp_path) as site:
        window = Browser(site.web)
        body = await site.answer(window)
        for path, sent in ((ASK, {}), (ENTER, body)):
            elsewhere = await window.ask("POST", path, json=sent, Origin="https://evil.example.com")
            without = await window.ask("POST", path, json=sent, **{CSRF_HEADER: ""})
            assert (elsewhere.status, without.status) == (403, 403)
        assert (await window.ask("POST", ENTER, json=body)).status == 200


async def test_where_it_is_off_both_routes_refuse(tmp_path: Path) -> None:
    async with here(tmp_path) as site:
        window = Browser(site.web)
        body = await site.answer(window)
        await site.auth.set_second_factor("on", passwordless=False)
        asked = await window.ask("POST", ASK, json={})
        assert (asked.status, "passkeys do not log in" in asked.text) == (400, True)
        assert (await window.ask("POST", ENTER, json=body)).status == 403


CERTS = "/webapi/ssh/certs"


async def test_tsh_gets_certificates_for_a_passkey(tmp_path: Path) -> None:
    """No name and no password go with it; refused is what is refused in a browser, in the same words."""
    async with here(tmp_path) as site:
        tsh = Browser(site.web, {})
        key = base64.b64encode(generate_p256().public.line().encode()).decode()

        async def ask(**more: Any) -> Answer:
            asked = {"pub_key": key, "passwordless": True, **await site.answer(Browser(site.web)), **more}
            return await tsh.ask("POST", CERTS, json=asked, Origin="")

        got = await ask()
        assert (got.status, got.json["username"]) == (200, "ann")
        for more in ({"user": "ann"}, {"password": "x"}):
            named = await ask(**more)
            assert (named.status, "no user and no password" in named.text) == (400, True), named.text
        wrong = await Browser(site.web).log_in("ann", "000000", password="not the password")
        site.key.verified = False
        refused = await ask()
        assert (refused.status, refused.json) == (wrong.status, wrong.json)
        assert (await tsh.ask("POST", CERTS, json={"pub_key": key}, Origin="")).status == 403
