"""Finding the auth server and something to prove oneself with (`cli.md`, "Finding the auth server").

In this order: the identity file that `-i` names; with a configuration file, the administrator's identity that the
auth service on this host keeps in `<data_dir>/proc`; the active `tsh` profile, through its proxy. Whatever the way, the
session with auth is TLS that ends at auth and proves a certificate of the cluster's own authority. The administrator on
the auth host connects straight; the other two leave a site by its HTTP proxy.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from teleport.api.sync_client import SyncAuthClient, direct, through_proxy
from teleport.cli.tctl.actor import actor_headers
from teleport.cli.tctl.options import Flags
from teleport.cli.tsh.prompts import second_factor
from teleport.client.addresses import join, split_port
from teleport.client.cluster import auth_client, auth_server_name
from teleport.client.session_mfa import ask_when_due
from teleport.errors import AccessDenied, ConnectionProblem, NotFound, TeleportError
from teleport.transport.blocking import TLSStream
from teleport.transport.tls import cluster_client_context

if TYPE_CHECKING:
    from teleport.client.keystore import Credentials
    from teleport.client.trust import ProxyTrust
    from teleport.daemon.config.file import FileConfig

AUTH_PORT: Final = 3025
CONFIG_VARIABLE: Final = "TELEPORT_CONFIG_FILE"
_NOBODY = "there is nothing to prove oneself to the cluster with"
_WAYS = "run tctl on the auth server with --config=FILE, or log in first: tsh login, or give an identity: -i FILE"


@dataclass(frozen=True, slots=True)
class Auth:
    """A connection to auth that is made when the first call needs it."""

    client: SyncAuthClient
    cluster: str
    addresses: tuple[str, ...]  # where auth, or the proxy in front of it, was looked for

    def __enter__(self) -> Auth:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()


class _LocalCAs(msgspec.Struct):
    """`<data_dir>/proc/cas.json`, as the daemon writes it."""

    cluster: str
    tls_ca_certs: list[str]
    ssh_ca_keys: list[str] = []


def open_auth(flags: Flags, environment: Mapping[str, str] | None = None) -> Auth:
    """The auth server that flags, configuration and `~/.tsh` lead to. Raises `TeleportError` with the way on."""
    environment = os.environ if environment is None else environment
    file = _config(flags, environment)
    if flags.identity:
        return _by_identity(Path(flags.identity), _addresses(flags, file), insecure=flags.insecure)
    if file is not None:
        local = _local(flags, file)
        if local is not None:
            return local
        if _asked_for(flags, environment):
            raise NotFound(
                f"{file.source}: there is no administrator's identity in {_proc(file) / 'admin'}",
                hint="tctl works with a configuration on hosts that run the auth service, once that was started",
            )
    return _by_profile(environment, _addresses(flags, None) if flags.auth_server else [], insecure=flags.insecure)


# configuration


def _asked_for(flags: Flags, environment: Mapping[str, str]) -> bool:
    return bool(flags.config or environment.get(CONFIG_VARIABLE) or environment.get("TELEPORT_CONFIG"))


def _config(flags: Flags, environment: Mapping[str, str]) -> FileConfig | None:
    """The configuration that applies. An empty TELEPORT_CONFIG_FILE turns the default file off."""
    named = flags.config or environment.get(CONFIG_VARIABLE, "")
    if not named and CONFIG_VARIABLE in environment and not environment.get("TELEPORT_CONFIG"):
        return None
    from teleport.daemon.config.file import DEFAULT_PATH, read_config

    if not _asked_for(flags, environment) and not os.access(DEFAULT_PATH, os.R_OK):
        return None  # no configuration, or not for this user: a login is what counts then
    return read_config(Path(named) if named else None, environment=environment)


def _proc(file: FileConfig) -> Path:
    return file.document.teleport.data_dir / "proc"


def _addresses(flags: Flags, file: FileConfig | None) -> list[tuple[str, int]]:
    if flags.auth_server:
        return [split_port(text, AUTH_PORT) for text in flags.auth_server]
    if file is not None and file.document.teleport.auth_servers:
        return [(server.host, server.port) for server in file.document.teleport.auth_servers]
    if file is not None and "auth_service.listen_addr" in file.present:
        listen = file.document.auth_service.listen_addr
        anywhere = listen.host in ("0.0.0.0", "::", "")  # noqa: S104 - compared with, never bound
        return [("127.0.0.1" if anywhere else listen.host, listen.port)]
    return [("127.0.0.1", AUTH_PORT)]


# the three ways


def _local(flags: Flags, file: FileConfig) -> Auth | None:
    """As the administrator of this auth server; None when this host has no such identity."""
    proc = _proc(file)
    cert, key = proc / "admin" / "tls.crt", proc / "admin" / "tls.key"
    try:
        with key.open("rb"):
            pass
        cas = msgspec.json.decode((proc / "cas.json").read_bytes(), type=_LocalCAs)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        if not _asked_for(flags, os.environ):
            return None
        raise AccessDenied(
            f"the administrator's identity in {proc} may not be read: {error.strerror}",
            hint="run tctl as the user who runs the auth service (sudo tctl ...), or log in: tsh login",
        ) from None
    except (msgspec.DecodeError, OSError) as error:
        raise TeleportError(
            f"the administrator's identity in {proc} cannot be used: {error}", hint="restart the auth service"
        ) from None
    context = cluster_client_context(cas.tls_ca_certs, cert, key)
    addresses, name = _addresses(flags, file), auth_server_name(cas.cluster)
    connect = _first([direct(host, port, context, name) for host, port in addresses], _shown(addresses))
    client = SyncAuthClient(connect, _shown(addresses), headers=actor_headers())
    return Auth(client, cas.cluster, tuple(join(*address) for address in addresses))


def _by_identity(path: Path, addresses: Sequence[tuple[str, int]], *, insecure: bool) -> Auth:
    """With an identity file: the address is an auth server's or, when that does not answer as one, a proxy's."""
    from teleport.client.keystore import credentials_of_identity

    return _at(credentials_of_identity(path, datetime.now(UTC)), addresses, insecure=insecure)


def _at(held: Credentials, addresses: Sequence[tuple[str, int]], *, insecure: bool) -> Auth:
    """At addresses of auth servers or proxies, whichever they are."""
    from teleport.transport.site_dial import dial_out

    name = auth_server_name(held.cluster)

    def connect(context: ssl.SSLContext) -> Callable[[], TLSStream]:
        ways: list[Callable[[], TLSStream]] = []
        for host, port in addresses:
            ways.append(direct(host, port, context, name, dial_out))
            ways.append(through_proxy(_web(host, port, held.cluster, held.ca_pems, insecure), host, context, name))
        return _first(ways, _shown(addresses))

    own = cluster_client_context(held.ca_pems, held.tls_file, held.key_file)
    client = SyncAuthClient(connect(own), _shown(addresses))
    ask_when_due(client, held, connect, second_factor(addresses[0]))
    return Auth(client, held.cluster, tuple(join(*address) for address in addresses))


def _web(host: str, port: int, cluster: str, cas: tuple[str, ...], insecure: bool) -> Callable[[], TLSStream]:
    from teleport.client.dial import open_web
    from teleport.client.trust import ClusterTrust

    return _unproved(host, port) if insecure else lambda: open_web(host, port, ClusterTrust(cluster, cas))


def _unproved(host: str, port: int) -> Callable[[], TLSStream]:
    from teleport.client.dial import open_unproved

    return lambda: open_unproved(host, port, host)


def _by_profile(environment: Mapping[str, str], addresses: Sequence[tuple[str, int]], *, insecure: bool) -> Auth:
    """With the active login, through its proxy unless addresses are given."""
    from teleport.client.access import from_profile
    from teleport.client.dial import open_web
    from teleport.client.home import Home, home_path

    try:
        access = from_profile(Home(home_path(environment)), "", "", "", datetime.now(UTC))
    except AccessDenied as error:
        raise AccessDenied(f"{_NOBODY}: {error.message}", hint=_WAYS) from None
    if access.cluster != access.credentials.cluster:
        raise AccessDenied(
            f"the profile has chosen the cluster {access.cluster}; tctl serves the one that was logged in to, "
            f"{access.credentials.cluster}",
            hint=f"tsh login {access.credentials.cluster}",
        )
    if addresses:
        return _at(access.credentials, addresses, insecure=insecure)
    host, port = access.web
    trust: ProxyTrust = access.trust
    open_proxy = _unproved(host, port) if insecure else lambda: open_web(host, port, trust)
    client = auth_client(access.credentials, open_proxy, access.web, second_factor(access.web))
    return Auth(client, access.credentials.cluster, (join(host, port),))


def _shown(addresses: Sequence[tuple[str, int]]) -> str:
    return ", ".join(join(*address) for address in addresses)


def _first(ways: Sequence[Callable[[], TLSStream]], where: str) -> Callable[[], TLSStream]:
    """The first way that leads to an auth server which proves itself; the error names the address and why."""

    def connect() -> TLSStream:
        reasons: list[str] = []
        for way in ways:
            try:
                return way()
            except ConnectionProblem as error:
                reasons.append(error.message)
            except OSError as error:
                reasons.append(error.strerror or str(error))
        raise ConnectionProblem(
            f"no auth server was reached at {where}: {'; '.join(dict.fromkeys(reasons))}",
            hint="check that the auth service runs, and --auth-server",
        )

    return connect
