"""How an identity of this host follows the authorities through a rotation, and is renewed before it ends.

One `Follower` for each system role. What it does in each phase (`pki.rotation`) follows from the authority alone:

| what | order |
|---|---|
| trust what is trusted now | first, before a certificate of new keys is shown or met |
| certificates of the keys that sign now, for what is a client here | then; listeners keep those of the former keys |
| the same for listeners | in the next phase, when clients everywhere trust them |
| trust nothing else | last, when nothing of this host needs the former keys |
| say so in presence | when all that is done: auth goes no further before every live service has said it |

Nothing is closed for it: sessions and connections that are open go on, new ones are made with what is there then. All
of it is kept on disk before it is used, and a start begins with the same step, so that a crash changes nothing.

Of two processes of one host (HUP) the newest asks for certificates. The other one takes what lies on the disk.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from teleport.clock import Clock
from teleport.daemon import credentials
from teleport.daemon.credentials import Cluster, Credentials
from teleport.daemon.host import Host
from teleport.errors import ConnectionProblem, LimitExceeded, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PublicKey
from teleport.resources.authority import Authority, AuthorityType, RotationPhase
from teleport.resources.server import ReachedPhase

log = logging.getLogger(__name__)

CHECK: Final = 3600.0  # seconds between looks at the end of the certificates
AGAIN: Final = 5.0  # seconds after a failure; twice as many after each further one
LONGEST: Final = 300.0  # seconds between attempts while a rotation waits for this host
LOOK: Final = 0.5  # seconds between looks at the disk for what another process gets
SPREAD: Final = 1.0  # seconds over which hosts that hear of a phase at the same moment ask for certificates

Authorities = Mapping[AuthorityType, Authority]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an identity must be like, as the host authority says."""

    clients: bytes  # the SSH key (blob) whose certificates are shown where this host is a client
    listeners: bytes  # and on its listeners
    cluster: Cluster  # what is trusted

    def fits(self, held: Credentials) -> bool:
        return held.ssh_cert.signer == self.clients and held.server_ssh_cert.signer == self.listeners


def wanted_by(host: Authority) -> Wanted:
    """What the phase asks of identities. Raises `TeleportError` for an authority without keys."""
    active, former = host.spec.active_keys.ssh, host.spec.additional_trusted_keys.ssh
    if not active:
        raise TeleportError(f"the host authority of {host.name} has no keys", hint="tctl get cert_authority/host")
    clients = PublicKey.parse(active[0].public_key).blob
    listeners = clients
    if host.spec.rotation.phase is RotationPhase.UPDATE_CLIENTS and former:
        listeners = PublicKey.parse(former[0].public_key).blob
    trusted = Cluster(
        cluster=host.name, tls_ca_certs=list(host.trusted_tls_certs), ssh_ca_keys=list(host.trusted_ssh_keys)
    )
    return Wanted(clients, listeners, trusted)


def also(held: Cluster, wanted: Cluster) -> Cluster:
    """What is trusted while both are: nothing is taken away yet. Equal to `held` when it has all of `wanted`."""

    def union(have: Sequence[str], want: Sequence[str]) -> list[str]:
        known = {text.strip() for text in have}
        return [*have, *(text for text in want if text.strip() not in known)]

    return Cluster(
        cluster=held.cluster,
        tls_ca_certs=union(held.tls_ca_certs, wanted.tls_ca_certs),
        ssh_ca_keys=union(held.ssh_ca_keys, wanted.ssh_ca_keys),
    )


def reached(authorities: Authorities) -> dict[AuthorityType, ReachedPhase]:
    """What a service says that has done all that is asked."""
    return {
        kind: ReachedPhase(phase=one.spec.rotation.phase, current_id=one.spec.rotation.current_id)
        for kind, one in authorities.items()
    }


@dataclass(frozen=True, slots=True)
class Effects:
    """What a role does with what changed. Each is called with the identity as it is then."""

    trust: Callable[[Credentials, bool], Awaitable[None]]
    """What is believed changed: any of the authorities has another set of trusted keys. True: some are not any more."""
    shown: Callable[[Credentials], Awaitable[None]]
    """The certificates changed: new connections show them."""
    said: Callable[[], None]
    """Presence has something new to say."""


async def _nothing(*_: object) -> None:
    return


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


SILENT: Final = Effects(_nothing, _nothing, lambda: None)


class _ChangedMeanwhileError(TeleportError):
    """What was waited for is not what is wanted any more."""


class Follower:
    """Keeps one identity as the authorities and its own end ask."""

    def __init__(
        self,
        host: Host,
        role: SystemRole,
        held: dict[SystemRole, Credentials],
        *,
        source: Callable[[], Awaitable[Authorities]],
        ask: credentials.Ask,
        names: Callable[[], Sequence[str]],
        clock: Clock,
        may: Callable[[], bool],
        jitter: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        wait: Callable[[asyncio.Event, float], Awaitable[None]] | None = None,
    ) -> None:
        """`held` is shared with who makes connections: its entry of `role` is what counts. `may` says whether this
        process is the one of its host that asks for certificates; `jitter` gives numbers in [0, 1). `wait` waits for an
        event, at most for so many seconds."""
        self._wait = wait or _wait
        self._host, self._role, self._held = host, role, held
        self._source, self._ask, self._names = source, ask, names
        self._clock, self._may, self._jitter, self._sleep = clock, may, jitter, sleep
        self._changed = asyncio.Event()
        self._trusted: frozenset[str] = frozenset()  # of all authorities, as last applied
        self._started = False
        self._unshown = False  # there are certificates that listeners and clients do not show yet
        self._behind = True  # the phase asks for what has not been done
        self.effects = SILENT
        self.reached: Mapping[AuthorityType, ReachedPhase] = {}
        self.problem = ""

    def changed(self, *_: object) -> None:
        """The authorities, or the certificates on disk, may be others now."""
        self._changed.set()

    async def run(self) -> None:
        """Follows until cancelled."""
        failures = 0
        while True:
            self._changed.clear()
            self.problem, pause = "", CHECK
            try:
                await self.step()
                failures = 0
            except _ChangedMeanwhileError:
                continue
            except Exception as error:  # what there is still holds; the next attempt may bring auth back
                failures += 1
                pause = self._failed(error, failures)
            await self._wait(self._changed, pause)

    def _failed(self, error: Exception, failures: int) -> float:
        """Tells of it; how long to wait. What only comes before its time has time."""
        self.problem = str(error) or type(error).__name__
        log.warning("certificates of the role %s could not be renewed: %s", self._role.value.lower(), self.problem)
        if not isinstance(error, TeleportError | OSError):
            log.error("it was unexpected", exc_info=error)
        after = error.retry_after if isinstance(error, LimitExceeded) else 0.0
        pause = min(AGAIN * 2 ** (failures - 1), LONGEST) if self._behind else CHECK
        return max(after, pause) * (1 + self._jitter())

    async def step(self) -> None:
        """Does what is asked now. Raises `TeleportError` when it cannot all be done; it is safe to repeat."""
        authorities = await self._source()
        host = authorities.get(AuthorityType.HOST)
        if host is None:
            raise TeleportError("the cluster's host authority is not known here", hint="check the auth service")
        wanted = wanted_by(host)
        self._behind = True
        await self._believe(authorities, also(self._current.cluster, wanted.cluster))
        await self._certify(wanted)
        await self._believe(authorities, wanted.cluster)
        now_reached = reached(authorities)
        if now_reached != self.reached:
            self.reached = now_reached
            self.effects.said()
        self._behind = False
        await self._refresh(wanted)  # last: what keeps a host from it must not keep the rotation

    @property
    def _current(self) -> Credentials:
        return self._held[self._role]

    async def _believe(self, authorities: Authorities, cluster: Cluster) -> None:
        """Trusts `cluster`, kept first, then used."""
        everything = [text for one in authorities.values() for text in (*one.trusted_tls_certs, *one.trusted_ssh_keys)]
        trusted = frozenset(text.strip() for text in (*everything, *cluster.tls_ca_certs, *cluster.ssh_ca_keys))
        if self._current.cluster != cluster:
            if self._may():
                credentials.store_cluster(self._host.proc_dir, cluster)  # all roles write it: one after another
            self._held[self._role] = replace(self._current, cluster=cluster)
        if trusted != self._trusted:
            await self.effects.trust(self._current, bool(self._trusted - trusted))
            self._trusted = trusted

    async def _certify(self, wanted: Wanted) -> None:
        """Certificates of the keys that are wanted."""
        if self._unshown:
            await self._show()
        while not wanted.fits(self._current):
            if self._may():
                await self._renew(wanted)
            else:
                await self._take_from_disk(wanted)

    async def _refresh(self, wanted: Wanted) -> None:
        """New certificates and keys before the old ones end, or when the configuration asks for another name."""
        if not self._due():
            return
        if self._may():
            await self._renew(wanted)
            return
        found = await asyncio.to_thread(credentials.load, self._host.proc_dir, self._role, only_look=True)
        if found is not None and wanted.fits(found) and found.ssh_cert.blob != self._current.ssh_cert.blob:
            await self._use(found)

    def _due(self) -> bool:
        held = self._current
        return held.wants_renewal(self._clock.now()) or credentials.names_changed(held, self._names())

    async def _renew(self, wanted: Wanted) -> None:
        proc, role, held = self._host.proc_dir, self._role, self._current
        follows = not wanted.fits(held)
        calls = not (follows and held.ssh_cert.signer == wanted.clients == wanted.listeners)
        if calls and self._started:
            await self._sleep(SPREAD * self._jitter())
        async with self._alone():
            found = credentials.load(proc, role)  # another process of this host may have been here first
            if found is None or not wanted.fits(found) or found.ssh_cert.blob == held.ssh_cert.blob:
                if calls:
                    found = await credentials.obtain(proc, role, self._ask, same_keys=follows)
                else:
                    await asyncio.to_thread(credentials.show_newest, proc, role)
                    found = credentials.load(proc, role)
        assert found is not None
        if not wanted.fits(found):  # auth is in another phase already, which will be heard of soon
            raise ConnectionProblem("auth answered with certificates of another phase", hint="it is asked again")
        await self._use(found)
        log.info("certificates of the role %s renewed until %s", role.value.lower(), found.expires)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """While a restart is under way two processes of this host may think that they are to ask."""
        path = self._host.data_dir / "certificates.lock"
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            while True:
                with suppress(BlockingIOError):
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                await self._sleep(LOOK)
            yield
        finally:
            os.close(lock)

    async def _take_from_disk(self, wanted: Wanted) -> None:
        """Waits for what the newest process of this host gets, as long as the authorities stay as they are."""
        while not self._changed.is_set():
            found = await asyncio.to_thread(credentials.load, self._host.proc_dir, self._role, only_look=True)
            if found is not None and wanted.fits(found):
                await self._use(found)
                return
            if self._may():
                return
            await self._wait(self._changed, LOOK)
        raise _ChangedMeanwhileError("the authorities changed meanwhile", hint="it is looked at again")

    async def _use(self, found: Credentials) -> None:
        self._held[self._role] = replace(found, cluster=self._current.cluster)
        self._unshown = True
        await self._show()

    async def _show(self) -> None:
        """What fails here is done again with the next step: no phase is reported before listeners show it."""
        await self.effects.shown(self._current)
        self._unshown = False

    def started(self) -> None:
        """From here on others may ask at the same moment: this one waits a little before it does."""
        self._started = True
