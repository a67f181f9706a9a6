"""Keys of authorities in a PKCS#11 token: made there, signing there, never leaving it. The token is SoftHSM's."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.auth.test_auth_rotation import FORWARD, step, who_am_i

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.authorities.keys import KeysAway, StoredKeys, WrongPin, private_halves
from teleport.auth.authorities.patient_thread import PatientThread
from teleport.daemon.key_check import KeyCheck
from teleport.errors import BadRequest, CompareFailed, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.pki.pin import ca_pin
from teleport.pki.trust import AuthorityKind
from teleport.resources.authority import Authority, AuthorityType, KeySet, RotationMode, RotationPhase
from teleport.resources.codec import to_json
from teleport.store import records
from teleport.testing.auth import CLUSTER, RunningAuth, present_clock, running_auth
from teleport.testing.key_server import HOLDER

MODULE = HOLDER
PIN = "4321"

pytestmark = pytest.mark.skipif(
    MODULE is None or shutil.which("softhsm2-util") is None, reason="needs SoftHSM: apt-get install softhsm2"
)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A module with the tokens `one` and `two`. It reads its configuration once for a process."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(conf)
    for label in ("one", "two"):
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "1234", "--pin", PIN],
            check=True,
            capture_output=True,
        )
    try:
        yield conf
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before


_made: list[Any] = []


@pytest.fixture(autouse=True)
def all_are_closed() -> Iterator[None]:
    """Each has a thread, with which no later test could fork a launcher."""
    yield
    while _made:
        _made.pop().close()


def token_keys(label: str = "one", **other: Any) -> Any:
    from teleport.auth.authorities.token_keys import TokenKeys, TokenSettings

    assert MODULE is not None
    _made.append(TokenKeys(TokenSettings(**{"module": MODULE, "label": label, "pin": PIN, **other})))
    return _made[-1]


def references(keys: KeySet) -> list[str]:
    return [secret.reveal() for secret in private_halves(keys)]


def objects(keys: Any) -> int:
    """How many keys the token holds, halves counted singly."""
    return int(keys._with_session(lambda session: len(list(session.get_objects())), "count"))


@pytest.mark.parametrize("kind", AuthorityKind)
def test_keys_are_made_in_the_token_and_cannot_be_taken_out(tokens: Path, kind: AuthorityKind) -> None:
    from pkcs11 import Attribute, ObjectClass

    keys = token_keys()
    made = keys.make(kind, CLUSTER, datetime.now(UTC))
    assert "PRIVATE KEY" not in to_json(made, with_secrets=True).decode()
    found = references(made.spec.active_keys)
    assert all(one.startswith(f"pkcs11:token=one;object=teleport%20{CLUSTER}%20{kind}") for one in found), found
    for secret in private_halves(made.spec.active_keys):
        private = keys.load(secret)
        with pytest.raises(BadRequest, match="does not give it away"):
            private.pkcs8_pem()
    held = keys._with_session(
        lambda session: [
            (key[Attribute.SENSITIVE], key[Attribute.EXTRACTABLE], key[Attribute.NEVER_EXTRACTABLE])
            for key in session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})
        ],
        "look",
    )
    assert set(held) == {(True, False, True)}
    keys.destroy(made.spec.active_keys)
    assert objects(keys) == 0
    with pytest.raises(TeleportError, match="cannot find the key pkcs11:"):
        keys.load(private_halves(made.spec.active_keys)[0])


async def test_a_cluster_signs_with_a_token_from_its_first_start(tokens: Path, tmp_path: Path) -> None:
    """Logins, hosts and tctl work as ever; OpenSSH and OpenSSL read the certificates; no private key is stored."""
    keys = token_keys()
    async with running_auth(tmp_path, keys=keys, sqlite=True) as auth:
        alice = await auth.user("alice", ["access"])
        assert await who_am_i(auth, alice) == "alice"
        node = await auth.host(SystemRole.NODE)
        assert await who_am_i(auth, node) == node.host_id
        certs = await auth.call(
            await auth.admin(),
            routes.SIGN_USER,
            m.SignUserRequest(name="alice", public_key=generate_p256().public.line(), ttl=3600),
        )
        (tmp_path / "user-cert.pub").write_text(certs.cert)
        shown = await output("ssh-keygen", "-L", "-f", tmp_path / "user-cert.pub")
        assert "Signing CA: ECDSA SHA256:" in shown
        host = await auth.service.state.authority("host")
        (tmp_path / "ca.pem").write_text(host.trusted_tls_certs[0])
        assert node.cert is not None
        assert await output("openssl", "verify", "-CAfile", tmp_path / "ca.pem", node.cert) == f"{node.cert}: OK\n"
        assert await auth.service.cluster_api.pins() == [ca_pin(host.trusted_tls_certs[0].encode())]
        for kind in AuthorityType:
            authority = await auth.service.state.authority(kind)
            assert all(one.startswith("pkcs11:") for one in references(authority.spec.active_keys))
        for kind in AuthorityType:
            keys.destroy((await auth.service.state.authority(kind)).spec.active_keys)


async def test_a_rotation_moves_a_cluster_into_the_token_and_the_next_one_leaves_no_old_key_in_it(
    tokens: Path, tmp_path: Path
) -> None:
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock, sqlite=True) as auth:
        host_id = auth.host_id
    keys = token_keys("two")
    async with running_auth(tmp_path, clock=clock, sqlite=True, host_id=host_id, epoch=2, keys=keys) as auth:
        alice = await auth.user("alice", ["access"])
        assert await who_am_i(auth, alice) == "alice", "keys of before sign from where they are"
        await rotated(auth)
        assert objects(keys) == 10, "two keys of user and host, one of jwt; two halves each"
        await rotated(auth)
        assert objects(keys) == 10
        assert await who_am_i(auth, await auth.user("alice", ["access"])) == "alice"
        await step(auth, "init", "host")
        with pytest.raises(BadRequest, match="in progress already"):
            await step(auth, "init")  # refused for one: what was made for the others is gone
        assert objects(keys) == 14
        await step(auth, "rollback")
        await step(auth, "standby", "host")
        await lost_race(auth)
        assert objects(keys) == 10
        await step(auth, "init")
        assert objects(keys) == 20
        await step(auth, "rollback")
        await step(auth, "standby")
        assert objects(keys) == 10
    with pytest.raises(TeleportError, match=r"in a PKCS#11 token .* none is configured"):
        async with running_auth(tmp_path, clock=clock, sqlite=True, host_id=host_id, epoch=3):
            pass
    async with running_auth(tmp_path, clock=clock, sqlite=True, host_id=host_id, epoch=4, keys=keys) as auth:
        for kind in AuthorityType:
            keys.destroy((await auth.service.state.authority(kind)).spec.active_keys)
    assert objects(keys) == 0


async def output(*command: str | Path) -> str:
    """What a program prints; it has to succeed."""
    done = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True)
    return str(done.stdout)


async def lost_race(auth: RunningAuth) -> None:
    """A step that was planned when somebody else took one."""
    rotations, state = auth.service.rotations, auth.service.state
    found = await state.need(f"{records.AUTHORITIES}host/", CLUSTER, Authority)
    planned = await rotations.plan([found], RotationPhase.INIT, RotationMode.MANUAL, timedelta(hours=1))
    await step(auth, "init", "host")
    with pytest.raises(CompareFailed):
        await rotations.take(planned, None)
    await step(auth, "rollback")
    await step(auth, "standby", "host")


async def rotated(auth: RunningAuth) -> None:
    for phase in FORWARD:
        await step(auth, phase)
        await auth.follow_rotation()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"label": "three"}, "cannot open the token three"),
        ({"label": "", "slot": 4_000_000_001}, "has no slot 4000000001"),
        ({"module": Path("/nowhere/module.so")}, "PKCS#11 module cannot open the token"),
    ],
)
def test_a_token_that_cannot_be_used_says_what_is_wrong(tokens: Path, other: dict[str, Any], words: str) -> None:
    with pytest.raises(TeleportError, match=words) as refused:
        token_keys(**other)
    assert "ca_key_params.pkcs11" in refused.value.hint
    assert PIN not in refused.value.message + refused.value.hint


def test_a_wrong_pin_is_named_and_not_shown(tokens: Path) -> None:
    """In a process of its own: one process logs in to a token once."""
    code = (
        "import sys; from pathlib import Path\n"
        "from teleport.auth.authorities.token_keys import TokenKeys, TokenSettings\n"
        f"TokenKeys(TokenSettings(Path({str(MODULE)!r}), 'one', pin='99887766'))"
    )
    failed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "WrongPin: the PIN of the PKCS#11 token is wrong" in failed.stderr
    assert "99887766" not in failed.stderr.splitlines()[-1]


# python-pkcs11 complains, where nobody hears it, that it cannot end a search in a session that is gone
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_session_that_broke_is_opened_anew(tokens: Path) -> None:
    keys = token_keys()
    made = keys.make(AuthorityKind.JWT, CLUSTER, datetime.now(UTC))
    private = keys.load(private_halves(made.spec.active_keys)[0])
    keys._session.close()
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    signature = private.crypto().sign(b"data", ec.ECDSA(hashes.SHA256()))
    private.public.crypto().verify(signature, b"data", ec.ECDSA(hashes.SHA256()))
    keys.destroy(made.spec.active_keys)
    keys.close()


async def test_a_pin_that_was_refused_is_not_shown_again(tokens: Path) -> None:
    """A token locks itself after a few; while the daemon runs somebody may set another PIN."""
    keys = token_keys()
    await keys.check()
    keys._settings = replace(keys._settings, pin="99887766")
    keys._session.close()
    keys._session = None
    with pytest.raises(WrongPin, match="is wrong") as refused:
        await keys.check()
    assert refused.value.exit_code == 78
    opened: list[int] = []
    keys._opened = lambda _: opened.append(1)
    for _ in range(3):
        with pytest.raises(KeysAway, match="is not shown again"):
            await keys.check()
    assert opened == []
    keys.close()


class _Silent:
    """A session of a module that does not answer until `go`."""

    def __init__(self) -> None:
        self.go = threading.Event()

    @property
    def token(self) -> Any:
        assert self.go.wait(60)
        raise AssertionError("nobody waits for it any more")

    def close(self) -> None: ...


async def test_a_module_that_does_not_answer_is_told_and_holds_no_thread_of_the_pool(tokens: Path) -> None:
    """`/readyz` shows the problem; who asks again meanwhile is answered at once; once it answers all is well."""
    keys = token_keys()
    keys._thread.stop()
    keys._thread = PatientThread("keys of authorities", 0.5)
    real, keys._session = keys._session, _Silent()
    silent, check = keys._session, KeyCheck(keys)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    looking = asyncio.ensure_future(check.look())
    try:
        async with asyncio.timeout(30):
            await asyncio.sleep(0)  # it asks
            assert await asyncio.to_thread(lambda: "free") == "free"
            assert not looking.done()
            await looking
            told = "the PKCS#11 module cannot reach the token: it has not answered for 0.5 s"
            assert check.problem.startswith(told)
            began = time.monotonic()
            for _ in range(20):
                await check.look()
            assert check.problem.startswith(told)
            assert time.monotonic() - began < 0.5 * 5, "twenty that wait would take twenty times as long"
    finally:
        keys._session = real
        silent.go.set()
    async with asyncio.timeout(30):
        while check.problem:
            await check.look()


def test_a_slot_that_is_not_there_now_may_come(tokens: Path) -> None:
    """p11-kit's client has no slots while its server is away."""
    with pytest.raises(KeysAway, match="has no slot 987654"):
        token_keys(label="", slot=987654)


def test_a_reference_to_a_token_is_no_key_of_the_storage() -> None:
    from teleport.resources.secret import SecretText

    with pytest.raises(BadRequest, match="none is configured"):
        StoredKeys().load(SecretText("pkcs11:token=one;id=%01"))
