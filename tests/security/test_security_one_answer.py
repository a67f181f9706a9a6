"""A failed login tells nothing: the same answer, the same work and the same time, whatever was wrong (threat T22)."""

from __future__ import annotations

import getpass
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import pytest
from tests.web.web_rig import login_body, web_before

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.factors import passwords
from teleport.auth.state import ClusterState
from teleport.errors import AccessDenied
from teleport.identity import SystemRole
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.pki.keys import generate_p256
from teleport.testing import raw_ssh
from teleport.testing.auth import PASSWORD, RunningAuth, present_clock, running_auth
from teleport.testing.counting import Calls
from teleport.testing.raw_ssh import RawSsh, text
from teleport.testing.ssh_lab import running_lab

KEY = generate_p256()
KINDS = ("unknown", "wrong password", "locked", "no code", "no password yet")
Attempt = Callable[[str, str, str], Awaitable[None]]


# the statistics


def told_apart(one: Sequence[float], other: Sequence[float]) -> float:
    """How well the times of two kinds can be told apart: 0 not at all, 1 always.

    Of Mann and Whitney: how often a time of `one` is the longer, away from every second time.
    """
    longer = sum((a > b) + (a == b) / 2 for a in one for b in other)
    return abs(2 * longer / (len(one) * len(other)) - 1)


def noise(count: int, shift: float, seed: int) -> list[float]:
    """Times as machines have them: 20 ms with a long tail, `shift` seconds later."""
    chance = random.Random(seed)
    return [0.02 * chance.lognormvariate(0, 0.15) + shift for _ in range(count)]


APART = 0.4  # by which no two kinds may be told apart; chance alone gives 0.1 with a hundred of each


def test_the_statistics_find_a_difference_and_none_where_there_is_none() -> None:
    for seed in range(20):
        same = told_apart(noise(100, 0, seed), noise(100, 0, seed + 1000))
        assert same < APART, same
        other = told_apart(noise(100, 0, seed), noise(100, 0.004, seed + 1000))
        assert other > APART, other
    assert told_apart([1, 2, 3], [4, 5, 6]) == 1
    assert told_apart([1, 1], [1, 1]) == 0


# logins over the API and the web


async def people(auth: RunningAuth) -> Mapping[str, tuple[str, str, str]]:
    """User, password and code of an attempt of each kind; none of them may come in."""
    for name in ("ann", "locked", "codeless"):
        await auth.person(name)
    await auth.user("new", ["access"])
    return {
        "unknown": ("nobody", PASSWORD, "123456"),
        "wrong password": ("ann", "not the password", "123456"),
        "locked": ("locked", PASSWORD, "123456"),
        "no code": ("codeless", PASSWORD, ""),
        "no password yet": ("new", PASSWORD, "123456"),
    }


async def api_attempt(auth: RunningAuth) -> Attempt:
    proxy = await auth.host(SystemRole.PROXY)
    client = auth.async_client(proxy)

    async def attempt(user: str, password: str, code: str) -> None:
        asked = m.LoginRequest(
            user=user, password=password, otp_token=code, public_key=KEY.public.line(), ttl=0, client_addr="192.0.2.7:1"
        )
        with pytest.raises(AccessDenied):
            await client.call(routes.LOGIN, asked)

    attempt.close = client.close  # type: ignore[attr-defined]
    return attempt


async def locked_again(auth: RunningAuth, attempt: Attempt, tries: Mapping[str, tuple[str, str, str]]) -> None:
    """The failures of before are forgotten, and one user is locked."""
    auth.clock.advance(31 * 60)  # type: ignore[attr-defined]
    for _ in range(5):
        await attempt(*tries["locked"])


async def test_every_kind_of_failure_costs_the_same_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes computed, codes made, records read and transactions written."""
    done = Calls(monkeypatch)
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        tries = await people(auth)
        attempt = await api_attempt(auth)
        try:
            await locked_again(auth, attempt, tries)
            for owner, name in (
                (passwords, "verify_password"),
                (passwords, "totp_code"),
                (ClusterState, "record"),
                (ClusterState, "user"),
                (ClusterState, "commit"),
            ):
                done.count(owner, name)
            work = {}
            for kind in KINDS:
                done.clear()
                await attempt(*tries[kind])
                work[kind] = dict(done)
        finally:
            await attempt.close()  # type: ignore[attr-defined]
    assert work == dict.fromkeys(KINDS, work["unknown"])
    assert work["unknown"]["verify_password"] == work["unknown"]["commit"] == 1


async def times(
    auth: RunningAuth, attempt: Attempt, tries: Mapping[str, tuple[str, str, str]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of `rounds` attempts of each kind, in a new order each round."""
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    chance = random.Random(7)
    for _ in range(rounds):
        await locked_again(auth, attempt, tries)
        for kind in chance.sample(KINDS, len(KINDS)):
            begun = time.perf_counter()
            await attempt(*tries[kind])
            taken[kind].append(time.perf_counter() - begun)
    return taken


def worst(taken: Mapping[str, Sequence[float]]) -> float:
    """How well the two kinds that differ most can be told apart; prints all."""
    for kind, seconds in taken.items():
        print(f"{kind}: median {statistics.median(seconds) * 1000:.2f} ms")
    pairs = {(a, b): told_apart(taken[a], taken[b]) for a in KINDS for b in KINDS if a < b}
    (a, b), most = max(pairs.items(), key=lambda pair: pair[1])
    print(f"told apart best: {a} and {b}, {most:.2f}")
    return most


@pytest.mark.long
async def test_the_time_of_a_failure_tells_nothing_over_the_api(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        tries = await people(auth)
        attempt = await api_attempt(auth)
        try:
            assert worst(await times(auth, attempt, tries, 100)) < APART
        finally:
            await attempt.close()  # type: ignore[attr-defined]


@pytest.mark.long
async def test_the_time_of_a_failure_tells_nothing_over_the_web(tmp_path: Path) -> None:
    async with running_auth(tmp_path, clock=present_clock()) as auth, web_before(auth, tmp_path) as web:
        tries = await people(auth)

        async def attempt(user: str, password: str, code: str) -> None:
            answer = await web.ask("POST", "/webapi/ssh/certs", json=login_body(KEY, user, code, password=password))
            assert answer.status == 403, answer.text

        assert worst(await times(auth, attempt, tries, 100)) < APART


async def test_a_failure_that_costs_less_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: without the hash for people who do not exist, their names can be told from the time."""
    monkeypatch.setattr(passwords, "verify_nothing", lambda password: None)
    async with running_auth(tmp_path, clock=present_clock()) as auth:
        tries = await people(auth)
        attempt = await api_attempt(auth)
        try:
            assert worst(await times(auth, attempt, tries, 10)) > APART
        finally:
            await attempt.close()  # type: ignore[attr-defined]


# SSH


async def test_the_ssh_ports_answer_every_name_alike(launcher_end: LauncherEnd) -> None:
    """Certificates only: no name is looked up, whatever method is tried with it."""
    async with running_lab(Launcher(launcher_end)) as lab:
        key = text("ssh-ed25519") + text(text("ssh-ed25519") + text(bytes(32)))
        methods = {
            "none": b"",
            "password": b"\0" + text("secret"),
            "keyboard-interactive": text("") + text(""),
            "publickey": b"\0" + key,
        }
        for port in (lab.node_port, lab.proxy_port):
            for method, rest in methods.items():
                answers = set()
                for name in (getpass.getuser(), "root", "nobody", "no-such-user", "alice", "a" * 500):
                    async with await RawSsh.connect(port) as peer:
                        await peer.exchange()
                        await peer.ask_service()
                        peer.send(peer.userauth(name, method, rest))
                        answers.add(await peer.until(raw_ssh.USERAUTH_FAILURE, 60, 53))
                (answer,) = answers
                assert answer.startswith(bytes([raw_ssh.USERAUTH_FAILURE])), method
                assert b"publickey" in answer
