"""Storage: a small ordered key-value interface, and the engines behind it."""

from teleport.backend.interface import (
    Absent,
    Backend,
    BackendClosed,
    Changes,
    Condition,
    ConditionFailed,
    Deleted,
    DeleteOp,
    Event,
    Exists,
    Item,
    Put,
    PutOp,
    Snapshot,
    WatchCompacted,
    Write,
)

__all__ = [
    "Absent",
    "Backend",
    "BackendClosed",
    "Changes",
    "Condition",
    "ConditionFailed",
    "DeleteOp",
    "Deleted",
    "Event",
    "Exists",
    "Item",
    "Put",
    "PutOp",
    "Snapshot",
    "WatchCompacted",
    "Write",
]
