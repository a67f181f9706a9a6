"""The node service as this daemon runs it: view, labels, recordings, launcher, and what a killed run left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import socket
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from teleport import __version__
from teleport.api.client import AuthClient
from teleport.audit.emitter import Emitter
from teleport.audit.events import RecordingGap, SessionEnd, new_event
from teleport.backend.interface import Event, Put
from teleport.clock import Clock
from teleport.daemon.config.values import NodeConfig as NodeSettings
from teleport.daemon.connection_count import RemoteControl
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.host_logins import pam_settings
from teleport.daemon.node_spool import NodeSpool, spool_full
from teleport.daemon.remote import RemoteRecordings
from teleport.daemon.session_telling import SessionTeller
from teleport.daemon.view import View
from teleport.errors import TeleportError
from teleport.identity import SystemRole
from teleport.kernel.watcher import Watcher
from teleport.launcher.client import Launcher
from teleport.node.dynamic_labels import HostLabels
from teleport.node.needs import NodeConfig
from teleport.node.service import NodeService
from teleport.node.tracking import tracked
from teleport.recording import upload_folders
from teleport.recording.recovery import RecoveredRecording, RecoveryReport, recover
from teleport.recording.trust import signer
from teleport.recording.upload import Uploader, UploadOutcome, UploadReport
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.ssh.server import HostKey
from teleport.store.records import HOSTS
from teleport.transport.entrance import ConnectionLimits

log = logging.getLogger(__name__)

RECOVER_EVERY = 30.0  # seconds
SETTLE, SETTLE_LOOK = 60.0, 0.1  # seconds


def host_key(held: Credentials) -> HostKey:
    """What an SSH server of this host proves itself with."""
    return HostKey(held.ssh_key.openssh_pem().reveal(), held.server_ssh_cert.line())


class NodeSide:
    """Everything of the node in one daemon."""

    def __init__(
        self,
        settings: NodeSettings,
        host: Host,
        nodename: str,
        view: View,
        client: AuthClient,
        emitter: Emitter,
        clock: Clock,
        launcher: Launcher,
        held: Credentials,
        *,
        address: str,
        web_proxy: str,
        connections: ConnectionLimits,
        changed: Callable[[], None],
        watcher: Watcher | None = None,
    ) -> None:
        self._settings = settings
        self._host = host
        self._nodename = nodename
        self._emitter = emitter
        self._clock = clock
        self._held = held
        self._address = address
        self.labels = HostLabels(
            settings.labels.static,
            settings.labels.dynamic,
            changed,
            forced=lambda: view.forced_labels(host.host_id, SystemRole.NODE),
        )
        view.own_host = host.host_id
        view.cache.subscribe(HOSTS + host.host_id, lambda _: changed())
        self._uploads = _private(host.log_dir / "upload")
        self._upload_dir, self._upload_lock = upload_folders.begin(self._uploads, host.epoch)
        self.look = asyncio.Event()
        self._told_lost: set[str] = set()  # recordings that could not be ended, as far as told
        self._sign = signer(lambda: (self._held.ssh_key, self._held.ssh_cert))
        self.spool = NodeSpool(
            self._upload_dir,
            clock=clock,
            sign=self._sign,
            quota=settings.recording_quota,
            full=spool_full(emitter, clock, host.host_id, nodename),
        )
        self.uploader = Uploader(
            self._upload_dir,
            RemoteRecordings(client),
            report=_report,
            jitter=lambda: random.uniform(0.5, 1.0),  # noqa: S311 - spreads retries, guards nothing
        )
        self.spool.begun, self.spool.ended = self.uploader.hold, self.uploader.notify
        self.service = NodeService(
            NodeConfig(
                cluster=view.cluster,
                host_id=UUID(host.host_id),
                hostname=nodename,
                address=address,
                web_proxy=web_proxy,
                permit_user_env=settings.permit_user_env,
                pam=pam_settings(settings.pam),
                connections=connections,
            ),
            certificates=view,
            rules=view,
            present=view.present,
            control=RemoteControl(client),
            labels=self.labels,
            launcher=launcher,
            recordings=self.spool,
            emitter=emitter,
            clock=clock,
            host_keys=[host_key(held)],
            watcher=watcher,
        )
        registry = self.service.tools.registry
        self.teller = SessionTeller(client, host.epoch, lambda: tracked(registry))
        registry.changed = self.teller.changed

    def lease_changed(self, event: Event) -> None:
        """A lease of a second factor came into view or went out of it."""
        if isinstance(event, Put):
            self.service.lease_came()
        else:
            self.service.lease_gone()

    def describe(self) -> Server:
        """This node as presence carries it."""
        return Server(
            kind="node",
            metadata=Metadata(name=self._host.host_id, labels=self.labels.announced()),
            spec=ServerSpec(
                addr=self._address,
                public_addrs=(),
                hostname=self._nodename,
                cmd_labels=self.labels.command_states(),
                version=__version__,
                epoch=str(self._host.epoch),
                started=self._clock.now(),
            ),
        )

    async def renewed(self, held: Credentials) -> None:
        """New connections see the renewed certificate."""
        self._held = held
        await self.service.reload([host_key(held)])

    async def recover(self) -> None:
        """Ends what daemons that are gone left, tells of it, and hands it to the uploader. Before the first session.

        What another living process of this host records is left alone (`upload_folders`).
        """
        for folder in await asyncio.to_thread(upload_folders.abandoned, self._uploads, self._host.epoch):
            try:
                report = await asyncio.to_thread(recover, folder.path, sign=self._sign)
                await self._tell(report)
                for sid in await asyncio.to_thread(upload_folders.take_over, folder, self._upload_dir):
                    self.uploader.notify(sid)
            finally:
                folder.close()

    async def recover_again(self) -> None:
        """As `recover`, when `look` is set and every now and then: the other process of a restart may have died.

        Until cancelled.
        """
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(RECOVER_EVERY):
                    await self.look.wait()
            self.look.clear()
            try:
                await self.recover()
            except (TeleportError, OSError) as error:
                log.error("recordings that an earlier process left could not be looked at: %s", error)

    async def _tell(self, report: RecoveryReport) -> None:
        for recovered in report.recovered:
            await self._emitter.emit(self._end_of(recovered, "node lost"))
        for finished in report.finished:
            # Perhaps its end event was never written; auth keeps the first one and marks a second as supplement.
            await self._emitter.emit(self._end_of(finished, "daemon restarted"))
        for unreadable in (*report.unreadable, *report.failed):
            if unreadable.sid in self._told_lost:
                continue
            self._told_lost.add(unreadable.sid)
            log.error("the recording of session %s could not be saved: %s", unreadable.sid, unreadable.why)
            await self._emitter.emit(
                new_event(
                    RecordingGap,
                    self._clock.now(),
                    str(uuid.uuid4()),
                    cluster_name=self._emitter.cluster,
                    sid=unreadable.sid,
                    server_id=self._host.host_id,
                    server_hostname=self._nodename,
                    reason=unreadable.why,
                )
            )

    def _end_of(self, recovered: RecoveredRecording, reason: str) -> SessionEnd:
        header, summary = recovered.header, recovered.summary
        return new_event(
            SessionEnd,
            self._clock.now(),
            str(uuid.uuid4()),
            cluster_name=self._emitter.cluster,
            user=header.user,
            login=header.login,
            sid=header.sid,
            server_id=self._host.host_id,
            server_hostname=self._nodename,
            namespace="default",
            proto="ssh",
            interactive=header.interactive,
            participants=[header.user],
            session_start=header.started,
            session_stop=header.started + timedelta(seconds=summary.duration),
            session_recording="node",
            initial_command=[header.command] if header.command else [],
            reason=reason,
            recording_hash=summary.sha256,
        )

    async def serve(self, listener: socket.socket, started: Callable[[], None]) -> None:
        """Serves sessions until cancelled; then the spool ends what still records."""
        try:
            await self.service.run([listener], started)
        finally:
            await self.spool.close()

    async def settle(self) -> None:
        """Waits until auth has every recording; what is left after `SETTLE` is for the next process."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE):
                while await asyncio.to_thread(upload_folders.holds_any, self._upload_dir):  # noqa: ASYNC110 - files tell nobody
                    await asyncio.sleep(SETTLE_LOOK)

    def close(self) -> None:
        """Lets the folder of recordings go; whoever lives on takes what is left in it."""
        os.close(self._upload_lock)


def _private(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _report(report: UploadReport) -> None:
    if report.outcome is UploadOutcome.UPLOADED:
        log.info("recording of session %s uploaded", report.sid)
    else:
        log.warning("recording of session %s: %s: %s", report.sid, report.outcome, report.error)
