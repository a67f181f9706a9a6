"""Where the private keys of authorities are kept: in the storage, or in a PKCS#11 token (`authorities/token_keys.py`).

Making, loading and destroying them is here, signing is `certify`'s; nothing else touches them. What the storage holds
of a key is either the key itself (PEM) or the URI of the object that it is inside the token (RFC 7512), no secret.
Keys of either sort are loaded by what they are, so that a rotation moves an authority into a token.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final, Protocol

from teleport.errors import BadRequest, TeleportError
from teleport.pki import authority
from teleport.pki.keys import PrivateKey, generate_p256
from teleport.pki.secret import Secret
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509cert import new_tls_authority, pem_of
from teleport.resources.authority import Authority, AuthorityType, JWTKeyPair, KeySet, SSHKeyPair, TLSKeyPair
from teleport.resources.secret import SecretText

TOKEN_URI: Final = "pkcs11:"  # noqa: S105 - how references begin


class KeysAway(TeleportError):
    """The place of the keys cannot be asked now. The message is for who runs auth; callers are told `told`."""

    told: Final = "the cluster cannot sign anything now: what has its keys does not answer"
    told_hint: Final = (
        "try again in a moment; for administrators, /readyz and the log of the auth service name the reason"
    )


class WrongPin(KeysAway):
    """What has the keys refuses our PIN. Each further try may be one of the few that it allows, so a daemon that ends
    with this status is not started again by itself (the units say so)."""

    exit_code = 78  # EX_CONFIG of sysexits.h


class AuthorityKeys(Protocol):
    """Makes and loads the private keys of authorities. Blocking, but for `check`."""

    def make(self, kind: AuthorityKind, cluster: str, now: datetime) -> Authority:
        """An authority with fresh keys."""
        ...

    def load(self, secret: SecretText) -> PrivateKey:
        """What signs with the key that is stored so. Raises `TeleportError` saying where it should be, and `KeysAway`,
        which signing does, too."""
        ...

    def destroy(self, keys: KeySet) -> None:
        """Ends keys that nothing refers to any more. What cannot be ended is logged: it signs for nobody."""
        ...

    async def check(self) -> None:
        """Raises `KeysAway` when nothing can be signed, also when what has the keys does not answer."""
        ...


class StoredKeys:
    """Private keys in the storage of auth."""

    def make(self, kind: AuthorityKind, cluster: str, now: datetime) -> Authority:
        """Tokens are signed with P-256 (ES256): making an RSA key takes up to a third of a second, which everybody
        would wait for at the first start."""
        return _as_resource(authority.new_authority(kind, cluster, now, jwt_key=generate_p256()))

    def load(self, secret: SecretText) -> PrivateKey:
        text = secret.reveal()
        if text.startswith(TOKEN_URI):
            raise BadRequest(
                f"the key of an authority is in a PKCS#11 token ({text}), and none is configured",
                hint="set auth_service.ca_key_params.pkcs11 as it was when the key was made",
            )
        return PrivateKey.load(Secret(text.encode()))

    def destroy(self, keys: KeySet) -> None:
        """They went with the resource."""

    async def check(self) -> None:
        """They are where everything else is."""


def private_halves(keys: KeySet) -> list[SecretText]:
    """All that is stored of private keys in one set."""
    found = [pair.private_key for pair in keys.ssh] + [pair.key for pair in keys.tls]
    found += [pair.private_key for pair in keys.jwt]
    return [one for one in found if one is not None]


def held_elsewhere(
    kind: AuthorityKind, cluster: str, now: datetime, ssh: tuple[PrivateKey, str], tls: tuple[PrivateKey, str] | None
) -> Authority:
    """An authority whose keys are elsewhere, each with the reference that is stored; of `jwt` and `openssh` there is
    one key."""
    if kind is AuthorityKind.JWT:
        pair = JWTKeyPair(public_key=ssh[0].public.spki_pem().decode(), private_key=SecretText(ssh[1]))
        return Authority.new(AuthorityType.JWT, cluster, KeySet(jwt=(pair,)))
    pairs = (SSHKeyPair(public_key=ssh[0].public.line(f"{cluster}-{kind}"), private_key=SecretText(ssh[1])),)
    if kind is AuthorityKind.OPENSSH:
        return Authority.new(AuthorityType.OPENSSH, cluster, KeySet(ssh=pairs))
    assert tls is not None
    certificate = pem_of(new_tls_authority(cluster, tls[0], now)).decode()
    keys = KeySet(ssh=pairs, tls=(TLSKeyPair(cert=certificate, key=SecretText(tls[1])),))
    return Authority.new(AuthorityType(kind.value), cluster, keys)


def _as_resource(made: authority.Authority) -> Authority:
    """A fresh authority in the form that is stored."""
    keys = KeySet(
        ssh=tuple(
            SSHKeyPair(public_key=pair.public.line(f"{made.cluster}-{made.kind}"), private_key=_secret(pair.private))
            for pair in made.active.ssh
        ),
        tls=tuple(TLSKeyPair(cert=pair.certificate.decode(), key=_secret(pair.private)) for pair in made.active.tls),
        jwt=tuple(
            JWTKeyPair(public_key=pair.public.decode(), private_key=_secret(pair.private)) for pair in made.active.jwt
        ),
    )
    return Authority.new(AuthorityType(made.kind.value), made.cluster, keys)


def _secret(key: Secret | None) -> SecretText | None:
    return None if key is None else SecretText(key.reveal().decode())
