"""What proves a local user, as it stands in the storage and as it stands in a document with secrets."""

from __future__ import annotations

from teleport.resources.secret import SecretText
from teleport.resources.user import LocalAuth, LocalFactor
from teleport.store.records import FactorDevice, UserSecret


def to_document(record: UserSecret) -> LocalAuth:
    """For `tctl get users --with-secrets`. The first authenticator program stands in `totp_key`, too: older readers
    know that alone."""
    first = next((device.totp_secret for device in record.devices if device.totp_secret), "")
    return LocalAuth(
        totp_key=SecretText(first) if first else None,
        password_hash=SecretText(record.password_hash) if record.password_hash else None,
        mfa=tuple(
            LocalFactor(
                id=device.id,
                name=device.name,
                type="webauthn" if device.kind == "webauthn" else "totp",
                added=device.added,
                last_used=device.last_used,
                totp_key=SecretText(device.totp_secret) if device.totp_secret else None,
                totp_last_period=device.totp_last_period,
                credential_id=device.credential_id,
                public_key=device.public_key,
                sign_count=device.sign_count,
                rp_id=device.rp_id,
                aaguid=device.aaguid,
                passwordless=device.passwordless,
            )
            for device in record.devices
        ),
        user_handle=record.user_handle,
    )


def from_document(local: LocalAuth) -> UserSecret:
    """For `tctl create`: `totp_key` counts where the document names no devices."""
    return UserSecret(
        password_hash=local.password_hash.reveal() if local.password_hash else "",
        totp_secret=local.totp_key.reveal() if local.totp_key and not local.mfa else "",
        devices=[
            FactorDevice(
                id=factor.id,
                name=factor.name,
                kind=factor.type,
                added=factor.added,
                last_used=factor.last_used,
                totp_secret=factor.totp_key.reveal() if factor.totp_key else "",
                totp_last_period=factor.totp_last_period,
                credential_id=factor.credential_id,
                public_key=factor.public_key,
                sign_count=factor.sign_count,
                rp_id=factor.rp_id,
                aaguid=factor.aaguid,
                passwordless=factor.passwordless and factor.type == "webauthn",
            )
            for factor in local.mfa
        ],
        user_handle=local.user_handle,
    )
