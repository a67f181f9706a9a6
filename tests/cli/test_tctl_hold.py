"""`tctl hold`: the administrator on the auth host holds and lets go, with a reason, on record."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.test_tctl_commands import administration

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied


async def test_holds_are_made_listed_and_removed_with_a_reason(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        made = await admin.json("hold", "add", "--user=eve", "--from=2024-05-01", "--to=2024-05-31", "--reason=case 7")
        assert (made["user"], made["end"]) == ("eve", "2024-06-01T00:00:00Z")
        shown = await admin.ok("hold", "ls")
        assert "user eve, from 2024-05-01 00:00:00, to 2024-06-01 00:00:00" in shown
        assert "case 7" in shown
        await admin.ok("hold", "rm", made["id"], "--reason=closed")
        assert await admin.json("hold", "ls") == []
        (created,) = await admin.auth.events("hold.created")
        (deleted,) = await admin.auth.events("hold.deleted")
        assert (created["held_user"], created["reason"], created["hold"]) == ("eve", "case 7", made["id"])
        assert (deleted["hold"], deleted["reason"], deleted["held_user"]) == (made["id"], "closed", "eve")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "--reason=x"), "a hold of nothing"),
        (("add", "--user=eve", "--reason= "), "has a reason"),
        (("add", "--user=" + "e" * 300, "--reason=x"), "at most 256"),
        (("add", "--user=eve"), "--reason"),
        (("rm", "nothing", "--reason=x"), "there is no hold"),
        (("rm", "nothing"), "--reason"),
    ],
)
async def test_a_hold_with_a_mistake_is_not_made(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    async with administration(tmp_path) as admin:
        refused = await admin("hold", *arguments)
        assert refused.status != 0
        assert words in refused.err
        assert await admin.json("hold", "ls") == []


async def test_no_certificate_of_a_host_or_user_holds_or_lets_go(tmp_path: Path) -> None:
    """With roles that may do everything else, too; each refusal is on record."""
    async with administration(tmp_path) as admin:
        made = await admin.json("hold", "add", "--session=s-1", "--reason=case 7")
        editor = await admin.auth.user("holder", roles=("editor", "auditor", "access"))
        for route, request in (
            (routes.ADD_HOLD, m.AddHoldRequest(user="x", reason="y")),
            (routes.LIST_HOLDS, m.Empty()),
            (routes.REMOVE_HOLD, m.RemoveHoldRequest(id=made["id"], reason="y")),
        ):
            with pytest.raises(AccessDenied):
                await admin.auth.call(editor, route, request)
        assert len(await admin.json("hold", "ls")) == 1
        assert {event["route"] for event in await admin.auth.events("api.denied", wait_for=3)} == {
            "add_hold",
            "list_holds",
            "remove_hold",
        }
