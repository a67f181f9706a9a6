"""`tctl backup` as a script: where passphrases and keys come from, what is refused, and what is left when it fails."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.test_tctl_commands import administration

from teleport.cli.tctl.command import tctl
from teleport.testing.commands import run_command

PASSPHRASE = b"nine wild otters on a train\n"


def left_of(backup: Path) -> list[str]:
    """What an attempt to write a file left behind."""
    return [
        path.name for path in backup.parent.iterdir() if path.name == backup.name or f".{backup.name}." in path.name
    ]


async def test_a_passphrase_comes_from_stdin_or_a_file_and_is_a_long_one(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        await admin.auth.person("person")
        backup, secret = tmp_path / "b", tmp_path / "secret"
        secret.write_bytes(PASSPHRASE)
        nobody = await admin("backup", "create", str(backup))
        assert (nobody.status, "nobody to ask" in nobody.err) == (2, True)
        short = await admin("backup", "create", str(backup), "--passphrase-file=-", stdin=b"short\n")
        assert (short.status, "12 characters or more" in short.err) == (2, True)
        empty = await admin("backup", "create", str(backup), "--passphrase-file=-", stdin=b"")
        assert (empty.status, "holds no passphrase" in empty.err) == (2, True)
        assert (await admin("backup", "create", str(backup), f"--passphrase-file={tmp_path / 'no'}")).status == 1
        assert left_of(backup) == []
        made = (await admin("backup", "create", str(backup), "--passphrase-file=-", stdin=PASSPHRASE)).ok()
        assert made.out == f"wrote {backup}, {backup.stat().st_size} bytes\n"
        assert backup.stat().st_mode & 0o777 == 0o600
        again = await admin("backup", "create", str(backup), f"--passphrase-file={secret}")
        assert (again.status, "exists already" in again.err) == (4, True)
        proved = (await admin("backup", "verify", str(backup), f"--passphrase-file={secret}")).ok().out
        assert "Proof       whole and unaltered\n" in proved
        assert "Cluster     example.com\n" in proved
        asked = await admin("backup", "verify", str(backup))
        assert (asked.status, "nobody to ask" in asked.err) == (2, True)


async def test_keys_are_made_given_and_mistyped(tmp_path: Path) -> None:
    async with administration(tmp_path) as admin:
        backup, key, other = tmp_path / "b", tmp_path / "key", tmp_path / "other"
        public = (await admin.ok("backup", "keygen", "-o", str(key))).strip()
        await admin.ok("backup", "keygen", "-o", str(other))
        assert (await admin("backup", "keygen", "-o", str(key))).status == 4
        assert (key.stat().st_mode & 0o777, public in key.read_text()) == (0o600, True)
        mistyped = public[:-1] + ("y" if public.endswith("x") else "x")
        wrong = await admin("backup", "create", str(backup), f"--recipient={mistyped}")
        assert (wrong.status, "checksum is wrong" in wrong.err) == (2, True)
        private = await admin("backup", "create", str(backup), f"--recipients-file={key}")
        assert (private.status, "begin with age1" in private.err) == (2, True)
        assert "AGE-SECRET" not in private.err
        both = await admin("backup", "create", str(backup), f"--recipient={public}", "--passphrase-file=-")
        assert (both.status, "not with either" in both.err) == (2, True)
        recipients = tmp_path / "recipients"
        recipients.write_text(f"# of the safe\n{public}\n")
        made = await admin(
            "backup", "create", str(backup), f"--recipients-file={recipients}", "--without-audit",
            "--without-recordings", "--format=json",
        )  # fmt: skip
        assert json.loads(made.ok().out) == {"file": str(backup), "bytes": backup.stat().st_size}
        facts = await admin.json("backup", "verify", str(backup), f"--key-file={other}", f"--key-file={key}")
        assert (facts["ok"], facts["audit"], facts["events"], facts["recordings"]) == (True, False, 0, 0)
        for words, status in (((), 2), ((f"--key-file={other}",), 5), ((f"--key-file={recipients}",), 2)):
            assert (await admin("backup", "verify", str(backup), *words)).status == status
        assert (await admin("backup", "verify", str(tmp_path / "missing"), f"--key-file={key}")).status == 3
        nothing = await admin("backup", "verify", str(recipients), f"--key-file={key}")
        assert (nothing.status, "this is no backup" in nothing.err) == (1, True)


async def test_nobody_but_the_administrator_of_an_auth_server_makes_one(tmp_path: Path) -> None:
    """Whatever roles somebody has: it holds everything that makes the cluster. Nothing is left of the attempt."""
    async with administration(tmp_path) as admin:
        identity, key = tmp_path / "identity", tmp_path / "key"
        await admin.auth.user("root-of-roles", ["editor", "auditor", "access"])
        await admin.ok("auth", "sign", "--user=root-of-roles", "--format=file", f"--out={identity}")
        public = (await admin.ok("backup", "keygen", "-o", str(key))).strip()
        address = f"{admin.auth.address[0]}:{admin.auth.address[1]}"
        words = ["backup", "create", str(tmp_path / "b"), f"--recipient={public}", "-i", str(identity)]
        refused = await admin.auth.in_thread(lambda: run_command(tctl, "tctl", *words, f"--auth-server={address}"))
        assert (refused.status, "only tctl on an auth server may take a backup" in refused.err) == (5, True)
        assert left_of(tmp_path / "b") == []
        assert (await admin.auth.events("api.denied"))[0]["route"] == "create_backup"
