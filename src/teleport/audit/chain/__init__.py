"""The chains of the audit log, their checkpoints, and how both are proved. Pure."""

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
from teleport.audit.chain.verify import Expectations, Fault, Place, Problem, RunVerifier, demand_all

__all__ = [
    "ChainKey",
    "ChainState",
    "CheckpointRef",
    "CheckpointState",
    "Expectations",
    "Fault",
    "Head",
    "Linked",
    "Place",
    "Problem",
    "RunVerifier",
    "Sign",
    "Signer",
    "Verify",
    "demand_all",
    "link",
    "mark_received",
    "mark_supplement",
    "next_checkpoints",
    "reference",
    "seal",
    "signature_holds",
    "statement",
]
