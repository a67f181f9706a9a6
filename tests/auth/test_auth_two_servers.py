"""Two auth servers over one etcd: what is good once is good once at both together (threat T58)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from tests.auth.test_auth_joining import join, new_token
from tests.auth.test_auth_logins import login

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.factors.lockout import MAX_FAILURES
from teleport.backend.etcd.engine import EtcdBackend
from teleport.backend.etcd.settings import EtcdSettings
from teleport.errors import AccessDenied, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.testing import etcd
from teleport.testing.auth import ANONYMOUS, PASSWORD, RunningAuth, present_clock, running_auth
from teleport.testing.clock import FakeClock

pytestmark = pytest.mark.skipif(etcd.program() is None, reason=etcd.MISSING)

TOGETHER = 10  # calls at one moment


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[etcd.EtcdCluster]:
    with etcd.EtcdCluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@dataclass(frozen=True, slots=True)
class Pair:
    """Auth A and B."""

    a: RunningAuth
    b: RunningAuth
    clock: FakeClock

    @property
    def in_turn(self) -> list[RunningAuth]:
        """For each of several calls the one that is asked."""
        return [self.a, self.b] * (TOGETHER // 2)


@asynccontextmanager
async def pair(servers: etcd.EtcdCluster, folder: Path) -> AsyncIterator[Pair]:
    # callers and auth share this process's threads: all callers at once must leave some for signing
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(TOGETHER + 20))
    settings = EtcdSettings(servers.urls, f"/{token_hex(8)}/", insecure=True)
    clock = present_clock()
    async with AsyncExitStack() as stack:
        found = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            backend = await stack.enter_async_context(EtcdBackend(settings, clock))
            found.append(
                await stack.enter_async_context(
                    running_auth(folder / name, clock=clock, storage=backend, shared=folder / "shared")
                )
            )
        yield Pair(found[0], found[1], clock)


async def succeeded(calls: list[Coroutine[Any, Any, Any]]) -> int:
    """How many of them were answered, all made at one moment; the others must have been refused."""
    said = await asyncio.gather(*calls, return_exceptions=True)
    refused = [one for one in said if isinstance(one, BaseException)]
    assert all(isinstance(one, TeleportError) for one in refused), refused
    return len(said) - len(refused)


async def test_a_token_for_one_host_lets_one_in(servers: etcd.EtcdCluster, tmp_path: Path) -> None:
    async with pair(servers, tmp_path) as both:
        token = await new_token(both.a, "node", single_use=True)
        assert await succeeded([join(auth, token.token, node_name=f"n{n}") for n, auth in enumerate(both.in_turn)]) == 1
        assert len(await both.b.events("token.used")) == 1


@pytest.mark.parametrize("kind", ["invitation", "reset"])
async def test_a_link_sets_one_password(servers: etcd.EtcdCluster, tmp_path: Path, kind: str) -> None:
    async with pair(servers, tmp_path) as both:
        if kind == "reset":
            await both.a.person("ann")
            asked, request = routes.RESET_USER, m.ResetUserRequest(name="ann")
        else:
            asked, request = routes.ADD_USER, m.AddUserRequest(name="ann", roles=["access"])  # type: ignore[assignment]
        link = await both.a.call(await both.a.admin(), asked, request)
        proxy = await both.a.host(SystemRole.PROXY, name="proxy")
        info = await both.b.call(proxy, routes.USER_TOKEN, m.UserTokenRequest(token=link.token))
        code = both.a.code(info.totp_secret)
        calls = [
            auth.call(
                proxy,
                routes.FINISH_USER_TOKEN,
                m.FinishUserTokenRequest(token=link.token, password=f"{PASSWORD} {number}", otp_token=code),
            )
            for number, auth in enumerate(both.in_turn)
        ]
        assert await succeeded(calls) == 1


async def test_a_code_logs_in_once(servers: etcd.EtcdCluster, tmp_path: Path) -> None:
    async with pair(servers, tmp_path) as both:
        secret = await both.a.person("ann")
        proxy = await both.a.host(SystemRole.PROXY, name="proxy")
        code = both.a.code(secret, periods=1)
        assert await succeeded([login(auth, proxy, "ann", PASSWORD, code) for auth in (both.a, both.b)]) == 1


async def test_failed_logins_are_counted_together(servers: etcd.EtcdCluster, tmp_path: Path) -> None:
    """And at the last one both refuse the right password, too."""
    async with pair(servers, tmp_path) as both:
        secret = await both.a.person("ann")
        proxy = await both.a.host(SystemRole.PROXY, name="proxy")
        for auth in ([both.a, both.b] * MAX_FAILURES)[:MAX_FAILURES]:
            with pytest.raises(AccessDenied):
                await login(auth, proxy, "ann", "wrong password!", both.a.code(secret, periods=1))
        for auth in (both.a, both.b):
            with pytest.raises(AccessDenied):
                await login(auth, proxy, "ann", PASSWORD, both.a.code(secret, periods=1))
        (told,) = await both.b.events("user.locked")
        assert told["attempts"] == MAX_FAILURES
        await both.b.call(await both.b.admin(), routes.UNLOCK_USER, m.Named(name="ann"))
        assert await login(both.a, proxy, "ann", PASSWORD, both.a.code(secret, periods=1))


async def test_a_login_by_browser_is_collected_once(servers: etcd.EtcdCluster, tmp_path: Path) -> None:
    """Begun at one, answered at the other."""
    async with pair(servers, tmp_path) as both:
        secret = await both.a.person("ann")
        proxy = await both.a.host(SystemRole.PROXY, name="proxy")
        begun = await both.a.call(
            proxy,
            routes.BEGIN_BROWSER_LOGIN,
            m.BeginBrowserLoginRequest(public_key=generate_p256().public.line(), client_addr="192.0.2.7:1", ttl=600),
        )
        answer = m.FinishBrowserLoginRequest(
            id=begun.id, code=begun.code, user="ann", password=PASSWORD, otp_token=both.a.code(secret, periods=1)
        )
        assert (
            await succeeded([auth.call(proxy, routes.FINISH_BROWSER_LOGIN, answer) for auth in (both.a, both.b)]) == 1
        )
        wanted = m.BrowserLoginRequest(id=begun.id)
        said = await asyncio.gather(
            *(auth.call(proxy, routes.COLLECT_BROWSER_LOGIN, wanted) for auth in both.in_turn), return_exceptions=True
        )
        assert len([one for one in said if isinstance(one, m.CollectedLogin) and one.certs is not None]) == 1


async def test_a_step_of_a_rotation_is_taken_once(servers: etcd.EtcdCluster, tmp_path: Path) -> None:
    async with pair(servers, tmp_path) as both:
        request = m.RotateRequest(types=["user"], phase="init", mode="manual")
        calls = []
        for auth in (both.a, both.b):
            calls.append(auth.call(await auth.admin(), routes.ROTATE, request))
        assert await succeeded(calls) == 1
        assert len(await both.b.events("authority.rotate")) == 1
        seen = [await auth.service.state.authority("user") for auth in (both.a, both.b)]
        assert seen[0] == seen[1]
        assert seen[0].spec.rotation.phase == "init"


async def test_what_one_changes_counts_at_the_other_at_once(servers: etcd.EtcdCluster, tmp_path: Path) -> None:
    """A user's certificate is good at both; the user's removal at one ends it at the other with the next call."""
    async with pair(servers, tmp_path) as both:
        ann = await both.a.user("ann", ["access"])
        for auth in (both.a, both.b):
            assert (await auth.call(ann, routes.WHO_AM_I, m.Empty())).name == "ann"
        await both.a.call(await both.a.admin(), routes.REMOVE["user"], m.ExpelRequest(name="ann"))
        with pytest.raises(AccessDenied):
            await both.b.call(ann, routes.WHO_AM_I, m.Empty())
        with pytest.raises(AccessDenied):
            await both.b.call(ANONYMOUS, routes.STATUS, m.Empty())
