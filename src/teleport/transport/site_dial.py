"""Blocking connections that leave a site by its HTTP proxy (`site_proxy`), for commands and for joining."""

from __future__ import annotations

import socket

from teleport.errors import ConnectionProblem
from teleport.transport.blocking import dial_tcp
from teleport.transport.site_proxy import MAX_HEAD, SET_IT, SiteProxy, shown, site_proxy, taken


def dial_out(host: str, port: int, timeout: float) -> socket.socket:
    """As `dial_tcp`, by the site's proxy where there is one. Raises `ConnectionProblem`, `BadRequest`."""
    via = site_proxy(host, port)
    if via is None:
        return dial_tcp(host, port, timeout)
    connection = _to_proxy(via, timeout)
    try:
        connection.sendall(via.request(host, port))
        head = bytearray()
        while not head.endswith(b"\r\n\r\n"):  # by single bytes: what follows belongs to whoever gets the socket
            more = connection.recv(1)
            if not more or len(head) >= MAX_HEAD:
                raise ConnectionProblem(f"the HTTP proxy {via.url} does not answer as one", hint=SET_IT)
            head += more
        taken(bytes(head), via, shown(host, port))
    except BaseException as error:
        connection.close()
        if isinstance(error, OSError):
            raise ConnectionProblem(f"the HTTP proxy {via.url}: {error.strerror or error}", hint=SET_IT) from None
        raise
    return connection


def _to_proxy(via: SiteProxy, timeout: float) -> socket.socket:
    try:
        return dial_tcp(via.host, via.port, timeout)
    except ConnectionProblem as error:
        raise ConnectionProblem(f"the HTTP proxy {via.url}: {error.message}", hint=SET_IT) from None
