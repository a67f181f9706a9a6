"""Host certificates for a plain sshd: names and addresses in any spelling, certified in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import BadRequest
from teleport.pki.keys import generate_ed25519
from teleport.pki.sshformat import parse_certificate_line
from teleport.testing.auth import running_auth

KEY = generate_ed25519().public.line("")


async def test_names_and_addresses_are_certified_in_their_one_spelling(tmp_path: Path) -> None:
    asked = ["Web.Example", "web.example.", "::1", "[0:0:0:0:0:0:0:1]", "2001:DB8::A", "::ffff:10.0.0.1"]
    async with running_auth(tmp_path) as auth:
        request = m.SignHostRequest(principals=asked, public_key=KEY)
        signed = await auth.call(await auth.admin(), routes.SIGN_HOST, request)
    found = parse_certificate_line(signed.ssh_cert).body.principals
    assert set(found) >= {"web.example", "::1", "2001:db8::a", "10.0.0.1"}
    assert not [name for name in found if name != name.lower() or "[" in name or "ffff" in name]


@pytest.mark.parametrize("name", ["fe80::1%eth0", "[fe80::1%1]"])
async def test_an_address_with_a_zone_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    async with running_auth(tmp_path) as auth:
        request = m.SignHostRequest(principals=[name], public_key=KEY)
        with pytest.raises(BadRequest, match="zone"):
            await auth.call(await auth.admin(), routes.SIGN_HOST, request)
