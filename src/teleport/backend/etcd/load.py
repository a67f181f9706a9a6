"""The engine, loaded when it is asked for: nobody else needs grpc, and it may not be installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from teleport.errors import TeleportError

if TYPE_CHECKING:
    from teleport.backend.etcd.engine import EtcdBackend


def etcd_backend() -> type[EtcdBackend]:
    """The class. Raises `TeleportError` when what it needs is not installed."""
    try:
        import google.protobuf  # noqa: F401
        import grpc.aio  # noqa: F401
    except ImportError:
        raise TeleportError(
            "the storage is configured to be in etcd, but grpcio and protobuf are not installed",
            hint="pip install 'teleport-access[etcd]'",
        ) from None
    from teleport.backend.etcd.engine import EtcdBackend

    return EtcdBackend
