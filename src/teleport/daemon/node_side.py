"""The node service as this daemon runs it: view, labels, recordings, launcher, and what a killed run left behind."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from teleport import __version__
from teleport.api.client import AuthClient
from teleport.audit.emitter import Emitter
from teleport.audit.events import RecordingGap, SessionEnd, new_event
from teleport.clock import Clock
from teleport.daemon.config.effective import NodeConfig as NodeSettings
from teleport.daemon.credentials import Credentials
from teleport.daemon.host import Host
from teleport.daemon.remote import RemoteRecordings
from teleport.daemon.view import View
from teleport.launcher.client import Launcher
from teleport.node.dynamic_labels import HostLabels
from teleport.node.needs import NodeConfig
from teleport.node.service import NodeService
from teleport.recording.recovery import RecoveredRecording, recover
from teleport.recording.trust import signer
from teleport.recording.upload import Uploader, UploadOutcome, UploadReport
from teleport.recording.writer import Recorder, RecordingSpool
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.ssh.server import HostKey
from teleport.transport.entrance import ConnectionLimits

log = logging.getLogger(__name__)


def host_key(held: Credentials) -> HostKey:
    """What an SSH server of this host proves itself with."""
    return HostKey(held.ssh_key.openssh_pem().reveal(), held.ssh_cert.line())


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
    ) -> None:
        self._settings = settings
        self._host = host
        self._nodename = nodename
        self._emitter = emitter
        self._clock = clock
        self._held = held
        self._address = address
        self.labels = HostLabels(settings.labels.static, settings.labels.dynamic, changed)
        self._upload_dir = host.log_dir / "upload"
        self._sign = signer(lambda: (self._held.ssh_key, self._held.ssh_cert))
        self.spool = NotifyingSpool(_private(self._upload_dir), clock=clock, sign=self._sign)
        self.uploader = Uploader(
            self._upload_dir,
            RemoteRecordings(client),
            report=_report,
            jitter=lambda: random.uniform(0.5, 1.0),  # noqa: S311 - spreads retries, guards nothing
        )
        self.spool.ended = self.uploader.notify
        self.service = NodeService(
            NodeConfig(
                cluster=view.cluster,
                host_id=UUID(host.host_id),
                hostname=nodename,
                address=address,
                web_proxy=web_proxy,
                permit_user_env=settings.permit_user_env,
                connections=connections,
            ),
            certificates=view,
            rules=view,
            present=view.present,
            labels=self.labels,
            launcher=launcher,
            recordings=self.spool,
            emitter=emitter,
            clock=clock,
            host_keys=[host_key(held)],
        )

    def describe(self) -> Server:
        """This node as presence carries it."""
        return Server(
            kind="node",
            metadata=Metadata(name=self._host.host_id, labels=dict(self.labels.static)),
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
        """Ends what a killed daemon left, tells of it, and hands it to the uploader. Before the first new session."""
        report = await asyncio.to_thread(recover, self._upload_dir, sign=self._sign)
        for recovered in report.recovered:
            await self._emitter.emit(self._end_of(recovered, "node lost"))
        for finished in report.finished:
            # Perhaps its end event was never written; auth keeps the first one and marks a second as supplement.
            await self._emitter.emit(self._end_of(finished, "daemon restarted"))
        for unreadable in (*report.unreadable, *report.failed):
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


class NotifyingSpool(RecordingSpool):
    """Tells the uploader of each recording that has ended."""

    ended: Callable[[str], None] = staticmethod(lambda sid: None)

    def forget(self, recorder: Recorder) -> None:
        super().forget(recorder)
        self.ended(recorder.sid)


def _private(path: Path) -> Path:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def _report(report: UploadReport) -> None:
    if report.outcome is UploadOutcome.UPLOADED:
        log.info("recording of session %s uploaded", report.sid)
    else:
        log.warning("recording of session %s: %s: %s", report.sid, report.outcome, report.error)
