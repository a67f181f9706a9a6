"""`tctl roles lint`: files without a cluster, stored roles from one."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.test_tctl_commands import administration

ADVICE = """kind: role
version: v4
metadata: {name: held}
spec:
  options: {file_transfer: {upload: no}}
"""
FINE = ADVICE.replace("file_transfer", "exec: transfer, file_transfer")


async def test_roles_of_a_file_and_stored_ones_are_looked_over(tmp_path: Path) -> None:
    """1 with a warning, 0 without, 2 for what is no role or not one question; JSON is a list."""
    file = tmp_path / "role.yaml"
    async with administration(tmp_path) as admin:
        file.write_text(ADVICE)
        loud = await admin("roles", "lint", str(file))
        assert loud.status == 1
        assert "held: warning: file_transfer is advice here" in loud.out
        assert "instead: exec: transfer" in loud.out
        (found,) = json.loads((await admin("roles", "lint", str(file), "--format=json")).out)
        assert (found["role"], found["level"], found["check"]) == ("held", "warning", "transfer-advisory")
        await admin.ok("create", str(file))
        assert "held: warning" in (await admin("roles", "lint", "--all")).out
        quiet = await admin("roles", "lint", "-", stdin=FINE.encode())
        assert (quiet.status, quiet.out) == (0, "Nothing to say about these roles.\n")
        for wrong in (["lint"], ["lint", str(file), "--all"]):
            assert (await admin("roles", *wrong)).status == 2
        other = await admin("roles", "lint", "-", stdin=b"kind: user\nversion: v2\nmetadata: {name: ann}\nspec: {}\n")
        assert other.status == 2
        assert "only roles are looked over" in other.err
        unknown = await admin("roles", "lint", "-", stdin=ADVICE.replace("upload", "uploads").encode())
        assert unknown.status == 2
        assert "uploads" in unknown.err
