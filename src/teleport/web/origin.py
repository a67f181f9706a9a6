"""How a request shows that it came from a page of this proxy, and not from somebody else's page in the same browser.

Two things, each enough by itself: browsers name the `Origin` of what could come from another site, and say with
`Sec-Fetch-Site` how that stands to us; and a page repeats its cookie in a header, which no other site can read or set.
Programs such as tsh send none of these, and no cookies, so that nothing can be done in their name.
"""

from __future__ import annotations

import hmac
from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from teleport.errors import AccessDenied

CSRF_COOKIE: Final = "__Host-grv_csrf"
CSRF_HEADER: Final = "X-CSRF-Token"
SAFE: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_LOCAL: Final = frozenset({"localhost", "127.0.0.1", "::1"})  # where browsers take http for as good as https


class PageUnproved(AccessDenied):
    """The browser no longer has the page's cookie, and a page of ours, as far as its origin says, asked for something.

    Cookies were removed, or it is a new window of an old one: loading the page sets it anew.
    """


def check_same_origin(request: web.Request, *, must: bool = False) -> None:
    """Raises `AccessDenied` for what another origin's page sent. `must`: who names no origin is refused, too."""
    origin = request.headers.get("Origin")
    if origin is None:
        if must:
            raise _foreign()
    else:
        try:
            parts = urlsplit(origin)
        except ValueError:  # brackets that hold no address
            raise _foreign() from None
        secure = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOCAL)
        if not secure or not parts.netloc or parts.netloc.lower() != request.host.lower():
            raise _foreign()
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise _foreign()


def check_page(request: web.Request) -> None:
    """Raises `AccessDenied` unless the request repeats the page's cookie; `PageUnproved` where a page of ours has lost
    it."""
    cookie, header = request.cookies.get(CSRF_COOKIE), request.headers.get(CSRF_HEADER, "")
    if not cookie and request.headers.get("Origin") is not None:
        check_same_origin(request)
        raise PageUnproved("your browser no longer has the cookie of this page", hint="load the page again")
    if not cookie or not hmac.compare_digest(*(one.encode(errors="surrogateescape") for one in (cookie, header))):
        raise _foreign()


def check_csrf(request: web.Request) -> None:
    """As `check_page`, but programs, which send neither cookie nor origin, get through."""
    if CSRF_COOKIE not in request.cookies and "Origin" not in request.headers:
        return
    check_page(request)


def check_change(request: web.Request) -> None:
    """What every request passes that could change something, whatever its route checks besides: it carries what
    only our page or a program could put there."""
    if request.method in SAFE:
        return
    if request.headers.get("Authorization", "").lower().startswith("bearer "):
        check_same_origin(request)
        return  # no other site can set this header; its route says whether the token holds
    check_csrf(request)


def _foreign() -> AccessDenied:
    return AccessDenied("this request did not come from the page of this proxy; load the page again")
