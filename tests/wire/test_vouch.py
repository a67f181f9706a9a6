"""The line with which a proxy vouches for a client."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleport.errors import AccessDenied, BadRequest, LimitExceeded
from teleport.identity import HostIdentity, SystemRole
from teleport.wire import vouch

NOW = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
TARGET = UUID("11111111-2222-4333-8444-555555555555")
VOUCH = vouch.Vouch("192.0.2.7", 40022, UUID(int=7), TARGET, NOW, b"n" * 16)
CERTIFICATE = b"certificate of a proxy"


def sign(message: bytes) -> bytes:
    return b"signed:" + message[:20] + str(hash(message)).encode()


def verify(certificate: bytes, message: bytes, signature: bytes) -> None:
    if certificate != CERTIFICATE or signature != sign(message):
        raise AccessDenied("bad signature")


def identify(role: SystemRole = SystemRole.PROXY, cluster: str = "main") -> Callable[[bytes], HostIdentity]:
    return lambda certificate: HostIdentity("p1", cluster, role, NOW)


def check(line: bytes, *, now: datetime = NOW, seen: vouch.Seen | None = None, target: UUID = TARGET) -> vouch.Vouch:
    return vouch.check(
        vouch.parse(line),
        cluster="main",
        target=target,
        now=now,
        verify_certificate=identify(),
        verify_signature=verify,
        seen=vouch.Seen() if seen is None else seen,
    )


def test_what_a_proxy_vouches_for_arrives_unchanged() -> None:
    """Encode, parse and check give the same values."""
    line = vouch.encode(VOUCH, CERTIFICATE, sign)
    assert line.startswith(b"TELEPORT-VOUCH-1 ")
    assert line.endswith(b"\r\n")
    assert check(line) == VOUCH


def test_the_place_in_a_trace_is_said_only_where_there_is_one() -> None:
    """Without it the line is that of proxies and nodes which know of none."""
    traced = replace(VOUCH, trace="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    assert check(vouch.encode(traced, CERTIFICATE, sign)) == traced
    plain = vouch.encode(VOUCH, CERTIFICATE, sign).split(b" ")[1]
    assert b"trace" not in base64.b64decode(plain)


def test_a_line_of_this_version_stays_readable() -> None:
    """A vector: version 1 as it was first written."""
    claim = (
        b'{"addr":"2001:db8::1","port":9,"session":"00000000-0000-0000-0000-000000000007",'
        b'"target":"11111111-2222-4333-8444-555555555555","time_ms":1777636800000,'
        b'"nonce":"bm5ubm5ubm5ubm5ubm5ubg==","certificate":"Y2VydGlmaWNhdGUgb2YgYSBwcm94eQ=="}'
    )
    line = vouch.PREFIX + base64.b64encode(claim) + b" " + base64.b64encode(b"sig")
    parsed = vouch.parse(line)
    assert parsed.vouch == replace(VOUCH, client_host="2001:db8::1", client_port=9)
    assert (parsed.certificate, parsed.signed, parsed.signature) == (CERTIFICATE, claim, b"sig")


def test_a_line_counts_once() -> None:
    """A recorded line cannot be played again while it is valid."""
    seen = vouch.Seen()
    line = vouch.encode(VOUCH, CERTIFICATE, sign)
    check(line, seen=seen)
    with pytest.raises(AccessDenied, match="used before"):
        check(line, seen=seen)


def test_used_lines_are_forgotten_only_when_they_have_lapsed() -> None:
    """The replay memory is bounded and never forgets what is still valid."""
    seen = vouch.Seen(capacity=2)
    seen.use(b"a", NOW)
    seen.use(b"b", NOW)
    with pytest.raises(LimitExceeded):
        seen.use(b"c", NOW + vouch.VALID)
    seen.use(b"c", NOW + 2 * vouch.VALID + timedelta(seconds=1))
    assert len(seen) == 1


@pytest.mark.parametrize("age", [timedelta(seconds=31), timedelta(seconds=-31)], ids=["old", "from the future"])
def test_a_line_outside_its_time_is_refused(age: timedelta) -> None:
    """Half a minute either way, for clocks that differ."""
    with pytest.raises(AccessDenied, match="the vouch is of"):
        check(vouch.encode(VOUCH, CERTIFICATE, sign), now=NOW + age)


def test_a_line_for_another_node_is_refused() -> None:
    """A node that was vouched to cannot use the line towards another."""
    with pytest.raises(AccessDenied, match="another node"):
        check(vouch.encode(VOUCH, CERTIFICATE, sign), target=UUID(int=1))


@pytest.mark.parametrize(
    ("role", "cluster"),
    [(SystemRole.NODE, "main"), (SystemRole.AUTH, "main"), (SystemRole.PROXY, "other")],
    ids=["a node", "auth", "a proxy of another cluster"],
)
def test_only_a_proxy_of_this_cluster_may_vouch(role: SystemRole, cluster: str) -> None:
    """Every host has a certificate; only proxies vouch."""
    parsed = vouch.parse(vouch.encode(VOUCH, CERTIFICATE, sign))
    with pytest.raises(AccessDenied, match="may not vouch"):
        vouch.check(
            parsed,
            cluster="main",
            target=TARGET,
            now=NOW,
            verify_certificate=identify(role, cluster),
            verify_signature=verify,
            seen=vouch.Seen(),
        )


def test_a_changed_claim_does_not_fit_its_signature() -> None:
    """Nothing of a claim can be exchanged, and a refused line does not use its nonce up."""
    other = vouch.encode(replace(VOUCH, client_host="198.51.100.1"), CERTIFICATE, sign).split(b" ")
    mine = vouch.encode(VOUCH, CERTIFICATE, sign).split(b" ")
    seen = vouch.Seen()
    with pytest.raises(AccessDenied, match="bad signature"):
        check(b" ".join([other[0], other[1], mine[2]]), seen=seen)
    assert len(seen) == 0


def test_a_signature_of_the_same_key_for_another_purpose_is_no_vouch() -> None:
    """The domain is part of what is signed."""
    line = vouch.encode(VOUCH, CERTIFICATE, lambda message: sign(message.removeprefix(vouch.DOMAIN)))
    with pytest.raises(AccessDenied, match="bad signature"):
        check(line)


@pytest.mark.parametrize(
    "change",
    [
        {"addr": "not an address"},
        {"addr": "192.000.2.7"},
        {"addr": "2001:DB8::1"},
        {"port": 65536},
        {"port": -1},
        {"port": "22"},
        {"session": "x"},
        {"target": ""},
        {"time_ms": 10**20},
        {"nonce": "YQ=="},
        {"nonce": "***"},
        {"certificate": "é"},
        {"more": 1},
    ],
    ids=str,
)
def test_a_claim_that_cannot_be_meant_is_refused(change: dict[str, object]) -> None:
    """Each field is checked; unknown fields are refused."""
    line = vouch.encode(VOUCH, CERTIFICATE, sign)
    claim = msgspec.json.decode(base64.b64decode(line.split(b" ")[1])) | change
    with pytest.raises(BadRequest):
        vouch.parse(vouch.PREFIX + base64.b64encode(msgspec.json.encode(claim)) + b" " + base64.b64encode(b"s"))


@given(st.binary(max_size=300))
def test_whatever_follows_the_prefix_is_read_or_refused(rest: bytes) -> None:
    """No input makes the parser fail in another way."""
    with pytest.raises(BadRequest):
        vouch.parse(vouch.PREFIX + rest)


def test_lengths_are_bounded_on_both_sides() -> None:
    """A line that nodes would refuse is never sent."""
    with pytest.raises(BadRequest, match="too long"):
        vouch.encode(VOUCH, b"c" * vouch.MAX_LINE, sign)
    with pytest.raises(BadRequest, match="at most"):
        vouch.parse(vouch.PREFIX + b"a" * vouch.MAX_LINE)
