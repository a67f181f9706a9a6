"""Files of hosts in browsers: a real proxy and a real node, with what the audit log says of each."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import pwd
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.web.file_window import Window

from teleport.testing.cluster import NODE, Cluster, Person, wait_until, why_no_loopback
from teleport.web.file_names import disposition, download_name
from teleport.web.sessions import COOKIE

ROLE = """kind: role
version: v4
metadata: {{name: {name}}}
spec: {{options: {options}, allow: {{logins: [{login}], node_labels: {{'*': '*'}}}}}}
"""
MIB = 1024 * 1024


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def login() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if why := why_no_loopback():
        pytest.skip(why)
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ann(cluster: Cluster, login: str) -> Person:
    return cluster.add_person("ann", logins=[login])


@pytest.fixture(scope="module")
def window(ann: Person, login: str) -> Window:
    return Window.of(ann, login)


def with_role(cluster: Cluster, login: str, name: str, options: str) -> Window:
    """Somebody with a role of their own."""
    cluster.tctl("create", "-f", "-", stdin=ROLE.format(name=name, options=options, login=login)).ok()
    return Window.of(cluster.add_person(name, roles=[name], logins=[]), login)


def on_record(cluster: Cluster, path: Path | str, **fields: Any) -> dict[str, Any]:
    return cluster.wait_event("sftp", path=str(path), **fields)


# what works


def test_a_file_goes_up_and_comes_down_with_its_hash_on_record(
    cluster: Cluster, window: Window, tmp_path: Path
) -> None:
    """The bytes are the same, nothing shows them as a page, and the host's events name user, path, size and hash."""
    content = random.Random(1).randbytes(3 * MIB + 17)
    sent = window.upload(content, str(tmp_path), "report.bin")
    assert (sent.status, sent.json) == (200, {"path": f"{tmp_path}/report.bin", "size": len(content)})
    assert (tmp_path / "report.bin").read_bytes() == content
    got = window.download(f"{tmp_path}/report.bin")
    assert (got.status, got.body == content) == (200, True)
    assert got.headers["Content-Type"] == "application/octet-stream"
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Content-Length"] == str(len(content))
    assert got.headers["Content-Disposition"] == "attachment; filename=\"report.bin\"; filename*=UTF-8''report.bin"
    assert got.headers["Cache-Control"] == "no-store"
    assert got.headers["Content-Security-Policy"] == "sandbox; default-src 'none'; frame-ancestors 'none'"
    for action, direction in (("write", "upload"), ("read", "download")):
        event = on_record(cluster, tmp_path / "report.bin", action=action)
        assert (event["direction"], event["size"], event["sha256"]) == (direction, len(content), sha(content))
        assert (event["user"], event["login"], event["server_hostname"]) == ("ann", window.login, NODE)
        assert event["addr.remote"].startswith("127.")


def test_it_replaces_a_file_and_writes_to_a_path(window: Window, tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"longer than what comes")
    assert window.upload(b"new", f"{tmp_path}/there", "other-name").json["path"] == f"{tmp_path}/there"
    assert (tmp_path / "there").read_bytes() == b"new"
    assert window.upload(b"", str(tmp_path), "empty").json["size"] == 0
    empty = window.download(f"{tmp_path}/empty")
    assert (empty.status, empty.body, empty.headers["Content-Length"]) == (200, b"", "0")


ODD = [
    "plain.txt",
    "with space and ; semicolon.txt",
    'quo"te\\and\\back.txt',
    "new\nline\r\nX-Injected: yes.txt",
    "%2e%2e%2f50%.txt",
    "-rf",
    ".hidden",
    "änderung-日本語-🎉.txt",
    "gpj\u202etxt.exe",
    "[glob]*?.txt",
    "~tilde",
    "x" * 255,
]


@pytest.mark.parametrize("name", ODD, ids=lambda name: ascii(name)[:30])
def test_odd_names_go_both_ways(window: Window, tmp_path: Path, name: str) -> None:
    sent = window.upload(name.encode(), f"{tmp_path}/", name)
    assert sent.status == 200, sent.body
    assert [one.name for one in tmp_path.iterdir()] == [name]
    got = window.download(f"{tmp_path}/{name}")
    assert (got.status, got.body) == (200, name.encode())
    assert "X-Injected" not in got.headers
    assert got.headers["Content-Disposition"] == disposition(name)
    assert got.headers["Content-Disposition"].isascii()


def test_names_for_browsers_are_harmless() -> None:
    assert download_name("gpj\u202etxt.exe") == "gpj_txt.exe"
    assert download_name("../../etc/passwd") == ".._.._etc_passwd"
    assert download_name("a\nb\0c\x7f\u2028\udcff") == "a_b_c___"
    assert [download_name(name) for name in ("", ".", "..", " ", "\u200b")] == ["file"] * 4 + ["_"]
    assert len(download_name("é" * 300).encode()) <= 180
    assert disposition('a"b;c') == "attachment; filename=\"a_b;c\"; filename*=UTF-8''a_b%3Bc"


@pytest.mark.parametrize("name", ["../up", "/etc/x", "", ".", "..", "a\0b", "x" * 256], ids=ascii)
def test_names_that_lead_elsewhere_are_refused(window: Window, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    got = window.upload(b"x", f"{tmp_path}/in", name)
    assert (got.status, bool(got.error["hint"])) == (400, True)
    assert [one.name for one in tmp_path.rglob("*")] == ["in"]


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/nowhere/at/all", 404, "no such file"),
        ("/etc", 400, "folder"),
        ("/dev/zero", 400, "neither"),
        ("/proc/version", 403, "denied"),
        ("", 400, "path"),
        ("a\0b", 400, "path"),
        ("x" * 5000, 400, "path"),
    ],
)  # fmt: skip
def test_what_cannot_be_downloaded_is_said(window: Window, path: str, status: int, word: str) -> None:
    got = window.download(path)
    assert (got.status, word in got.error["message"], bool(got.error["hint"])) == (status, True, True), got.body


def test_a_folder_that_is_not_there_is_said(window: Window, tmp_path: Path) -> None:
    got = window.upload(b"x", f"{tmp_path}/missing/", "name")
    assert (got.status, got.error["hint"]) == (404, "make it first: mkdir -p")


# who may


def test_strangers_get_nothing(cluster: Cluster, window: Window, ann: Person, tmp_path: Path) -> None:
    """Neither way, without the cookie, the token, or from another origin; nothing reaches the host."""
    (tmp_path / "secret").write_text("s")
    evil: dict[str, dict[str, str | None]] = {
        "no cookie": {"Cookie": None},
        "no token": {"Authorization": None},
        "a wrong token": {"Authorization": "Bearer 99999999999.abc"},
        "another origin": {"Origin": "https://evil.example.com"},
        "no origin of its own": {"Origin": "null"},
        "from another site": {"Sec_Fetch_Site": "cross-site"},
        "neither token nor CSRF": {"Authorization": None, "X_CSRF_Token": None},
    }
    for what, headers in evil.items():
        down = window.download(f"{tmp_path}/secret", **headers)
        up = window.ask("POST", window.scp(location=f"{tmp_path}/new"), b"x", **headers)
        assert (down.status in (401, 403), up.status in (401, 403)) == (True, True), what
        assert down.error["message"], what
        assert "octet-stream" not in down.headers["Content-Type"], what
    assert [one.name for one in tmp_path.iterdir()] == ["secret"]


def test_roles_decide_which_way(cluster: Cluster, login: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    reader = with_role(cluster, login, "reader", "{file_transfer: {upload: false}}")
    assert reader.download(f"{tmp_path}/file").body == b"content"
    refused = reader.upload(b"x", f"{tmp_path}/new")
    assert (refused.status, refused.error["hint"]) == (403, "ask an administrator; tsh status shows your roles")
    writer = with_role(cluster, login, "writer", "{file_transfer: {download: false}}")
    assert writer.upload(b"x", f"{tmp_path}/new").status == 200
    refused = writer.download(f"{tmp_path}/file")
    assert (refused.status, bool(refused.error["hint"])) == (403, True), refused.body
    assert on_record(cluster, tmp_path / "file", user="writer")["error"]
    small = with_role(cluster, login, "small", "{file_transfer: {max_file_size: 100000, deny_paths: [/etc/hostname]}}")
    assert small.upload(b"x" * 200_000, f"{tmp_path}/large").status in (400, 403)
    assert small.download("/etc/hostname").status == 403


def test_logins_and_hosts_that_are_not_theirs_are_refused(window: Window) -> None:
    path = window.scp(login="somebody-else", location="/etc/hostname")
    refused = window.ask("GET", path)
    assert (refused.status, bool(refused.error["hint"])) == (403, True), refused.body
    for host in ("no-such-host", "no@such", "x" * 300, "no\0such", "no\nsuch"):
        got = window.ask("GET", window.scp(host=host, location="/etc/hostname"))
        assert got.status >= 400, host
        assert got.error["hint"], host
        assert got.status < 500 or host == "no-such-host", host
    for login in ("ro\0ot", "ro\not", "x" * 300):
        assert window.ask("GET", window.scp(login=login, location="/etc/hostname")).status == 404, ascii(login)
    other = window.ask("GET", window.scp(site="elsewhere.test", location="/etc/hostname"))
    assert (other.status >= 400, bool(other.error["hint"])) == (True, True), other.body


# tickets


def test_a_link_downloads_once_for_whose_it_is(cluster: Cluster, window: Window, login: str, tmp_path: Path) -> None:
    """A link has no token of the page; it holds once, for its file, in its browser's session."""
    (tmp_path / "file").write_text("content")
    (tmp_path / "other").write_text("other")
    made = window.ticket(f"{tmp_path}/file").json
    assert made["expires_in"] == 30
    link: dict[str, str | None] = {"Authorization": None, "X_CSRF_Token": None, "Origin": None}

    def follow(path: Path, who: Window = window, **more: str | None) -> int:
        got = who.ask("GET", who.scp(location=str(path), ticket=made["ticket"]), **{**link, **more})
        assert got.status != 200 or got.body == b"content"
        return got.status

    stranger = with_role(cluster, login, "stranger", "{}")
    assert follow(tmp_path / "other") == 401
    assert follow(tmp_path / "file", stranger) == 401
    assert follow(tmp_path / "file", Cookie=None) == 401
    assert follow(tmp_path / "file", Sec_Fetch_Site="cross-site") == 403
    upload = window.scp(location=f"{tmp_path}/file", ticket=made["ticket"])
    assert window.ask("POST", upload, b"x", **link).status in (401, 403), "a link writes nothing"
    assert follow(tmp_path / "file") == 200
    assert follow(tmp_path / "file") == 401, "once"
    for bad in ("", "x", "A" * 9000, made["ticket"][:-2]):
        path = window.scp(location=f"{tmp_path}/file", ticket=bad)
        assert window.ask("GET", path, **link).status in (400, 401, 414), bad[:10]


def test_a_second_factor_is_given_by_a_ticket(cluster: Cluster, login: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    role = ROLE.format(name="careful", options="{require_session_mfa: true}", login=login)
    cluster.tctl("create", "-f", "-", stdin=role).ok()
    person = cluster.add_person("careful", roles=["careful"], logins=[])
    window = Window.of(person, login)
    for refused in (window.download(f"{tmp_path}/file"), window.upload(b"x", f"{tmp_path}/new")):
        assert (refused.status, refused.error["kind"]) == (403, "mfa"), refused.body
    asked = window.ask("POST", f"{window.scp()}/challenge", b"{}").json
    assert asked["totp_challenge"]
    answer = {"challenge_id": asked["challenge_id"], "second_factor_token": "000000"}
    assert window.ticket(f"{tmp_path}/file", **answer).status in (400, 403)
    asked = window.ask("POST", f"{window.scp()}/challenge", b"{}").json
    answer = {"challenge_id": asked["challenge_id"], "second_factor_token": person.code()}
    made = window.ticket(f"{tmp_path}/file", **answer)
    assert made.status == 200, made.body
    got = window.ask("GET", window.scp(location=f"{tmp_path}/file", ticket=made.json["ticket"]))
    assert (got.status, got.body) == (200, b"content"), got.body


# how it ends


def test_a_cut_upload_leaves_what_had_come(window: Window, tmp_path: Path) -> None:
    with window.connection() as connection:
        connection.putrequest("POST", window.scp(location=f"{tmp_path}/part"))
        for name, value in window.headers(Content_Length=str(10 * MIB)).items():
            connection.putheader(name, value)
        connection.endheaders()
        connection.send(b"x" * MIB)
        wait_until("it is written", lambda: (tmp_path / "part").exists() and (tmp_path / "part").stat().st_size == MIB)
    assert (tmp_path / "part").read_bytes() == b"x" * MIB
    assert window.upload(b"whole", f"{tmp_path}/part").status == 200, "and it can be sent again"


def test_a_lock_ends_transfers_in_the_middle(cluster: Cluster, login: str, tmp_path: Path) -> None:
    """Within two seconds, both ways, and the download does not pass for a whole one."""
    window = with_role(cluster, login, "locked", "{}")
    (tmp_path / "large").write_bytes(bytes(64 * MIB))
    with window.connection() as down, window.connection() as up:
        down.request("GET", window.scp(location=f"{tmp_path}/large"), headers=window.headers())
        coming = down.getresponse()
        assert coming.read(MIB) == bytes(MIB)
        up.putrequest("POST", window.scp(location=f"{tmp_path}/new"))
        for name, value in window.headers(Content_Length=str(64 * MIB)).items():
            up.putheader(name, value)
        up.endheaders()
        up.send(b"x" * MIB)
        wait_until("it is written", lambda: (tmp_path / "new").exists() and (tmp_path / "new").stat().st_size == MIB)
        made = cluster.tctl("lock", "--user=locked", "--format=json").json()
        begun = time.monotonic()
        try:
            with pytest.raises(OSError, match=r"."):
                _send_on(up, begun + 10)
            print(f"the upload was refused {time.monotonic() - begun:.2f} s after the lock, and cut")
            with pytest.raises((OSError, http.client.IncompleteRead)):
                coming.read()
            assert time.monotonic() - begun < 4  # 2 s, one for the rest of a refused body, and what tctl took
        finally:
            cluster.tctl("rm", f"lock/{made[0]['name']}").ok()
    assert (tmp_path / "new").stat().st_size < 64 * MIB


def _send_on(connection: http.client.HTTPConnection, until: float) -> None:
    """Sends small pieces. Raises `OSError` when the other end is gone."""
    while time.monotonic() < until:
        connection.send(b"x" * 1024)


def test_a_logout_ends_a_download(ann: Person, login: str, tmp_path: Path) -> None:
    window = Window.of(ann, login)
    (tmp_path / "large").write_bytes(bytes(64 * MIB))
    with window.connection() as connection:
        connection.request("GET", window.scp(location=f"{tmp_path}/large"), headers=window.headers())
        coming = connection.getresponse()
        assert coming.read(MIB) == bytes(MIB)
        assert window.ask("DELETE", "/webapi/sessions").status == 200
        begun = time.monotonic()
        with pytest.raises((OSError, http.client.IncompleteRead)):
            coming.read()
        assert time.monotonic() - begun < 2


def test_one_session_moves_some_files_at_once(ann: Person, login: str, tmp_path: Path) -> None:
    window = Window.of(ann, login)
    (tmp_path / "large").write_bytes(bytes(64 * MIB))
    path = window.scp(location=f"{tmp_path}/large")
    held = []
    try:
        for _ in range(8):
            context = window.connection()
            connection = context.__enter__()
            held.append(context)
            connection.request("GET", path, headers=window.headers())
            assert connection.getresponse().status == 200
        got = window.download(f"{tmp_path}/large")
        assert (got.status, got.error["hint"]) == (429, "wait until one is through")
    finally:
        for context in held:
            context.__exit__(None, None, None)
    wait_until("there is room again", lambda: window.download("/etc/hostname").status == 200)


def resident(pid: int) -> int:
    """Bytes."""
    (line,) = [one for one in Path(f"/proc/{pid}/status").read_text().splitlines() if one.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def test_a_large_file_takes_no_memory(cluster: Cluster, window: Window, tmp_path: Path) -> None:
    """200 MiB each way, while the daemon (auth, proxy and node in one) grows by a fraction of that."""
    window.download("/etc/hostname")
    size, piece = 200 * MIB, bytes(MIB)
    before, highest, over = resident(cluster.daemon.pid), 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not over.wait(0.05):
            highest = max(highest, resident(cluster.daemon.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        begun = time.monotonic()
        sent = window.upload((piece for _ in range(200)), f"{tmp_path}/large", Content_Length=str(size))
        up = time.monotonic() - begun
        assert sent.json["size"] == size
        with window.connection() as connection:
            connection.request("GET", window.scp(location=f"{tmp_path}/large"), headers=window.headers())
            coming, got = connection.getresponse(), 0
            while data := coming.read(MIB):
                got += len(data)
        assert got == size
        down = time.monotonic() - begun - up
    finally:
        over.set()
        watcher.join()
    print(f"200 MiB: up {up:.1f} s, down {down:.1f} s, memory {before / MIB:.0f} to {highest / MIB:.0f} MiB")
    assert highest - before < 64 * MIB


def test_forms_and_pages_are_not_taken(window: Window, tmp_path: Path) -> None:
    got = window.upload(b"--x", f"{tmp_path}/new", Content_Type="multipart/form-data; boundary=x")
    assert (got.status, bool(got.error["hint"])) == (400, True)
    body = json.dumps({"location": 5}).encode()
    assert window.ask("POST", f"{window.scp()}/ticket", body).status == 400
    assert COOKIE not in str(got.headers)
