"""tctl as a script: what is typed, the exit status, what stdout and stderr say, against a real auth service."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.chain import ChainKey, ChainState
from teleport.audit.events import ServiceStart, new_event
from teleport.cli.tctl.actor import HEADERS
from teleport.cli.tctl.command import tctl
from teleport.identity import SystemRole
from teleport.pki.keys import generate_ed25519
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.secret import SecretText
from teleport.resources.server import Server, ServerSpec
from teleport.resources.token import Token, TokenRole, token_id
from teleport.testing.auth import CLUSTER, RunningAuth, running_auth
from teleport.testing.commands import Ran, run_command

ROLE_AND_USER = b"""\
kind: role
version: v4
metadata:
  name: dev
spec:
  allow:
    logins: [root]
    node_labels: {env: dev}
    db_users: [edit]
---
kind: user
version: v2
metadata: {name: carol}
spec: {roles: [dev]}
"""


@dataclass(slots=True)
class Admin:
    """tctl on the auth host."""

    auth: RunningAuth
    config: str

    async def __call__(self, *arguments: str, stdin: bytes = b"") -> Ran:
        return await asyncio.to_thread(
            lambda: run_command(tctl, "tctl", *arguments, "--config", self.config, stdin=stdin)
        )

    async def ok(self, *arguments: str, stdin: bytes = b"") -> str:
        return (await self(*arguments, stdin=stdin)).ok().out

    async def json(self, *arguments: str) -> Any:
        ran = (await self(*arguments, "--format=json")).ok()
        return json.loads(ran.out)


def output_of(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@asynccontextmanager
async def administration(directory: Path, *static: Token) -> AsyncIterator[Admin]:
    async with running_auth(directory, static_tokens=static) as auth:
        yield Admin(auth, str(await auth.local_config()))


async def test_status_names_cluster_version_authorities_and_pin(tmp_path: Path) -> None:
    """Two columns, one row for each pin; the same as JSON."""
    async with administration(tmp_path) as admin:
        rows = dict(re.split(r"  +", line) for line in (await admin.ok("status")).splitlines())
        assert list(rows) == ["Cluster", "Version", "Host CA", "User CA", "Jwt CA", "Openssh CA", "CA pin"]
        assert rows["Cluster"] == CLUSTER
        assert rows["Host CA"] == "never updated"
        found = await admin.json("status")
        assert found["ca_pins"] == [rows["CA pin"]]
        assert re.fullmatch("sha256:[0-9a-f]{64}", rows["CA pin"])


async def test_a_cluster_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    """In `status`, and beside what `get` prints, of which nothing else is missing."""
    async with administration(tmp_path) as admin:
        value = b'{"schema": 1, "kind": "remote_cluster", "version": "v3", "metadata": {"name": "leaf"}, "x": 1}'
        await admin.auth.backend.put("remote_clusters/leaf", value)
        assert "leaf: unreadable, counts for nothing; remote_cluster: " in await admin.ok("status")
        for form in ("text", "json", "yaml"):
            ran = (await admin("get", "rc", f"--format={form}")).ok()
            assert "remote_cluster 'leaf' cannot be read, and counts for nothing: " in ran.err
            assert form != "json" or json.loads(ran.out) == []
        one = await admin("get", "rc/leaf")
        assert (one.status, "tctl rm rc/leaf" in one.err) == (2, True)
        await admin.ok("rm", "rc/leaf")
        assert "unreadable" not in await admin.ok("status")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "nothing to lock was named"),
        (("--user=a", "--role=b"), "too much to lock was named"),
        (("--user=a", "--ttl=1h", "--expires=2999-01-01"), "give one of them"),
        (("--user=a", "--ttl=0s"), "a second at least"),
        (("--user=a", "--expires=2001-01-01"), "is over already"),
        (("--user=a", "--expires=2999-01-01T00:00:00"), "names no zone"),
        (("--user=a", "--expires=soon"), "is no time"),
        (("--user=a", "--message=" + "x" * 5000), "message"),
    ],
)
async def test_a_lock_with_a_mistake_is_not_made(tmp_path: Path, flags: tuple[str, ...], words: str) -> None:
    async with administration(tmp_path) as admin:
        refused = await admin("lock", *flags)
        assert (refused.status, words in refused.err) == (2, True), refused
        assert await admin.json("get", "locks") == []


async def test_users_are_invited_changed_reset_and_removed(tmp_path: Path) -> None:
    """The link, its lifetime, and where it leads; roles are needed and must exist."""
    async with administration(tmp_path) as admin:
        added = (await admin("users", "add", "ann", "--roles=access,auditor", "--logins=root,ubuntu", "--ttl=2h")).ok()
        assert re.search(r"^https://<proxyhost>:3080/web/invite/[0-9a-f]{32}$", added.out, re.M)
        assert "valid for 2h" in added.out
        assert "No proxy has announced itself yet" in added.err
        again = await admin("users", "add", "ann", "--roles=access")
        assert (again.status, "tctl users reset ann" in again.err) == (4, True)
        none = await admin("users", "add", "bob")
        assert none.status == 2
        assert "access, editor, auditor" in none.err
        assert (await admin("users", "add", "bob", "root", "--roles=access")).status == 2
        assert (await admin("users", "add", "bob", "--roles=boss")).status == 3
        assert (await admin("users", "add", "bob", "--roles=access", "--ttl=49h")).status == 2
        assert (await admin("users", "add", "bob", "--roles=access", "--ttl=soon")).status == 2
        assert (await admin.ok("users", "ls")).splitlines()[:3] == [
            "User Roles",
            "---- --------------",
            "ann  access,auditor",
        ]
        (ann,) = await admin.json("users", "ls")
        assert ann["spec"]["traits"] == {"logins": ["root", "ubuntu"]}
        proxy = await admin.auth.host(SystemRole.PROXY)
        spec = ServerSpec(public_addrs=("web.example.com:443",), hostname="front", epoch="1")
        item = m.Document(to_json(Server(kind="proxy", metadata=Metadata(name=proxy.host_id), spec=spec)))
        await admin.auth.call(proxy, routes.HEARTBEAT, m.HeartbeatRequest(item=item))
        reset = (await admin("users", "reset", "ann")).ok()
        assert "https://web.example.com:443/web/reset/" in reset.out
        assert "valid for 8h" in reset.out
        assert "web.example.com:443 is reachable" in reset.err
        await admin.ok("users", "update", "ann", "--set-roles=editor")
        assert (await admin.json("users", "ls"))[0]["spec"]["roles"] == ["editor"]
        removed = await admin("users", "rm", "ann,nobody", "--force")  # she is the last who may edit roles
        assert removed.status == 3
        assert removed.out == "user 'ann' has been deleted\n"
        assert await admin.json("users", "ls") == []


async def test_a_token_goes_to_a_file_and_is_known_by_its_id(tmp_path: Path) -> None:
    """T12: the secret is in the file that was asked for, mode 0600, and nowhere else; `rm` takes id, secret or file."""
    static = Token.from_secret(SecretText("the secret of the file"), (TokenRole.PROXY,))
    async with administration(tmp_path, static) as admin:
        place = tmp_path / "token"
        made = (await admin("tokens", "add", "--type=node,proxy", f"--out={place}", "--labels=env=dev")).ok()
        secret = place.read_text().strip()
        assert stat.S_IMODE(place.stat().st_mode) == 0o600
        assert secret not in made.out + made.err
        assert f"--token={place}" in made.out
        public = token_id(SecretText(secret))
        assert public in made.out
        assert (await admin("tokens", "add", "--type=node", f"--out={place}")).status == 4
        assert place.read_text().strip() == secret
        assert (await admin("tokens", "add", "--type=boss", f"--out={tmp_path / 'other'}")).status == 2
        assert not (tmp_path / "other").exists(), "no file is left when no token was made"
        listing = await admin.ok("tokens", "ls")
        assert re.search(rf"^{public} +node,proxy +env=dev +\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d$", listing, re.M)
        assert listing.splitlines()[3].split() == [static.name, "proxy", "teleport.dev/origin=config-file", "never"]
        assert secret not in listing + json.dumps(await admin.json("tokens", "ls"))
        for name in (public, str(place)):
            assert (await admin("tokens", "rm", name)).status == (0 if name == public else 3)
        own = tmp_path / "own"
        own.write_text("a token of our own choice\n".replace(" ", "-"))
        found = await admin.json("tokens", "add", "--type=node", f"--value={own}")
        assert found["token"] == own.read_text().strip()
        await admin.ok("tokens", "rm", found["token"])
        assert [one["id"] for one in await admin.json("tokens", "ls")] == [static.name]
        events = str(await admin.auth.events("token.delete", wait_for=2))
        assert secret not in events
        assert found["token"] not in events


async def test_nodes_add_prints_a_line_that_is_ready_to_paste(tmp_path: Path) -> None:
    """Token, lifetime in minutes, every pin, and the auth server; the token travels in a file, not in arguments."""
    async with administration(tmp_path) as admin:
        (pin,) = (await admin.json("status"))["ca_pins"]
        text = await admin.ok("nodes", "add")
        token = re.search(r"The join token: ([0-9a-f]{32})", text)
        assert token is not None
        assert "for 30 minutes" in text
        start = text[text.index("teleport start") :]
        assert f"--ca-pin={pin}" in start
        assert f"--auth-server={admin.auth.address[0]}:{admin.auth.address[1]}" in start
        assert "good on this host only" in text
        assert token[1] not in start
        assert re.search(rf"umask 077 && printf .* {token[1]} > /etc/teleport.token", text)
        assert re.fullmatch(r'\[\n  "[0-9a-f]{32}"\n\]\n', await admin.ok("nodes", "add", "--format=json"))


async def test_nodes_are_listed_and_expelled(tmp_path: Path) -> None:
    """By name or UUID; text of hosts drives no terminal."""
    async with administration(tmp_path) as admin:
        node = await admin.auth.host(SystemRole.NODE)
        spec = ServerSpec(addr="192.0.2.1:3022", hostname="db-1", epoch="1")
        metadata = Metadata(name=node.host_id, labels={"env": "dev", "zone": "ü"})
        item = m.Document(to_json(Server(metadata=metadata, spec=spec)))
        await admin.auth.call(node, routes.HEARTBEAT, m.HeartbeatRequest(item=item))
        lines = (await admin.ok("nodes", "ls")).splitlines()
        assert lines[0].split() == ["Nodename", "UUID", "Address", "Labels"]
        assert lines[2].split() == ["db-1", node.host_id, "192.0.2.1:3022", "env=dev,zone=ü"]
        assert (await admin.json("nodes", "ls"))[0]["metadata"]["name"] == node.host_id
        assert await admin.json("nodes", "ls", "--namespace=other") == []
        assert (await admin("nodes", "rm", "nowhere")).status == 3
        assert "has been expelled" in await admin.ok("nodes", "rm", "db-1")
        assert await admin.json("nodes", "ls") == []


async def test_resources_are_created_replaced_read_and_removed(tmp_path: Path) -> None:
    """Many documents at once; `-f` replaces; what comes out goes in again."""
    async with administration(tmp_path) as admin:
        created = (await admin("create", stdin=ROLE_AND_USER)).ok()
        assert created.out == "role 'dev' has been created\nuser 'carol' has been created\n"
        assert "warning: stdin:1: spec.allow.db_users" in created.err
        again = await admin("create", stdin=ROLE_AND_USER)
        assert again.status == 4
        assert "tctl create -f" in again.err
        assert "stopped at document 1 of 2" in again.err
        path = tmp_path / "resources.yaml"
        path.write_bytes((await admin("get", "roles/dev,users/carol")).ok().out_bytes)
        assert (await admin.ok("create", "-f", str(path))).count("has been updated") == 2
        path.write_bytes((await admin("get", "roles/dev,users/carol", "--format=json")).ok().out_bytes)
        assert (await admin.ok("create", "-f", str(path))).count("has been updated") == 2
        shown = await admin.json("get", "roles/dev")
        assert shown[0]["spec"]["allow"]["node_labels"] == {"env": ["dev"]}
        table = (await admin.ok("get", "roles", "--format=text")).splitlines()
        assert re.split("  +", table[0])[0].startswith("Role")
        assert any(line.split() == ["dev", "root", "env=dev"] for line in table)
        assert (await admin("rm", "role/dev")).status == 2, "carol holds it"
        assert "has been removed" in await admin.ok("rm", "user/carol", "role/dev")
        assert (await admin("get", "role/dev")).status == 3
        assert (await admin("rm", "role/dev")).status == 3
        assert (await admin("rm", "role")).status == 2
        assert (await admin("get", "rolls")).err.count("did you mean role") == 1
        assert (await admin("get", "oidc")).status == 2


async def test_all_mistakes_of_a_file_are_named_and_nothing_is_created(tmp_path: Path) -> None:
    """Each with its line and key; documents without a mistake wait, too."""
    async with administration(tmp_path) as admin:
        path = tmp_path / "r.yaml"
        path.write_bytes(
            ROLE_AND_USER.replace(b"logins:", b"login:") + b"---\nkind: user\nmetadata: {name: x}\nspce: {}\n"
        )
        ran = await admin("create", str(path))
        assert ran.status == 2
        assert f"{path}:7: spec.allow.login" in ran.err
        assert f"{path}:18: spce" in ran.err
        assert (await admin("get", "role/dev")).status == 3
        assert (await admin("create", str(tmp_path / "missing.yaml"))).status == 1
        assert (await admin("create", stdin=b"")).status == 2
        config = b"kind: cluster_audit_config\nversion: v2\nmetadata: {name: cluster-audit-config}\nspec: {}\n"
        ran = await admin("create", stdin=config)
        assert (ran.status, "is what the configuration file of the auth server says" in ran.err) == (2, True)


async def test_get_all_is_a_backup_that_can_be_read_again(tmp_path: Path) -> None:
    """What a cluster cannot find again by itself, secrets included, tokens hashed, without those of the file."""
    from teleport.resources.parse import parse_resources

    static = Token.from_secret(SecretText("the secret of the file"), (TokenRole.PROXY,))
    async with administration(tmp_path, static) as admin:
        await admin.auth.person("ann")
        token = await admin.json("tokens", "add", "--type=node")
        ran = (await admin("get", "all")).ok()
        assert "private keys" in ran.err
        found = parse_resources(ran.out, "backup")
        kinds = [resource.kind for resource in found]
        assert {kind: kinds.count(kind) for kind in kinds} == {"role": 3, "user": 1, "token": 1, "cert_authority": 4}
        assert ran.out.count("PRIVATE KEY-----") >= 6
        assert "$argon2id$" in ran.out
        assert token["token"] not in ran.out
        assert (await admin("get", "all", "--format=json")).status == 2
        assert "PRIVATE" not in await admin.ok("get", "cert_authority,users")


async def test_authorities_are_exported_for_ssh_and_tls(tmp_path: Path) -> None:
    """As authorized_keys and known_hosts want them; private keys only when asked for."""
    async with administration(tmp_path) as admin:
        user = await admin.ok("auth", "export", "--type=user")
        host = await admin.ok("auth", "export", "--type=host")
        assert re.fullmatch(rf"cert-authority ssh-ed25519 \S+ clustername={CLUSTER}&type=user\n", user)
        assert re.fullmatch(rf"@cert-authority \*\.{CLUSTER} ssh-ed25519 \S+ type=host\n", host)
        assert await admin.ok("auth", "export") == host + user
        assert await admin.ok("auth", "export", "--type=tls") == admin.auth.tls_cas[0]
        keys = await admin.ok("auth", "export", "--type=user", "--keys")
        assert keys.startswith("-----BEGIN")
        assert keys.count("PRIVATE KEY") == 2
        (shown,) = (await admin.ok("get", "cert_authority/user", "--format=text")).splitlines()[2:3]
        fingerprint = shown.split()[2]
        assert await admin.ok("auth", "export", f"--fingerprint={fingerprint}") == user
        assert (await admin("auth", "export", "--fingerprint=SHA256:other")).status == 3


async def test_signed_files_are_private_complete_and_never_overwritten_unasked(tmp_path: Path) -> None:
    """Every format of `auth sign`, read with the tools that use them."""
    async with administration(tmp_path) as admin:
        await admin.ok("users", "add", "ann", "--roles=access", "--logins=root")
        out = tmp_path / "id"
        assert await admin.ok("auth", "sign", "--user=ann", f"--out={out}") == f"{out}\n"
        again = await admin("auth", "sign", "--user=ann", f"--out={out}")
        assert (again.status, "--overwrite" in again.err) == (4, True)
        await admin.ok("auth", "sign", "--user=ann", f"--out={out}", "--overwrite", "--ttl=2190h")
        await admin.ok("auth", "sign", "--user=ann", f"--out={tmp_path / 'key'}", "--format=openssh")
        await admin.ok("auth", "sign", "--user=ann", f"--out={tmp_path / 'tls'}", "--format=tls")
        hosts = (await admin("auth", "sign", "--host=a.example.com,192.0.2.7", f"--out={tmp_path / 'host'}")).ok()
        assert "TrustedUserCAKeys" in hosts.err
        names = ["id", "key", "key-cert.pub", "tls.key", "tls.crt", "tls.cas", "host", "host-cert.pub"]
        for name in names:
            assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600, name
        shown = output_of("ssh-keygen", "-L", "-f", str(tmp_path / "key-cert.pub"))
        assert 'Key ID: "ann"' in shown
        assert "root" in shown
        shown = output_of("ssh-keygen", "-L", "-f", str(tmp_path / "host-cert.pub"))
        assert "host certificate" in shown
        assert {"a.example.com", "192.0.2.7"} <= set(shown.split())
        assert (await admin("auth", "sign", f"--out={out}")).status == 2
        assert (await admin("auth", "sign", "--host=a", f"--out={out}", "--format=tls")).status == 2
        assert (await admin("auth", "sign", "--user=nobody", f"--out={tmp_path / 'x'}")).status == 3
        assert not (tmp_path / "x").exists()


async def test_an_identity_file_reaches_auth_with_the_rights_of_its_user(tmp_path: Path) -> None:
    """`-i`, with the address of auth; no configuration is needed, and the user's roles decide."""
    async with administration(tmp_path) as admin:
        await admin.ok("users", "add", "audrey", "--roles=auditor")
        out = tmp_path / "id"
        await admin.ok("auth", "sign", "--user=audrey", f"--out={out}")
        where = ("-i", str(out), f"--auth-server={admin.auth.address[0]}:{admin.auth.address[1]}")
        environment = {"TELEPORT_CONFIG_FILE": ""}

        async def as_user(*arguments: str) -> Ran:
            return await asyncio.to_thread(
                lambda: run_command(tctl, "tctl", *where, *arguments, environment=environment)
            )

        assert json.loads((await as_user("status", "--format=json")).ok().out)["cluster"] == CLUSTER
        (await as_user("audit", "ls")).ok()
        denied = await as_user("users", "ls", "--format=json")
        assert (denied.status, denied.out) == (5, "")
        assert json.loads(denied.err)["code"] == "access_denied"


async def test_the_log_knows_the_person_at_a_local_tctl(tmp_path: Path) -> None:
    """Unix user and terminal, as auth reads the headers."""
    from teleport.auth.server import ACTOR_HEADERS

    assert HEADERS == ACTOR_HEADERS
    async with administration(tmp_path) as admin:
        await admin.ok("users", "add", "ann", "--roles=access")
        (created,) = await admin.auth.events("user.create")
        import pwd

        assert created["actor"]["unix_user"] == pwd.getpwuid(os.getuid()).pw_name
        assert "(tctl)" in await admin.ok("audit", "ls", "--type=user.create")


async def test_the_audit_log_is_listed_by_what_was_asked_for(tmp_path: Path) -> None:
    """By type, user, host, login and time; as a table, and as stored lines."""
    async with administration(tmp_path) as admin:
        await admin.ok("users", "add", "ann", "--roles=access")
        await admin.ok("users", "add", "bob", "--roles=access")
        await admin.auth.events("user.create", wait_for=2)
        lines = (await admin.ok("audit", "ls", "--type=user.create")).splitlines()
        assert lines[0].split()[:4] == ["Time", "(UTC)", "Event", "Code"]
        assert sorted(re.findall("name=(ann|bob)", "\n".join(lines))) == ["ann", "bob"]
        assert all("T1002I" in line for line in lines[2:4])
        stored = (await admin.ok("audit", "ls", "--type=user.create", "--format=json")).splitlines()
        assert sorted(json.loads(line)["name"] for line in stored) == ["ann", "bob"]
        few = (await admin("audit", "ls", "--limit=1", "--type=user.create,token.create")).ok()
        assert "Only the newest 1 are shown" in few.err
        assert await admin.ok("audit", "ls", "--format=json", "--user=nobody") == ""
        assert await admin.ok("audit", "ls", "--format=json", "--to=2001-01-01") == ""
        assert (
            len((await admin.ok("audit", "ls", "--format=json", "--from=-24h", "--type=user.create")).splitlines()) == 2
        )
        for bad in ("--from=yesterday", "--from=2024-05-31T12:00:00", "--from=-1h", "--from=-24"):
            assert (await admin("audit", "ls", bad, "--to=-2h")).status == 2, bad


async def test_an_export_verifies_and_a_flipped_bit_is_found_at_its_place(tmp_path: Path) -> None:
    """Done-when 4: over the store, over an export, and with the key of the checkpoints; exit status 1 when broken."""
    async with administration(tmp_path) as admin:
        for number in range(5):
            await admin.ok("users", "add", f"user-{number}", "--roles=access")
        await admin.auth.events("user.create", wait_for=5)
        ran = (await admin("audit", "verify")).ok()
        assert "The audit log is whole." in ran.out
        key = tmp_path / "key.pem"
        key.write_text((await admin.json("audit", "verify"))["checkpoint_key"])
        export = tmp_path / "export.jsonl"
        data = (await admin("audit", "ls", "--format=json")).ok().out_bytes
        export.write_bytes(data)
        assert f"{export} is whole" in await admin.ok("audit", "verify", str(export), f"--key={key}")
        store = tmp_path / "data" / "log"
        assert "is whole" in await admin.ok("audit", "verify", str(store), f"--key={key}")
        for nothing in (tmp_path / "data", store / "records"):
            wrong = await admin("audit", "verify", str(nothing))
            assert (wrong.status, wrong.out) == (3, ""), "who names another folder is not told that all is well"
        lines = data.splitlines(keepends=True)
        at = next(number for number, line in enumerate(lines) if b'"user-3"' in line)
        export.write_bytes(b"".join([*lines[:at], lines[at].replace(b'"user-3"', b'"user-2"'), *lines[at + 1 :]]))
        broken = await admin("audit", "verify", str(export))
        assert broken.status == 1
        assert f"NOT whole. The first broken place:\n  export.jsonl:{at + 1} " in broken.out
        export.write_bytes(b"".join([*lines[:at], *lines[at + 1 :]]))
        missing = await admin("audit", "verify", str(export), "--format=json")
        assert (missing.status, json.loads(missing.out)["ok"]) == (1, False)
        day = next(path for path in (store / admin.auth.host_id).iterdir() if path.suffix == ".log")
        kept = day.read_bytes()
        position = kept.index(b"user-3")
        day.write_bytes(kept[:position] + bytes([kept[position] ^ 1]) + kept[position + 1 :])
        found = await admin("audit", "verify")
        assert found.status == 1
        assert f"{admin.auth.host_id}/{day.name}:{kept[:position].count(10) + 1} " in found.out
        day.write_bytes(kept)
        other = tmp_path / "other.pem"
        other.write_bytes(generate_ed25519().pkcs8_pem().reveal())
        assert (await admin("audit", "verify", f"--key={other}")).status == 2, "a private key is no public one"


async def test_an_export_keeps_the_order_of_each_chain(tmp_path: Path) -> None:
    """A host whose clock was set back: in order of time its events stand wrong, in the export they verify."""
    async with administration(tmp_path) as admin:
        node = await admin.auth.host(SystemRole.NODE)
        chain, lines = ChainState(ChainKey(node.host_id, 3)), []
        from datetime import timedelta

        for offset in (50, 10, 30, 20):
            when = admin.auth.clock.now() + timedelta(seconds=offset)
            event = new_event(ServiceStart, when, f"0000000{offset}", services=["node"], cluster_name=CLUSTER)
            line, chain = chain.append(event)
            lines.append(line.decode())
        await admin.auth.call(node, routes.INTAKE, m.IntakeRequest(emitter=node.host_id, epoch=3, lines=lines))
        export = tmp_path / "export.jsonl"
        export.write_bytes((await admin("audit", "ls", "--format=json")).ok().out_bytes)
        kept = [line for line in export.read_text().splitlines() if node.host_id in line and "service" in line]
        receipt = re.compile(r',"received":"[^"]*","receipt":"[0-9a-f]{16}"')
        assert all(receipt.search(line) for line in kept)
        assert [receipt.sub("", line) for line in kept] == lines
        await admin.ok("audit", "verify", str(export))


async def test_failures_have_exit_codes_and_json_forms(tmp_path: Path) -> None:
    """1 failed, 2 usage, 3 not found, 5 denied, 6 unreachable; with --format=json one object on stderr."""
    async with administration(tmp_path) as admin:
        ran = await admin("status", "--auth-server=127.0.0.1:1", "--format=json")
        assert (ran.status, ran.out) == (6, "")
        assert "127.0.0.1:1" in json.loads(ran.err)["message"]
        assert (await admin("users", "add")).status == 2
        assert (await admin("frobnicate")).status == 2
        wrong = await admin("users", "ls", "--format=json", "--frobnicate")
        assert (wrong.status, wrong.out, json.loads(wrong.err)["code"]) == (2, "", "bad_request")
        assert (await admin("recordings", "download", "b7b5cdb9-63ba-4d64-a1b4-9c1a4a7b7b21")).status == 3
        assert (await admin.ok("recordings", "ls")).startswith("Session")
        assert await admin.json("recordings", "ls") == []
    missing = run_command(tctl, "tctl", "status", "-c", str(tmp_path / "missing.yaml"))
    assert missing.status == 3
    home = {"TELEPORT_CONFIG_FILE": "", "TELEPORT_HOME": str(tmp_path / "home")}
    nobody = run_command(tctl, "tctl", "status", environment=home)
    assert nobody.status == 5
    assert "tsh login" in nobody.err
    empty = tmp_path / "empty.yaml"
    empty.write_text(f"teleport: {{data_dir: {tmp_path / 'nothing'}}}\n")
    assert run_command(tctl, "tctl", "status", "-c", str(empty)).status == 3
    empty.write_text("teleport: {data_dirr: x}\n")
    assert run_command(tctl, "tctl", "status", "-c", str(empty)).status == 1


@pytest.mark.parametrize("arguments", [("--help",), ("status",), ("nodes", "ls"), ("audit", "ls"), ("auth", "sign")])
def test_no_command_imports_asyncssh_or_a_web_server(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Starting tctl costs what it needs and no more (done-when 7), also when it fails to connect."""
    script = (
        "import sys\nfrom teleport.cli.tctl.command import tctl\nfrom teleport.testing.commands import run_command\n"
        f"run_command(tctl, 'tctl', *{arguments!r})\n"
        "sys.stdout.write(' '.join(sorted(set(sys.modules) & {'asyncssh', 'aiohttp', 'yaml', 'cryptography'})))"
    )
    environment = {**os.environ, "TELEPORT_CONFIG_FILE": "", "TELEPORT_HOME": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    loaded = set(found.stdout.split())
    assert not loaded & {"asyncssh", "aiohttp"}
    if arguments == ("--help",):
        assert not loaded
