"""How the auth service of a leaf reaches its root's: through the websocket of the root's proxy, as joining hosts do.

TLS inside ends at the root's auth, which proves an authority that is believed: one of the pins, or the one that the
root's web page names over HTTPS that this machine trusts; later, the one that was exchanged. Only there anything goes
that is not public. Blocking.
"""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar

import msgspec

from teleport.api import messages as m
from teleport.api.join import Door, ProvedCluster, find_cluster, proved_client
from teleport.api.routes import Route
from teleport.api.sync_client import TIMEOUT
from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.pki.trust import check_cluster_name
from teleport.resources.trusted_cluster import TrustedCluster
from teleport.transport.blocking import HTTPOver, TLSStream, read_body
from teleport.transport.site_dial import dial_out
from teleport.transport.tls import public_client_context

R = TypeVar("R")
MAX_PAGE = 256 * 1024  # bytes
PAGE = "/webapi/ca"


async def apart(work: Callable[[], R]) -> R:
    """The result of blocking work on a thread that nobody waits for when the service stops: an address where nothing
    answers takes half a minute to say so."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[R] = loop.create_future()

    def tell(set_it: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(lambda: None if done.done() else set_it())

    def run() -> None:
        try:
            result = work()
        except BaseException as error:
            failed = error
            tell(lambda: done.set_exception(failed))
        else:
            tell(lambda: done.set_result(result))

    threading.Thread(target=run, name="call of another cluster", daemon=True).start()
    return await done


def through_proxy(cluster: TrustedCluster) -> Door:
    """The way to the auth service of a root."""
    where = cluster.web_proxy
    return Door(where.host, where.port, through_proxy=True)


class Reaching:
    """Calls of the auth services of other clusters. `door` says where they are."""

    def __init__(self, now: Callable[[], datetime], door: Callable[[TrustedCluster], Door] = through_proxy) -> None:
        self._now = now
        self.door = door

    def prove(self, cluster: TrustedCluster) -> ProvedCluster:
        """The root whose authority is believed by a pin, or by its web page. Raises `TeleportError`."""
        door = self.door(cluster)
        if cluster.spec.ca_pins:
            return find_cluster((), cluster.spec.ca_pins, ways=(door,))
        page = self._page(door)
        check_cluster_name(page.cluster)
        if not page.tls_certs:
            raise ConnectionProblem(f"{door} shows no authority", hint="check spec.web_proxy_addr")
        return ProvedCluster(page.cluster, tuple(page.tls_certs), door, pinned=False)

    def call(
        self, proved: ProvedCluster, route: Route[Any, m.ClusterStatement], request: m.Request
    ) -> m.ClusterStatement:
        """One call of an auth service that proves the authority. Raises what it answers."""
        with proved_client(proved, self._now) as client:
            return client.call(route, request)

    def known(self, cluster: TrustedCluster, tls_certs: Sequence[str]) -> ProvedCluster:
        """The root whose authority is known."""
        return ProvedCluster(cluster.name, tuple(tls_certs), self.door(cluster), pinned=True)

    def _page(self, door: Door) -> m.ClusterCA:
        """What the web page of the root says of its authority, over HTTPS that is proved by this machine's list."""
        connection = dial_out(door.host, door.port, TIMEOUT)
        try:
            stream = TLSStream(connection, public_client_context(), door.host)
        except (TeleportError, OSError) as error:
            connection.close()
            raise ConnectionProblem(
                f"{door.address} does not prove who it is by a certificate that is known here: {error}",
                hint="name the root by its pins: spec.ca_pins, which tctl status prints there",
            ) from None
        talk = HTTPOver(stream, door.address)
        try:
            talk.request("GET", PAGE)
            answer = talk.getresponse()
            body = read_body(answer, MAX_PAGE, "the page of the root")
            if answer.status != 200:
                raise BadRequest(f"{door.address} answers {PAGE} with {answer.status}", hint="check web_proxy_addr")
            return msgspec.json.decode(body, type=m.ClusterCA)
        except (OSError, http.client.HTTPException, msgspec.MsgspecError) as error:
            raise ConnectionProblem(
                f"{door.address} does not answer as a proxy does: {error}", hint="check spec.web_proxy_addr"
            ) from None
        finally:
            talk.close()
