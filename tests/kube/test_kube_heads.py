"""Heads that two readers could take in two ways are refused, and headers that say who somebody is do not go on."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from teleport.authz.kube import ActAs, KubeAccessPermit
from teleport.errors import BadRequest
from teleport.kube import heads, impersonate
from teleport.kube.heads import BadHead, find_head

GET = b"GET /version HTTP/1.1\r\nHost: a\r\n"


def test_a_head_ends_with_an_empty_line() -> None:
    """Until it is there nothing is decided; what follows is not the head's."""
    whole = GET + b"Content-Length: 3\r\n\r\n"
    for size in range(len(whole)):
        assert find_head(whole[:size]) == 0
    assert find_head(whole + b"abc") == len(whole)


@pytest.mark.parametrize("bad", [b"", b"X: a\nY: b\r\n", b"X: a\rY: b\r\n", b"X: a\r\r\n", b"X: a\x00\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_a_head_that_comes_in_pieces(bad: bytes, size: int) -> None:
    """It is judged as if it had come at once, and what was looked at is not looked at again."""

    def fed(data: bytes) -> int:
        looked = 0
        for end in range(size, len(data) + size, size):
            if found := find_head(data[:end], looked):
                return found
            looked = min(end, len(data))
        return 0

    whole = GET + b"Accept: a\r\n" + bad + b"\r\n"
    if bad:
        with pytest.raises(BadHead):
            fed(whole)
    else:
        assert fed(whole) == len(whole)
    old = b"GET /\n"
    assert find_head(old + b"a" * 100, len(old) + 50) == 0


@pytest.mark.parametrize(
    "lines",
    [
        b"Content-Length: 3\r\nContent-Length: 3\r\n",
        b"Content-Length: 3\r\ncontent-length: 4\r\n",
        b"Content-Length: 3\r\nContent_Length: 4\r\n",
        b"Content-Length: 3, 3\r\n",
        b"Content-Length: +3\r\n",
        b"Content-Length: 0x3\r\n",
        b"Content-Length:\r\n",
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: gzip, chunked\r\n",
        b"Transfer-Encoding: identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"X: a\r\n b\r\n",
        b"X: a\r\n\tb\r\n",
        b" X: a\r\n",
        b"X: a\nY: b\r\n",
        b"X: a\rY: b\r\n",
        b"X: a\x00b\r\n",
        b"no colon\r\n",
        b": empty\r\n",
        b"Host: b\r\n",
        b"Upgrade: websocket\r\nUpgrade: SPDY/3.1\r\n",
        b"X: " + b"y" * heads.MAX_HEAD + b"\r\n",
        b"X: y\r\n" * (heads.MAX_LINES + 1),
    ],
    ids=lambda lines: repr(lines[:60]),
)
def test_two_readings_are_refused(lines: bytes) -> None:
    """Duplicate and contradicting lengths, folded lines, bare line ends, names that are none."""
    with pytest.raises(BadHead):
        find_head(GET + lines + b"\r\n")


def test_a_head_without_end_is_refused() -> None:
    """What never ends is given up as soon as it is too long, or once a line of it ends wrongly."""
    with pytest.raises(BadHead):
        find_head(b"GET /" + b"x" * heads.MAX_HEAD)
    with pytest.raises(BadHead):
        find_head(b"GET / HTTP/1.1\nHost: a\n\n")


GONE = (
    "Authorization",
    "Connection",
    "Content-Length",
    "Cookie",
    "Expect",
    "Forwarded",
    "Host",
    "HTTP2-Settings",
    "Impersonate-Extra-scopes",
    "Impersonate-Group",
    "Impersonate-Uid",
    "Impersonate-User",
    "Impersonate_User",
    "IMPERSONATE-USER",
    "Keep-Alive",
    "Proxy-Authorization",
    "Proxy-Connection",
    "Sec-WebSocket-Protocol",
    "Set-Cookie",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
    "X-Auth-Request-User",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-For",
    "X_Forwarded_Groups",
    "X-SSL-Client-CN",
    "X-Forwarded-Host",
    "X-HTTP-Method-Override",
    "X-Original-URL",
    "X-Remote-Extra-scopes",
    "X-Remote-Group",
    "X-Remote-User",
    "X_Remote_User",
    "x-remote-user",
)


@pytest.mark.parametrize("name", GONE)
def test_headers_that_do_not_go_on(name: str) -> None:
    """Neither those of one connection nor those that say who somebody is, however they are spelt."""
    kept = (b"Accept", b"application/json")
    assert heads.forwarded([(name.encode(), b"x"), kept]) == [kept]


def test_what_connection_names_does_not_go_on() -> None:
    """Each header that `Connection` names is of this connection only."""
    named = [(b"Connection", b"close, X-Secret"), (b"connection", b" x_other"), (b"X-Secret", b"1"), (b"X-Other", b"2")]
    assert heads.forwarded([*named, (b"X-Kept", b"3")]) == [(b"X-Kept", b"3")]


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Upgrade", b"websocket")],
        [(b"Connection", b"Upgrade")],
        [(b"Connection", b"keep-alive, UPGRADE")],
        [(b"upgrade", b"")],
    ],
)
def test_every_form_of_upgrade_is_seen(headers: list[tuple[bytes, bytes]]) -> None:
    """Either half of the question is one."""
    assert heads.asks_upgrade(headers)
    assert not heads.asks_upgrade([(b"Connection", b"keep-alive"), (b"X-Upgrade", b"1")])


def test_what_the_client_asks_to_act_as() -> None:
    """One user, any groups; empty when nothing was asked."""
    headers = [(b"Impersonate-User", b"bob"), (b"impersonate-group", b"a"), (b"Impersonate-Group", b"b")]
    assert impersonate.asked(headers) == ActAs("bob", ("a", "b"))
    assert impersonate.asked([(b"Accept", b"x")]) == ActAs()


@pytest.mark.parametrize(
    "headers",
    [
        [(b"Impersonate-User", b"a"), (b"Impersonate-User", b"b")],
        [(b"Impersonate-User", b"a"), (b"Impersonate_User", b"b")],
        [(b"Impersonate-User", b"")],
        [(b"Impersonate-User", b"\xff")],
        [(b"Impersonate-Group", b"")],
        [(b"Impersonate-Group", b"g")] * 101,
        [(b"Impersonate-Uid", b"1")],
        [(b"Impersonate-Extra-Scopes", b"x")],
        [(b"impersonate-anything", b"x")],
    ],
    ids=lambda headers: str(headers[-1]),
)
def test_what_cannot_be_asked_for(headers: list[tuple[bytes, bytes]]) -> None:
    """What would be left out otherwise is refused instead."""
    with pytest.raises(BadRequest):
        impersonate.asked(headers)


def test_the_server_is_told_by_us_alone() -> None:
    """Of what the client said of itself nothing goes on; the permit's user and groups do, and its true address."""
    permit = KubeAccessPermit(
        user="alice",
        roles=("dev",),
        kube_user="alice",
        kube_groups=("g\u00e9", "system:authenticated"),
        ends=datetime(2030, 1, 1, tzinfo=UTC),
        record=True,
    )
    headers = [
        (b"Accept", b"application/json"),
        (b"Impersonate-User", b"admin"),
        (b"Impersonate-Group", b"system:masters"),
        (b"Authorization", b"Bearer x"),
        (b"X-Forwarded-For", b"198.51.100.1"),
    ]
    assert impersonate.told(headers, permit, "192.0.2.7") == [
        (b"Accept", b"application/json"),
        (b"X-Forwarded-For", b"192.0.2.7"),
        (b"Impersonate-User", b"alice"),
        (b"Impersonate-Group", b"g\xc3\xa9"),
        (b"Impersonate-Group", b"system:authenticated"),
    ]
