"""Strict and best effort: what counts where locks cannot be heard of. The cache of a node is cut off from auth."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from tests.daemon.test_daemon_view import filled, signed
from tests.security.test_security_open_connections import _connect as open_connection

from teleport.api import messages as m
from teleport.api import routes
from teleport.authz.decision import AccessDenial, ClusterDefaults, DenialCode, Policy
from teleport.authz.locks import LOCKS_HOLD
from teleport.authz.ssh import SSHAccessPermit, SSHAccessRequest, evaluate_ssh_access, why_no_session
from teleport.daemon.lock_age import LockAge
from teleport.daemon.proxy_side import Directory
from teleport.errors import TeleportError
from teleport.identity import SystemRole, UserIdentity
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Options, Role, RoleLocking, RoleSpec
from teleport.store.records import CLUSTER as SETTINGS
from teleport.testing.auth import CLUSTER, RunningAuth, running_auth
from teleport.testing.clock import FakeClock
from teleport.testing.running import wait_until
from teleport.testing.ssh_lab import running_lab

OLD = LOCKS_HOLD + 1


def _role(name: str, lock: RoleLocking = RoleLocking.CLUSTER) -> Role:
    allow = Conditions(logins=("root",), node_labels={"*": ("*",)})
    return Role(metadata=Metadata(name=name), spec=RoleSpec(allow=allow, options=Options(lock=lock)))


def _request(clock: FakeClock, *roles: str, denying: tuple[str, ...] = ()) -> SSHAccessRequest:
    now = clock.now()
    identity = UserIdentity("ann", CLUSTER, roles, ("root",), now + timedelta(hours=1), denying=denying)
    return SSHAccessRequest(identity=identity, login="root", cluster=CLUSTER, now=now, node_id="n")


ROLES = {
    "plain": _role("plain"),
    "strict": _role("strict", RoleLocking.STRICT),
    "lax": _role("lax", RoleLocking.BEST_EFFORT),
}


@pytest.mark.parametrize(
    ("roles", "denying", "cluster_strict", "age", "allowed"),
    [
        pytest.param(("plain",), (), False, OLD, True, id="best effort uses what was heard last"),
        pytest.param(("plain",), (), True, OLD, False, id="the cluster is strict"),
        pytest.param(("plain",), (), True, LOCKS_HOLD, True, id="strict, and the locks are known"),
        pytest.param(("strict",), (), False, OLD, False, id="the role is strict"),
        pytest.param(("strict", "lax"), (), False, OLD, False, id="strict wins over best effort"),
        pytest.param(("lax",), (), True, OLD, False, id="a role does not soften a strict cluster"),
        pytest.param(("plain",), ("strict",), False, OLD, False, id="a role that was given since is strict"),
        pytest.param(("strict",), (), False, 0.0, True, id="read at its source"),
        pytest.param(("strict",), (), False, float("inf"), False, id="never heard of"),
    ],
)
def test_old_locks_refuse_where_one_is_strict(
    roles: tuple[str, ...], denying: tuple[str, ...], cluster_strict: bool, age: float, allowed: bool
) -> None:
    request = _request(FakeClock(), *roles, denying=denying)
    policy = Policy(ROLES, ClusterDefaults(strict_locks=cluster_strict), age)
    decision = evaluate_ssh_access(request, policy)
    at_proxy = why_no_session(request.identity, policy, cluster=CLUSTER, now=request.now, client_address="")
    assert isinstance(decision, SSHAccessPermit) == allowed == (at_proxy is None)
    for denial in (decision, at_proxy):
        if isinstance(denial, AccessDenial):
            assert denial.code is DenialCode.LOCKS_UNKNOWN
            assert "strict" in denial.reasons[0]
            assert "strict" not in denial.public


async def _set_strict(auth: RunningAuth) -> None:
    from teleport.resources.cluster import AuthPreference, AuthPreferenceSpec, LockingMode

    preference = AuthPreference(spec=AuthPreferenceSpec(locking_mode=LockingMode.STRICT))
    await auth.backend.put(SETTINGS + preference.name, to_json(preference))


@pytest.mark.parametrize("strict", [False, True])
async def test_a_node_that_is_cut_off_refuses_after_five_minutes_or_goes_on(tmp_path: Path, strict: bool) -> None:
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        certificate = await signed(auth, "ann", ["access"])
        if strict:
            await _set_strict(auth)
        async with filled(auth, SystemRole.NODE) as view:
            await wait_until(lambda: view.defaults().strict_locks is strict)
        # from here on nobody fills the cache
        ended: list[str] = []
        ages = LockAge(view, lambda: ended.append("reconsidered"))

        def decided() -> bool:
            identity = view.verify_user(certificate)
            request = SSHAccessRequest(
                identity=identity, login="root", cluster=CLUSTER, now=view.clock.now(), node_id="n", locks=view.locks()
            )
            refused = Directory(view).why_no_session(identity, "")
            decision = evaluate_ssh_access(request, view.policy())
            assert isinstance(decision, SSHAccessPermit) == (refused is None)
            return isinstance(decision, SSHAccessPermit)

        ages.look()
        assert decided()
        auth.clock.advance(LOCKS_HOLD - 10)
        ages.look()
        assert decided()
        auth.clock.advance(20)
        ages.look()
        ages.look()
        assert decided() is not strict
        assert ended == ["reconsidered"], "once, when the locks cease to be known"


async def test_locks_that_were_heard_of_last_count_while_cut_off(tmp_path: Path) -> None:
    from teleport.resources.lock import Lock, LockSpec, LockTarget

    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        certificate = await signed(auth, "ann", ["access"])
        lock = Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(user="ann")))
        await auth.call(await auth.admin(), routes.STORE["lock"], m.StoreRequest(item=m.Document(to_json(lock))))
        async with filled(auth, SystemRole.NODE) as view:
            await wait_until(lambda: len(view.locks()) == 1)
        auth.clock.advance(1000)
        identity = view.verify_user(certificate)
        refused = Directory(view).why_no_session(identity, "")
        assert refused is not None
        assert refused.code is DenialCode.LOCKED


async def test_locks_are_known_again_when_the_cache_is_filled_again(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        await _set_strict(auth)
        async with filled(auth, SystemRole.NODE) as view:
            auth.clock.advance(OLD)
            assert view.policy().age > LOCKS_HOLD
            ended: list[str] = []
            ages = LockAge(view, lambda: ended.append("x"))
            ages.look()
            await auth.backend.put("roles/another", to_json(_role("another")))
            await wait_until(lambda: view.policy().age <= LOCKS_HOLD)
            ages.look()
            assert ended == ["x"]


async def test_open_sessions_end_and_new_ones_are_refused_when_locks_cease_to_be_known(
    launcher_end: LauncherEnd,
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        client = await open_connection(lab)
        lab.rules.age = OLD
        lab.node.reconsider()
        assert not lab.events.named("client.disconnect"), "best effort"
        lab.rules.options(lock=RoleLocking.STRICT)
        lab.node.reconsider()
        event = (await lab.events.wait_for("client.disconnect"))[0]
        assert "locks were heard of not for 5m" in getattr(event, "reason", "")
        await client.close()
        with pytest.raises(TeleportError, match="Whether access is locked is not known here now"):
            await open_connection(lab)
        lab.rules.age = 0.0
        again = await open_connection(lab)
        await again.close()
