"""The auth API as commands call it: blocking, over one stream, directly or through a proxy's tunnel."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from teleport.api.codec import MAX_BODY, decode_error, decode_reply, encode_call
from teleport.api.messages import Message, Request
from teleport.api.routes import Route
from teleport.errors import CALL_FACTOR_DUE, AccessDenied, ConnectionProblem, TeleportError
from teleport.transport.blocking import (
    AGAIN,
    AGAIN_OR_LOGIN,
    ByteStream,
    HTTPOver,
    NotBegun,
    TLSStream,
    check_whole,
    dial_tcp,
    read_body,
    said,
)

Req = TypeVar("Req", bound=Request)
Rep = TypeVar("Rep", bound=Message)

Prove = Callable[[], Callable[[], TLSStream]]  # proves a second factor; gives a way to auth that is marked with it

TIMEOUT = 30.0  # seconds
MARK_SECONDS = 45.0  # for which such a way is used: its certificate lives a minute
TUNNEL_PATH = "/webapi/auth/tunnel"  # where a proxy relays a websocket to the auth service


class SyncAuthClient:
    """Calls auth over a TLS stream that `connect` opens, again after the far end closed it."""

    def __init__(
        self, connect: Callable[[], TLSStream], host: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        self._connect = connect
        self._host = host
        self._headers = dict(headers or {})
        self._connection: HTTPOver | None = None
        self.prove: Prove | None = None
        """What is asked for once a call needs a second factor of its own; None: the refusal stays."""
        self._plain: tuple[Callable[[], TLSStream], float] | None = None  # the way to go back to, and when

    def __enter__(self) -> SyncAuthClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _proved(self, error: AccessDenied) -> bool:
        """Whether it makes sense to call again: a second factor was missing, and was proved now."""
        if self.prove is None or CALL_FACTOR_DUE not in error.message:
            return False
        prove, self.prove = self.prove, None
        marked, plain = prove(), self._connect
        self.close()
        self._connect, self._plain = marked, (plain, time.monotonic() + MARK_SECONDS)
        return True

    def _respond(self, route: Route[Any, Any], request: Request) -> http.client.HTTPResponse:
        if self._plain is not None and time.monotonic() > self._plain[1]:
            self.close()
            self._connect, self._plain = self._plain[0], None
        call = encode_call(route, request)
        headers = {**self._headers, **({"Content-Type": "application/json"} if call.body else {})}
        try:
            if self._connection is None:
                self._connection = HTTPOver(self._connect(), self._host)
            self._connection.request(call.method, call.target, body=call.body or None, headers=headers)
            return self._connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            hint = AGAIN_OR_LOGIN if isinstance(error, NotBegun) else AGAIN
            raise ConnectionProblem(f"{self._host} did not answer {route.name}: {said(error)}", hint=hint) from None
        except BaseException:
            self.close()
            raise

    def call(self, route: Route[Req, Rep], request: Req) -> Rep:
        """One call and its answer; raises the error that auth answers with, or `ConnectionProblem`."""
        try:
            return self._call(route, request)
        except AccessDenied as error:
            if not self._proved(error):
                raise
        return self._call(route, request)

    def _call(self, route: Route[Req, Rep], request: Req) -> Rep:
        response = self._respond(route, request)
        whole = False
        try:
            body = read_body(response, MAX_BODY, f"the answer to {route.name}")
            whole = not response.will_close
        finally:
            if not whole:  # what is left of an answer must not be read as the next one
                self.close()
        return decode_reply(route, response.status, body)

    def download(self, route: Route[Req, Any], request: Req, *, size: int = 1 << 18) -> Iterator[bytes]:
        """The bytes of a streamed answer."""
        what = f"the answer to {route.name}"
        response = self._respond(route, request)
        if response.status != 200:
            error = self._refusal(response, what)
            if not isinstance(error, AccessDenied) or not self._proved(error):
                raise error
            response = self._respond(route, request)
        try:
            if response.status != 200:
                raise self._refusal(response, what)
            while chunk := response.read1(size):
                yield chunk
            check_whole(response, what)
        except (OSError, http.client.HTTPException) as error:
            raise ConnectionProblem(f"{what} broke off: {said(error)}", hint=AGAIN) from None
        finally:
            self.close()

    def _refusal(self, response: http.client.HTTPResponse, what: str) -> TeleportError:
        try:
            return decode_error(response.status, read_body(response, MAX_BODY, what))
        finally:
            self.close()


def direct(
    host: str, port: int, context: ssl.SSLContext, server_name: str, dial: Callable[..., ByteStream] = dial_tcp
) -> Callable[[], TLSStream]:
    """Opens TLS to an auth server's own address; `dial` as `blocking.dial_tcp`."""
    return lambda: TLSStream(dial(host, port, TIMEOUT), context, server_name)


def through_proxy(
    open_web: Callable[[], ByteStream],
    web_host: str,
    context: ssl.SSLContext,
    server_name: str,
    *,
    target: str = TUNNEL_PATH,
    headers: Callable[[], Mapping[str, str]] = dict,
    refused: Callable[[int, bytes], Exception | None] = lambda status, body: None,
) -> Callable[[], TLSStream]:
    """Opens TLS to auth inside a websocket that the proxy relays; the proxy sees ciphertext only. `headers` are made
    for each attempt; `refused` as `WebSocketStream`'s."""
    from teleport.transport.blocking import WebSocketStream

    def connect() -> TLSStream:
        web = WebSocketStream(open_web(), web_host, target, headers=headers(), refused=refused)
        return TLSStream(web, context, server_name)

    return connect
