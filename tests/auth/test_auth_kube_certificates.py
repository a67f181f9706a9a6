"""Certificates for one Kubernetes cluster, which a login gets of itself: good for less, and for no longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import SystemRole, UserIdentity
from teleport.pki.keys import PrivateKey
from teleport.pki.secret import Secret
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509subject import decode_user
from teleport.pki.x509verify import certificate_key, identity_from_tls, load_certificate, trusted_tls_authority
from teleport.testing.auth import ANONYMOUS, Credentials, RunningAuth, running_auth


async def asked(auth: RunningAuth, who: Credentials, name: str = "prod") -> m.UserCerts:
    made: m.UserCerts = await auth.call(who, routes.RENEW_USER, m.RenewUserRequest(kube_cluster=name))
    return made


async def at_kubernetes(auth: RunningAuth, pem: str) -> UserIdentity:
    """Whose certificate it is at the listener for Kubernetes."""
    authority = await auth.service.state.authority("user")
    anchors = [
        trusted_tls_authority(AuthorityKind.USER, auth.cluster, one.encode()) for one in authority.trusted_tls_certs
    ]
    found = identity_from_tls(pem.encode(), anchors, auth.clock.now(), usage="usage:kube")
    assert isinstance(found, UserIdentity)
    return found


async def test_it_says_what_it_is_for_and_ends_with_the_login(tmp_path: Path) -> None:
    """The login's key, roles and traits; no logins on hosts, no SSH certificate; the login's number is in it."""
    async with running_auth(tmp_path) as auth:
        who = await auth.user("ann", ["access"], traits={"logins": ["root"], "kubernetes_groups": ["blue"]})
        assert who.cert is not None
        assert who.key is not None
        login = load_certificate(who.cert.read_bytes())
        made = await asked(auth, who, "arn:aws:eks:eu:1:cluster/prod")
        shown = load_certificate(made.tls_cert.encode())
        subject = decode_user(shown.subject)
        assert made.cert == ""
        assert (subject.usage, subject.kube_cluster) == (("usage:kube",), "arn:aws:eks:eu:1:cluster/prod")
        assert (subject.logins, subject.roles) == ((), ("access",))
        assert certificate_key(shown) == PrivateKey.load(Secret(who.key.read_bytes())).public
        assert shown.not_valid_after_utc <= login.not_valid_after_utc
        found = await at_kubernetes(auth, made.tls_cert)
        assert (found.kube_cluster, found.login_serial) == ("arn:aws:eks:eu:1:cluster/prod", str(login.serial_number))
        events = await auth.events("cert.create", wait_for=4)
        assert ("ann", str(login.serial_number)) in {(one["subject"], one["renewed_from"]) for one in events}


async def test_it_is_good_for_nothing_else(tmp_path: Path) -> None:
    """The auth API refuses it: it lists nothing, and begets neither a login nor another one of its kind."""
    async with running_auth(tmp_path) as auth:
        who = await auth.user("ann", ["access"])
        assert who.key is not None
        made = await asked(auth, who)
        limited = auth.keep(PrivateKey.load(Secret(who.key.read_bytes())), made.tls_cert)
        for request in (m.RenewUserRequest(), m.RenewUserRequest(kube_cluster="other")):
            with pytest.raises(AccessDenied, match="limited to another use"):
                await auth.call(limited, routes.RENEW_USER, request)
        with pytest.raises(AccessDenied, match="limited to another use"):
            await auth.call(limited, routes.WHO_AM_I, m.Empty())


@pytest.mark.parametrize("name", ["x" * 254, " prod", "prod ", "a\nb", "a\x00b", "\u202eb"])
async def test_names_that_no_cluster_has(tmp_path: Path, name: str) -> None:
    """What a certificate should not carry, and nobody could type."""
    async with running_auth(tmp_path) as auth:
        with pytest.raises(BadRequest, match="cannot be the name of a Kubernetes cluster"):
            await asked(auth, await auth.user("ann", ["access"]), name)


async def test_hosts_and_strangers_get_none(tmp_path: Path) -> None:
    """Only a login does."""
    async with running_auth(tmp_path) as auth:
        for who in (ANONYMOUS, await auth.host(SystemRole.PROXY, name="proxy")):
            with pytest.raises(AccessDenied):
                await asked(auth, who)
