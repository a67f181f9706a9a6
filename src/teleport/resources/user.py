"""The user: a person or program of this cluster, its roles and traits (`resources.md` 2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Literal

from teleport.resources.metadata import FieldWarning, Finding, Metadata, Moment, Value, shown, text_findings
from teleport.resources.names import check_name, check_text, is_unix_login
from teleport.resources.secret import SecretText

MAX_TRAITS = 256  # names, and values of one name
MAX_TRAIT = 1024  # characters


class ExternalIdentity(Value, frozen=True, kw_only=True):
    """Whom an identity provider knows this user as."""

    connector_id: str
    username: str


class UserStatus(Value, frozen=True, kw_only=True):
    """The lock after failed logins; not the lock resource."""

    is_locked: bool = False
    locked_time: Moment | None = None
    lock_expires: Moment | None = None
    locked_message: str = ""


class Creator(Value, frozen=True, kw_only=True):
    name: str = ""


class CreatedBy(Value, frozen=True, kw_only=True):
    """Who made the user; kept on update."""

    time: Moment | None = None
    user: Creator = Creator()
    connector: str = ""


class LocalFactor(Value, frozen=True, kw_only=True):
    """A second factor of a local user."""

    id: str
    name: str
    type: Literal["totp", "webauthn"]
    added: Moment | None = None
    last_used: Moment | None = None
    totp_key: SecretText | None = None
    totp_last_period: int = 0
    credential_id: str = ""
    public_key: str = ""
    sign_count: int = 0
    rp_id: str = ""
    aaguid: str = ""
    passwordless: bool = False  # a passkey


class LocalAuth(Value, frozen=True, kw_only=True):
    """What proves a local user; shown and stored only where secrets are asked for. `totp_key` alone is the form of
    before users had several devices."""

    password_hash: SecretText | None = None
    totp_key: SecretText | None = None
    mfa: tuple[LocalFactor, ...] = ()
    user_handle: str = ""


class UserSpec(Value, frozen=True, kw_only=True):
    roles: tuple[str, ...] = ()
    traits: Mapping[str, tuple[str, ...]] = {}
    oidc_identities: tuple[ExternalIdentity, ...] = ()
    saml_identities: tuple[ExternalIdentity, ...] = ()
    github_identities: tuple[ExternalIdentity, ...] = ()
    status: UserStatus = UserStatus()
    expires: Moment | None = None
    created_by: CreatedBy = CreatedBy()
    local_auth: LocalAuth | None = None


class User(Value, frozen=True, kw_only=True):
    kind: Literal["user"] = "user"
    version: Literal["v2"] = "v2"
    metadata: Metadata
    spec: UserSpec = UserSpec()

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def roles(self) -> tuple[str, ...]:
        return self.spec.roles

    @property
    def traits(self) -> Mapping[str, tuple[str, ...]]:
        return self.spec.traits

    def expired(self, now: datetime) -> bool:
        """Whether the user's own end has come; the metadata's `expires` counts as well."""
        return any(end is not None and now >= end for end in (self.spec.expires, self.metadata.expires))

    def findings(self) -> Iterator[Finding]:
        yield from self.metadata.findings()
        if self.spec.expires is not None and self.spec.expires.tzinfo is None:
            yield Finding(("spec", "expires"), str(self.spec.expires), "a time with a zone")
        for number, role in enumerate(self.spec.roles):
            if problem := check_name(role):
                yield Finding(("spec", "roles", number), shown(role), f"the name of a role; this one {problem}")
        if len(set(self.spec.roles)) != len(self.spec.roles):
            yield Finding(("spec", "roles"), "a role twice", "each role once")
        yield from trait_findings(("spec", "traits"), self.spec.traits)
        yield from text_findings(("spec", "status", "locked_message"), self.spec.status.locked_message)

    @property
    def warnings(self) -> tuple[FieldWarning, ...]:
        later = ("oidc_identities", "saml_identities", "github_identities")
        return tuple(
            FieldWarning(f"spec.{name}", "single sign-on is not available yet; kept without effect")
            for name in later
            if getattr(self.spec, name)
        )


def trait_findings(where: tuple[str | int, ...], traits: Mapping[str, tuple[str, ...]]) -> Iterator[Finding]:
    """What is wrong with the traits of a user; `logins` have to be names of Unix accounts."""
    if len(traits) > MAX_TRAITS:
        yield Finding(where, f"{len(traits)} traits", f"at most {MAX_TRAITS}")
        return
    for name, values in traits.items():
        if not name or len(name) > MAX_TRAIT or check_text(name):
            yield Finding((*where, name), shown(name), "the name of a trait")
        if len(values) > MAX_TRAITS:
            yield Finding((*where, name), f"{len(values)} values", f"at most {MAX_TRAITS}")
            continue
        for number, value in enumerate(values):
            if len(value) > MAX_TRAIT or check_text(value):
                yield Finding((*where, name, number), shown(value), f"one line of at most {MAX_TRAIT} characters")
            elif name == "logins" and not is_unix_login(value):
                yield Finding((*where, name, number), shown(value), "the name of a Unix account")
