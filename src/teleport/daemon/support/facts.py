"""What a configuration says, field by field: what is not named here is not told."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from teleport.daemon.config.token_source import TokenSource
from teleport.daemon.config.values import Config
from teleport.transport.site_proxy import VARIABLES

_MOST = 1 << 20  # bytes of a file with a secret


def settings(config: Config) -> dict[str, Any]:
    """Places, addresses and switches. Of secrets it is told whether they are set, and in which file."""
    return {
        "roles": [str(role) for role in config.roles],
        "data_dir": str(config.data_dir),
        "nodename": config.nodename,
        "auth_servers": [str(one) for one in config.auth_servers],
        "ca_pins": len(config.ca_pins),
        "joins_with": _place(config.token),
        "advertise_ip": str(config.advertise_ip or ""),
        "diag_addr": str(config.diag_addr or ""),
        "pid_file": str(config.pid_file or ""),
        "log": {"output": config.log.output, "severity": str(config.log.severity), "format": config.log.format},
        "limits": {"max_connections": config.limits.max_connections, "max_users": config.limits.max_users},
        "insecure": config.insecure,
        "debug": config.debug,
        "tracing": _tracing(config),
        "storage": _storage(config),
        "auth": _auth(config),
        "proxy": _proxy(config),
        "node": _node(config),
    }


def _tracing(config: Config) -> dict[str, Any]:
    """Without path and query, in which a collector may want a secret."""
    if config.tracing is None:
        return {}
    parts = urlsplit(config.tracing.url)
    return {"collector": f"{parts.scheme}://{parts.netloc}", "sampling_rate_per_million": config.tracing.rate}


def _place(token: TokenSource | None) -> str:
    if token is None:
        return "nothing"
    return f"the file {token.path}" if token.path is not None else "the configuration itself"


def _storage(config: Config) -> dict[str, Any]:
    storage = config.storage
    found: dict[str, Any] = {
        "kind": storage.shared or "dir",
        "path": str(storage.path),
        "events": str(storage.events_path),
        "recordings": str(storage.recordings_path),
        "sync": storage.sync,
        "journal": storage.journal,
    }
    if storage.etcd is not None:
        hosts = [urlsplit(peer) for peer in storage.etcd.peers]
        found["etcd"] = {
            "peers": [f"{one.scheme}://{one.hostname}:{one.port or ''}" for one in hosts],
            "prefix": storage.etcd.prefix,
            "by_certificate": storage.etcd.cert_file is not None,
            "by_password": storage.etcd.password_file is not None,
            "insecure": storage.etcd.insecure,
        }
    if storage.postgresql is not None:
        found["postgresql"] = {
            "servers": [str(server) for server in storage.postgresql.servers],
            "database": storage.postgresql.database,
            "schema": storage.postgresql.schema,
            "sslmode": str(storage.postgresql.sslmode),
            "insecure": storage.postgresql.insecure,
        }
    return found


def _auth(config: Config) -> dict[str, Any] | None:
    auth = config.auth
    if auth is None:
        return None
    return {
        "listen_addr": str(auth.listen_addr),
        "public_addrs": [str(one) for one in auth.public_addrs],
        "cluster_name": auth.cluster_name,
        "static_tokens": len(auth.static_tokens),
        "second_factor": str(auth.second_factor),
        "locking_mode": str(auth.locking_mode),
        "recording_mode": str(auth.recording_mode),
        "routing_strategy": str(auth.routing_strategy),
        "tunnel_strategy": str(auth.tunnel_strategy.type),
        "proxy_listener_mode": str(auth.proxy_listener_mode),
        "balancers": list(auth.balancers),
        "decided_by_the_file": sorted(str(one) for one in auth.managed),
        "keys_in_a_hardware_module": auth.key_token is not None,
    }


def _proxy(config: Config) -> dict[str, Any] | None:
    proxy = config.proxy
    if proxy is None:
        return None
    return {
        "listen_addr": str(proxy.listen_addr or ""),
        "web_listen_addr": str(proxy.web_listen_addr),
        "tunnel_listen_addr": str(proxy.tunnel_listen_addr),
        "peer_listen_addr": str(proxy.peer_listen_addr),
        "kube_listen_addr": str(proxy.kube_listen_addr or ""),
        "public_addrs": [str(one) for one in proxy.public_addrs],
        "ssh_public_addrs": [str(one) for one in proxy.ssh_public_addrs],
        "tunnel_public_addrs": [str(one) for one in proxy.tunnel_public_addrs],
        "https_keypairs": [str(one.cert_file) for one in proxy.keypairs],
        "acme": proxy.acme is not None,
        "kube_clusters": [str(one.address) for one in proxy.kube_clusters],
        "one_port": proxy.one_port,
        "plain_http": proxy.plain_http,
        "balancers": list(proxy.balancers),
    }


def _node(config: Config) -> dict[str, Any] | None:
    node = config.node
    if node is None:
        return None
    return {
        "listen_addr": str(node.listen_addr),
        "public_addrs": [str(one) for one in node.public_addrs],
        "port_forwarding": node.port_forwarding,
        "permit_user_env": node.permit_user_env,
        "recording_quota": node.recording_quota,
        "enhanced_recording": node.enhanced_recording is not None,
        "pam": node.pam is not None,
    }


def secrets(config: Config) -> Iterator[str]:
    """Every secret of this host that its configuration leads to, so that it can be looked for."""
    auth, proxy, node, storage = config.auth, config.proxy, config.node, config.storage
    for token in (config.token, *(one.token for one in (auth.static_tokens if auth is not None else ()))):
        if token is not None:
            with suppress(Exception):  # a file that is not there or holds no token has none to hide
                yield token.read()
    if storage.postgresql is not None:
        yield storage.postgresql.password
        yield from _lines(storage.postgresql.password_file, storage.postgresql.key_file)
    if storage.etcd is not None:
        yield from _lines(storage.etcd.password_file, storage.etcd.key_file)
        for peer in storage.etcd.peers:
            yield unquote(urlsplit(peer).password or "")
    if auth is not None and auth.key_token is not None:
        yield auth.key_token.pin
        yield from _lines(auth.key_token.pin_path)
    if proxy is not None:
        yield from _lines(*(pair.key_file for pair in proxy.keypairs))
        for cluster in proxy.kube_clusters:
            yield from (cluster.token, *cluster.key.decode(errors="replace").splitlines())
            yield from _lines(cluster.token_file)
    if node is not None and node.pam is not None:
        yield from (value for _, value in node.pam.environment)
    if config.tracing is not None:
        yield from (value for _, value in parse_qsl(urlsplit(config.tracing.url).query))
        yield from _lines(*(key for _, key in config.tracing.keypairs))
    for name in VARIABLES:
        with suppress(ValueError):
            yield unquote(urlsplit(os.environ.get(name, "")).password or "")
    keys = [path for path in (config.data_dir / "proc").rglob("*.key") if path.is_file()]
    yield from _lines(*keys, config.data_dir / "webproxy_key.pem")


def _lines(*paths: Path | None) -> Iterator[str]:
    """The lines of files that hold secrets; those around a key are not secret."""
    for path in paths:
        if path is None:
            continue
        with suppress(OSError), path.open("rb") as file:
            for line in file.read(_MOST).decode(errors="replace").splitlines():
                if not line.startswith("-----"):
                    yield line.strip()
