"""Messages between the auth services of clusters that trust each other, and about those clusters."""

from __future__ import annotations

from teleport.api.messages.base import Message, Request


class ValidateClusterRequest(Request, frozen=True, kw_only=True):
    """A cluster whose hosts are to be reached from here: what it says of itself, and a token that lets it."""

    token: str
    document: str
    signatures: dict[str, str]


class ExchangeRequest(Request, frozen=True, kw_only=True):
    """A statement of a cluster that is known (`pki.cluster_statement`): its text, and signatures by public key."""

    document: str
    signatures: dict[str, str]


class ClusterStatement(Message, frozen=True, kw_only=True):
    """A statement of this cluster for the one that asked."""

    document: str
    signatures: dict[str, str]


class SeenClustersRequest(Request, frozen=True, kw_only=True):
    """A proxy holds tunnels of these clusters."""

    clusters: list[str]
