"""Single checks of `teleport doctor`, with machines that are hard to come by.

tests/cluster/test_cluster_doctor.py plants faults on a real host.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import subprocess
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import load_config
from teleport.daemon.doctor import (
    backend,
    certificates,
    clock,
    denials,
    examination,
    ipv6,
    limits,
    listening,
    names,
    permissions,
)
from teleport.daemon.doctor.patient import Finding, Patient, Said, Unseen, processes_of
from teleport.testing.auth import running_auth
from teleport.testing.public_authority import PublicAuthority

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AUTH = "ssh_service: {enabled: no}\nproxy_service: {enabled: no}\n"
NODE = "auth_service: {enabled: no}\nproxy_service: {enabled: no}\n"


def patient(
    folder: Path, text: str, now: datetime = NOW, pids: tuple[int, ...] = (), root: Path = Path("/")
) -> Patient:
    file = folder / "teleport.yaml"
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    whole = f"teleport:\n  data_dir: {data}\n{text}"
    file.write_text(whole)
    config = effective_config(load_config(whole, str(file)), StartFlags(), "alpha")
    return Patient(file=file, text=whole, config=config, now=now, pids=pids, root=root)


def findings(said: Said) -> list[Finding]:
    found = list(said)
    assert all(isinstance(one, Finding) for one in found), found
    return [one for one in found if isinstance(one, Finding)]


SELINUX = (
    'type=AVC msg=audit({at}.123:456): avc:  denied  {{ write }} for  pid=77 comm="teleport" name="{name}" dev="dm-0" '
    "ino=1 scontext=system_u:system_r:init_t:s0 tcontext=system_u:object_r:{context}:s0 tclass=dir permissive=0\n"
)
APPARMOR = (
    'Mar  1 11:00:00 h kernel: [1.0] audit: type=1400 audit({at}.5:7): apparmor="DENIED" operation="open" '
    'profile="/usr/local/bin/teleport" name="/etc/shadow" pid=78 comm="python3" requested_mask="r" denied_mask="r"\n'
)


def test_denials_of_the_last_day_are_found_and_older_ones_forgotten(tmp_path: Path) -> None:
    log = tmp_path / "root" / "var" / "log" / "audit" / "audit.log"
    log.parent.mkdir(parents=True)
    at, old = int(NOW.timestamp()) - 60, int((NOW - timedelta(days=2)).timestamp())
    mine = patient(tmp_path, AUTH, root=tmp_path / "root")
    log.write_text(
        SELINUX.format(at=at, name="data", context="default_t") * 3
        + SELINUX.format(at=old, name="older", context="default_t")
        + SELINUX.format(at=at, name="x", context="shadow_t").replace("teleport", "nginx")
        + SELINUX.format(at=at, name="socket", context="var_run_t")
    )
    first, second = findings(denials.looked(mine))
    assert first.mend == f"restorecon -RFv {mine.config.data_dir}"
    assert "socket" in second.what
    assert second.mend.startswith("ausearch -m avc -c teleport --raw | audit2allow")
    log.unlink()
    (tmp_path / "root" / "var" / "log" / "kern.log").write_text(APPARMOR.format(at=at))
    (only,) = findings(denials.looked(mine))
    assert "AppArmor's profile /usr/local/bin/teleport forbids open of /etc/shadow" in only.what
    assert only.mend.startswith("aa-complain /usr/local/bin/teleport")


def test_a_denial_writes_no_command_of_its_own(tmp_path: Path) -> None:
    """A program chooses what it is called, and what files are called."""
    at = int(NOW.timestamp())
    line = APPARMOR.format(at=at).replace("/usr/local/bin/teleport", "$(reboot);/x/teleport")
    (only,) = findings(denials.of_log(patient(tmp_path, AUTH), line))
    assert only.mend.startswith("aa-complain '$(reboot);/x/teleport'")


def test_a_clock_that_went_back_is_found(tmp_path: Path) -> None:
    mine = patient(tmp_path, AUTH, now=datetime.now(UTC) - timedelta(hours=3))
    (mine.config.data_dir / "epoch").touch()
    (only,) = findings(clock.looked(mine, lambda: mine.now))
    assert (only.check, only.mend) == ("clock", "timedatectl set-ntp true")


@pytest.mark.parametrize(
    ("off", "pin", "wanted"), [(0, "", []), (3600, "", ["clock"]), (0, "0" * 64, ["certificates"])]
)
async def test_auth_is_asked_for_its_time_and_its_pin(tmp_path: Path, off: int, pin: str, wanted: list[str]) -> None:
    """By an auth server that answers on the loopback."""
    async with running_auth(tmp_path / "auth") as auth:
        host, port = auth.address
        pins = f"  ca_pin: sha256:{pin}\n" if pin else ""
        mine = patient(tmp_path, f"  auth_servers: ['{host}:{port}']\n{pins}{NODE}")

        def look() -> list[Finding]:
            return findings(clock.looked(mine, lambda: auth.clock.now() + timedelta(seconds=off)))

        assert [one.check for one in await asyncio.to_thread(look)] == wanted


def test_auth_that_does_not_answer_is_found_with_what_to_do_there(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        mine = patient(tmp_path, f"  auth_servers: ['127.0.0.1:{port}']\n{NODE}")
        (only,) = findings(clock.looked(mine, lambda: NOW))
    assert (only.check, only.mend) == ("ports", "systemctl start teleport")


def test_names_that_lead_nowhere_are_found_at_their_line(tmp_path: Path) -> None:
    mine = patient(tmp_path, f"  auth_servers: ['auth.example.com:3025', '192.0.2.1:3025']\n{NODE}")
    (only,) = findings(names.looked(mine, lambda host: []))
    assert (only.check, only.mend) == ("dns", f"${{EDITOR:-vi}} +3 {mine.file}")
    assert findings(names.looked(mine, lambda host: ["192.0.2.9"])) == []


def test_certificates_that_end_are_found(tmp_path: Path) -> None:
    made = PublicAuthority().issue("a.test")
    chain, key = made.write(tmp_path)
    chain.write_bytes(made.chain + made.root)
    text = f"proxy_service:\n  public_addr: a.test:443\n  https_keypairs: [{{key_file: {key}, cert_file: {chain}}}]\n"
    assert findings(certificates.looked(patient(tmp_path, text, now=datetime.now(UTC)))) == []
    later = patient(tmp_path, text, now=datetime.now(UTC) + timedelta(days=4000))
    (only,) = findings(certificates.looked(later))
    assert "ended at" in only.what
    request = subprocess.run(["sh", "-c", only.mend], capture_output=True, text=True, check=True).stdout
    assert "BEGIN CERTIFICATE REQUEST" in request, "the command makes what it says"


def test_a_name_without_a_certificate_and_a_pair_that_is_none(tmp_path: Path) -> None:
    made = PublicAuthority().issue("b.test")
    chain, key = made.write(tmp_path)
    chain.write_bytes(made.chain + made.root)
    text = f"proxy_service:\n  public_addr: a.test:443\n  https_keypairs: [{{key_file: {key}, cert_file: {chain}}}]\n"
    (only,) = findings(certificates.looked(patient(tmp_path, text, now=datetime.now(UTC))))
    assert "no certificate of https_keypairs is for a.test" in only.what
    key.write_bytes(PublicAuthority().issue("c.test").key)
    (only,) = findings(certificates.looked(patient(tmp_path, text, now=datetime.now(UTC))))
    assert "cannot be used" in only.what


def test_ipv6_that_dns_promises_is_listened_on_by_the_command(tmp_path: Path) -> None:
    """The file stays a configuration, whatever quotes it had."""
    for quotes in ("", "'", '"'):
        text = f"proxy_service:\n  web_listen_addr: {quotes}0.0.0.0:3080{quotes}\n  public_addr: p.example.com:443\n"
        mine = patient(tmp_path, text)
        (only,) = findings(ipv6.looked(mine, lambda host: ["192.0.2.1", "2001:db8::1"], lambda address: True))
        assert "2001:db8::1" in only.what
        subprocess.run(["sh", "-c", only.mend], check=True)
        assert mine.file is not None
        document = load_config(mine.file.read_text(), "x").document
        assert str(document.proxy_service.web_listen_addr) == "[::]:3080"
        assert findings(ipv6.looked(mine, lambda host: ["2001:db8::1"], lambda address: False)) == []


def test_limits_are_those_of_the_process(tmp_path: Path) -> None:
    head = "Limit                     Soft Limit           Hard Limit           Units\n"
    (tmp_path / "root" / "proc" / "7").mkdir(parents=True)
    file = tmp_path / "root" / "proc" / "7" / "limits"
    mine = patient(tmp_path, AUTH, pids=(7,), root=tmp_path / "root")
    file.write_text(head + "Max open files            1024                 4096                 files\n")
    (only,) = findings(limits.looked(mine))
    assert only.mend == "prlimit --pid 7 --nofile=65536:65536"
    file.write_text(head + "Max open files            unlimited            unlimited            files\n")
    assert findings(limits.looked(mine)) == []
    file.unlink()
    assert isinstance(next(limits.looked(mine)), Unseen)


def test_a_storage_that_is_damaged_or_of_another_program_is_found(tmp_path: Path) -> None:
    mine = patient(tmp_path, AUTH)
    folder = mine.config.storage.path
    folder.mkdir()
    file = folder / "sqlite.db"
    assert findings(backend.looked(mine)) == [], "the first start makes it"
    file.write_bytes(b"SQLite format 3\0" + os.urandom(8000))
    (only,) = findings(backend.looked(mine))
    assert only.mend.startswith(f"mv {folder} {folder}.damaged && tctl backup restore")
    file.unlink()
    subprocess.run(
        ["python3", "-c", f"import sqlite3; sqlite3.connect({str(file)!r}).execute('create table t(x)')"], check=True
    )
    (only,) = findings(backend.looked(mine))
    assert "another program" in only.what
    assert sorted(one.name for one in folder.iterdir()) == ["sqlite.db"], "it leaves no trace"


def test_storages_elsewhere_are_reached_or_found_missing(tmp_path: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        server = f"postgresql://u:sesame@127.0.0.1:{port}/t?sslmode=disable"
        text = f"  storage: {{type: postgresql, conn_string: '{server}', insecure: true}}\n"
        found = findings(backend.looked(patient(tmp_path, text + AUTH)))
    missing = [one for one in found if "not reached" in one.what]
    assert [one.mend for one in missing] == ["systemctl start postgresql   # at 127.0.0.1"]
    assert "sesame" not in repr(found)


def test_the_listeners_of_this_machine_are_read_from_the_kernel() -> None:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.socket(family) as made:
            made.bind((host, 0))
            made.listen()
            port = made.getsockname()[1]
            found = [one for one in listening.listeners(Path("/proc")) if one.port == port]
            assert [one.host for one in found] == [host]
            assert listening._owner(Path("/proc"), found[0].inode) == os.getpid()


def test_a_low_port_needs_root_or_a_unit(tmp_path: Path) -> None:
    root = tmp_path / "root"
    sysctl = root / "proc" / "sys" / "net" / "ipv4"
    sysctl.mkdir(parents=True)
    (sysctl / "ip_unprivileged_port_start").write_text("1024\n")
    mine = patient(tmp_path, f"auth_service: {{listen_addr: '127.0.0.1:443'}}\n{AUTH}", root=root)
    if os.geteuid() == 0:
        os.chown(mine.config.data_dir, 65534, 65534)
    (only,) = findings(listening.looked(mine))
    assert only.mend == "sysctl -w net.ipv4.ip_unprivileged_port_start=443"
    unit = root / "etc" / "systemd" / "system" / "teleport.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    assert findings(listening.looked(mine)) == []


def test_the_processes_of_a_daemon_are_those_that_hold_its_lock(tmp_path: Path) -> None:
    assert processes_of(tmp_path) == ()
    with (tmp_path / "daemon.lock").open("w"):
        assert processes_of(tmp_path) == (os.getpid(),)
    assert processes_of(tmp_path) == ()


def test_a_check_that_fails_is_said_and_the_others_go_on(tmp_path: Path) -> None:
    def fails(patient: Patient) -> Said:
        raise OSError("no such luck")
        yield

    def finds(patient: Patient) -> Said:
        yield Finding("b", "x", "y")
        yield Finding("b", "x", "y")

    report = examination.examined(patient(tmp_path, AUTH), {"a": fails, "b": finds})
    assert report.findings == (Finding("b", "x", "y"),)
    assert report.blind
    assert "no such luck" in report.unseen[0].what


def test_a_storage_that_is_held_is_not_called_damaged(tmp_path: Path) -> None:
    """What the command for a damaged one does must not be done to it."""
    mine = patient(tmp_path, AUTH, pids=(os.getpid(),))
    folder = mine.config.storage.path
    folder.mkdir()
    with closing(sqlite3.connect(folder / "sqlite.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        (only,) = list(backend.looked(mine))
    assert isinstance(only, Unseen)
    assert only.blind
    assert "locked" in only.what


def test_a_storage_among_other_things_is_looked_at_alone(tmp_path: Path) -> None:
    shared = tmp_path / "srv"
    shared.mkdir()
    (shared / "of-others").touch(mode=0o644)
    (shared / "sqlite.db").touch(mode=0o644)
    mine = patient(tmp_path, f"  storage: {{type: dir, path: {shared}}}\n{AUTH}")
    (only,) = findings(permissions.looked(mine))
    assert only.mend == f"chmod 0600 {shared / 'sqlite.db'}"


def test_where_there_is_no_log_of_denials_that_is_said(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "sys" / "fs" / "selinux").mkdir(parents=True)
    (root / "sys" / "fs" / "selinux" / "enforce").write_text("1")
    (only,) = list(denials.looked(patient(tmp_path, AUTH, root=root)))
    assert (isinstance(only, Unseen), only.mend) == (True, "journalctl -k --grep=denied")
