"""Keys of authorities in a process of another account (threat T64): auth asks it to sign, and never has a key. When
that process is away nobody logs in and no host joins, everything else goes on, and it is seen; when it is there again
nothing has to be restarted."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.testing.cluster import NODE, PASSWORD, Cluster, Person, wait_until
from teleport.testing.key_server import CLIENT, WHY_NOT, KeyServer
from teleport.testing.processes import descendants

pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT)

PIN = "87654321"


@pytest.fixture(scope="module")
def account() -> tuple[int, int] | None:
    """That of the process with the keys: another one where tests run as root."""
    if os.geteuid() != 0:
        return None
    found = pwd.getpwnam("daemon")
    return found.pw_uid, found.pw_gid


@pytest.fixture(scope="module")
def keys(account: tuple[int, int] | None) -> Iterator[KeyServer]:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other accounts
        folder = Path(name)
        folder.chmod(0o711)
        with KeyServer(folder / "server", "authorities", PIN, account) as server:
            yield server


@pytest.fixture(scope="module")
def walled(tmp_path_factory: pytest.TempPathFactory, keys: KeyServer) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("walled")
    pin = folder / "pin"
    pin.write_text(PIN)
    pin.chmod(0o600)
    token = {"module_path": str(CLIENT), "token_label": "authorities", "pin_path": str(pin)}
    cluster = Cluster(folder / "cluster", ca_key_params={"pkcs11": token})
    cluster.daemon.environment["P11_KIT_SERVER_ADDRESS"] = keys.address
    with cluster:
        yield cluster


@pytest.fixture(scope="module")
def ann(walled: Cluster, login: str) -> Person:
    person = walled.add_person("ann", logins=[login])
    person.log_in()
    return person


def away(cluster: Cluster) -> bool:
    """Whether `/readyz` says so, without sending people off: all auth servers may share the keys."""
    status, told = cluster.daemon.readiness()
    assert status == 200, told
    return "keys of authorities" in told


def test_auth_signs_and_nothing_that_it_keeps_or_reads_is_a_key(
    walled: Cluster, ann: Person, keys: KeyServer, login: str, account: tuple[int, int] | None
) -> None:
    assert ann.tsh("ssh", f"{login}@{NODE}", "echo walled").ok().stdout == "walled\n"
    stored = walled.tctl("get", "cert_authority", "--with-secrets").ok().stdout
    assert "PRIVATE KEY" not in stored
    assert stored.count("pkcs11:token=authorities") == 6
    assert walled.tctl("auth", "export", "--type=user", "--keys").status == 2
    libraries = Path(f"/proc/{walled.daemon.pid}/maps").read_text()
    assert "p11-kit-client" in libraries
    assert "softhsm" not in libraries, "what holds the keys is loaded in the other process alone"
    if account is not None:
        assert keys.tokens.stat().st_uid == account[0] != os.geteuid()
        assert keys.tokens.stat().st_mode & 0o077 == 0


def test_without_the_keys_nobody_logs_in_all_else_goes_on_and_nothing_needs_a_restart(
    walled: Cluster, ann: Person, keys: KeyServer, login: str
) -> None:
    newcomer = walled.add_person("ben", logins=[login])
    keys.kill()
    wait_until("it is seen", lambda: away(walled))
    assert "keys of authorities: the PKCS#11 module cannot" in walled.daemon.readiness()[1]
    assert "nothing can be signed, so nobody can log in" in walled.daemon.log()
    assert ann.tsh("ssh", f"{login}@{NODE}", "echo still").ok().stdout == "still\n"
    walled.tctl("users", "ls").ok()
    words = ("login", f"--proxy={walled.web_address}", "--user=ben", f"--ca-pin={walled.ca_pin()}")
    refused = newcomer.tsh(*words, stdin=f"{PASSWORD}\n{newcomer.code()}\n")
    assert refused.status != 0
    assert "the cluster cannot sign anything now: what has its keys does not answer" in refused.stderr
    assert "PKCS#11" not in refused.stderr, "how keys are kept is for who runs auth"
    assert "Traceback" not in refused.stderr + walled.daemon.log()
    signing = walled.tctl("auth", "sign", "--user=ben", f"--out={walled.folder / 'ben'}")
    assert signing.status != 0
    assert "/readyz and the log of the auth service name the reason" in signing.stderr
    wait_until("the log has it", lambda: "failed: the PKCS#11 module cannot" in walled.daemon.log())

    keys.start()
    wait_until("it is well again", lambda: not away(walled))
    newcomer.log_in()
    assert newcomer.tsh("ssh", f"{login}@{NODE}", "echo again").ok().stdout == "again\n"
    assert "the authorities' keys sign again" in walled.daemon.log()


def test_one_that_stands_still_holds_up_nothing_but_signatures(
    walled: Cluster, ann: Person, keys: KeyServer, login: str
) -> None:
    assert keys.pid is not None
    frozen = [*descendants(keys.pid), keys.pid]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until("it is seen", lambda: away(walled), 60)
        assert "has not answered for" in walled.daemon.readiness()[1]
        for _ in range(3):
            assert ann.tsh("ssh", f"{login}@{NODE}", "echo still").ok().stdout == "still\n"
        walled.tctl("users", "ls").ok()
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    wait_until("it is well again", lambda: not away(walled), 60)
    ann.log_in()


def test_the_socket_takes_nobody_else(walled: Cluster, keys: KeyServer) -> None:
    """Who may read neither the token nor the PIN is not served either."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it asks as another account")
    nobody = pwd.getpwnam("nobody")
    with socket.socket(socket.AF_UNIX) as asking:
        os.setegid(nobody.pw_gid)
        os.seteuid(nobody.pw_uid)
        try:
            with pytest.raises(PermissionError):
                asking.connect(str(keys.socket))
        finally:
            os.seteuid(0)
            os.setegid(0)
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(keys.socket))  # it listens, for who may
