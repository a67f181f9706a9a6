"""`tctl apply` as a script, against a real auth service: what is printed, exit codes, and what is never touched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from tests.cli.test_tctl_commands import Admin, administration

from teleport.api import messages as m
from teleport.api import routes
from teleport.cli.tctl.apply import WOULD_CHANGE
from teleport.errors import AccessDenied, BadRequest, NotFound
from teleport.resources.applying import SET_LABEL
from teleport.resources.authority import RoleMapping
from teleport.resources.codec import from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.secret import SecretText
from teleport.resources.trusted_cluster import TrustedCluster, TrustedClusterSpec
from teleport.resources.user import User, UserSpec
from teleport.testing.auth import Credentials

USER = "kind: user\nversion: v2\nmetadata: {name: ada}\nspec: {roles: [night], traits: {logins: [ada]}}\n"
ROLE = "kind: role\nversion: v4\nmetadata: {name: night}\nspec: {allow: {logins: [root], node_labels: {env: dev}}}\n"
REST = """\
kind: cluster_networking_config
version: v2
metadata: {name: cluster-networking-config}
spec: {client_idle_timeout: 30m}
---
kind: lock
version: v2
metadata: {name: no-mallory}
spec: {target: {user: mallory}}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Users stand before the roles that they refer to."""
    folder = tmp_path / "state"
    (folder / "deeper" / ".git").mkdir(parents=True)
    (folder / "a-users.yaml").write_text(USER)
    (folder / "deeper" / "roles.yml").write_text(ROLE)
    (folder / "z.json").write_text(json.dumps([{"kind": "role", "version": "v4", "metadata": {"name": "plain"}}]))
    (folder / "rest.yaml").write_text(REST)
    (folder / "README.md").write_text("not: [a document")
    (folder / "deeper" / ".git" / "config.yaml").write_text("not: [a document")
    return folder


async def names(admin: Admin, kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in await admin.json("get", kind)}


async def test_a_directory_is_applied_once_and_then_there_is_nothing_to_do(tmp_path: Path, files: Path) -> None:
    """The dry run tells what would be, with an exit code of its own; what was done is not done again."""
    async with administration(tmp_path / "auth") as admin:
        dry = await admin("apply", "-f", str(files), "--dry-run")
        assert dry.status == WOULD_CHANGE, dry
        assert "role 'night' would be created\n" in dry.out
        assert '  + spec.allow.logins: ["root"]\n' in dry.out
        assert dry.out.index("role 'night'") < dry.out.index("user 'ada'")
        assert dry.out.endswith("5 resources would be changed, 0 as the documents say\n")
        assert "ada" not in await names(admin, "users")

        done = await admin.ok("apply", "-f", str(files))
        assert "cluster_networking_config 'cluster-networking-config' has been changed\n" in done
        assert done.endswith("5 resources have been changed, 0 as the documents say\n")
        assert {"ada"} <= await names(admin, "users")

        again = "0 resources have been changed, 5 as the documents say\n"
        assert await admin.ok("apply", "-f", str(files)) == again
        assert (await admin("apply", "-f", str(files), "--dry-run")).ok().out == again.replace("have been", "would be")
        # what tctl prints can be applied again
        printed = await admin.ok("get", "role/night,user/ada,netconfig,lock/no-mallory")
        assert (await admin("apply", "-f", "-", "--dry-run", stdin=printed.encode())).ok()


async def test_one_changed_field_is_the_difference(tmp_path: Path, files: Path) -> None:
    """As text and as JSON; what documents do not decide is none, and stays."""
    async with administration(tmp_path / "auth") as admin:
        await admin.ok("apply", "-f", str(files))
        await admin.ok("users", "update", "ada", "--set-roles=night,plain")
        (files / "deeper" / "roles.yml").write_text(ROLE.replace("env: dev", "env: [dev, prod]"))
        ran = await admin("apply", "-f", str(files), "--dry-run")
        assert ran.status == WOULD_CHANGE
        assert ran.out.splitlines() == [
            "role 'night' would be changed",
            '  - spec.allow.node_labels.env: ["dev"]',
            '  + spec.allow.node_labels.env: ["dev", "prod"]',
            "user 'ada' would be changed",
            '  - spec.roles: ["night", "plain"]',
            '  + spec.roles: ["night"]',
            "2 resources would be changed, 3 as the documents say",
        ]
        shown = json.loads((await admin("apply", "-f", str(files), "--dry-run", "--format=json")).out)
        changed = {one["name"]: one["fields"] for one in shown["resources"] if one["change"] == "update"}
        assert changed["ada"] == [{"path": "spec.roles", "before": ["night", "plain"], "after": ["night"]}]
        assert (shown["dry_run"], shown["set"]) == (True, "default")
        done = await admin.json("apply", "-f", str(files))
        assert [one["name"] for one in done["resources"] if one["change"] == "update"] == ["night", "ada"]
        ada = (await admin.json("get", "user/ada"))[0]
        assert ada["spec"]["created_by"]["user"]["name"]
        assert ada["metadata"]["labels"] == {SET_LABEL: "default"}


async def test_bad_input_changes_nothing_and_every_mistake_is_named(tmp_path: Path, files: Path) -> None:
    """Mistakes of several files, references that lead nowhere, kinds that are not applied, what auth would refuse."""
    async with administration(tmp_path / "auth") as admin:
        roles = await names(admin, "roles")

        async def refused(text: str, *words: str, status: int = 2, flags: tuple[str, ...] = ()) -> None:
            (files / "bad.yaml").write_text(text)
            ran = await admin("apply", "-f", str(files), *flags)
            assert ran.status == status, ran
            assert all(word in ran.err for word in words), ran.err
            assert ran.out == ""
            assert await names(admin, "roles") == roles

        (files / "worse.yml").write_text("kind: role\nversion: v4\nmetadata: {name: x}\nspec: {alow: {}}\n")
        await refused(
            "kind: user\nversion: v2\nmetadata: {name: eve}\nspec: {role: [x]}\n", "bad.yaml:4", "worse.yml:4"
        )
        (files / "worse.yml").unlink()
        await refused(
            USER.replace("{name: ada}", "{name: eve}").replace("night", "nowhere"),
            "user 'eve': there is no role 'nowhere'",
        )
        await refused(ROLE, "role 'night' stands in", "bad.yaml")
        secret = "a-secret-of-a-token-long-enough"
        token = f"kind: token\nversion: v2\nmetadata: {{name: {secret}}}\nspec: {{roles: [Node]}}\n"
        (files / "bad.yaml").write_text(token)
        ran = await admin("apply", "-f", str(files))
        assert (ran.status, secret in ran.err, "tctl tokens add" in ran.err) == (2, False, True), ran
        hash_ = "kind: user\nversion: v2\nmetadata: {name: eve}\nspec: {local_auth: {password_hash: x}}\n"
        await refused(hash_, "leave spec.local_auth away")
        # auth itself: nobody would be left who may edit roles, and a name that other clusters' users have
        await admin.ok("users", "add", "boss", "--roles=editor")
        await refused(
            "kind: lock\nversion: v2\nmetadata: {name: l}\nspec: {target: {user: boss}}\n", "nothing was changed"
        )
        await refused(USER.replace("name: ada", "name: remote-x-y"), "remote-")
        await refused(REST.split("---")[0], "stands in")
        await refused("", flags=("--set=../x",))


async def test_prune_takes_away_only_what_the_set_made(tmp_path: Path, files: Path) -> None:
    """People's own, presets, settings and other sets' stay, also where a file once said them; users go before roles."""
    async with administration(tmp_path / "auth") as admin:
        own = ROLE.replace("name: night", "name: own")
        await admin.ok("create", stdin=own.encode())
        (files / "own.yaml").write_text(own.replace("root", "ubuntu"))
        preset = await admin.ok("get", "role/access")
        (files / "preset.yaml").write_text(preset)
        other = ROLE.replace("name: night", "name: other")
        await admin.ok("apply", "-f", "-", "--set=other", stdin=other.encode())
        assert "role 'own' has been changed" in await admin.ok("apply", "-f", str(files), "--prune")
        assert await names(admin, "roles") >= {"own", "night", "plain", "other", "access", "auditor", "editor"}

        # a role that somebody outside of the set holds is not taken away, nor is anything else
        await admin.ok("users", "add", "zoe", "--roles=night")
        for gone in ("a-users.yaml", "deeper/roles.yml", "own.yaml", "preset.yaml", "rest.yaml"):
            (files / gone).unlink()
        held = await admin("apply", "-f", str(files), "--prune")
        assert (held.status, "role 'night' would be removed, and users have it" in held.err) == (2, True), held
        assert {"ada", "zoe"} <= await names(admin, "users")
        await admin.ok("users", "rm", "zoe")

        assert (await admin("apply", "-f", str(files), "--dry-run")).ok().out.startswith("0 resources")
        dry = await admin("apply", "-f", str(files), "--prune", "--dry-run")
        assert dry.status == WOULD_CHANGE
        done = await admin.ok("apply", "-f", str(files), "--prune")
        assert [line for line in done.splitlines() if not line.startswith(" ")] == [
            "lock 'no-mallory' has been removed",
            "user 'ada' has been removed",
            "role 'night' has been removed",
            "3 resources have been changed, 1 as the documents say",
        ]
        left = await names(admin, "roles")
        assert "night" not in left
        assert left >= {"own", "plain", "other", "access", "auditor", "editor"}
        setting = (await admin.json("get", "netconfig"))[0]
        assert setting["spec"]["client_idle_timeout"] == "30m0s"
        # one set at most has a resource
        taken = await admin("apply", "-f", "-", stdin=other.encode())
        assert (taken.status, "--set=other" in taken.err) == (2, True), taken
        # a directory without documents is a mistake, not a wish to remove everything
        (files / "z.json").unlink()
        empty = await admin("apply", "-f", str(files), "--prune")
        assert (empty.status, "has no documents" in empty.err) == (2, True), empty


async def test_somebody_without_the_right_changes_nothing(tmp_path: Path, files: Path) -> None:
    """Neither where one may read nothing, nor where one may write roles and no users."""
    async with administration(tmp_path / "auth") as admin:
        seen = "{resources: [role, user, lock, cluster_networking_config], verbs: [list, read]}"
        rules = f"[{seen}, {{resources: [role], verbs: ['*']}}]"
        roles = f"kind: role\nversion: v4\nmetadata: {{name: half}}\nspec: {{allow: {{rules: {rules}}}}}\n"
        await admin.ok("create", stdin=roles.encode())
        for name, role in (("pat", "access"), ("hal", "half")):
            await admin.ok("users", "add", name, f"--roles={role}")
            await admin.ok("auth", "sign", f"--user={name}", f"--out={tmp_path / name}")
            ran = await admin("apply", "-f", str(files), f"--identity={tmp_path / name}")
            assert ran.status == 5, ran
            assert not {"night", "plain"} & await names(admin, "roles")


async def test_what_auth_is_asked_to_check_it_does_not_write(tmp_path: Path) -> None:
    """A resource, a setting and another cluster: refused as storing it would be, and nothing is there afterwards."""
    async with administration(tmp_path) as admin:
        who = await admin.auth.admin()
        spec = TrustedClusterSpec(
            enabled=True,
            token=SecretText("t" * 32),
            web_proxy_addr="127.0.0.1:1",
            role_map=(RoleMapping(remote="*", local=("nowhere",)),),
        )
        cluster = TrustedCluster(metadata=Metadata(name="root.example.com"), spec=spec)
        found = await admin.auth.call(
            who, routes.GET["cluster_networking_config"], m.GetRequest(name="cluster-networking-config")
        )
        setting = from_json(bytes(found.item))
        setting = msgspec.structs.replace(setting, spec=msgspec.structs.replace(setting.spec, keep_alive_count_max=9))
        for one in (cluster, setting):
            item = m.Document(to_json(one, with_secrets=True))
            await admin.auth.call(who, routes.STORE[one.kind], m.StoreRequest(item=item, check=True))
        assert await names(admin, "tc") == set()
        assert "keep_alive_count_max" not in str(await admin.json("get", "netconfig"))


EDITOR = "kind: user\nversion: v2\nmetadata: {name: NAME}\nspec: {roles: [chief]}\n"
CHIEF = """\
kind: role
version: v4
metadata: {name: chief}
spec: {allow: {rules: [{resources: [role], verbs: ['*']}]}}
"""


async def test_a_removal_that_auth_would_refuse_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """Of two administrators each may go alone, both may not; nor may one go while the other loses the right."""
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / "roles.yaml").write_text(CHIEF)
    for name in ("ann", "ben"):
        (folder / f"{name}.yaml").write_text(EDITOR.replace("NAME", name))
    async with administration(tmp_path / "auth") as admin:
        await admin.ok("apply", "-f", str(folder))
        for name in await names(admin, "users") - {"ann", "ben"}:
            await admin.ok("users", "rm", name)

        async def refused(*options: str) -> None:
            ran = await admin("apply", "-f", str(folder), "--prune", *options)
            assert (ran.status, "nobody would be left who may edit roles" in ran.err) == (2, True), ran
            assert "nothing was changed" in ran.err
            assert await names(admin, "users") == {"ann", "ben"}
            assert "night" not in await names(admin, "roles")
            assert (await admin.json("get", "user/ben"))[0]["spec"]["roles"] == ["chief"]

        (folder / "night.yaml").write_text(ROLE)
        (folder / "ann.yaml").unlink()
        (folder / "ben.yaml").unlink()
        for options in ((), ("--dry-run",)):
            await refused(*options)
        (folder / "ben.yaml").write_text(EDITOR.replace("NAME", "ben").replace("chief", "night"))
        await refused()
        (folder / "ben.yaml").write_text(EDITOR.replace("NAME", "ben"))
        done = await admin.ok("apply", "-f", str(folder), "--prune")
        assert "user 'ann' has been removed\n" in done
        assert await names(admin, "users") == {"ben"}


async def test_what_auth_is_asked_to_check_it_does_not_remove(tmp_path: Path, files: Path) -> None:
    """What goes along counts as done; others than those who might remove it are refused."""
    async with administration(tmp_path / "auth") as admin:
        await admin.ok("apply", "-f", str(files))
        who = await admin.auth.admin()

        async def ask(
            kind: str, name: str, *, by: Credentials = who, along: bytes = b"[]", removed: Sequence[str] = ()
        ) -> None:
            asked = m.CheckRemovalRequest(kind=kind, name=name, along=m.Document(along), removed=list(removed))
            await admin.auth.call(by, routes.CHECK_REMOVAL, asked)

        for kind, name in (("user", "ada"), ("lock", "no-mallory"), ("role", "plain")):
            await ask(kind, name)
            assert name in await names(admin, kind)
        with pytest.raises(BadRequest, match="'night' is held by ada"):
            await ask("role", "night")
        await ask("role", "night", removed=["ada"])
        await admin.ok("users", "update", "ada", "--set-roles=plain")
        ada = to_json(User(metadata=Metadata(name="ada"), spec=UserSpec(roles=("night",))))
        await ask("role", "night")
        with pytest.raises(BadRequest, match="'night' is held by ada"):
            await ask("role", "night", along=b"[" + ada + b"]")
        found = await admin.auth.call(
            who, routes.GET["cluster_networking_config"], m.GetRequest(name="cluster-networking-config")
        )
        for kind, along in (("role", b"[" + bytes(found.item) + b"]"), ("role", b"{}"), ("node", b"[]"), ("x", b"[]")):
            with pytest.raises(BadRequest):
                await ask(kind, "night", along=along)
        nobody = await admin.auth.user("pat", ["access"])
        with pytest.raises(AccessDenied):
            await ask("user", "ada", by=nobody)
        with pytest.raises(AccessDenied):  # what goes along is not looked at before
            await ask("user", "ada", by=nobody, along=b"{}")
        for kind in ("user", "trusted_cluster"):
            with pytest.raises(NotFound):
                await ask(kind, "nobody")
            with pytest.raises(AccessDenied):
                await ask(kind, "nobody", by=nobody)
        assert await names(admin, "roles") >= {"night", "plain"}
