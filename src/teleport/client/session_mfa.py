"""A second factor for one session: certificates of the same key that live for a minute, marked for one target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from teleport.client import keystore
from teleport.errors import AccessDenied, ConnectionProblem

if TYPE_CHECKING:
    import ssl

    from teleport.api import messages as m
    from teleport.api.sync_client import SyncAuthClient
    from teleport.client.access import Access
    from teleport.client.keystore import Credentials
    from teleport.transport.blocking import TLSStream

Ask = Callable[["m.FactorChallenge"], "m.FactorResponse"]  # has a device of the person's own answer

LIFE = timedelta(minutes=1)
_SLACK = timedelta(minutes=2)  # between the clocks of this machine and auth


def for_session(
    access: Access,
    host: str,
    port: int,
    login: str,
    now: datetime,
    ask: Ask,
) -> Access:
    """`access` with a certificate for one session on `host`; `ask` has a device answer.

    Raises what auth answers, and `ConnectionProblem` when the answer is not what was asked for.
    """
    from teleport.api import messages as m
    from teleport.api import routes
    from teleport.client.cluster import auth_client

    credentials = access.credentials
    _of_own_cluster(access)
    with auth_client(credentials, access.web_api(now).open, access.web) as client:
        challenge = client.call(routes.SESSION_CHALLENGE, m.SessionChallengeRequest(host=host, port=port, login=login))
        request = m.SessionCertRequest(host=host, port=port, login=login, factor=ask(challenge))
        reply = client.call(routes.SESSION_CERT, request)
    _check_session_certificate(credentials, reply.cert, (login,), now)
    return replace(access, credentials=replace(credentials, ssh_certificate=reply.cert))


def for_join(access: Access, kube_cluster: str, now: datetime, ask: Ask) -> Access:
    """`access` with a certificate for joining sessions in pods of one Kubernetes cluster; `ask` has a device answer.

    Raises what auth answers, and `ConnectionProblem` when the answer is not what was asked for.
    """
    from teleport.api import routes
    from teleport.client.cluster import auth_client

    own = access.credentials
    _of_own_cluster(access)
    with auth_client(own, access.web_api(now).open, access.web) as client:
        reply = client.call(routes.SESSION_CERT, kube_proof(client, kube_cluster, ask, joins=True))
    _check_session_certificate(own, reply.cert, (), now)
    return replace(access, credentials=replace(own, ssh_certificate=reply.cert))


def _of_own_cluster(access: Access) -> None:
    """Raises `AccessDenied` where a factor of this login is none."""
    if access.cluster != access.credentials.cluster:
        raise AccessDenied(
            f"the cluster {access.cluster} asks for a second factor of its own, which users of "
            f"{access.credentials.cluster} cannot give there",
            hint=f"ask an administrator of {access.cluster}: require_session_mfa of the roles that are mapped",
        )


def _check_session_certificate(own: Credentials, line: str, logins: tuple[str, ...], now: datetime) -> None:
    """Raises `ConnectionProblem` unless it is one for a session of the same key, with these logins."""
    from teleport.pki.sshformat import USER, parse_certificate_line

    before, given, facts = own.parsed().body, parse_certificate_line(line).body, keystore.facts(line)
    same = given.public_key == before.public_key and given.key_id == before.key_id and given.type == USER
    if not same or facts.expires > now + LIFE + _SLACK or facts.logins != logins:
        raise ConnectionProblem("auth answered with a certificate that was not asked for", hint="tsh login")


def kube_proof(client: SyncAuthClient, kube_cluster: str, ask: Ask, *, joins: bool = False) -> m.SessionCertRequest:
    """What is asked of auth for calls to a Kubernetes cluster, or to join sessions in its pods, once a device answered.
    Raises what auth answers."""
    from teleport.api import messages as m
    from teleport.api import routes

    wanted = m.SessionChallengeRequest(kube_cluster=kube_cluster, joins=joins)
    challenge = client.call(routes.SESSION_CHALLENGE, wanted)
    return m.SessionCertRequest(kube_cluster=kube_cluster, joins=joins, factor=ask(challenge))


def kube_certificate(client: SyncAuthClient, own: Credentials, proof: m.SessionCertRequest, now: datetime) -> str:
    """The certificate (PEM) for calls to the one Kubernetes cluster that was proved for.

    Raises what auth answers, and `ConnectionProblem` when the answer is not what was asked for.
    """
    from teleport.api import routes
    from teleport.pki.x509subject import decode_user
    from teleport.pki.x509verify import certificate_key, load_certificate

    reply = client.call(routes.SESSION_CERT, proof)
    made = load_certificate(reply.tls_cert.encode())
    same = certificate_key(made) == own.parsed().body.public_key
    if not same or decode_user(made.subject).kube_cluster != proof.kube_cluster:
        raise ConnectionProblem("auth answered with a certificate that was not asked for", hint="tsh login")
    if made.not_valid_after_utc > now + LIFE + _SLACK:
        raise ConnectionProblem(
            "auth answered with a certificate that is not for one session",
            hint="compare this machine's clock with auth's",
        )
    return reply.tls_cert


def ask_when_due(
    client: SyncAuthClient,
    credentials: Credentials,
    connect: Callable[[ssl.SSLContext], Callable[[], TLSStream]],
    ask: Ask,
) -> None:
    """Has `client` ask for a second factor by itself when a call needs one of its own, and go on.

    `connect` gives the way to auth by a TLS context.
    """

    def prove() -> Callable[[], TLSStream]:
        from teleport.api import messages as m
        from teleport.api import routes

        challenge = client.call(routes.SESSION_CHALLENGE, m.SessionChallengeRequest())
        reply = client.call(routes.SESSION_CERT, m.SessionCertRequest(factor=ask(challenge)))
        return connect(_marked_context(credentials, reply.tls_cert))

    client.prove = prove


def _marked_context(credentials: Credentials, certificate: str) -> ssl.SSLContext:
    """A TLS context with the key of the login and the certificate that auth has just made for it."""
    import os
    import tempfile

    from teleport.pki.x509verify import certificate_key, load_certificate
    from teleport.transport.tls import cluster_client_context

    if certificate_key(load_certificate(certificate.encode())) != credentials.parsed().body.public_key:
        raise ConnectionProblem("auth answered with a certificate that was not asked for", hint="tsh login")
    handle, name = tempfile.mkstemp(suffix=".crt")  # TLS libraries load certificates from files only
    try:
        with os.fdopen(handle, "w") as file:
            file.write(certificate)
        return cluster_client_context(credentials.ca_pems, Path(name), credentials.key_file)
    finally:
        Path(name).unlink()
