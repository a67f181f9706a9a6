"""Settings of the cluster that a service is told of, at its start and whenever they change.

Most settings are read from the view where they count; here are those that what is open holds for itself.
"""

from __future__ import annotations

from typing import Protocol

from teleport.daemon.view import View
from teleport.ssh.surface import KeepAlive

NETWORKING = "cluster/cluster-networking-config"
PREFERENCE = "cluster/cluster-auth-preference"


class AsksClients(Protocol):
    """An SSH service (`ssh.service.SshService`)."""

    def keep_alive(self, every: KeepAlive) -> None: ...


def follow_keep_alive(view: View, service: AsksClients) -> None:
    """Has `service` ask its clients as often as the cluster says, now and from every change on."""

    def tell() -> None:
        spec = view.networking().spec
        service.keep_alive(KeepAlive(spec.keep_alive_interval.seconds, spec.keep_alive_count_max))

    view.cache.subscribe(NETWORKING, lambda _: tell())
    tell()
