"""The unit of docs/operations.md for a process that has the authorities' keys, under a systemd that boots.

Auth's account has things signed, no other account is served, and the keys are read by nobody but their own account.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cluster.systemd_machine import Machine, why_not

from teleport.testing.cluster import BIN, Ran, wait_until
from teleport.testing.key_server import CLIENT, HOLDER, WHY_NOT

ROOT = Path(__file__).resolve().parents[2]
UNIT = "teleport-keys.service"
PAGE = (ROOT / "docs" / "operations.md").read_text()
AUTH, KEYS, OTHER = 61001, 61002, 61003
ACCOUNTS = {"teleport": AUTH, "teleport-keys": KEYS, "somebody": OTHER}
PIN = "24681357"
SIGN = """\
import os, sys
from pathlib import Path
from datetime import UTC, datetime
import pkcs11, pkcs11.exceptions, pkcs11.util.ec, cryptography.x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from teleport.auth.authorities.token_keys import TokenKeys, TokenSettings
from teleport.errors import TeleportError
from teleport.pki.trust import AuthorityKind
os.environ["P11_KIT_SERVER_ADDRESS"] = "unix:path=/run/teleport-keys/socket"
os.setgroups([])
os.setegid(int(sys.argv[1]))
os.seteuid(int(sys.argv[1]))
try:
    keys = TokenKeys(TokenSettings(module=Path(sys.argv[2]), label="teleport", pin=sys.argv[3]))
    made = keys.make(AuthorityKind.USER, "example.test", datetime.now(UTC))
    signed = keys.load(made.spec.active_keys.ssh[0].private_key).crypto().sign(b"x", ec.ECDSA(hashes.SHA256()))
except TeleportError as error:
    sys.exit(str(error))
print("signed", len(signed))
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    if why := WHY_NOT or why_not():
        pytest.skip(why)
    unit = (ROOT / "examples" / "keys" / UNIT).read_text()
    conf = re.search(r"printf '(directories\.tokendir = [^']*)' > (\S+)", PAGE)
    assert conf is not None
    accounts = "".join(f"{name}:x:{uid}:{uid}::/nonexistent:/usr/sbin/nologin\n" for name, uid in ACCOUNTS.items())
    groups = "".join(f"{name}:x:{uid}:\n" for name, uid in ACCOUNTS.items())
    files = {
        f"/etc/systemd/system/{UNIT}": unit,
        conf[2]: conf[1].replace("\\n", "\n"),
        "/etc/passwd": Path("/etc/passwd").read_text() + accounts,
        "/etc/group": Path("/etc/group").read_text() + groups,
        "/sign.py": SIGN,
    }
    with Machine(tmp_path_factory.mktemp("keys"), files, {}, [ROOT]) as booted:
        tokens = "/var/lib/teleport-keys/tokens"
        words_of_token = ("--init-token", "--free", "--label", "teleport", "--so-pin", "12345678", "--pin", PIN)
        for words in (
            ("install", "-d", "-o", "teleport-keys", "-g", "teleport-keys", "-m", "0700", "/var/lib/teleport-keys"),
            ("install", "-d", "-o", "teleport-keys", "-m", "0700", tokens),
            as_account(KEYS, "env", f"SOFTHSM2_CONF={conf[2]}", "softhsm2-util", *words_of_token),
            ("systemctl", "start", UNIT),
        ):
            booted.run(*words).ok()
        yield booted


def as_account(uid: int, *words: str) -> tuple[str, ...]:
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *words)


def sign(machine: Machine, uid: int) -> Ran:
    return machine.run(str(BIN / "python"), "/sign.py", str(uid), str(CLIENT), PIN, seconds=60)


def test_auth_has_things_signed_and_nobody_else_does(machine: Machine) -> None:
    assert sign(machine, AUTH).ok().stdout.startswith("signed ")
    for uid in (OTHER, KEYS, 0):
        refused = sign(machine, uid)
        assert refused.status != 0, uid
        assert "the PKCS#11 module cannot open the token teleport" in refused.stderr
    assert HOLDER is not None
    assert f"--provider={HOLDER}" in (ROOT / "examples" / "keys" / UNIT).read_text()


def test_the_keys_are_read_by_nobody_else(machine: Machine) -> None:
    assert sign(machine, AUTH).ok()
    folder = "/var/lib/teleport-keys"
    assert machine.run(*as_account(AUTH, "ls", folder)).status != 0
    assert machine.run(*as_account(KEYS, "find", folder, "-name", "*.object")).ok().stdout.strip()
    socket = machine.run("stat", "--format=%U %a", "/run/teleport-keys/socket").ok().stdout.split()
    assert socket[0] == "teleport"
    assert socket[1].startswith("7")
    assert machine.run(*as_account(OTHER, "rm", "-f", "/run/teleport-keys/socket")).status != 0


def test_one_that_was_killed_is_there_again(machine: Machine) -> None:
    former = machine.show(UNIT, "MainPID")
    machine.systemctl("kill", "--signal=KILL", UNIT).ok()
    wait_until("another one runs", lambda: machine.show(UNIT, "MainPID") not in ("0", former), 40)
    wait_until("it serves", lambda: sign(machine, AUTH).status == 0, 60)


def test_systemd_finds_nothing_wrong_and_little_open(machine: Machine) -> None:
    done = machine.run("systemd-analyze", "verify", UNIT)
    assert (done.status, done.stderr) == (0, "")
    rated = machine.run("systemd-analyze", "security", "--no-pager", "--threshold=20", UNIT)
    assert rated.status == 0, rated.stdout
