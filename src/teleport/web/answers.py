"""What is around every route: what changes something is checked first, and whatever is raised becomes an answer.

Rules: nothing of an exception reaches a browser but what our own errors say; one that nobody foresaw is in the log
alone. Who is not logged in gets 401, whose page did not prove itself 403.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from teleport.api.codec import STATUS
from teleport.errors import TeleportError
from teleport.spans import Kind, Span, span
from teleport.web.bodies import failure
from teleport.web.origin import PageUnproved, check_change
from teleport.web.pages import with_csrf_cookie
from teleport.web.session import SessionOver
from teleport.web.session_routes import RENEW

log = logging.getLogger(__name__)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE"})


@web.middleware
async def answering(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Around every handler."""
    with _span(request) as told:
        answer = await _answered(request, handler)
        told.set("http.response.status_code", answer.status)
        return answer


async def _answered(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        check_change(request)
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        return failure(413, "the request is too large")
    except web.HTTPException as error:
        answer = failure(error.status, "there is no such page" if error.status == 404 else error.reason)
        if "Allow" in error.headers:
            answer.headers["Allow"] = error.headers["Allow"]
        return answer
    except SessionOver as error:
        return failure(401, error.message, hint=error.hint)
    except PageUnproved as error:
        status = 401 if request.path.endswith(RENEW) else 403  # who has no page's cookie has no session's
        return with_csrf_cookie(request, failure(status, error.message, hint=error.hint))
    except TeleportError as error:
        return failure(STATUS.get(error.code, 500), error.message, hint=error.hint)
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("web: %s failed", request.match_info.route.resource)
        return failure(500, "the proxy failed to do this; its log names the reason")


def _span(request: web.Request) -> Span:
    """Of a call of the API. What lasts as long as a session is in none, and nothing is heard of traces of strangers."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else ""
    begins = route.startswith("/webapi/") and "Upgrade" not in request.headers
    found = span("proxy.web", Kind.SERVER, parent=None, begins=begins)
    found.set("http.request.method", request.method if request.method in METHODS else "_OTHER")
    found.set("http.route", route)
    return found
