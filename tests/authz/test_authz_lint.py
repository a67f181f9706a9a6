"""What is said about roles, and about which nothing is."""

from __future__ import annotations

from typing import Any

import pytest

from teleport.authz.lint import Level, lint_role
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, ExecMode, FileTransfer, Options, Role, RoleSpec

HELD = FileTransfer(upload=False)


def role(allow: dict[str, Any] | None = None, deny: dict[str, Any] | None = None, **options: Any) -> Role:
    spec = RoleSpec(options=Options(**options), allow=Conditions(**(allow or {})), deny=Conditions(**(deny or {})))
    return Role(metadata=Metadata(name="r"), spec=spec)


@pytest.mark.parametrize(
    "quiet",
    [
        role(),
        role({"logins": ("root",), "node_labels": {"env": ("*",)}}),
        role({"logins": ("web",), "node_labels": {"*": ("*",)}}),
        role(exec=ExecMode.TRANSFER, file_transfer=HELD),
        role(exec=ExecMode.TRANSFER, file_transfer=FileTransfer(upload_paths=("/srv/in/**",))),
        role(commands=("/usr/bin/systemctl restart *", "/usr/bin/git status")),
        role({"forward_to": ("*.db.example.com:5432", "10.0.0.0/8:*", "unix:/run/*.sock")}),
    ],
)
def test_about_a_role_that_means_what_it_says_nothing_is_said(quiet: Role) -> None:
    assert lint_role(quiet) == ()


@pytest.mark.parametrize(
    ("loud", "checks"),
    [
        (role(file_transfer=HELD), ["transfer-advisory"]),
        (role(exec=ExecMode.NONE, file_transfer=HELD), ["transfer-void"]),
        (role(commands=("/bin/uptime",), file_transfer=HELD), ["transfer-void"]),
        (role(exec=ExecMode.TRANSFER), ["transfer-home"]),
        (role(exec=ExecMode.TRANSFER, file_transfer=FileTransfer(download=False, upload_paths=("/a",),
                                                                 download_paths=("/b",))), ["transfer-void"]),
        (role(exec=ExecMode.NONE, commands=("/bin/uptime",)), ["commands-void"]),
        (role(commands=("/bin/sh *",)), ["command-shell"]),
        (role(commands=("/usr/bin/bash",)), ["command-shell"]),
        (role(commands=("/usr/bin/find / **",)), ["command-runner"]),
        (role(commands=("/usr/bin/sudo systemctl restart *",)), ["command-runner"]),
        (role({"forward_to": ("*:22", "0.0.0.0/0:*", "unix:/**")}), ["forward-anywhere"] * 3),
        (role({"logins": ("web", "root"), "node_labels": {"*": ("*",)}}), ["root-everywhere"]),
        (role({"logins": ("a", "b")}, {"logins": ("b",)}), ["denied-anyway"]),
    ],
)  # fmt: skip
def test_what_does_not_hold_its_promise_is_a_warning(loud: Role, checks: list[str]) -> None:
    found = lint_role(loud)
    assert [one.check for one in found] == checks
    assert all(one.level is Level.WARNING and one.role == "r" and one.field and one.message for one in found)


@pytest.mark.parametrize(
    ("told", "check"),
    [
        (role(commands=("uptime",)), "command-path"),
        (role({"logins": ("a", "a")}), "duplicate"),
        (role(exec=ExecMode.TRANSFER, file_transfer=FileTransfer(upload_paths=())), "transfer-void"),
    ],
)
def test_what_is_only_odd_is_a_note(told: Role, check: str) -> None:
    (found,) = lint_role(told)
    assert (found.check, found.level) == (check, Level.NOTE)
