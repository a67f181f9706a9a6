"""The key pairs of `https_keypairs`: read at the start, and again whenever their files change.

Nobody is told of a change, so the files are looked at every few seconds, through all links: programs that renew
certificates (certbot) swap links, others write in place. A file that is half written, or whose partner is still the old
one, leaves the former pair in use, which is said once, until the files change again. At the start a pair that cannot be
used stops the daemon.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, Protocol

from teleport.clock import Clock
from teleport.daemon.config.readable import unreadable
from teleport.daemon.monitoring.metrics import Gauge
from teleport.errors import BadRequest, TeleportError
from teleport.pki.web_chain import WebPair, read_pair
from teleport.transport.web_certificates import check_chain

log = logging.getLogger(__name__)

SECONDS: Final = 3.0  # between two looks
AGAIN: Final = timedelta(days=1)  # until the same is said again of a certificate that ends
MAX_BYTES: Final = 1 << 20  # of one file
NOT_AFTER: Final = Gauge(
    "teleport_web_certificate_not_after",
    "When the certificates that this proxy shows end, in seconds since 1970, by their first name.",
    "name",
    of="proxy",
)


class Files(Protocol):
    """`config.proxy_section.KeyPair`."""

    @property
    def key_file(self) -> Path: ...
    @property
    def cert_file(self) -> Path: ...


Signature = tuple[tuple[int, ...], ...]


def _signature(pair: Files) -> Signature:
    """What changes when a file does, or what it is a link to."""
    found = list[tuple[int, ...]]()
    for path in (pair.cert_file, pair.key_file):
        try:
            seen = os.stat(path)
        except OSError as error:
            found.append((error.errno or 0,))
        else:
            found.append((seen.st_dev, seen.st_ino, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_size))
    return tuple(found)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            found = file.read(MAX_BYTES + 1)
    except OSError as error:
        why = unreadable(path)
        text = why.text if why is not None else f"{path}: {error.strerror}"
        raise BadRequest(f"cannot be read: {text}", hint=(why.mend if why is not None else "") or "ls -l") from None
    if len(found) > MAX_BYTES:
        raise BadRequest(
            f"{path} is larger than any certificate ({MAX_BYTES} bytes)", hint="https_keypairs names another file?"
        )
    return found


def _mode(path: Path) -> int:
    try:
        return os.stat(path).st_mode
    except OSError:
        return 0  # taken away since it was read, which the next look sees


def read_files(pair: Files) -> tuple[WebPair, list[str]]:
    """The pair, and what is to be said of it. Raises `BadRequest`."""
    found = read_pair(
        _bytes(pair.cert_file),
        _bytes(pair.key_file),
        chain_name=str(pair.cert_file),
        key_name=str(pair.key_file),
    )
    said = [check_chain(found, str(pair.cert_file))]
    if _mode(pair.key_file) & (stat.S_IROTH | stat.S_IWOTH):
        said.append(
            f"everybody on this host may read or write the private key {pair.key_file}; to mend it: "
            f"chmod o-rw {pair.key_file}"
        )
    return found, [one for one in said if one]


def _needed(pair: Files) -> tuple[WebPair, list[str]]:
    """As `read_files`, for a daemon that does not begin without it. Raises `TeleportError`."""
    try:
        return read_files(pair)
    except BadRequest as error:
        raise TeleportError(f"https_keypairs cannot be used: {error.message}", hint=error.hint) from None


def of_its_end(pair: WebPair, where: str, now: datetime) -> str:
    """What is to be said of a certificate that has ended, soon will, or does not hold yet; empty when nothing is."""
    until = f"{pair.not_after:%Y-%m-%d %H:%M} UTC"
    if now >= pair.not_after:
        return f"the certificate in {where} ended at {until}: browsers refuse it"
    if now < pair.not_before:
        return f"the certificate in {where} holds from {pair.not_before:%Y-%m-%d %H:%M} UTC only"
    return f"the certificate in {where} ends at {until}" if now >= pair.soon else ""


def not_covered(pairs: Sequence[WebPair], hosts: Sequence[str]) -> list[str]:
    """Public names for which no pair is."""
    return [host for host in dict.fromkeys(hosts) if not any(pair.fits(host) for pair in pairs)]


def looked_through(files: Sequence[Files], hosts: Sequence[str], now: datetime) -> list[str]:
    """What a daemon that began now would warn of. Raises `TeleportError` where it would not begin."""
    pairs, said = [], []
    for one in files:
        found, texts = _needed(one)
        pairs.append(found)
        said += [*texts, *([text] if (text := of_its_end(found, str(one.cert_file), now)) else [])]
    missing = not_covered(pairs, hosts) if pairs else []
    return [*said, *([f"no certificate of https_keypairs is for {', '.join(missing)}"] if missing else [])]


class KeyPairFiles:
    """The pairs as their files were last found in order."""

    def __init__(self, files: Sequence[Files], clock: Clock, hosts: Sequence[str]) -> None:
        """Reads all. `hosts`: the public names of the proxy. Raises `TeleportError` for a pair that cannot be used."""
        self._files = tuple(files)
        self._clock = clock
        self._hosts = tuple(hosts)
        self._signatures: dict[int, Signature] = {}
        self._said: dict[int, tuple[str, datetime]] = {}
        self._pairs: list[WebPair] = []
        for number, one in enumerate(self._files):
            self._signatures[number] = _signature(one)
            found, said = _needed(one)
            self._pairs.append(found)
            for text in said:
                log.warning("%s", text)
        self._say_names()
        self.say_ends()

    @property
    def pairs(self) -> tuple[WebPair, ...]:
        return tuple(self._pairs)

    def look(self) -> bool:
        """Reads what has changed; whether there is another pair now."""
        changed = False
        for number, files in enumerate(self._files):
            signature = _signature(files)  # before reading: what is written while it is read is read again
            if signature == self._signatures[number]:
                continue
            self._signatures[number] = signature
            try:
                found, said = read_files(files)
            except BadRequest as error:
                log.warning(
                    "the certificate before stays in use, for the new one cannot be used: %s%s",
                    error.message,
                    f" ({error.hint})" if error.hint else "",
                )
                continue
            if found.digest == self._pairs[number].digest:
                continue
            self._pairs[number] = found
            self._said.pop(number, None)
            changed = True
            log.info("%s holds a new certificate, valid until %s", files.cert_file, found.not_after.isoformat())
            for text in said:
                log.warning("%s", text)
        if changed:
            self._say_names()
        return changed

    def _say_names(self) -> None:
        missing = not_covered(self._pairs, self._hosts) if self._files else []
        if missing:
            log.warning(
                "no certificate of https_keypairs is for %s, which public_addr names: browsers warn of it there",
                ", ".join(missing),
            )

    def say_ends(self) -> None:
        """Warns of certificates that end, of each once a day."""
        now = self._clock.now()
        for number, pair in enumerate(self._pairs):
            text = of_its_end(pair, str(self._files[number].cert_file), now)
            before = self._said.get(number)
            if text and (before is None or before[0] != text or now - before[1] >= AGAIN):
                self._said[number] = (text, now)
                log.warning("%s", text)

    async def follow(self, changed: Callable[[], None], *, seconds: float = SECONDS) -> None:
        """Looks for as long as it runs; `changed` is called for each change. Reading waits for disks: on a thread."""
        while True:
            await asyncio.sleep(seconds)
            try:
                if await asyncio.to_thread(self.look):
                    changed()
            except OSError as error:
                log.warning("the files of https_keypairs cannot be looked at: %s", error)
            self.say_ends()


def ends(pairs: Sequence[WebPair]) -> Mapping[str, float]:
    """What the metric says."""
    found: dict[str, float] = {}
    for pair in pairs:
        name = pair.names[0] if pair.names else pair.first
        found[name] = min(pair.not_after.timestamp(), found.get(name, float("inf")))
    return found
