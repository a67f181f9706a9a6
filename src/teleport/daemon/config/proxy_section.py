"""`proxy_service`: the door of the cluster (`config.md` 6)."""

# ruff: noqa: RUF009  # `key` makes a dataclass field

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleport.daemon.config import forms, ports
from teleport.pki.acme import is_public_name
from teleport.resources.names import canonical_host
from teleport.resources.values import HostPort
from teleport.resources.yaml_document import Node, Problems
from teleport.resources.yaml_readers import ListOf, address, boolean, key, matching, one_or_many, some_text, url

_LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A TLS key and the chain of its certificate, both PEM."""

    key_file: Path = key(forms.readable_file, Path(), "private key", required=True)
    cert_file: Path = key(forms.readable_file, Path(), "certificate chain, complete", required=True)


def _email(value: str) -> str:
    name, at, domain = value.partition("@")
    if not (name and at and domain) or any(character.isspace() for character in value):
        raise ValueError
    return value


@dataclass(frozen=True, slots=True)
class Acme:
    """`proxy_service.acme`."""

    enabled: bool = key(boolean, False, "get the certificate by ACME")
    email: str = key(matching("an e-mail address", _email), "", "told about trouble with the certificate")
    uri: str = key(url, _LETS_ENCRYPT, "directory of the ACME service")


@dataclass(frozen=True, slots=True)
class ProxyKubernetes:
    """`proxy_service.kubernetes`: the older form of `kube_listen_addr`."""

    enabled: bool = key(boolean, False, "serve Kubernetes clients")
    listen_addr: HostPort | None = key(forms.listen_address(ports.PROXY_KUBE), None, "listener for Kubernetes clients")
    public_addr: tuple[HostPort, ...] = key(forms.public_addresses(ports.PROXY_KUBE), (), "advertised addresses")
    kubeconfig_file: Path | None = key(forms.path, None, "credentials for the cluster")
    cluster_name: str = key(some_text, "", "name of the cluster")


@dataclass(frozen=True, slots=True)
class ProxySection:
    """`proxy_service` as it stands in the file."""

    enabled: bool = key(boolean, True, "run the proxy service")
    listen_addr: HostPort = key(
        forms.listen_address(ports.PROXY_SSH), HostPort(forms.ANY_HOST, ports.PROXY_SSH), "listener for SSH clients"
    )
    web_listen_addr: HostPort = key(
        forms.listen_address(ports.WEB), HostPort(forms.ANY_HOST, ports.WEB), "listener for HTTPS: pages and API"
    )
    tunnel_listen_addr: HostPort = key(
        forms.listen_address(ports.PROXY_TUNNEL),
        HostPort(forms.ANY_HOST, ports.PROXY_TUNNEL),
        "listener for reverse tunnels",
    )
    peer_listen_addr: HostPort = key(
        forms.listen_address(ports.PROXY_PEER),
        HostPort(forms.ANY_HOST, ports.PROXY_PEER),
        "listener for other proxies; open with tunnel_strategy proxy_peering, or when it is set",
    )
    peer_public_addr: HostPort | None = key(
        address(ports.PROXY_PEER),
        None,
        "where other proxies reach this very one, past any balancer",
        default_text="this host's address",
    )
    kube_listen_addr: HostPort | None = key(
        forms.listen_address(ports.PROXY_KUBE), None, "listener for Kubernetes clients", default_text="off"
    )
    kubernetes: ProxyKubernetes | None = key(forms.section(ProxyKubernetes), None, "older form of kube_listen_addr")
    mysql_listen_addr: HostPort | None = key(forms.listen_address(ports.MYSQL), None, "listener for MySQL clients")
    postgres_listen_addr: HostPort | None = key(
        forms.listen_address(ports.POSTGRES), None, "listener for PostgreSQL clients"
    )
    mongo_listen_addr: HostPort | None = key(forms.listen_address(ports.MONGO), None, "listener for MongoDB clients")
    public_addr: tuple[HostPort, ...] = key(
        forms.public_addresses(ports.WEB), (), "advertised web addresses", default_text="<nodename>:3080"
    )
    ssh_public_addr: tuple[HostPort, ...] = key(
        forms.public_addresses(ports.PROXY_SSH), (), "advertised SSH addresses", default_text="<public_addr host>:3023"
    )
    tunnel_public_addr: tuple[HostPort, ...] = key(
        forms.public_addresses(ports.PROXY_TUNNEL), (), "advertised tunnel", default_text="<public_addr host>:3024"
    )
    kube_public_addr: tuple[HostPort, ...] = key(
        forms.public_addresses(ports.PROXY_KUBE), (), "advertised Kubernetes addresses"
    )
    mysql_public_addr: tuple[HostPort, ...] = key(forms.public_addresses(ports.MYSQL), (), "advertised MySQL addresses")
    postgres_public_addr: tuple[HostPort, ...] = key(
        forms.public_addresses(ports.POSTGRES), (), "advertised PostgreSQL addresses"
    )
    mongo_public_addr: tuple[HostPort, ...] = key(
        forms.public_addresses(ports.MONGO), (), "advertised MongoDB addresses"
    )
    proxy_protocol: bool = key(boolean, True, "take HAProxy's PROXY header from those listed in proxy_protocol_from")
    proxy_protocol_from: tuple[str, ...] = key(
        one_or_many(forms.network), (), "balancers that must send a PROXY header", default_text="nobody"
    )
    https_keypairs: tuple[KeyPair, ...] = key(
        ListOf(forms.section(KeyPair)), (), "keys and certificates for HTTPS", default_text="a self-signed pair"
    )
    https_key_file: Path | None = key(forms.readable_file, None, "older form of https_keypairs")
    https_cert_file: Path | None = key(forms.readable_file, None, "older form of https_keypairs")
    acme: Acme = key(forms.section(Acme), Acme, "certificate by ACME")

    @property
    def keypairs(self) -> tuple[KeyPair, ...]:
        """All key pairs, the older single form first."""
        if self.https_key_file is None or self.https_cert_file is None:
            return self.https_keypairs
        return (KeyPair(self.https_key_file, self.https_cert_file), *self.https_keypairs)


def acme_names(section: ProxySection) -> tuple[str, ...]:
    """The public names for which certificates are got: host names of `public_addr`, no addresses."""
    hosts = (canonical_host(address.host) for address in section.public_addr)
    return tuple(dict.fromkeys(host for host in hosts if is_public_name(host)))


def check_proxy(section: ProxySection, node: Node, problems: Problems) -> None:
    pair = ("https_key_file", "https_cert_file")
    for here, missing in (pair, pair[::-1]):
        child = node.get(here)
        if child is not None and node.get(missing) is None:
            child.problem(problems, "https_key_file and https_cert_file together", found=f"no {missing} beside it")
    acme = node.get("acme")
    if acme is not None and section.acme.enabled:
        if not acme_names(section):
            enabled = acme.get("enabled") or acme
            enabled.problem(
                problems,
                "with a host name in proxy_service.public_addr, such as teleport.example.com:443",
                found="none",
            )
        elsewhere = [one for one in section.public_addr if is_public_name(canonical_host(one.host)) and one.port != 443]
        if elsewhere:
            acme.notice(
                problems,
                f"directories look at port 443 of {elsewhere[0].host}, and public_addr says {elsewhere[0].port}",
            )
        uri = acme.get("uri")
        if uri is not None and not section.acme.uri.startswith("https://"):
            uri.problem(problems, "an https URL")
    older, newer = node.get("kubernetes"), node.get("kube_listen_addr")
    if older is not None and newer is not None and older.get("listen_addr") is not None:
        newer.problem(problems, "one of them", found="kube_listen_addr beside kubernetes.listen_addr")
    named = older.get("cluster_name") if older is not None else None
    if named is not None and section.kubernetes is not None and section.kubernetes.kubeconfig_file is not None:
        named.notice(problems, "is ignored: the contexts of kubeconfig_file name their clusters")
    ports_of = [
        (name, address)
        for name, address in (
            ("listen_addr", section.listen_addr),
            ("web_listen_addr", section.web_listen_addr),
            ("tunnel_listen_addr", section.tunnel_listen_addr),
            ("peer_listen_addr", section.peer_listen_addr),
        )
        if address.port and node.get(name) is not None
    ]
    for index, (name, listener) in enumerate(ports_of):
        for other, taken in ports_of[:index]:
            child = node.get(name)
            if listener == taken and {name, other} != {"web_listen_addr", "tunnel_listen_addr"} and child is not None:
                child.problem(problems, "an address of its own", found=f"the address of {other}")
