"""`-L`, `-R` and `-D` are read as ssh reads them; what is none of them is refused with the form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.errors import BadRequest
from teleport.wire.forward_spec import Direction, Forward, SocketEnd, TcpEnd, parse

L, R, D = Direction.LOCAL, Direction.REMOTE, Direction.DYNAMIC
CASES = [
    (L, "8080:web:80", Forward(L, TcpEnd("localhost", 8080), TcpEnd("web", 80))),
    (L, ":8080:web:80", Forward(L, TcpEnd("localhost", 8080), TcpEnd("web", 80))),
    (L, "*:8080:web:80", Forward(L, TcpEnd("", 8080), TcpEnd("web", 80))),
    (L, "10.0.0.1:8080:web:80", Forward(L, TcpEnd("10.0.0.1", 8080), TcpEnd("web", 80))),
    (L, "[::1]:0:[2001:db8::1]:80", Forward(L, TcpEnd("::1", 0), TcpEnd("2001:db8::1", 80))),
    (L, "8080:/run/x.sock", Forward(L, TcpEnd("localhost", 8080), SocketEnd("/run/x.sock"))),
    (L, "127.0.0.1:8080:/run/x.sock", Forward(L, TcpEnd("127.0.0.1", 8080), SocketEnd("/run/x.sock"))),
    (L, "./x:web:80", Forward(L, SocketEnd("./x"), TcpEnd("web", 80))),
    (L, "/tmp/a:/tmp/b", Forward(L, SocketEnd("/tmp/a"), SocketEnd("/tmp/b"))),
    (L, r"/tmp/a\:b:/tmp/c", Forward(L, SocketEnd("/tmp/a:b"), SocketEnd("/tmp/c"))),
    (R, "0:localhost:22", Forward(R, TcpEnd("localhost", 0), TcpEnd("localhost", 22))),
    (D, "1080", Forward(D, TcpEnd("localhost", 1080))),
    (D, "[::]:1080", Forward(D, TcpEnd("::", 1080))),
]


@pytest.mark.parametrize(("direction", "text", "wanted"), CASES, ids=[f"{d}{t}" for d, t, _ in CASES])
def test_every_form_of_ssh(direction: Direction, text: str, wanted: Forward) -> None:
    assert parse(direction, text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "80", "80:web", "80:web:0", "80:web:65536", "x:web:80", "80::80", "80:we b:80", "1:2:3:4:5", "[::1:80:a:1",
     "[::1]80:a:1", "-1:web:80", "80:web\n:80", "65536:web:80", "80:web:8a"],
)  # fmt: skip
def test_what_is_no_forward_is_refused(text: str) -> None:
    for direction in (L, R):
        with pytest.raises(BadRequest):
            parse(direction, text)


@pytest.mark.parametrize("text", ["", "x", "1:2:3", "/tmp/x", "70000"])
def test_what_is_no_dynamic_forward_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse(D, text)


@given(st.sampled_from(list(Direction)), st.text(max_size=40))
def test_any_text_is_a_forward_or_a_sentence(direction: Direction, text: str) -> None:
    try:
        found = parse(direction, text)
    except BadRequest:
        return
    assert (found.to is None) == (direction is D)
