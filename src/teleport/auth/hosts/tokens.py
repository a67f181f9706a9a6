"""Join tokens: made, looked up, and how long they may live. A secret is shown once, when its token is made.

A token is looked up by its public id and compared hashed, in constant time.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec

from teleport.api import messages as m
from teleport.audit.events import TokenCreate, TrustedClusterTokenCreate
from teleport.auth.caller import Caller
from teleport.auth.state import ClusterState
from teleport.backend.interface import Absent, PutOp
from teleport.clock import rfc3339
from teleport.errors import AlreadyExists, BadRequest, CompareFailed
from teleport.resources.codec import checked, from_json, to_json
from teleport.resources.metadata import ORIGIN_LABEL
from teleport.resources.secret import SecretText
from teleport.resources.token import Token, TokenRole, token_id
from teleport.store import records

MIN_TTL: Final = 60.0  # seconds
MAX_TTL: Final = 48 * 3600.0
MIN_SECRET: Final = 16  # characters of a token that a person chose


class Tokens:
    """The tokens of the cluster, and those of this auth server's configuration file."""

    def __init__(self, state: ClusterState, static: Sequence[Token]) -> None:
        self._state = state
        self._static = {token.name: token for token in static}

    @property
    def static(self) -> Sequence[Token]:
        """The tokens of the configuration file, marked as such."""
        return [_of_the_file(token) for token in self._static.values()]

    async def add(
        self,
        caller: Caller,
        request: m.AddTokenRequest,
        pins: list[str],
        auth_servers: list[str],
        web_addresses: list[str],
    ) -> m.JoinToken:
        """A new join token; its secret is shown in the reply and never again."""
        try:
            roles = tuple(TokenRole(role.strip().lower()) for role in request.roles)
        except ValueError:
            raise BadRequest(
                f"tokens are for {', '.join(TokenRole)}; found {', '.join(map(repr, request.roles))}",
                hint="tctl tokens add --type=node",
            ) from None
        if not MIN_TTL <= request.ttl <= MAX_TTL:
            raise BadRequest(f"a token lives from 1m to 48h, not {request.ttl:.0f} s", hint="--ttl=1h")
        if request.value and len(request.value) < MIN_SECRET:
            raise BadRequest(
                f"a token of one's own choice has {MIN_SECRET} characters or more", hint="leave --value out"
            )
        now = self._state.clock.now()
        secret = SecretText(request.value or secrets.token_hex(16))
        end = now + timedelta(seconds=request.ttl)
        made = Token.from_secret(
            secret, roles, end, dict(request.labels), single_use=request.single_use, cluster=request.cluster
        )
        token = checked(made)
        try:
            await self._state.commit(
                [PutOp(records.TOKENS + token.name, to_json(token), token.metadata.expires)],
                conditions=[Absent(records.TOKENS + token.name)],
                events=[
                    self._state.event(
                        TokenCreate,
                        caller,
                        name=token.name,
                        system_roles=[str(role) for role in roles],
                        expires=end,
                        ttl=f"{request.ttl:.0f}s",
                    ),
                    *(
                        [
                            self._state.event(
                                TrustedClusterTokenCreate,
                                caller,
                                name=token.name,
                                expires=end,
                                for_cluster=request.cluster,
                            )
                        ]
                        if TokenRole.TRUSTED_CLUSTER in roles
                        else []
                    ),
                ],
            )
        except CompareFailed:
            raise AlreadyExists(f"there is a token {token.name} already", hint=f"tctl tokens rm {token.name}") from None
        return m.JoinToken(
            token=secret.reveal(),
            id=token.name,
            roles=[str(role) for role in roles],
            expires=end,
            ca_pins=pins,
            auth_servers=auth_servers,
            labels=dict(request.labels),
            single_use=request.single_use,
            web_addresses=web_addresses,
            cluster=request.cluster,
        )

    async def find(self, secret: SecretText) -> tuple[Token, int] | None:
        """The stored or static token with this secret, and its revision (0: static). Both are looked up, whether or
        not one is found."""
        name = token_id(secret)
        item = await self._state.backend.get(records.TOKENS + name)
        stored = from_json(item.value) if item is not None else None
        static = self._static.get(name)
        for token, revision in ((stored, item.revision if item is not None else 0), (static, 0)):
            if isinstance(token, Token) and token.is_for(secret) and not token.expired(self._state.clock.now()):
                return token, revision
        return None


def check_life(expires: datetime | None, now: datetime) -> None:
    """Raises `BadRequest` for a stored token that would never end, or later than any may, or that has ended."""
    if expires is None or expires > now + timedelta(seconds=MAX_TTL):
        raise BadRequest(
            "a join token ends within 48h; only tokens in the configuration file do not",
            hint="set metadata.expires, or: tctl tokens add",
        )
    if expires <= now:
        raise BadRequest(f"this join token ended at {rfc3339(expires)}", hint="make a new one: tctl tokens add")


def _of_the_file(token: Token) -> Token:
    labels = {**token.metadata.labels, ORIGIN_LABEL: "config-file"}
    return msgspec.structs.replace(token, metadata=msgspec.structs.replace(token.metadata, labels=labels))
