"""What begins in a session where the proxy records, and what is told and put on record of what does not."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest
from tests.proxy.test_proxy_recording_connection import ANN, LIMITED, OPEN

from teleport.authz.channels import ChannelTerms
from teleport.identity import UserIdentity
from teleport.proxy.recording.beginning import NotBegun, may_set, why_not_begun
from teleport.proxy.recording.facts import Facts
from teleport.proxy.recording.needs import RecordingConfig
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.ssh.surface import Exec, Peer, ServerLimits, Shell, Start, Subsystem

FORCED = replace(ANN, force_command="id")


def asked(
    what: Start, user: UserIdentity = ANN, terms: ChannelTerms = OPEN, *, agentless: bool = True, joining: bool = False
) -> NotBegun | None:
    node = Server(
        sub_kind="openssh" if agentless else "",
        metadata=Metadata(name=str(uuid.uuid4())),
        spec=ServerSpec(addr="192.0.2.1:22", hostname="web"),
    )
    config = RecordingConfig("c", uuid.uuid4(), "proxy", ServerLimits())
    return why_not_begun(what, Facts(config, node, Peer("192.0.2.7", 1), user, "root"), terms, joining=joining)


@pytest.mark.parametrize("what", [Shell(), Exec("id"), Subsystem("sftp")])
def test_what_the_roles_allow_begins(what: Start) -> None:
    assert asked(what) is None


@pytest.mark.parametrize(
    ("found", "on_record", "reason"),
    [
        (asked(Shell(), joining=True), "join", "not joined"),
        (asked(Exec("id"), FORCED, joining=True), "join", "not joined"),
        (asked(Exec("")), "", ""),
        (asked(Exec("a\0b")), "", ""),
        (asked(Exec("id"), terms=LIMITED.channels), "exec", "has exec"),
        (asked(Shell(), terms=LIMITED.channels), "shell", "has exec"),
        (asked(Subsystem("netconf")), "subsystem netconf", "not offered"),
        (asked(Subsystem("sftp"), terms=LIMITED.channels), "subsystem sftp", "limit transfers"),
        (asked(Shell(), FORCED), "shell", "forces a command"),
        (asked(Exec("id"), FORCED), "exec", "forces a command"),
        (asked(Subsystem("sftp"), FORCED), "subsystem sftp", "forces a command"),
        (asked(Subsystem("sftp"), FORCED, agentless=False), "subsystem sftp", "forces a command"),
    ],
)
def test_what_does_not_begin_is_told_and_put_on_record(found: NotBegun | None, on_record: str, reason: str) -> None:
    """A command that nobody could run is told alone; all else is on record, too, under what was asked for."""
    assert found is not None
    assert found.told.message
    assert found.asked == on_record
    assert (reason in found.reason) if reason else not found.reason


def test_a_node_service_holds_to_limits_of_transfers_by_itself() -> None:
    assert asked(Subsystem("sftp"), terms=LIMITED.channels, agentless=False) is None


@pytest.mark.parametrize(
    ("name", "value", "may"),
    [
        ("LANG", "de_DE.UTF-8", True),
        ("LC_ALL", "", True),
        ("TERM", "xterm-256color", True),
        ("LD_PRELOAD", "/tmp/x.so", False),
        ("LC_ALL\n", "C", False),
        ("LANG", "C\nLD_PRELOAD=/tmp/x.so", False),
        ("LANG", "C" * 257, False),
        ("BASH_ENV", "x", False),
    ],
)
def test_a_client_sets_locale_and_terminal_alone(name: str, value: str, may: bool) -> None:
    assert may_set(name, value) is may
