"""TLS contexts, made in one place so that none is laxer than it should be.

Rules (traps T-3): contexts that ask for client certificates issue no session tickets; TLS 1.3 between our own
services; a context never chooses by callback whether a client certificate is asked for. What a peer may do is read
from its certificate by the handler, with `teleport.pki`.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from teleport.errors import TeleportError

log = logging.getLogger(__name__)

SUITES: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"  # of TLS 1.2; those of 1.3 are all sane


def restrict(context: ssl.SSLContext) -> None:
    """What holds for contexts that strangers meet: TLS 1.2 and newer; below 1.3 only suites with forward secrecy and
    authenticated encryption (RFC 9325 section 4.2)."""
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES)
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION


def resume_nothing(context: ssl.SSLContext) -> None:
    """No tickets: each connection proves itself anew (T-3)."""
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET


@contextmanager
def in_memory(pem: bytes) -> Iterator[Path]:
    """A file that no other process finds by a name, gone with the block: OpenSSL is given pairs by file name."""
    descriptor = os.memfd_create("pair", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(pem)
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def _load_pair(context: ssl.SSLContext, cert_file: Path, key_file: Path) -> None:
    try:
        context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as error:
        raise TeleportError(
            f"cannot use the certificate {cert_file} with the key {key_file}: {error}",
            hint="both files must be readable PEM and belong together",
        ) from None


def mutual_server_context(cert_file: Path, key_file: Path, client_ca_pems: Sequence[str]) -> ssl.SSLContext:
    """For the auth API: TLS 1.3; a client certificate is asked for and, when shown, verified.

    Callers without one may reach only the routes that are open to everybody; the API decides that per route.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    resume_nothing(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    _load_pair(context, cert_file, key_file)
    trust(context, client_ca_pems)
    return context


class MutualServer:
    """What a listener that asks for client certificates shows and believes now. A context only ever learns authorities:
    when other ones count, there is a new one, for the connections that come from then on."""

    def __init__(self, cert_file: Path, key_file: Path, client_ca_pems: Sequence[str]) -> None:
        self._pair = cert_file, key_file
        self._believed = frozenset(client_ca_pems)
        self._now = mutual_server_context(cert_file, key_file, client_ca_pems)

    def __call__(self) -> ssl.SSLContext:
        """For the next connection."""
        return self._now

    def load_cert_chain(self, cert_file: Path, key_file: Path) -> None:
        """Shows another certificate from now on."""
        _load_pair(self._now, cert_file, key_file)
        self._pair = cert_file, key_file

    def believe(self, client_ca_pems: Sequence[str]) -> None:
        """Believes these authorities and no others."""
        if frozenset(client_ca_pems) == self._believed:
            return
        try:
            self._now = mutual_server_context(*self._pair, client_ca_pems)
        except TeleportError as error:  # its files are being changed; whoever is to be believed is believed already
            log.warning("a listener keeps its former certificate: %s", error)
            trust(self._now, client_ca_pems)
            return
        self._believed = frozenset(client_ca_pems)


def peer_server_context(cert_file: Path, key_file: Path, ca_pems: Sequence[str], protocol: str) -> ssl.SSLContext:
    """For services of the cluster alone: TLS 1.3, and nobody without a certificate of its host authority; `protocol` is
    the one that is spoken (ALPN). Which host it is, and whether it counts, is for the handler to say."""
    context = mutual_server_context(cert_file, key_file, ca_pems)
    context.verify_mode = ssl.CERT_REQUIRED
    context.set_alpn_protocols([protocol])
    return context


def trust(context: ssl.SSLContext, ca_pems: Sequence[str]) -> None:
    """Adds authorities to a live context; new connections see them at once. One that cannot be read is left out, and
    named in the log: who shows a certificate of it is refused, and all others go on."""
    for pem in ca_pems:
        try:
            context.load_verify_locations(cadata=pem)
        except (ssl.SSLError, ValueError) as error:
            log.error("an authority cannot be read, and is not believed: %s", error)


def web_server_context(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """For browsers and tsh: TLS 1.2 and newer, no client certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    restrict(context)
    _load_pair(context, cert_file, key_file)
    return context


def one_port_context(cert_file: Path, key_file: Path, protocol: str) -> ssl.SSLContext:
    """As `web_server_context`, for one protocol (ALPN) of a port that many share: nothing is resumed there (T-3)."""
    context = web_server_context(cert_file, key_file)
    context.set_alpn_protocols([protocol])
    resume_nothing(context)
    return context


def cluster_client_context(
    ca_pems: Sequence[str], cert_file: Path | None = None, key_file: Path | None = None
) -> ssl.SSLContext:
    """For calling a service of a cluster: only its host authority is trusted, names are checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    trust(context, ca_pems)
    if cert_file is not None and key_file is not None:
        _load_pair(context, cert_file, key_file)
    return context


def client_context_of(ca_pems: Sequence[str], cert_pem: bytes, key_pem: bytes) -> ssl.SSLContext:
    """As `cluster_client_context`, with a pair that is in no file. Blocks for microseconds."""
    context = cluster_client_context(ca_pems)
    with in_memory(cert_pem + b"\n" + key_pem) as pair:
        _load_pair(context, pair, pair)
    return context


def unproved_client_context() -> ssl.SSLContext:
    """For the one question that needs no trust: which authority do you claim? Nothing secret may be sent over it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def public_client_context() -> ssl.SSLContext:
    """For web addresses with certificates from public authorities."""
    return ssl.create_default_context()
