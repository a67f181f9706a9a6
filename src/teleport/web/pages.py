"""The pages for browsers, and what every answer says to them."""

from __future__ import annotations

import secrets
from importlib import resources

from aiohttp import web

from teleport.errors import NotFound
from teleport.web.origin import CSRF_COOKIE as CSRF_COOKIE

POLICY = "Content-Security-Policy"
SECURITY_HEADERS = {
    POLICY: (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",  # invitation links carry a secret
    "Cache-Control": "no-store",
    "Server": "teleport",  # which library serves is nobody's business
}


INSIST = {"Strict-Transport-Security": "max-age=31536000"}
OWN = (POLICY, "Cache-Control")  # that a handler may have set: for what is no page, or is kept by browsers


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Every answer carries these, also an error and the opening of a tunnel.

    Browsers are told to insist on TLS (RFC 6797) unless the certificate is a self-signed one, of which they have to
    warn: insisting, they let nobody past the warning. Where a balancer ends TLS, its certificate is taken to be true.
    """
    for name, value in SECURITY_HEADERS.items():
        if name in OWN:
            response.headers.setdefault(name, value)
        else:
            response.headers[name] = value
    tls = request.transport.get_extra_info("ssl_object") if request.transport is not None else None
    if tls is None or getattr(tls.context, "believed", True):
        response.headers.update(INSIST)


async def lease_page(request: web.Request) -> web.Response:
    """Where a hardware key approves a lease."""
    return _page(request, "lease.html")


def _page(request: web.Request, name: str) -> web.Response:
    """A page that sends something: with the cookie that it repeats."""
    return with_csrf_cookie(request, web.Response(body=_file(name), content_type="text/html", charset="utf-8"))


def with_csrf_cookie(request: web.Request, response: web.Response) -> web.Response:
    """The answer, with the cookie that its page repeats."""
    value = request.cookies.get(CSRF_COOKIE) or secrets.token_urlsafe(24)
    response.set_cookie(CSRF_COOKIE, value, secure=True, samesite="Strict", path="/")
    return response


async def to_web(_: web.Request) -> web.Response:
    """From the bare address to what is here."""
    return web.Response(status=302, headers={"Location": "/web"})


async def static(request: web.Request) -> web.Response:
    """Scripts, styles and pictures of the pages."""
    name = request.match_info["name"]
    kinds = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    if name not in _static_names():
        raise NotFound("there is no such page")
    kind = kinds["." + name.rpartition(".")[2]]
    return web.Response(body=_file(name), content_type=kind, charset="utf-8")


async def login_page(request: web.Request) -> web.Response:
    """Where a login of a tsh elsewhere is answered."""
    return _page(request, "login.html")


def qr_png(text: str) -> str:
    """A QR code as PNG in base64."""
    import base64
    import io

    import segno

    image = io.BytesIO()
    segno.make(text, error="m").save(image, kind="png", scale=5)
    return base64.b64encode(image.getvalue()).decode()


def _static_names() -> frozenset[str]:
    folder = resources.files("teleport.web") / "static"
    return frozenset(entry.name for entry in folder.iterdir() if entry.name.endswith((".js", ".css", ".svg")))


def _file(name: str) -> bytes:
    return (resources.files("teleport.web") / "static" / name).read_bytes()
