"""`tctl auth rotate` and what `tctl status` says meanwhile, against a real auth service."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tests.auth.test_auth_rotation import announce
from tests.cli.test_tctl_commands import Admin, administration

from teleport.cli.tctl.command import tctl
from teleport.identity import SystemRole
from teleport.testing.commands import Ran, run_command


async def followed(admin: Admin) -> None:
    """The daemon follows: tctl finds new certificates in data_dir."""
    await admin.auth.follow_rotation()
    admin.config = str(await admin.auth.local_config())


async def rows(admin: Admin) -> list[tuple[str, str]]:
    lines = (await admin.ok("status")).splitlines()
    return [(name, value) for name, _, value in (re.split(r"(  +)", line, maxsplit=1) for line in lines)]


async def test_a_manual_rotation_goes_phase_by_phase_and_status_shows_both_pins(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        old = dict(await rows(admin))["CA pin"]
        said = await admin.ok("auth", "rotate", "--type=host", "--manual")
        assert said == (
            "the host authority: init. Next: tctl auth rotate --type=host --manual --phase=update_clients\n"
        )
        new = ""
        for phase, words in (
            ("", "initialized (mode: manual, started: "),
            ("update_clients", "rotating clients (mode: manual, started: "),
            ("update_servers", "rotating servers (mode: manual, started: "),
        ):
            if phase:
                assert f"the host authority: {phase}." in await admin.ok(
                    "auth", "rotate", f"--phase={phase}", "--type=host"
                )
            await followed(admin)
            shown = await rows(admin)
            assert dict(shown)["Host CA"].startswith(words)
            pins = {value.split("  ")[1]: value.split("  ")[0] for name, value in shown if name == "CA pin"}
            assert set(pins) == {"(old)", "(new)"}
            assert pins["(old)"] == old
            assert new in ("", pins["(new)"])
            new = pins["(new)"]
        said = await admin.ok("auth", "rotate", "--type=host", "--phase=standby")
        assert said.startswith("the host authority: standby, rotated ")
        await followed(admin)
        assert [value for name, value in await rows(admin) if name == "CA pin"] == [new]


async def test_a_rotation_by_itself_says_when_what_happens(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        said = await admin.ok("auth", "rotate", "--grace-period=3h")
        assert len(said.splitlines()) == 3
        for kind in ("host", "user", "jwt"):
            assert re.search(rf"the {kind} authority: init, going on by itself: update_clients at [^,]+ UTC, upd", said)
        shown = dict(await rows(admin))
        assert "(mode: auto, started: " in shown["User CA"]
        assert "update_clients at " in shown["User CA"]
        assert "ending: " in shown["User CA"]
        assert "User schedule  update_clients at " in await admin.ok("status", "-d")
        (user,) = [one for one in (await admin.json("status"))["authorities"] if one["kind"] == "user"]
        assert (user["phase"], user["mode"], user["grace_period"]) == ("init", "auto", 3 * 3600)
        assert set(user["schedule"]) == {"update_clients", "update_servers", "standby"}


async def test_one_command_rolls_back_from_any_phase(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        old = dict(await rows(admin))["CA pin"]
        for phases in ((), ("update_clients",), ("update_clients", "update_servers")):
            await admin.ok("auth", "rotate", "--manual")
            for phase in phases:
                await admin.ok("auth", "rotate", f"--phase={phase}")
                await followed(admin)
            said = await admin.ok("auth", "rotate", "--rollback")
            assert said.count(": standby, never updated. One set of keys is trusted.") == 3
            await followed(admin)
            assert [value for name, value in await rows(admin) if name == "CA pin"] == [old]
        refused = await admin("auth", "rotate", "--rollback")
        assert (refused.status, "nothing to roll back" in refused.err) == (2, True)


async def test_who_is_missing_is_named_and_a_rollback_that_waited_in_vain_can_be_repeated(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        node = await admin.auth.host(SystemRole.NODE)
        await announce(admin.auth, node)
        await admin.ok("auth", "rotate", "--type=host", "--manual")
        waiting = dict(await rows(admin))["Waiting for"]
        assert waiting == f"node web1 ({node.host_id}), host authority: reports no phase"
        refused = await admin("auth", "rotate", "--type=host", "--phase=update_clients", "--wait=0")
        assert refused.status == 1
        assert "a live service has not reached the phase init of the host authority yet: node web1" in refused.err
        assert "--force" in refused.err
        await admin.ok("auth", "rotate", "--type=host", "--phase=update_clients", "--force")
        await followed(admin)
        stuck = await admin("auth", "rotate", "--rollback", "--wait=0")
        assert stuck.status == 1
        assert "the old keys sign again, but the new ones are still trusted" in stuck.err
        assert "tctl auth rotate --rollback --force" in stuck.err
        await announce(admin.auth, node, reached="host=rollback")
        assert "standby" in await admin.ok("auth", "rotate", "--rollback", "--wait=0")


async def test_tctl_waits_for_hosts_that_are_about_to_follow(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        node = await admin.auth.host(SystemRole.NODE)
        await announce(admin.auth, node, reached="host=standby")
        await admin.ok("auth", "rotate", "--type=host", "--manual")

        def run() -> Ran:
            step = ("auth", "rotate", "--type=host", "--phase=update_clients", "--wait=30s")
            return run_command(tctl, "tctl", *step, "--config", admin.config)

        stepping = asyncio.create_task(asyncio.to_thread(run))
        await asyncio.wait([stepping], timeout=0.3)
        assert not stepping.done()
        await announce(admin.auth, node, reached="host=init")
        assert (await stepping).ok().out.startswith("the host authority: update_clients.")


async def test_what_contradicts_itself_is_a_mistake(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        for flags in (
            ("--rollback", "--manual"), ("--rollback", "--phase=standby"), ("--plan", "--force"),
            ("--plan", "--manual"),
            ("--type=hosts",), ("--phase=later",), ("--grace-period=soon",),
            ("--grace-period=2161h",),
        ):  # fmt: skip
            refused = await admin("auth", "rotate", *flags)
            assert refused.status == 2, (flags, refused)
            assert "hint" in refused.err
        assert dict(await rows(admin))["Host CA"] == "never updated"


async def test_the_plan_lists_who_would_be_left_behind_and_changes_nothing(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        auth = admin.auth
        follows, off = await auth.host(SystemRole.NODE, name="follows"), await auth.host(SystemRole.NODE, name="off")
        await announce(auth, follows, name="follows", reached="host=standby")
        await auth.user("alice", ["access"], ttl=400 * 3600)
        said = await admin("auth", "rotate", "--plan", "--type=host", "--type=user")
        lines = said.ok().out.splitlines()
        assert lines[0].startswith("The present keys of the host authority would end, if a rotation began now, at ")
        table = [line for line in lines if line.startswith(("host ", "user "))]
        assert any(off.host_id in line and "not announced: it is off" in line for line in table), table
        assert any("user alice" in line and line.startswith("user ") for line in table), table
        assert not any(follows.host_id in line for line in table), table
        assert f"tctl nodes rm {off.host_id}" in said.err
        assert dict(await rows(admin))["Host CA"] == "never updated"
        for flags, words in (
            ((), "The old keys of the host authority end when somebody asks for the phase standby."),
            (("--rollback",), "The present keys of the host authority would end, if a rotation began now, at"),
            (("--grace-period=3h",), "The old keys of the host authority end at 20"),
        ):
            if flags == ("--rollback",):
                await announce(auth, follows, name="follows", reached="host=init")
            await admin.ok("auth", "rotate", "--type=host", *(flags or ("--manual",)), *(["--force"] if flags else []))
            assert words in await admin.ok("auth", "rotate", "--plan", "--type=host")
        found = await admin.json("auth", "rotate", "--plan", "--type=host")
        assert {one["subject"] for one in found["left_behind"] if one["type"] == "host"} >= {off.host_id}
