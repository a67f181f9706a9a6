"""No way to a new certificate from an old one drops a restriction or gives more time (threat T06): a property over
random certificates, with a row for everything that an identity says."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.authorities.certify import UserGrant
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import UserIdentity
from teleport.pki.keys import PublicKey, generate_p256
from teleport.pki.sshcert import verify_user_cert
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.pki.x509verify import identity_from_tls
from teleport.testing.auth import CLUSTER, RunningAuth, running_auth
from teleport.testing.clock import FakeClock

EXAMPLES = 25
ROLES = ("access", "auditor", "editor")


def same(before: object, after: object) -> bool:
    return before == after


def subset(before: object, after: object) -> bool:
    assert isinstance(before, tuple)
    assert isinstance(after, tuple)
    return set(after) <= set(before)


def no_later(before: object, after: object) -> bool:
    assert isinstance(before, datetime)
    assert isinstance(after, datetime)
    return after <= before


def free(before: object, after: object) -> bool:
    """What the user's roles and traits say now; `roles` and `expires` bound it."""
    return True


ROWS: dict[str, Callable[[object, object], bool]] = {
    "name": same,
    "cluster": same,
    "roles": subset,
    "logins": free,
    "expires": no_later,
    "traits": free,
    "route_to_cluster": same,
    "kube_cluster": same,
    "source_ip": same,
    "mfa_device": same,
    "mfa_target": same,
    "login_expires": same,
    "login_serial": same,
    "active_requests": same,
    "impersonator": same,
    "recorded_by": same,  # which only proxies get certificates with (`test_auth_agentless`)
    "force_command": same,  # which no certificate of ours says
    "serial": lambda before, after: before != after,
    "issued": free,
    "denying": same,  # said by no certificate
    "origin": same,  # which only proxies get certificates with, too
}


FOR_ONE_SESSION = {
    **ROWS,
    "mfa_device": lambda before, after: bool(after),
    "mfa_target": lambda before, after: bool(after),
    "login_expires": lambda before, after: bool(after),
    "login_serial": lambda before, after: bool(after),
    "logins": subset,
}
"""What a second factor gives, for a minute: a mark, for one target."""


def test_everything_that_an_identity_says_has_a_row() -> None:
    assert set(ROWS) == {field.name for field in fields(UserIdentity)}


def a_grant(random: random.Random) -> UserGrant:
    """What some login, by whatever means, may have given."""
    roles = tuple(random.sample(ROLES, random.randint(1, len(ROLES))))

    def perhaps(*values: str) -> str:
        return random.choice(("", *values))

    return UserGrant(
        user="ann",
        roles=roles,
        logins=("root",),
        traits={"logins": ("root",)},
        ttl=timedelta(seconds=random.randint(120, 36 * 3600)),
        route_to_cluster=random.choice((CLUSTER, "leaf.example")),
        port_forwarding=random.random() < 0.5,
        client_ip=perhaps("192.0.2.1", "2001:db8::1"),
        mfa_device=perhaps("device-1", "3f9f0d5e-4f3a-4a55-8d4b-8c5a1a6a1a11"),
        source_ip=perhaps("127.0.0.1"),
        active_requests=tuple(f"request-{number}" for number in range(random.randint(0, 3))),
        impersonator=perhaps("robot"),
    )


async def identities(auth: RunningAuth, certs: m.UserCerts) -> list[UserIdentity]:
    """Who both certificates say that it is."""
    user = await auth.service.state.authority("user")
    keys = tuple(PublicKey.parse(line) for line in user.trusted_ssh_keys)
    authority = TrustedSSHAuthority(AuthorityKind.USER, CLUSTER, keys)
    by_ssh = verify_user_cert(parse_certificate_line(certs.cert).blob, (authority,), auth.clock.now())
    der = ssl.PEM_cert_to_DER_cert(certs.tls_cert)
    by_tls = identity_from_tls(der, await auth.service.state.trusted_tls(), auth.clock.now())
    assert isinstance(by_tls, UserIdentity)
    return [by_ssh, by_tls]


def compare(
    before: list[UserIdentity], after: list[UserIdentity], rows: dict[str, Callable[[object, object], bool]], seed: int
) -> None:
    for old, new in zip(before, after, strict=True):
        for name, holds in rows.items():
            was, is_now = getattr(old, name), getattr(new, name)
            assert holds(was, is_now), f"seed {seed}: {name} was {was!r}, is {is_now!r}"


async def test_a_certificate_for_one_session_keeps_every_restriction(tmp_path: Path) -> None:
    """A second factor adds a mark and takes nothing away."""
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        secret = await auth.person("ann", ROLES)
        certifier = await auth.service.state.certifier()
        for seed in range(6):
            grant, key = replace(a_grant(random.Random(seed)), impersonator="", mfa_device=""), generate_p256()
            certs = certifier.user_certs(grant, key.public.line(), auth.clock.now())
            auth.clock.advance(30)
            request = m.SessionCertRequest(host="", factor=m.FactorResponse(totp_code=auth.code(secret)))
            marked = await auth.call(auth.keep(key, certs.tls_cert), routes.SESSION_CERT, request)
            compare(await identities(auth, certs), await identities(auth, marked), FOR_ONE_SESSION, seed)


async def test_a_renewal_of_a_renewal_keeps_every_restriction(tmp_path: Path) -> None:
    """Of both certificates, however often; and its life is the first one's."""
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        await auth.user("ann", ROLES, traits={"logins": ["root"]})
        certifier = await auth.service.state.certifier()
        for seed in range(EXAMPLES):
            grant, key = a_grant(random.Random(seed)), generate_p256()
            certs = certifier.user_certs(grant, key.public.line(), auth.clock.now())
            first = await identities(auth, certs)
            for _ in range(2):
                auth.clock.advance(1)
                certs = await auth.call(auth.keep(key, certs.tls_cert), routes.RENEW_USER, m.Empty())
                compare(first, await identities(auth, certs), ROWS, seed)


@pytest.mark.parametrize("usage", ["usage:kube", "usage:apps", "usage:db"])
async def test_what_is_limited_to_a_use_becomes_nothing_else(tmp_path: Path, usage: str) -> None:
    async with running_auth(tmp_path) as auth:
        await auth.user("ann", ["access"], traits={"logins": ["root"]})
        key = generate_p256()
        grant = replace(a_grant(random.Random(1)), roles=("access",), source_ip="", usage=usage)
        certs = (await auth.service.state.certifier()).user_certs(grant, key.public.line(), auth.clock.now())
        assert certs.cert == ""
        with pytest.raises((AccessDenied, BadRequest)):
            await auth.call(auth.keep(key, certs.tls_cert), routes.RENEW_USER, m.Empty())
