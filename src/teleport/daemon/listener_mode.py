"""Whether the proxy's web port serves everything: as its own file says, else as the cluster does, now and from every
change on. What is open stays as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable

from teleport.daemon.live_settings import NETWORKING
from teleport.daemon.view import View
from teleport.resources.cluster import ProxyListenerMode
from teleport.transport.http_listener import HTTPListener
from teleport.transport.one_port import Port

log = logging.getLogger(__name__)


def follow_listener_mode(view: View, edge: HTTPListener, make: Callable[[], Port], *, always: bool) -> None:
    """`make` gives who else is reached by `edge`, asked when that is first wanted; `always` as the file says."""
    made: Port | None = None

    def choose() -> None:
        nonlocal made
        wanted = always or view.networking().spec.proxy_listener_mode is ProxyListenerMode.MULTIPLEX
        if wanted == (edge.port is not None):
            return
        if wanted and made is None:
            made = make()
        edge.port = made if wanted else None
        log.info("the web port serves %s", "everything" if wanted else "the web alone")

    view.cache.subscribe(NETWORKING, lambda _: choose())
    choose()
