"""Threat T25: every way to ask for something, under every condition. A row without a way here fails.

`WAYS` has one entry for each row of the table that a role can allow or refuse: how to ask for it with the real `ssh`,
the role that allows it, and roles that do not. What refuses the connection refuses every way at once; tried, too.
"""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace as replace_fields

from teleport.authz.channel_table import TABLE, AskedKind, Rule
from teleport.authz.decision import ClusterDefaults
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.role import ExecMode, FileTransfer, Options
from teleport.testing.clock import FakeClock
from teleport.testing.ssh_lab import Authorities, Lab, LabUser, Ran, run_client, running_lab

ME = getpass.getuser()
ASKED_OF_ROLES = {Rule.START, Rule.LOCAL_FORWARD, Rule.REMOTE_FORWARD, Rule.AGENT, Rule.X11}
Attempt = Callable[[Lab, Path, LabUser], Awaitable[Ran]]


@dataclass(frozen=True)
class Terms:
    """What a role says: changes of its options, of `allow` and of `deny`."""

    options: Mapping[str, Any] = field(default_factory=dict)
    allow: Mapping[str, Any] = field(default_factory=dict)
    deny: Mapping[str, Any] = field(default_factory=dict)

    def put(self, lab: Lab) -> None:
        spec = lab.rules.role.spec
        spec = replace_fields(
            spec,
            options=Options(**self.options),
            allow=replace_fields(spec.allow, **self.allow),
            deny=replace_fields(spec.deny, **self.deny),
        )
        lab.rules.role = replace_fields(lab.rules.role, spec=spec)


@dataclass(frozen=True)
class Way:
    """`attempt` prints `in` and ends with 0 when it was let through. `record` is the event of a refusal."""

    attempt: Attempt
    denied: Mapping[str, Terms]
    allowed: Terms = Terms()
    record: str = "session.request_denied"


def ssh(*arguments: str, stdin: bytes = b"") -> Attempt:
    async def attempt(lab: Lab, folder: Path, user: LabUser) -> Ran:
        config = lab.client_config(folder, user, ME)
        return await run_client("ssh", "-F", str(config), *arguments, stdin=stdin)

    return attempt


async def sftp(lab: Lab, folder: Path, user: LabUser) -> Ran:
    (folder / "in").touch()
    config = lab.client_config(folder, user, ME)
    return await run_client("sftp", "-F", str(config), "-b", "-", "direct", stdin=f"ls {folder}/in\n".encode())


_EXEC = {
    "exec: none": Terms({"exec": ExecMode.NONE}),
    "exec: transfer": Terms({"exec": ExecMode.TRANSFER}),
    "another command": Terms({"commands": ("uptime",)}),
}

WAYS: dict[tuple[AskedKind, str], Way] = {
    (AskedKind.SESSION_REQUEST, "shell"): Way(ssh("-T", "direct", stdin=b"echo in\n"), _EXEC),
    (AskedKind.SESSION_REQUEST, "subsystem"): Way(
        sftp,
        {
            "exec: none": _EXEC["exec: none"],
            "only commands": _EXEC["another command"],
            "neither way": Terms(
                {"exec": ExecMode.TRANSFER, "file_transfer": FileTransfer(download=False, upload=False)}
            ),
        },
        Terms({"exec": ExecMode.TRANSFER}),
    ),
    (AskedKind.SESSION_REQUEST, "exec"): Way(ssh("direct", "echo", "in"), _EXEC, Terms({"commands": ("echo *",)})),
}


def test_every_row_that_roles_decide_about_has_a_way() -> None:
    rows = {(row.kind, row.name) for row in TABLE if row.rule in ASKED_OF_ROLES}
    assert rows == set(WAYS), "say in WAYS how the row is asked for, and which roles allow and refuse it"
    assert all(way.denied for way in WAYS.values())


@pytest.mark.parametrize("way", WAYS.values(), ids=[name for _, name in WAYS])
async def test_a_way_is_open_to_a_role_that_allows_it_and_closed_to_others(
    launcher_end: LauncherEnd, tmp_path: Path, way: Way
) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        user, former = lab.authorities.user([ME]), lab.rules.role
        way.allowed.put(lab)
        ran = await way.attempt(lab, tmp_path, user)
        assert (ran.status, b"in" in ran.stdout) == (0, True), ran.stderr
        for number, (name, terms) in enumerate(way.denied.items(), 1):
            lab.rules.role = former
            terms.put(lab)
            ran = await way.attempt(lab, tmp_path, user)
            assert b"in" not in ran.stdout, name
            assert ran.status != 0, name
            assert "Traceback" not in ran.stderr, name
            await lab.events.wait_for(way.record, number)


def _wrong_label(lab: Lab) -> None:
    Terms(allow={"node_labels": {"env": ("another",)}}).put(lab)


def _no_rule(lab: Lab) -> None:
    Terms(allow={"logins": (), "node_labels": None}).put(lab)


def _denied(lab: Lab) -> None:
    Terms(deny={"logins": (ME,)}).put(lab)


def _locked(lab: Lab) -> None:
    lab.rules.locked = [Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(user="alice")))]


def _factor_due(lab: Lab) -> None:
    lab.rules.cluster = ClusterDefaults(require_session_mfa=True)


def _expired(lab: Lab) -> None:
    lab.authorities.clock = lab.node.clock = FakeClock(lab.node.clock.now() + timedelta(hours=2))


CONDITIONS: dict[str, Callable[[Lab], object]] = {
    "no rule": _no_rule,
    "a role denies": _denied,
    "wrong login": lambda lab: None,
    "wrong label": _wrong_label,
    "expired": _expired,
    "locked": _locked,
    "a second factor is due": _factor_due,
    "wrong cluster": lambda lab: None,
}


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize(
    "name", [name if place < 2 else pytest.param(name, marks=pytest.mark.long) for place, (_, name) in enumerate(WAYS)]
)
async def test_what_refuses_a_connection_refuses_every_way(
    launcher_end: LauncherEnd, tmp_path: Path, condition: str, name: str
) -> None:
    (way,) = (way for (_, called), way in WAYS.items() if called == name)
    async with running_lab(Launcher(launcher_end)) as lab:
        way.allowed.put(lab)
        authorities = Authorities("another.test") if condition == "wrong cluster" else lab.authorities
        user = authorities.user(["nobody" if condition == "wrong login" else ME])
        CONDITIONS[condition](lab)
        ran = await way.attempt(lab, tmp_path, user)
        assert ran.status == 255
        assert b"in" not in ran.stdout
        assert "Traceback" not in ran.stderr
        await lab.events.wait_for("auth")
        assert lab.node.connections == 0
        assert not lab.events.named("session.start")
