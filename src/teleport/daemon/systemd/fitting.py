"""Whether a configuration and a unit are made for each other."""

from __future__ import annotations

from collections.abc import Iterator

from teleport.daemon.config.values import Config
from teleport.daemon.systemd.units import Unit, Values
from teleport.resources.values import HostPort

_LOW = 1024


def misfits(values: Values, config: Config) -> Iterator[str]:
    """What would fail, or be dangerous, under this unit; a sentence each, with what to do."""
    unit = values.unit
    if unit is Unit.SERVICE and config.node is not None:
        yield (
            f"the configuration runs the SSH service, too, and under this unit each session would be of {values.user}, "
            "who may read the keys of the cluster: set ssh_service.enabled to no (teleport-node is for sessions)"
        )
    if unit is Unit.NODE and (config.auth is not None or config.proxy is not None):
        yield (
            "the configuration runs auth or proxy, and under this unit they would be root: set auth_service.enabled "
            "and proxy_service.enabled to no; teleport.service is for them"
        )
    data_dir = values.data_dir or unit.data_dir
    if unit is Unit.SERVICE and config.data_dir != data_dir:
        there = config.data_dir
        yield f"teleport.data_dir is {there}, and this unit may write to {data_dir}: --data-dir={there}"
    low = sorted({address.port for address in _listened(config) if 0 < address.port < _LOW})
    if unit is Unit.SERVICE and low and not values.low_ports:
        yield f"only root may listen on port {', '.join(map(str, low))}: --low-ports"
    if unit is Unit.SERVICE and values.low_ports and not low:
        yield "no port below 1024 is listened on: leave --low-ports out"


def _listened(config: Config) -> Iterator[HostPort]:
    found = [config.diag_addr]
    if config.auth is not None:
        found.append(config.auth.listen_addr)
    if config.proxy is not None:
        proxy = config.proxy
        found += [proxy.listen_addr, proxy.web_listen_addr, proxy.tunnel_listen_addr, proxy.kube_listen_addr]
        found.append(proxy.peer_listen_addr)
    yield from (address for address in found if address is not None)
