"""What the proxy's web listener shows: the pairs of `https_keypairs`, those got by ACME, or one made here.

One made here is self-signed: browsers warn of it. It is shown only while there is no other. Who asks for the cluster by
its pin (`INTERNAL_NAME`) gets the host certificate, and a directory that looks whether a name is this proxy's
(RFC 8737) gets the answer to its challenge; neither sees any of these pairs.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from teleport.clock import Clock
from teleport.daemon.config.values import AcmeConfig
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host, write_private
from teleport.daemon.keypairs import Files, KeyPairFiles, ends, not_covered
from teleport.errors import TeleportError
from teleport.pki.keys import generate_p256
from teleport.pki.web_chain import WebPair, read_pair
from teleport.pki.x509cert import INTERNAL_NAME, pem_of, self_signed_web_pair
from teleport.transport.one_port import Choice, Ending, Port
from teleport.transport.tls import one_port_context
from teleport.transport.web_certificates import WebCertificates
from teleport.wire import alpn

log = logging.getLogger(__name__)


class WebTLS:
    """The certificates of one proxy, by name and protocol."""

    def __init__(
        self,
        files: Sequence[Files],
        host: Host,
        hosts: Sequence[str],
        clock: Clock,
        held: Credentials,
        *,
        by_acme: bool = False,
    ) -> None:
        """`hosts`: public names and addresses of the proxy. `by_acme`: pairs will come, by `got`. Raises
        `TeleportError` for files that cannot be used."""
        self._host = host
        self._hosts = tuple(hosts)
        self._clock = clock
        self._held = held
        self._by_acme = by_acme
        self._pinned: list[ssl.SSLContext] = []  # that show the host certificate
        self._got: Mapping[str, WebPair] = {}
        self._made: WebPair | None = None
        self.files = KeyPairFiles(files, clock, () if by_acme else hosts)
        self.certificates = WebCertificates(self._now())
        self.challenges: Choice | None = None  # what a directory is answered with

    def _now(self) -> list[WebPair]:
        return [*self.files.pairs, *self._got.values()] or [self._self_signed()]

    def uncovered(self, settings: AcmeConfig) -> AcmeConfig:
        """The settings without names that a pair of the files is for."""
        return replace(settings, names=tuple(not_covered(self.files.pairs, settings.names)))

    def got(self, pairs: Mapping[str, WebPair]) -> None:
        """Pairs by ACME, by their names; those of files go before them."""
        self._got = dict(pairs)
        self._show()

    def _show(self) -> None:
        self.certificates.show(self._now())

    async def follow(self) -> None:
        """Shows what the files hold from then on when they change, for as long as it runs."""
        await self.files.follow(self._show)

    def ends(self) -> Mapping[str, float]:
        """When what is shown ends, by name, for whoever monitors it."""
        return ends(self.certificates.pairs)

    def choice(self, protocol: str) -> Choice:
        """The contexts of one protocol."""
        pinned = one_port_context(self._held.server_tls_cert_file, self._held.tls_key_file, protocol)
        self._pinned.append(pinned)
        return self.certificates.of(protocol, {INTERNAL_NAME: pinned})

    def endings(self) -> dict[str, Ending]:
        """What ends here whatever else the port serves."""
        if self.challenges is None:
            return {}
        return {alpn.ACME: Ending(self.challenges, lambda transport, *_: transport.close(), alone=True)}

    def alone(self) -> Port:
        """The web listener while it serves the web alone."""
        return Port(None, self.choice(alpn.HTTP), self.endings())

    def renewed(self, held: Credentials) -> None:
        """New connections see the renewed host certificate."""
        self._held = held
        for context in self._pinned:
            context.load_cert_chain(held.server_tls_cert_file, held.tls_key_file)

    def _self_signed(self) -> WebPair:
        """The pair that is made when there is no other, kept between runs while its names fit."""
        if self._made is None:
            cert, key = self._host.data_dir / "webproxy_cert.pem", self._host.data_dir / "webproxy_key.pem"
            hosts = [*self._hosts, "localhost", "127.0.0.1", "::1"]
            kept = _kept(cert, key, hosts, self._clock.now())
            if kept is None:
                made = generate_p256()
                write_private(key, made.pkcs8_pem().reveal())
                shown = self_signed_web_pair(list(dict.fromkeys(hosts)), made, self._clock.now())
                write_private(cert, pem_of(shown), 0o644)
                kept = read_pair(cert.read_bytes(), key.read_bytes(), chain_name=str(cert), key_name=str(key))
            self._made = kept
            log.warning(
                "the web listener shows a self-signed certificate, of which browsers warn%s",
                ", until the first one by ACME is there"
                if self._by_acme
                else "; tsh proves the cluster with --ca-pin, for browsers set proxy_service.https_keypairs",
            )
        return self._made


def _kept(cert: Path, key: Path, hosts: Sequence[str], now: datetime) -> WebPair | None:
    """The pair of an earlier run, if it is whole (a run may have been killed between the two files) and still fits."""
    try:
        found = read_pair(cert.read_bytes(), key.read_bytes(), chain_name=str(cert), key_name=str(key))
    except (OSError, TeleportError):
        return None
    return found if now < found.not_after and all(found.fits(host) for host in hosts) else None


__all__ = ["WebTLS"]
