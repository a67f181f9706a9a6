"""What a file of `--bootstrap` may give to a new cluster, and what it makes of it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from teleport.auth.authorities.keys import StoredKeys
from teleport.auth.cluster.bootstrap import bootstrap
from teleport.auth.cluster.finding import given_to_new
from teleport.auth.cluster.from_file import BY, given
from teleport.auth.config import AuthConfig
from teleport.auth.state import ClusterState, stored_cluster_name
from teleport.backend.memory import MemoryBackend
from teleport.errors import BadRequest, TeleportError
from teleport.pki.trust import AuthorityKind
from teleport.resources.cluster import (
    ClusterName,
    ClusterNameSpec,
    NetworkingConfig,
    NetworkingSpec,
    Origin,
    with_origin,
)
from teleport.resources.codec import Resource
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.role import Role
from teleport.resources.secret import SecretText
from teleport.resources.server import Server
from teleport.resources.token import Token, TokenRole
from teleport.resources.user import CreatedBy, LocalAuth, User, UserSpec, UserStatus
from teleport.store.records import UserSecret
from teleport.testing.clock import FakeClock

CLUSTER = "c.test"
CLOCK = FakeClock()
AUTHORITIES = [StoredKeys().make(kind, CLUSTER, CLOCK.now()) for kind in AuthorityKind]
MADE = CreatedBy(time=CLOCK.now() - timedelta(days=9))
ANN = User(
    metadata=Metadata(name="ann"),
    spec=UserSpec(
        roles=("dev", "access"),
        created_by=MADE,
        local_auth=LocalAuth(password_hash=SecretText("hash"), totp_key=SecretText("A" * 32)),
        status=UserStatus(is_locked=True, lock_expires=CLOCK.now() + timedelta(minutes=5)),
    ),
)
DEV = Role(metadata=Metadata(name="dev"))
LOCK = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(login="nobody")))
OVER = Lock(metadata=Metadata(name="o", expires=CLOCK.now()), spec=LockSpec(target=LockTarget(login="nobody")))
TOKEN = Token.from_secret(SecretText("a secret of somebody"), (TokenRole.NODE,))


@pytest.mark.parametrize(
    ("resources", "words"),
    [
        ([ANN], "there is no role 'dev' in the file"),
        ([Server(metadata=Metadata(name="n"))], "a node cannot be given"),
        ([AUTHORITIES[0].without_secrets(), *AUTHORITIES[1:]], "comes without its private keys"),
        ([*AUTHORITIES, ClusterName(spec=ClusterNameSpec(cluster_name="other.test"))], "of several clusters"),
    ],
)
def test_what_contradicts_itself_is_refused(resources: list[Resource], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        given(resources)


def config(folder: Path, name: str, *resources: Resource) -> AuthConfig:
    return AuthConfig(name, "h", "node", folder, folder, bootstrap=lambda: resources)


def test_the_name_of_the_cluster_cannot_change(tmp_path: Path) -> None:
    with pytest.raises(TeleportError, match="the configuration names 'other'"):
        given_to_new(config(tmp_path, "other", *AUTHORITIES), None)
    found = given_to_new(config(tmp_path, "", *AUTHORITIES), None)
    assert found is not None
    assert found.cluster == CLUSTER


def test_a_cluster_that_exists_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The file is not even read."""

    def unreadable() -> list[Resource]:
        raise AssertionError("read")

    there = AuthConfig("", "h", "node", tmp_path, tmp_path, bootstrap=unreadable)
    assert given_to_new(there, CLUSTER) is None
    assert "--bootstrap is ignored: the storage holds the cluster c.test already" in caplog.text


async def test_users_keep_what_proves_them_and_since_when_they_exist() -> None:
    """Also a lockout; codes that could be shown before do not count again. Tokens and what is over are left out."""
    backend = MemoryBackend(CLOCK)
    await backend.open()
    state = ClusterState(backend, CLOCK, CLUSTER, on_events=lambda: None)
    dynamic = with_origin(NetworkingConfig(spec=NetworkingSpec(keep_alive_count_max=9)), Origin.DYNAMIC)
    assert await bootstrap(state, [], given([*AUTHORITIES, ANN, DEV, LOCK, OVER, TOKEN, dynamic]))
    assert await stored_cluster_name(backend) == CLUSTER
    assert [await state.authority(kind) for kind in AuthorityKind] == AUTHORITIES
    user = await state.user("ann")
    assert user is not None
    assert (user.spec.created_by, user.spec.local_auth, user.spec.status) == (MADE, None, UserStatus())
    found = await state.record("users-secret/ann", UserSecret)
    assert found is not None
    (device,) = found[0].devices
    assert (found[0].password_hash, device.totp_secret, found[0].locked(CLOCK.now())) == ("hash", "A" * 32, True)
    assert device.totp_last_period == int(CLOCK.now().timestamp()) // 30
    assert [item.key for item in await backend.range("locks/")] == ["locks/l"]
    assert await backend.range("tokens/") == []
    assert (await state.networking()).spec.keep_alive_count_max == 9
    told = b"".join(item.value for item in await backend.range("audit/outbox/"))
    assert told.count(f'"updated_by":"{BY}"'.encode()) == 1 + 1 + 1 + len(AUTHORITIES)
    await backend.close()
