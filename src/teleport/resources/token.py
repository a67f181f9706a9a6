"""Join tokens (`resources.md` 9, `ours.md`): the secret is never kept, only its public id and its hash.

In a file that a person writes, `metadata.name` is the secret, as operators know it. Reading the file hashes it: the
resource is named by its public id, the first 8 hex digits of the secret's SHA-256, and `spec.sha256` is all of it.
A document that already has `spec.sha256` (a backup) is taken as it is.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal

import msgspec

from teleport.identity import SystemRole
from teleport.resources.cluster_names import cluster_problem, foreign_cluster_problem
from teleport.resources.metadata import FieldWarning, Finding, Metadata, Value, shown
from teleport.resources.secret import SecretText

NAMES_NONE: Final = (
    "no cluster is named: whoever has the token chooses the name of the cluster whose hosts people here then reach"
)
_HASH = re.compile(r"[0-9a-f]{64}")


class TokenRole(StrEnum):
    """What a host may join as, spelled as people write it."""

    AUTH = "auth"
    PROXY = "proxy"
    NODE = "node"
    KUBE = "kube"
    APP = "app"
    DB = "db"
    TRUSTED_CLUSTER = "trusted_cluster"

    @property
    def system_role(self) -> SystemRole | None:
        """The role of the host certificate that the joiner gets; None for a trusted cluster."""
        return None if self is TokenRole.TRUSTED_CLUSTER else SystemRole(self.value.capitalize())


class AwsRule(Value, frozen=True, kw_only=True):
    aws_account: str = ""
    aws_regions: tuple[str, ...] = ()
    aws_arn: str = ""
    aws_role: str = ""


class TokenSpec(Value, frozen=True, kw_only=True):
    roles: tuple[TokenRole, ...]
    sha256: str = ""  # lower-case hex of the SHA-256 of the secret
    join_method: str = ""
    allow: tuple[AwsRule, ...] = ()
    aws_iid_ttl: str = ""
    single_use: bool = False  # lets one host in
    used_by: str = ""  # UUID of the host that a single-use token has let in; it lets in no other
    cluster: str = ""  # the one cluster that a token for trusted clusters is for; empty: whichever comes


class Token(Value, frozen=True, kw_only=True):
    """A stored join token. `name` is the public id."""

    kind: Literal["token"] = "token"
    version: Literal["v2"] = "v2"
    metadata: Metadata
    spec: TokenSpec

    @classmethod
    def from_secret(
        cls,
        secret: SecretText,
        roles: tuple[TokenRole, ...],
        expires: datetime | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        single_use: bool = False,
        cluster: str = "",
    ) -> Token:
        """The resource to store for `secret`; `expires` None means that the token does not end."""
        digest = token_hash(secret)
        metadata = Metadata(name=digest[:8], expires=expires, labels=labels or {})
        return cls(
            metadata=metadata, spec=TokenSpec(roles=roles, sha256=digest, single_use=single_use, cluster=cluster)
        )

    @property
    def name(self) -> str:
        return self.metadata.name

    @property
    def roles(self) -> tuple[TokenRole, ...]:
        return self.spec.roles

    @property
    def system_roles(self) -> frozenset[SystemRole]:
        return frozenset(role.system_role for role in self.spec.roles if role.system_role is not None)

    def is_for(self, secret: SecretText) -> bool:
        """Whether `secret` is this token's, compared in constant time. A token without a hash is nobody's."""
        return bool(self.spec.sha256) and hmac.compare_digest(self.spec.sha256, token_hash(secret))

    def expired(self, now: datetime) -> bool:
        return self.metadata.expires is not None and now >= self.metadata.expires

    def findings(self) -> Iterator[Finding]:
        yield from self.metadata.findings()
        if not self.spec.roles:
            yield Finding(("spec", "roles"), "no role", f"one or more of {', '.join(TokenRole)}")
        if not _HASH.fullmatch(self.spec.sha256):
            yield Finding(("spec", "sha256"), shown(self.spec.sha256), "64 lower-case hex digits")
        elif self.metadata.name != self.spec.sha256[:8]:
            yield Finding(
                ("metadata", "name"), "a name that is not the token's id", "the first 8 digits of spec.sha256"
            )
        if self.spec.join_method not in {"", "token"}:
            yield Finding(
                ("spec", "join_method"), shown(self.spec.join_method), "token; other methods are not available"
            )

        if self.spec.used_by and not self.spec.single_use:
            yield Finding(("spec", "used_by"), shown(self.spec.used_by), "nothing, unless single_use is true")
        yield from self._of_cluster()

    def _of_cluster(self) -> Iterator[Finding]:
        name = self.spec.cluster
        if not name:
            return
        if TokenRole.TRUSTED_CLUSTER not in self.spec.roles:
            yield Finding(("spec", "cluster"), shown(name), f"nothing, unless {TokenRole.TRUSTED_CLUSTER} is a role")
        elif problem := cluster_problem(name) or foreign_cluster_problem(name):
            yield Finding(
                ("spec", "cluster"), f"{shown(name)}, which {problem}", "the cluster_name of the other cluster"
            )

    @property
    def warnings(self) -> tuple[FieldWarning, ...]:
        later = [name for name in ("allow", "aws_iid_ttl") if getattr(self.spec, name)]
        found = [FieldWarning(f"spec.{name}", "joining by EC2 identity is not available yet") for name in later]
        if self.names_no_cluster:
            found.append(FieldWarning("spec.cluster", NAMES_NONE))
        return tuple(found)

    @property
    def names_no_cluster(self) -> bool:
        """Whether any cluster may come with it, under a name that it chooses itself."""
        return TokenRole.TRUSTED_CLUSTER in self.spec.roles and not self.spec.cluster

    def used(self, host_id: str) -> Token:
        """The token once the host has joined with it."""
        if not self.spec.single_use:
            return self
        return msgspec.structs.replace(self, spec=msgspec.structs.replace(self.spec, used_by=host_id))


def token_hash(secret: SecretText) -> str:
    """Lower-case hex of the SHA-256 of the secret."""
    return hashlib.sha256(secret.reveal().encode()).hexdigest()


def token_id(secret: SecretText) -> str:
    """The public id: the first 8 hex digits of `token_hash`."""
    return token_hash(secret)[:8]
