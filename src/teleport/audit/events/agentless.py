"""Events about hosts with a plain sshd. Ours, from T9240 on."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, UnsetType

from teleport.audit.events.base import ServerEvent


class OpensshNameCreate(ServerEvent, frozen=True, kw_only=True, tag="openssh.name_cert"):
    """A proxy was let show the name of a registered host for some minutes."""

    proxy: str = ""  # host UUID of the proxy
    key_fingerprint: str = ""  # of the key that it shows, SHA256:...
    valid_until: datetime | UnsetType = UNSET  # end of the certificate


class OpensshCertCreate(ServerEvent, frozen=True, kw_only=True, tag="openssh.cert"):
    """A proxy was given a certificate to enter a registered host for a user who is connected there, or was refused."""

    success: bool = True  # whether it was signed
    error: str = ""  # why not
    proxy: str = ""  # host UUID of the proxy
    key_fingerprint: str = ""  # of the proxy's key for this connection, SHA256:...
    user_key: str = ""  # fingerprint of the key that the user proved
    cert_serial: str = ""  # serial number of the user's certificate
    serial: str = ""  # serial number of what was signed
    valid_until: datetime | UnsetType = UNSET  # end of what was signed

    def failed(self) -> bool:
        return not self.success
