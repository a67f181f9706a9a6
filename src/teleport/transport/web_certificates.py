"""The TLS contexts of what a proxy shows to everybody, by server name and protocol, replaced while it serves.

A context is chosen before the handshake (trap T-3); each name and protocol has one of its own, and none resumes a
session. New pairs get new contexts: connections that are open keep the one that they began with.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from teleport.errors import BadRequest
from teleport.pki.secret import Secret
from teleport.pki.web_chain import WebPair, chosen
from teleport.transport.tls import in_memory, restrict, resume_nothing

_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME (openssl/x509_vfy.h)
_SELF_SIGNED: Final = (18, 19)  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, ..._SELF_SIGNED_CERT_IN_CHAIN
_NO_ISSUER: Final = (
    2,
    20,
    21,
    27,
)  # ..._UNABLE_TO_GET_ISSUER_CERT, ..._LOCALLY, ..._VERIFY_LEAF_SIGNATURE, ..._UNTRUSTED


class WebContext(ssl.SSLContext):
    """`believed`: browsers may be told to insist on it (HSTS)."""

    believed = False


def load(context: ssl.SSLContext, pem: Secret) -> None:
    """Gives the context a key and its chain. Raises `BadRequest` for what OpenSSL does not take."""
    try:
        with in_memory(pem.reveal()) as file:
            context.load_cert_chain(file)
    except (OSError, ssl.SSLError) as error:
        raise BadRequest(f"OpenSSL does not take the certificate: {error}") from None


def web_context(pair: WebPair, protocol: str) -> WebContext:
    """For one pair and one protocol (ALPN). Raises `BadRequest`."""
    context = WebContext(ssl.PROTOCOL_TLS_SERVER)
    restrict(context)
    resume_nothing(context)
    context.set_alpn_protocols([protocol])
    load(context, pair.pem)
    context.believed = not pair.self_signed
    return context


class WebCertificates:
    """The pairs that are shown now, at least one."""

    def __init__(self, pairs: Sequence[WebPair]) -> None:
        self._pairs: tuple[WebPair, ...] = ()
        self._contexts: dict[tuple[str, str], WebContext] = {}
        self.show(pairs)

    @property
    def pairs(self) -> tuple[WebPair, ...]:
        return self._pairs

    def show(self, pairs: Sequence[WebPair]) -> None:
        """Takes these from the next connection on; contexts of pairs that stay are kept."""
        assert pairs, "there is always a certificate to show"
        kept = {pair.digest for pair in pairs}
        self._pairs = tuple(pairs)
        self._contexts = {key: context for key, context in self._contexts.items() if key[0] in kept}

    def context(self, name: str, protocol: str) -> ssl.SSLContext:
        """For a client that asks for `name`."""
        pair = chosen(self._pairs, name)
        context = self._contexts.get((pair.digest, protocol))
        if context is None:
            context = self._contexts[pair.digest, protocol] = web_context(pair, protocol)
        return context

    def of(self, protocol: str, named: Mapping[str, ssl.SSLContext] | None = None) -> Shown:
        """The contexts of one protocol; `named` go before the pairs."""
        return Shown(self, protocol, named or {})


@dataclass(frozen=True, slots=True)
class Shown:
    """The contexts of one protocol (`one_port.Choice`)."""

    certificates: WebCertificates
    protocol: str
    named: Mapping[str, ssl.SSLContext] = field(default_factory=dict)

    def of(self, name: str) -> ssl.SSLContext:
        return self.named.get(name) or self.certificates.context(name, self.protocol)


def check_chain(pair: WebPair, chain_name: str, roots: Path | None = None) -> str:
    """Whether clients find a root by this chain, asked of OpenSSL by a handshake with itself; its time is no matter.

    `roots`: the only roots that are known; those of this host when None. Gives what is to be said of it, empty when all
    is well. Raises `BadRequest` when a certificate is missing from it, or it is none of a server.
    """
    server = web_context(pair, "http/1.1")
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= _NO_CHECK_TIME
    if roots is not None:
        client.load_verify_locations(roots)
    else:
        client.load_default_certs(ssl.Purpose.SERVER_AUTH)
    try:
        _handshake(server, client)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _SELF_SIGNED:
            if pair.self_signed:
                return f"the certificate in {chain_name} is self-signed: browsers warn of it, and tsh needs --ca-pin"
            return f"the chain in {chain_name} ends at a root that this host does not know; clients have to"
        if error.verify_code in _NO_ISSUER and pair.top:
            raise BadRequest(
                f"the chain in {chain_name} is not complete: the certificate of {pair.top} is missing, so that clients "
                "find no way to a root",
                hint="append it to the file (authorities offer it as 'full chain'); a root of your own too, unless "
                "this host knows it",
            ) from None
        raise BadRequest(f"clients would refuse the certificate in {chain_name}: {error.verify_message}") from None
    except ssl.SSLError as error:
        raise BadRequest(f"no connection comes about with the certificate in {chain_name}: {error}") from None
    return ""


def _handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    for _ in range(8):
        waiting = []
        for end in ends:
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                waiting.append(end)
        if not waiting:
            return
        ends = waiting
    raise ssl.SSLError("the handshake does not end")
