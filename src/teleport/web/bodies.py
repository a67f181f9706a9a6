"""What comes in requests and goes into answers: JSON, with errors in the form that clients know."""

from __future__ import annotations

import asyncio
from typing import TypeVar

import msgspec
from aiohttp import web

from teleport.api import messages as m
from teleport.clock import rfc3339
from teleport.errors import BadRequest
from teleport.resources.names import peer_address
from teleport.resources.values import HostPort
from teleport.web import messages as wm

BODY_TIMEOUT = 15.0  # seconds for a body to come

T = TypeVar("T")


def client_address(request: web.Request) -> str:
    """Host and port of whoever asks; empty when its connection is gone."""
    host, port = peer_address(request.transport.get_extra_info("peername") if request.transport else None)
    return str(HostPort(host, port)) if host else ""


async def body_of(request: web.Request, kind: type[T], *, most: int = 0) -> T:
    """What was sent, of at most `most` bytes (0: as many as is usual). Raises `BadRequest` when it is not this, or does
    not come."""
    if most:
        request = request.clone(client_max_size=most)
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            body = await request.read()
    except TimeoutError:
        raise BadRequest(f"the request did not come whole within {BODY_TIMEOUT:.0f} s") from None
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request cannot be read: {error}") from None


def reply(message: msgspec.Struct) -> web.Response:
    """An answer in JSON."""
    return web.Response(body=msgspec.json.encode(message), content_type="application/json")


def failure(status: int, message: str, *, hint: str = "", kind: str = "") -> web.Response:
    """An error in the form that clients know: with the next step, and a word that a page goes by, if there are any."""
    told = {"message": message, "hint": hint, "kind": kind}
    body = msgspec.json.encode({"error": {name: text for name, text in told.items() if text or name == "message"}})
    return web.Response(status=status, body=body, content_type="application/json")


def browser_login_reply(found: m.BrowserLogin) -> wm.BrowserLoginReply:
    """A login with a browser, as it is told to tsh and to the page."""
    return wm.BrowserLoginReply(
        id=found.id, client_addr=found.client_addr, expires=rfc3339(found.expires), code=found.code
    )


def certs_reply(certs: m.UserCerts) -> wm.SSHCertsReply:
    """The certificates of a login, as tsh takes them."""
    return wm.SSHCertsReply(
        username=certs.username,
        cert=wm.to_base64(certs.cert),
        tls_cert=wm.to_base64(certs.tls_cert),
        host_signers=[
            wm.HostSigner(
                domain_name=signer.domain_name,
                checking_keys=[wm.to_base64(key) for key in signer.checking_keys],
                tls_certs=[wm.to_base64(cert) for cert in signer.tls_certs],
            )
            for signer in certs.host_signers
        ],
    )
