"""Parsers of what Kubernetes clients, API servers and kubeconfigs say."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import unquote

import h11
from tests.fuzz.engine import Target

from teleport.errors import BadRequest
from teleport.kube import heads
from teleport.kube.calls import classify
from teleport.kube.credentials import from_kubeconfig

_GONE: Final = frozenset(
    {b"authorization", b"connection", b"transfer-encoding", b"content-length", b"host", b"upgrade"}
)


def kube_head(data: bytes) -> None:
    """A head that is let through is read by h11, too, or refused by it; it is found in one piece as in many; and none
    of what says who somebody is goes on."""
    size = heads.find_head(data)
    if not size:
        return
    for end in range(size):
        assert not heads.find_head(data[:end])
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=heads.MAX_HEAD * 2)
    http.receive_data(data[:size])
    try:
        found = http.next_event()
    except h11.RemoteProtocolError:
        return
    assert isinstance(found, h11.Request)
    lengths = [value for name, value in found.headers if name == b"content-length"]
    chunked = [value for name, value in found.headers if name == b"transfer-encoding"]
    assert len(lengths) + len(chunked) <= 1
    for name, _ in heads.forwarded(list(found.headers)):
        plain = heads.plain_name(name)
        assert plain not in _GONE
        assert not plain.startswith((b"impersonate-", b"x-remote-"))


def kube_call(data: bytes) -> None:
    """What is read of a path is what somebody reads who decodes it first and then splits it, as the API server does."""
    call = classify("GET", data.decode("latin-1"))
    parts = unquote(call.target.partition("?")[0], errors="strict").strip("/").split("/")
    if not call.resource:
        return
    at = 3 if parts[0] == "apis" else 2
    if parts[at] in ("watch", "proxy"):
        at += 1
    if parts[at] == "namespaces" and len(parts) > at + 2 and parts[at + 2] not in ("status", "finalize"):
        assert call.namespace == parts[at + 1]
        at += 2
    named = (*parts[at:], "", "")
    assert (call.resource, call.name) == named[:2]
    assert call.verb == "proxy" or call.subresource == named[2]


def kubeconfig(data: bytes) -> None:
    for one in from_kubeconfig(data, Path("/nowhere")):
        assert one.authorities
        assert one.address.port


KUBE_TARGETS: Final = (
    Target(
        "kube_head",
        kube_head,
        (BadRequest,),
        (
            b"\r\n",
            b"\r\n\r\n",
            b"Host: a",
            b"Content-Length: 3",
            b"Transfer-Encoding: chunked",
            b" HTTP/1.1\r\n",
            b"\n ",
        ),
        600,
    ),
    Target(
        "kube_call",
        kube_call,
        (BadRequest,),
        b"/api/v1/ /apis/apps/v1/ namespaces/ pods/ /exec /proxy/ watch/ %2f %2e%2e // ?watch=1 /status".split(),
        400,
    ),
    Target(
        "kubeconfig",
        kubeconfig,
        (BadRequest,),
        b"clusters: users: contexts: server: token: exec: tokenFile: https://a -data: null [ {".split(),
        1500,
        1600,
    ),
)
