"""What a daemon says of itself: that it started and stopped, on record; and where its auth service is."""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Mapping
from datetime import datetime

from teleport import __version__
from teleport.audit.emitter import Emitter
from teleport.audit.events import Event, ServiceStart, ServiceStop, new_event
from teleport.daemon.config.values import Config
from teleport.daemon.host import Host
from teleport.errors import TeleportError
from teleport.resources.metadata import Metadata
from teleport.resources.server import Server, ServerSpec
from teleport.resources.values import HostPort

log = logging.getLogger(__name__)


async def say_started(emitter: Emitter, config: Config, now: datetime) -> None:
    """Raises `TeleportError` when the event cannot be kept: such a daemon does not start."""
    more = {"version": __version__, "pid": os.getpid(), "hostname": config.nodename}
    await _say(ServiceStart, emitter, config, now, more)


async def say_stopped(emitter: Emitter, config: Config, now: datetime) -> None:
    """The end comes whether it can be kept on record or not; then the log says so."""
    try:
        await _say(ServiceStop, emitter, config, now, {"reason": "stopped"})
    except TeleportError as error:
        log.error("the end of this daemon could not be put on record: %s", error)


async def _say(kind: type[Event], emitter: Emitter, config: Config, now: datetime, more: Mapping[str, object]) -> None:
    services = [role.value for role in config.roles]
    await emitter.emit(new_event(kind, now, str(uuid.uuid4()), cluster_name=emitter.cluster, services=services, **more))


def describe_auth(config: Config, host: Host, address: HostPort, now: datetime) -> Server:
    """The auth service as others find it."""
    assert config.auth is not None
    return Server(
        kind="auth_server",
        metadata=Metadata(name=host.host_id),
        spec=ServerSpec(
            addr=str(address),
            public_addrs=tuple(str(one) for one in config.auth.public_addrs),
            hostname=config.nodename,
            version=__version__,
            epoch=str(host.epoch),
            started=now,
        ),
    )
