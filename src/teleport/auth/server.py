"""The HTTP edge of auth: from a route's declaration to its handler, closed by default.

Built from the table in `api.routes`: a route without a handler, or a handler without a route, fails at start. Each
call is identified from its TLS certificate, authorised by its route's verb and kind, decoded into the typed request,
answered in JSON. A refusal is audited before it is answered. Only this module, with `bodies` and `spoken`, knows HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from typing import Any

import msgspec
from aiohttp import web

from teleport import counted
from teleport.api.codec import MAX_BODY, decode_request, encode_error
from teleport.api.messages import Message
from teleport.api.routes import HEARTBEAT, ROUTES, WATCH, Route, Stream
from teleport.auth import bodies
from teleport.auth.authorities.keys import KeysAway
from teleport.auth.caller import Caller
from teleport.auth.spoken import Spoken, mistake
from teleport.auth.watching import Watching
from teleport.errors import AccessDenied, BadRequest, LimitExceeded, NotFound, TeleportError
from teleport.identity import Anonymous, HostIdentity, Identity, SystemRole, UserIdentity
from teleport.resources.names import peer_address
from teleport.spans import Kind, Span, TraceContext, span
from teleport.transport.blocking import shown_address
from teleport.transport.first_bytes import through

log = logging.getLogger(__name__)

SETTLE = 5.0  # seconds that operations under way have when the service stops

ACTOR_HEADERS = {
    "unix_user": "X-Teleport-Unix-User",
    "login_uid": "X-Teleport-Login-Uid",
    "terminal": "X-Teleport-Terminal",
}


Handler = Callable[[Caller, Any], Awaitable[Message]]
DownHandler = Callable[[Caller, Any], AsyncIterator[bytes]]
UpHandler = Callable[[Caller, Any, AsyncIterator[bytes]], Awaitable[Message]]
Identify = Callable[[bytes | None], Awaitable[Identity]]
Authorize = Callable[[Caller, Route[Any, Any]], Awaitable[None]]
Endless = Callable[[web.Request], AbstractContextManager[None]]
OnDenied = Callable[[Caller, Route[Any, Any], AccessDenied], Awaitable[None]]


def build_app(
    handlers: Mapping[str, Any],
    identify: Identify,
    authorize: Authorize,
    on_denied: OnDenied,
    endless: Endless = lambda _: nullcontext(),
) -> web.Application:
    """The application of the auth API. Raises `TeleportError` when routes and handlers do not match one to one.

    `endless` is entered with requests that never end by themselves.
    """
    missing = sorted(set(ROUTES) - set(handlers))
    unknown = sorted(set(handlers) - set(ROUTES))
    if missing or unknown:
        raise TeleportError(f"auth API: routes without handler {missing}, handlers without route {unknown}")
    app = web.Application(client_max_size=MAX_BODY, middlewares=[_errors_as_json])
    begun = _Begun()
    app.on_cleanup.append(begun.finish)
    judge = _Judge(identify, authorize, on_denied)

    async def announce(caller: Caller, line: bytes) -> Message:
        async with judge.allowed(caller, HEARTBEAT):
            asked = decode_request(HEARTBEAT, {}, {}, line)
            return await begun.to_its_end(handlers[HEARTBEAT.name](caller, asked), HEARTBEAT.name)

    spoken = Spoken(identify, announce)
    for name, route in ROUTES.items():
        endpoint = _counted(route, _endpoint(route, handlers[name], judge, begun, endless, spoken))
        app.router.add_route(route.method, route.path, endpoint)
    return app


class _Judge:
    """Who calls, and whether they may. A refusal is on record before it is answered, also one by the handler."""

    def __init__(self, identify: Identify, authorize: Authorize, on_denied: OnDenied) -> None:
        self.identify = identify
        self._authorize = authorize
        self._on_denied = on_denied

    @asynccontextmanager
    async def allowed(self, caller: Caller, route: Route[Any, Any]) -> AsyncIterator[None]:
        """Runs the block for whoever may call `route`. Raises `AccessDenied`."""
        try:
            _check_way(caller)
            await self._authorize(caller, route)
            yield
        except AccessDenied as denied:
            await self._on_denied(caller, route, denied)
            raise


class _Begun:
    """Operations under way. A caller who hangs up ends its streams at once, but never half of a change."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def to_its_end(self, work: Coroutine[Any, Any, Message], name: str) -> Message:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller has it, or has left

    async def finish(self, _: web.Application) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=SETTLE)


def _counted(
    route: Route[Any, Any], endpoint: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    issues = "cert.create" in route.events

    async def counting(request: web.Request) -> web.StreamResponse:
        began = time.perf_counter()
        counted.API_REQUESTS.add(route.name)
        if issues:
            counted.GENERATED.add()
        try:
            return await endpoint(request)
        except TeleportError as error:
            counted.API_FAILED.add(error.code)
            if issues and isinstance(error, LimitExceeded):
                counted.GENERATE_THROTTLED.add()
            raise
        except (ConnectionResetError, asyncio.CancelledError):
            raise
        except Exception:
            counted.API_FAILED.add("failed")
            raise
        finally:
            seconds = time.perf_counter() - began
            if route.stream is Stream.NONE:
                counted.API_SECONDS.add(seconds)
            if issues:
                counted.GENERATE_SECONDS.add(seconds)

    return counting


def _endpoint(
    route: Route[Any, Any],
    handler: Any,
    judge: _Judge,
    begun: _Begun,
    endless: Endless,
    spoken: Spoken,
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def endpoint(request: web.Request) -> web.StreamResponse:
        caller = await _caller(request, judge.identify)
        with _span(request, caller, route) as answering:
            answer = await answered(request, caller)
            answering.set("http.response.status_code", answer.status)
            return answer

    async def answered(request: web.Request, caller: Caller) -> web.StreamResponse:
        async with judge.allowed(caller, route):
            query = {name: request.query.getall(name) for name in request.query}
            most, seconds = MAX_BODY, bodies.KNOWN_BODY_SECONDS
            if route.verb is None:
                most, seconds = bodies.MAX_OPEN_BODY, bodies.BODY_SECONDS
            by_and_by = route.stream is Stream.UP or route.name == WATCH.name  # it comes as it is made
            body = await bodies.read_body(request, most, seconds) if not by_and_by else b""
            asked = decode_request(route, request.match_info, query, body)
            if route.name == WATCH.name:
                watching = Watching()
                caller = replace(caller, watching=watching)
                with endless(request):
                    return await bodies.stream_down(request, handler(caller, asked), spoken.by(caller, watching))
            if route.stream is Stream.DOWN:
                return await bodies.stream_down(request, handler(caller, asked))
            if route.stream is Stream.UP:
                pieces = bodies.pieces_of(request, bodies.UPLOAD_SECONDS)
                reply = await begun.to_its_end(handler(caller, asked, pieces), route.name)
            else:
                reply = await begun.to_its_end(handler(caller, asked), route.name)
        return web.Response(body=msgspec.json.encode(reply), content_type="application/json")

    return endpoint


def _span(request: web.Request, caller: Caller, route: Route[Any, Any]) -> Span:
    """What strangers say of traces is not heard. What hosts ask all the time begins none, and streams are in none."""
    if route.stream is not Stream.NONE or route.name == WATCH.name:
        return span("auth.api", parent=None, begins=False)
    known = not isinstance(caller.identity, Anonymous)
    parent = TraceContext.parse(request.headers.get("traceparent", "")) if known else None
    routine = isinstance(caller.identity, HostIdentity) and caller.identity.role is not SystemRole.ADMIN
    first = not isinstance(caller.identity, HostIdentity)
    found = span("auth.api", Kind.SERVER, parent=parent, begins=not routine, first=first)
    found.set("http.request.method", route.method)
    found.set("http.route", route.path)
    return found


async def _caller(request: web.Request, identify: Identify) -> Caller:
    transport = request.transport
    tls = transport.get_extra_info("ssl_object") if transport else None
    certificate = tls.getpeercert(True) if tls else None
    identity = await identify(certificate)
    host, port = peer_address(transport.get_extra_info("peername") if transport else None)
    address = shown_address(host, port) if host else ""
    actor = {}
    if isinstance(identity, HostIdentity) and identity.role is SystemRole.ADMIN:
        # only the host's own administrator identity may say on whose behalf it acts
        actor = {
            name: request.headers[header][:256] for name, header in ACTOR_HEADERS.items() if header in request.headers
        }
    via = transport.get_extra_info("vouched_by") if transport else None
    led = through(transport.get_extra_info("peername")) if transport else ""
    return Caller(identity, address, actor, certificate or b"", via or (), led)


def _check_way(caller: Caller) -> None:
    """Raises `AccessDenied` for whoever comes by another cluster's proxy and is no user of that cluster: it says what
    address it likes, and those of this cluster's users and of strangers are what pins and limits go by."""
    if not caller.through:
        return
    match caller.identity:
        case UserIdentity(origin=origin) if origin is not None and origin.cluster == caller.through:
            return
    raise AccessDenied(f"Through {caller.through} come its own users only.", hint="tsh login at this cluster")


def _pattern(request: web.Request) -> str:
    """The path as the table of routes writes it: what stands in its place can be the secret of a link or a token."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "an unknown path"


@web.middleware
async def _errors_as_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        problem: TeleportError = (
            NotFound(f"auth serves no {request.method} at this path")
            if error.status
            in (
                404,
                405,
            )
            else BadRequest(error.reason)
        )
    except KeysAway as error:
        log.error("auth API: %s %s failed: %s", request.method, _pattern(request), error)
        problem = TeleportError(error.told, hint=error.told_hint)
    except TeleportError as error:
        problem = error
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception:
        log.exception("auth API: %s %s failed", request.method, _pattern(request))
        problem = mistake()
    status, body = encode_error(problem)
    response = web.Response(status=status, body=body, content_type="application/json")
    if isinstance(problem, LimitExceeded) and problem.retry_after > 0:
        response.headers["Retry-After"] = str(math.ceil(problem.retry_after))
    return response
