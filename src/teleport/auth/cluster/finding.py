"""Which cluster an auth server serves: the one that its storage holds, or a new one.

Certificates carry the cluster's name, so what the storage holds decides: whoever names another one is refused, and what
`--bootstrap` gives counts for a new cluster alone. A cluster that another auth server makes meanwhile is found.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from teleport.auth.authorities.keys import AuthorityKeys
from teleport.auth.cluster.bootstrap import MadeElsewhere, bootstrap
from teleport.auth.config import AuthConfig
from teleport.auth.state import ClusterState, stored_cluster_name
from teleport.backend.interface import Backend
from teleport.clock import Clock
from teleport.errors import TeleportError

if TYPE_CHECKING:
    from teleport.auth.cluster.from_file import Given

log = logging.getLogger(__name__)


async def found_or_made(
    config: AuthConfig, backend: Backend, clock: Clock, on_events: Callable[[], None], keys: AuthorityKeys | None
) -> ClusterState:
    """The cluster that the storage holds, made when it holds none.

    Raises `TeleportError` when configuration or bootstrap file name another cluster than the one that is there.
    """
    try:
        return await _found_or_made(config, backend, clock, on_events, keys)
    except MadeElsewhere:
        return await _found_or_made(config, backend, clock, on_events, keys)


async def _found_or_made(
    config: AuthConfig, backend: Backend, clock: Clock, on_events: Callable[[], None], keys: AuthorityKeys | None
) -> ClusterState:
    """One attempt. Raises `MadeElsewhere` when another auth server made the cluster meanwhile."""
    stored = await stored_cluster_name(backend)
    given = given_to_new(config, stored)
    wanted = config.cluster_name or stored or (given.cluster if given is not None else "") or config.node_name
    if stored is not None and stored != wanted:
        raise TeleportError(
            f"the storage holds the cluster {stored!r}, the configuration names {wanted!r}: certificates carry the "
            "name, so it cannot change",
            hint=f"set auth_service.cluster_name to {stored!r}, or start with an empty data_dir",
        )
    state = ClusterState(backend, clock, wanted, on_events=on_events, keys=keys)
    await bootstrap(state, config.settings, given)
    return state


def given_to_new(config: AuthConfig, stored: str | None) -> Given | None:
    """What `--bootstrap` gives to a new cluster. Raises `TeleportError` when that is another cluster's."""
    if config.bootstrap is None:
        return None
    from teleport.auth.cluster.from_file import given

    if stored is not None:
        log.warning("--bootstrap is ignored: the storage holds the cluster %s already", stored)
        return None
    found = given(config.bootstrap())
    if config.cluster_name and found.cluster and found.cluster != config.cluster_name:
        raise TeleportError(
            f"the file is of the cluster {found.cluster!r}, the configuration names {config.cluster_name!r}: "
            "certificates carry the name, so it cannot change",
            hint=f"set auth_service.cluster_name to {found.cluster!r}, or leave the authorities out of the file",
        )
    return found
