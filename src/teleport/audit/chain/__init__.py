"""The chains of the audit log and their checkpoints; hosts do not load `verify`, which proves both. Pure."""

from teleport.audit.chain.checkpoint import (
    CheckpointRef,
    CheckpointState,
    Sign,
    Signer,
    Verify,
    next_checkpoints,
    reference,
    signature_holds,
    statement,
)
from teleport.audit.chain.link import ChainKey, ChainState, Head, Linked, link, mark_received, mark_supplement, seal

__all__ = [
    "ChainKey",
    "ChainState",
    "CheckpointRef",
    "CheckpointState",
    "Head",
    "Linked",
    "Sign",
    "Signer",
    "Verify",
    "link",
    "mark_received",
    "mark_supplement",
    "next_checkpoints",
    "reference",
    "seal",
    "signature_holds",
    "statement",
]
