"""The stable code of every event, and who may have written it.

A code is `T`, four digits and `I` (information), `W` (warning) or `E` (error); most events have one, some a second
for failure (`reference/audit-events.md` 1 and 3). Ours start at T9010 (`reference/ours.md`). A code is never given to
another event, and a row is never removed: readers outside hold on to both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType


class Origin(StrEnum):
    """Who may write an event of a kind. Intake refuses the rest, so a host cannot forge what only auth can know."""

    AUTH = "auth"
    HOST = "host"  # any daemon, auth included


@dataclass(frozen=True, slots=True)
class Code:
    """One row: the code of success, that of failure (the same unless it has its own), and who writes it."""

    ok: str
    failed: str
    origin: Origin


def _auth(ok: str, failed: str = "") -> Code:
    return Code(ok, failed or ok, Origin.AUTH)


def _host(ok: str, failed: str = "") -> Code:
    return Code(ok, failed or ok, Origin.HOST)


CODES: Mapping[str, Code] = MappingProxyType(
    {
        "user.login": _auth("T1000I", "T1000W"),
        "user.create": _auth("T1002I"),
        "user.update": _auth("T1003I"),
        "user.delete": _auth("T1004I"),
        "user.password_change": _auth("T1005I"),
        "mfa.add": _auth("T1006I"),
        "mfa.delete": _auth("T1007I"),
        "session.rejected": _host("T1006W"),  # shares its digits with mfa.add, as in the reference
        "session.start": _host("T2000I"),
        "session.join": _host("T2001I"),
        "resize": _host("T2002I"),
        "session.leave": _host("T2003I"),
        "session.end": _host("T2004I"),
        "session.upload": _auth("T2005I"),
        "session.data": _host("T2006I"),
        "session.conflict": _auth("T9340W"),
        "subsystem": _host("T3001I", "T3001E"),
        "exec": _host("T3002I", "T3002E"),
        "scp": _host("T3005I", "T3005E"),  # of uploads; of downloads: SCP_DOWNLOAD
        "sftp": _host("T9220I", "T9220W"),
        "rsync": _host("T9221I", "T9221W"),
        "port": _host("T3003I", "T3003E"),
        "port.closed": _host("T9210I"),
        "x11-forward": _host("T3008I", "T3008W"),
        "agent.forward": _host("T9211I", "T9211W"),
        "client.disconnect": _host("T3006I"),
        "kube.request": _host("T3009I"),
        "auth": _host("T3007W"),
        "session.command": _host("T4000I"),
        "session.disk": _host("T4001I"),
        "session.network": _host("T4002I"),
        "session.enhanced_gap": _host("T9260W"),
        "host_user.create": _host("T9270I", "T9270W"),
        "host_user.update": _host("T9271I"),
        "host_user.delete": _host("T9272I"),
        "reset_password_token.create": _auth("T6000I"),
        "role.created": _auth("T9000I"),
        "role.deleted": _auth("T9001I"),
        "lock.created": _auth("TLK00I"),
        "lock.deleted": _auth("TLK01I"),
        "cert.create": _auth("T9010I"),
        "cert.revoked": _auth("T9120I"),
        "cluster.repaired": _auth("T9121I"),
        "token.create": _auth("T9011I"),
        "token.delete": _auth("T9012I"),
        "token.used": _auth("T9013I"),
        "host.join": _auth("T9014I"),
        "host.join_failed": _auth("T9015W"),
        "node.create": _auth("T9016I"),
        "node.delete": _auth("T9017I"),
        "proxy.create": _auth("T9018I"),
        "proxy.delete": _auth("T9019I"),
        "auth_server.create": _auth("T9020I"),
        "auth_server.delete": _auth("T9021I"),
        "kube_service.delete": _auth("T9024I"),
        "authority.create": _auth("T9022I"),
        "authority.delete": _auth("T9023I"),
        "authority.rotate": _auth("T9100I"),
        "authority.rotate_stopped": _auth("T9101W"),
        "secret.revealed": _auth("T9030I"),
        "auth.sign": _auth("T9031I"),
        "session.request_denied": _host("T9032W"),
        "api.denied": _host("T9033W"),
        "tunnel.ended": _host("T9300W"),
        "session_recording.access": _auth("T2012I"),
        "session_recording.search": _auth("T9250I"),
        "user.locked": _auth("T9035W"),
        "user.unlocked": _auth("T9036I"),
        "session.held": _host("T9200I"),
        "session.mfa": _auth("T9140I", "T9140W"),
        "mfa_lease.created": _auth("T9141I"),
        "mfa_lease.deleted": _auth("T9142I"),
        "audit.checkpoint": _auth("T9040I"),
        "recording.gap": _host("T9041W"),
        "recording.spool_full": _host("T9044W"),
        "service.start": _host("T9042I"),
        "service.stop": _host("T9043I"),
        "auth_preference.update": _auth("T9150I"),
        "cluster_networking_config.update": _auth("T9151I"),
        "session_recording_config.update": _auth("T9152I"),
        "cluster_audit_config.update": _auth("T9153I"),
        "backup.create": _auth("T9154I"),
        "backup.restore": _auth("T9155W"),
        "audit.gap": _auth("T9156W"),
        "audit.prune": _auth("T9390I"),
        "hold.created": _auth("T9391I"),
        "hold.deleted": _auth("T9392W"),
        "session_recording.prune": _auth("T9393I"),
        "proxy_peer.denied": _host("T9310W"),
        "trusted_cluster.create": _auth("T7000I"),
        "trusted_cluster.delete": _auth("T7001I"),
        "trusted_cluster_token.create": _auth("T7002I"),
        "trusted_cluster.update": _auth("T9320I"),
        "remote_cluster.create": _auth("T9321I", "T9321W"),
        "remote_cluster.update": _auth("T9322I"),
        "remote_cluster.delete": _auth("T9323I"),
        "cluster_authority.update": _auth("T9324I"),
        "cluster_statement.refused": _auth("T9325W"),
        "acme.order": _auth("T9380I"),
        "acme_account.create": _auth("T9381I"),
        "web_certificate.update": _auth("T9382I"),
        "web_certificate.failed": _auth("T9383W"),
        "web_certificate.read": _auth("T9384I"),
        "openssh.name_cert": _auth("T9240I"),
        "openssh.cert": _auth("T9241I", "T9241W"),
        "web_session.create": _auth("T9350I"),
        "web_session.end": _auth("T9351I"),
    }
)

SCP_DOWNLOAD = _host("T3004I", "T3004E")  # the event `scp` has two rows
