"""One call on its way: what the server is asked, and its answer, which goes to the client once it is on record.

Requests are asked as `admitting` lets them through, in headers that are written anew (`heads`, `impersonate`). Answers
go on as they came, or the part of them that is shown.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import h11

from teleport.authz.kube import KubeAccessPermit
from teleport.authz.kube_resources import Shown
from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.kube import exec_request, filtered, filtering, impersonate, refusals, streams
from teleport.kube.admitting import asked
from teleport.kube.credentials import authorization
from teleport.kube.exec_session import ExecSession
from teleport.kube.heads import asks_upgrade, forwarded, plain_name, values
from teleport.kube.http import Client, Request, Server
from teleport.kube.list_filter import ListFilter, UnreadableList, WatchFilter
from teleport.kube.refusals import Refused
from teleport.kube.services import ServiceWay
from teleport.kube.status import Refusal
from teleport.kube.telling import failure
from teleport.kube.upstream import Upstream

UNREADABLE: Final = Refusal(502, "The API server answered in a way that cannot be recorded.", "tell an administrator")
Way = Upstream | ServiceWay
"""Where a call goes: an API server, or a service that decides once more and leads there."""


class EndedBefore(Exception):
    """The server had ended the connection before it heard the call, which can be made again on another one."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """A call on its way."""

    client: Client
    request: Request
    upstream: Way
    target: str
    headers: list[tuple[bytes, bytes]]
    part: tuple[Shown, bool] | None = None  # what of the answer is shown, and whether it is a watch; None: all of it
    session: ExecSession | None = None  # that is recorded
    moved: streams.Moved | None = None  # hears of what goes through one that is not
    proxied: bool = False  # it is not the API server that answers

    async def once(self, on_record: Callable[[int], Awaitable[None]], *, again: bool) -> None:
        """Asks the server and gives its answer to the client. `again`: the call may be made once more on another
        connection."""
        client = self.client
        try:
            server = await self.upstream.take(again=again)
        except ConnectionProblem as error:
            raise Refused(Refusal(502, f"{error.message}.", error.hint)) from None
        sending = asyncio.create_task(self._send(server), name="a Kubernetes call's request")
        sending.add_done_callback(
            failure
        )  # it ended the server's connection, so that the answer says what became of it
        try:
            try:
                answer = await server.answer()
            except (TeleportError, h11.ProtocolError, OSError) as error:
                if server.used and not server.heard:
                    raise EndedBefore from None
                if sending.done() and isinstance(failure(sending), h11.RemoteProtocolError):
                    raise Refused(Refusal(400, "The request's body cannot be read to its end.")) from None
                raise Refused(Refusal(502, "The API server gave no answer that can be read."), _said(error)) from None
            if answer.status_code == 401 and not self.proxied and isinstance(self.upstream, Upstream):
                raise Refused(refusals.not_taken(self.upstream.cluster.name), "the API server answered 401")
            if answer.status_code == 403 and refusals.discovers(self.request) and isinstance(self.upstream, Upstream):
                said = await _beginning(server, refusals.MOST_READ)
                raise Refused(refusals.of_server(said), "the API server answered 403")
            shows = self._filter(answer)
            session = self.session
            if session is not None:
                agreed = exec_request.agreed(self.request.headers, answer)
                if answer.status_code < 300 and not agreed:
                    raise Refused(UNREADABLE)
                if not agreed:
                    session.refused(answer.status_code)
            await on_record(answer.status_code)
            if isinstance(answer, h11.InformationalResponse):
                await client.change(streams.answered(list(answer.headers), streams.wanted(self.request.headers)))
                if session is not None:
                    await session.relay(client, server)
                else:
                    await streams.relay(client, server, self.moved)
                return
            if shows is not None:
                try:
                    await filtered.relay(client, server, answer, shows)
                except UnreadableList as error:
                    raise Refused(Refusal(502, error.message, error.hint)) from None
                return
            await client.begin(answer.status_code, _for_client(answer))
            if not client.bodiless and _is_chunked(answer):
                async for part in server.chunks():
                    await client.chunks(part)
            async for part in server.body():
                await client.part(part)
            await client.end()
        finally:
            sending.cancel()
            self.upstream.give(server)  # before anything is waited for: who is cancelled twice must not leave it open
            await asyncio.wait([sending])

    def _filter(self, answer: h11.Response | h11.InformationalResponse) -> ListFilter | WatchFilter | None:
        """What shows a part of the answer; None: it goes on as it is, as refusals do."""
        if self.part is None or answer.status_code >= 400:
            return None
        shown, watch = self.part
        headers = list(answer.headers)
        found = filtering.filter_of(headers, shown, watch=watch) if answer.status_code == 200 else None
        if found is None:
            raise Refused(Refusal(502, "The API server's list is in a form that cannot be shown in part."))
        return found

    async def _send(self, server: Server) -> None:
        try:
            await server.ask(self.request.method, self.target, self.headers)
            if self.request.has_body:
                async for part in self.client.body():
                    await server.part(part)
            await server.end()
        except BaseException:
            server.close()
            raise


async def _beginning(server: Server, most: int) -> bytes:
    """The first bytes of the answer's body, as far as they can be read."""
    found = b""
    with contextlib.suppress(h11.ProtocolError, OSError, TeleportError):
        async for part in server.body():
            found += part
            if len(found) >= most:
                break
    return found[:most]


def headers_of(
    request: Request, upstream: Way, permit: KubeAccessPermit, client_address: str, *, recorded: bool
) -> list[tuple[bytes, bytes]]:
    """Those of the request as the server is asked it, whose body is framed as the client's is. Raises `Refused`."""
    if isinstance(upstream, ServiceWay):
        said = _for_service(request)
        recorded_here = [(exec_request.RECORDED_BEFORE, b"1")] if recorded else []
    else:
        recorded_here = []
        said = _for_server(request, upstream, permit, client_address)
    return [
        *(one for one in streams.without(said) if plain_name(one[0]) != exec_request.RECORDED_BEFORE.lower()),
        *recorded_here,
        *((exec_request if recorded else streams).asked(request.headers) if asks_upgrade(request.headers) else []),
        *([(b"Transfer-Encoding", b"chunked")] if request.length is None else []),
        *([(b"Content-Length", request.length)] if request.length else []),
    ]


def _for_service(request: Request) -> list[tuple[bytes, bytes]]:
    """What a service reads: whom the client asks to act as, as it was asked, since the service decides by itself."""
    return [(b"Host", b"kube"), *forwarded(request.headers), *impersonate.repeated(asked(request))]


def _for_server(
    request: Request, upstream: Upstream, permit: KubeAccessPermit, client_address: str
) -> list[tuple[bytes, bytes]]:
    try:
        proof = authorization(upstream.cluster)
    except (BadRequest, OSError) as error:
        refusal = Refusal(502, f"The credentials for {upstream.cluster.name} cannot be read.", "tell an administrator")
        raise Refused(refusal, str(error)) from None
    return [
        (b"Host", str(upstream.cluster.address).encode()),
        *impersonate.told(request.headers, permit, client_address),
        *([(b"Authorization", proof)] if proof else []),
    ]


def _is_chunked(answer: h11.Response) -> bool:
    """Whether its body comes in chunks: h11 takes no other `Transfer-Encoding` than that."""
    return answer.status_code not in (204, 304) and bool(values(list(answer.headers), b"transfer-encoding"))


def _for_client(answer: h11.Response) -> list[tuple[bytes, bytes]]:
    headers = list(answer.headers)
    return [*forwarded(headers), *((name, value) for name, value in headers if name == b"content-length")]


def _said(error: Exception) -> str:
    return error.message if isinstance(error, TeleportError) else str(error) or type(error).__name__
