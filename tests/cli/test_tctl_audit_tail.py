"""`tctl audit tail`: nothing is missed whatever is killed, and nothing doubled that was noted."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

from tests.cli.test_tctl_commands import Admin, administration

from teleport.errors import AlreadyExists, BadRequest, NotFound
from teleport.testing.running import wait_until

TCTL = (sys.executable, "-c", "from teleport.cli.tctl.command import main; main()")


def uids(text: str) -> list[str]:
    return [json.loads(line)["uid"] for line in text.splitlines()]


async def all_uids(admin: Admin, *flags: str) -> set[str]:
    """Of what is in the log by now."""
    return set(uids(await admin.ok("audit", "ls", "--format=json", *flags)))


async def user_made(admin: Admin, name: str) -> None:
    """A user, whose event is on disk then: `audit ls` finds what is about to be, too, and `audit tail` does not."""
    await admin.ok("users", "add", name, "--roles=access")
    async with asyncio.timeout(60):
        while True:
            with tempfile.TemporaryDirectory() as folder:
                if name in await admin.ok("audit", "tail", f"--cursor={folder}/cursor", "--type=user.create"):
                    return


async def test_each_run_prints_what_came_since_the_one_before(tmp_path: Path) -> None:
    """From the oldest event, or from now on; the file is private, and holds a cursor."""
    file, late = tmp_path / "cursor", tmp_path / "late"
    async with administration(tmp_path / "auth") as admin:
        tail = ("audit", "tail", f"--cursor={file}", "--format=json", "--type=user.create")
        await user_made(admin, "tail-ann")
        first = await admin.ok(*tail)
        assert [json.loads(line)["name"] for line in first.splitlines()] == ["tail-ann"]
        assert file.stat().st_mode & 0o777 == 0o600
        assert await admin.ok("audit", "tail", f"--cursor={late}", "--from=now") == ""
        await user_made(admin, "tail-bob")
        assert [json.loads(line)["name"] for line in (await admin.ok(*tail)).splitlines()] == ["tail-bob"]
        assert await admin.ok(*tail) == ""
        shown = await admin.ok("audit", "tail", f"--cursor={late}", "--type=user.*")
        assert "user.create" in shown
        assert "tail-bob" in shown
        assert "tail-ann" not in shown


async def test_only_acknowledged_events_are_left_behind(tmp_path: Path) -> None:
    """One line on stdin for each, in order; what was not acknowledged comes again."""
    file = tmp_path / "cursor"
    async with administration(tmp_path / "auth") as admin:
        for name in ("ack-a", "ack-b", "ack-c"):
            await user_made(admin, name)
        tail = ("audit", "tail", f"--cursor={file}", "--format=json", "--type=user.create", "--ack")
        whole = uids(await admin.ok(*tail))
        assert len(whole) == 3
        assert uids(await admin.ok(*tail, stdin=b"1\n2\n")) == whole
        assert uids(await admin.ok(*tail, stdin=b"ok\n")) == whole[2:]
        assert await admin.ok(*tail) == ""


async def test_a_killed_reader_misses_nothing(tmp_path: Path) -> None:
    """Killed at any moment, again and again, while events come: each event is printed by one run at least, and one that
    the cursor covers by no later run."""
    file, out = tmp_path / "cursor", tmp_path / "out"
    async with administration(tmp_path / "auth") as admin:
        command = ("audit", "tail", f"--cursor={file}", "--format=json", "--follow", "--config", admin.config)
        for number in range(4):
            with out.open("ab") as sink:
                process = await asyncio.create_subprocess_exec(*TCTL, *command, stdout=sink)
            before = out.stat().st_size
            await user_made(admin, f"killed-{number}")
            await wait_until(lambda before=before: out.stat().st_size > before, 60)  # type: ignore[misc]
            process.kill()
            await process.wait()
        await user_made(admin, "killed-last")
        known = await all_uids(admin)
        rest = ""
        async with asyncio.timeout(60):  # until what is known is on disk; what was missed would never come
            while not known <= {*uids(out.read_text()), *uids(rest)}:
                rest += await admin.ok("audit", "tail", f"--cursor={file}", "--format=json")
        assert "killed-last" in rest


async def test_two_readers_do_not_share_a_cursor_and_a_broken_one_is_named(tmp_path: Path) -> None:
    file = tmp_path / "cursor"
    async with administration(tmp_path / "auth") as admin:
        tail = ("audit", "tail", f"--cursor={file}", "--follow", "--config", admin.config)
        other = await asyncio.create_subprocess_exec(*TCTL, *tail, stdout=asyncio.subprocess.PIPE)
        try:
            assert other.stdout is not None
            async with asyncio.timeout(60):
                await other.stdout.readline()
            refused = await admin("audit", "tail", f"--cursor={file}")
            assert refused.status == AlreadyExists("").exit_code
            assert "another process reads" in refused.err
        finally:
            other.kill()
            await other.wait()
        file.write_text("nonsense")
        refused = await admin("audit", "tail", f"--cursor={file}")
        assert refused.status == BadRequest("").exit_code
        place = {"auth-gone": ["2021-05-01.00:00:00.log", 0, ""]}
        file.write_text(json.dumps({"version": 1, "stores": place}))
        refused = await admin("audit", "tail", f"--cursor={file}")
        assert refused.status == NotFound("").exit_code
        assert "is not there" in refused.err
