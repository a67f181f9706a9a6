"""`teleport support-bundle` on a host of a real cluster, full of secrets of every kind: none of them is in it."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

from teleport.testing.cluster import BIN, PASSWORD, Cluster, Ran, plain_environment, run
from teleport.testing.public_authority import PublicAuthority

PLANTED = {
    "static token": "Sesame-static-1",
    "auth token": "Sesame-joins-2",
    "pam": "Sesame-pam-3",
    "label": "Sesame-label-4",
    "command": "Sesame-command-5",
    "proxy of the site": "Sesame-site-6",
    "environment": "Sesame-environment-7",
    "motd": "Sesame-motd-8",
    "pressed into the log": "Sesame-log-9",
}


def bundle(cluster: Cluster, out: Path, *arguments: str) -> Ran:
    environment = plain_environment(cluster.folder) | {
        "HTTPS_PROXY": f"http://me:{PLANTED['proxy of the site']}@127.0.0.1:9",
        "NO_PROXY": "*",
        "A_SECRET": PLANTED["environment"],
    }
    words = (BIN / "teleport", "support-bundle", f"--config={cluster.config_path}", f"--out={out}")
    return run(*words, f"--log={cluster.daemon.log_path}", *arguments, environment=environment, seconds=60.0)


def content(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        found = {}
        for entry in archive:
            file = archive.extractfile(entry)
            assert file is not None
            found[entry.name.removeprefix("teleport-support/")] = file.read()
        return found


def secrets(cluster: Cluster, link: str) -> Iterator[tuple[str, bytes]]:
    """What is secret on this host, by what it is: planted, made by people, made by the daemon."""
    for name, value in PLANTED.items():
        yield name, value.encode()
    yield "password", PASSWORD.encode()
    yield "invitation", link.rpartition("/")[2].encode()
    for path in [*cluster.data_dir.rglob("*.key"), *cluster.folder.glob("*.key")]:
        for line in path.read_text().splitlines():
            if not line.startswith("-----"):
                yield str(path), line.encode()
    with sqlite3.connect(f"file:{cluster.data_dir / 'backend' / 'sqlite.db'}?mode=ro", uri=True) as storage:
        rows = storage.execute("SELECT key, value FROM item").fetchall()
    storage.close()
    for key, value in rows:
        if key.startswith(("tokens/", "invites/")):
            yield key, key.rpartition("/")[2].encode()
        if value.startswith(b"-----BEGIN"):
            yield from ((key, line) for line in value.splitlines() if not line.startswith(b"-----"))
            continue
        if not value.startswith(b"{"):
            continue  # a name or a number
        document = json.loads(value)
        yield from ((key, text) for text in _secret_leaves(document))


def _secret_leaves(value: object, name: str = "") -> Iterator[bytes]:
    """Texts in a stored document whose key says that they are secret."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from _secret_leaves(one, key)
    elif isinstance(value, list):
        for one in value:
            yield from _secret_leaves(one, name)
    elif (
        isinstance(value, str)
        and any(word in name for word in ("private", "hash", "secret", "totp"))
        and len(value) > 15
    ):
        yield value.encode()
        yield value.encode()[:40]


def test_no_secret_of_the_host_is_in_the_bundle(tmp_path: Path) -> None:
    cluster = Cluster(
        tmp_path / "cluster", tokens=[f"node:{PLANTED['static token']}"], message_of_the_day=PLANTED["motd"]
    )
    made = PublicAuthority().issue("localhost", "127.0.0.1", "::1")
    chain, key = made.write(cluster.folder)
    chain.write_bytes(made.chain + made.root)
    cluster.config["teleport"]["auth_token"] = PLANTED["auth token"]
    cluster.config["proxy_service"]["https_keypairs"] = [{"key_file": str(key), "cert_file": str(chain)}]
    cluster.config["ssh_service"]["labels"]["secret"] = PLANTED["label"]
    cluster.config["ssh_service"]["commands"] = [
        {"name": "x", "command": ["/bin/echo", PLANTED["command"]], "period": "1m0s"}
    ]
    cluster.write()
    out = tmp_path / "bundle.tar.gz"
    with cluster:
        added = cluster.tctl("users", "add", "alice", "--roles=access", "--logins=root", "--format=json").json()
        token = cluster.tctl("tokens", "add", "--type=node", "--format=json").json()["token"]
        with cluster.daemon.log_path.open("a") as log:
            log.write(
                f"link {added['url']}\njoined with {token}\npassword: {PLANTED['pressed into the log']}\n"
                f"{PLANTED['static token']} {key.read_text()}\nbasic {base64.b64encode(os.urandom(30)).decode()}\n"
            )
        ran = bundle(cluster, out, "--format=json").ok()
        assert json.loads(ran.stdout)["file"] == str(out)
        files = content(out)
        assert stat.S_IMODE(out.stat().st_mode) == 0o600
        every = [*secrets(cluster, added["url"]), ("token", token.encode())]
        assert len(every) > 40, "keys and the storage were looked at"
        for name, value in every:
            holding = [file for file, text in files.items() if value in text]
            assert not holding, f"{name} is in {holding}"
        manifest = json.loads(files["manifest.json"])
        assert manifest["missing"] == {}
        useful(cluster, files)
    assert bundle(cluster, out).status == 4, "nothing is overwritten"
    out.unlink()
    ran = bundle(cluster, out, "--without=log.txt").ok()
    assert {"health.json", "metrics.txt"} == set(json.loads(content(out)["manifest.json"])["missing"]), "none runs"
    assert "log.txt" not in content(out)


def useful(cluster: Cluster, files: dict[str, bytes]) -> None:
    """What somebody has to know who helps is in it."""
    assert json.loads(files["configuration.json"])["auth"]["cluster_name"] == cluster.name
    assert json.loads(files["health.json"])["/readyz"] == {"status": 200, "said": "ok"}
    assert json.loads(files["doctor.json"])["findings"] == []
    assert json.loads(files["processes.json"])[0]["pid"] == cluster.daemon.pid
    assert [one["role"] for one in json.loads(files["certificates.json"])]
    assert b"teleport_audit_events_waiting" in files["metrics.txt"]
    assert b"proc/auth/tls.key" in files["files.txt"]
    assert b"is ready" in files["log.txt"]


def test_a_configuration_that_cannot_be_read_gives_no_bundle(tmp_path: Path) -> None:
    """Since nobody knows then what is secret."""
    config = tmp_path / "teleport.yaml"
    config.write_text("teleport: {auth_tokn: x}\n")
    out = tmp_path / "x.tar.gz"
    ran = run(
        BIN / "teleport",
        "support-bundle",
        f"--config={config}",
        f"--out={out}",
        environment=plain_environment(tmp_path),
    )
    assert (ran.status, out.exists()) == (2, False)
    assert "hint: mend it first: teleport doctor" in ran.stderr
