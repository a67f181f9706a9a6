"""`kubernetes_service`, `app_service`, `db_service`: read and checked whole; of them only the first is served yet.

`config.md` 7 to 9.
"""

# ruff: noqa: RUF009  # `key` makes a dataclass field

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from teleport.daemon.config import forms, ports
from teleport.resources.values import CommandLabel, HostPort, parse_host
from teleport.resources.yaml_document import Node, Problems
from teleport.resources.yaml_readers import ListOf, Section, boolean, key, matching, one_of, some_text, text, url

_RESERVED_HEADERS: Final = frozenset(
    {"teleport-jwt-assertion", "x-teleport-jwt-assertion", "x-forwarded-for", "x-forwarded-host"}
    | {"x-forwarded-proto", "x-forwarded-server", "x-forwarded-ssl", "x-forwarded-port", "x-real-ip"}
)


@dataclass(frozen=True, slots=True)
class KubernetesSection:
    """`kubernetes_service` as it stands in the file."""

    enabled: bool = key(boolean, False, "run the Kubernetes service")
    listen_addr: HostPort | None = key(
        forms.listen_address(ports.KUBE), None, "listener", default_text="a reverse tunnel"
    )
    public_addr: tuple[HostPort, ...] = key(forms.public_addresses(ports.KUBE), (), "further names in the certificate")
    kubeconfig_file: Path | None = key(forms.path, None, "credentials; each context is one cluster")
    kube_cluster_name: str = key(some_text, "", "name of the cluster")
    labels: Mapping[str, str] = key(forms.labels, forms.NOTHING, "labels of the clusters")
    commands: tuple[CommandLabel, ...] = key(forms.commands, (), "labels whose values commands find out")


def check_kubernetes(section: KubernetesSection, node: Node, problems: Problems) -> None:
    forms.check_labels(node, problems)
    if section.enabled and node.get("kubeconfig_file") is None and node.get("kube_cluster_name") is None:
        node.problem(problems, "kubeconfig_file or kube_cluster_name", found="neither of them")
    named = node.get("kube_cluster_name")
    if named is not None and section.kubeconfig_file is not None:
        named.notice(problems, "is ignored: the contexts of kubeconfig_file name their clusters")


def _header(value: str) -> str:
    name, colon, content = value.partition(":")
    if not colon or not name or not content.strip() or name.strip() != name or not name.isascii() or " " in name:
        raise ValueError
    if name.lower() in _RESERVED_HEADERS:
        raise ValueError
    return value


def _app_host(value: str) -> str:
    found = parse_host(value)
    try:
        ipaddress.ip_address(found)
    except ValueError:
        return found
    raise ValueError("an IP address cannot be told apart from the proxy")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """`apps[].rewrite`."""

    redirect: tuple[str, ...] = key(ListOf(forms.host), (), "hosts replaced by public_addr in Location")
    headers: tuple[str, ...] = key(
        ListOf(matching("Name: value, of a header that is not reserved", _header)), (), "headers added to requests"
    )


@dataclass(frozen=True, slots=True)
class App:
    """One of `app_service.apps`."""

    name: str = key(forms.dns_label, "", "name, and its subdomain", required=True)
    uri: str = key(url, "", "where the application listens", required=True)
    description: str = key(text, "", "free text")
    public_addr: str = key(
        matching("a host name without a port", _app_host), "", "address", default_text="<name>.<proxy host>"
    )
    labels: Mapping[str, str] = key(forms.labels, forms.NOTHING, "labels of the application")
    commands: tuple[CommandLabel, ...] = key(forms.commands, (), "labels whose values commands find out")
    insecure_skip_verify: bool = key(boolean, False, "do not check the application's certificate")
    rewrite: Rewrite = key(forms.section(Rewrite), Rewrite, "what is changed in requests and replies")


@dataclass(frozen=True, slots=True)
class AppSection:
    """`app_service` as it stands in the file."""

    enabled: bool = key(boolean, False, "run the application service")
    debug_app: bool = key(boolean, False, "serve an application that shows its requests")
    apps: tuple[App, ...] = key(ListOf(forms.section(App)), (), "applications")


def _unique_names(node: Node, list_key: str, problems: Problems) -> None:
    names: set[str] = set()
    listed = node.get(list_key)
    for item in listed.items() if listed is not None else ():
        name = item.get("name")
        if name is not None and name.is_scalar:
            if name.value in names:
                name.problem(problems, "each name once", found="a name a second time")
            names.add(name.value)


def check_app(section: AppSection, node: Node, problems: Problems) -> None:
    _unique_names(node, "apps", problems)


@dataclass(frozen=True, slots=True)
class DatabaseTls:
    """`databases[].tls`."""

    mode: str = key(one_of(("verify-full", "verify-ca", "insecure")), "verify-full", "what is checked")
    server_name: str = key(forms.host, "", "name that the certificate has to show")
    ca_cert_file: Path | None = key(forms.path, None, "CA of the database")


@dataclass(frozen=True, slots=True)
class Redshift:
    """`databases[].aws.redshift`."""

    cluster_id: str = key(some_text, "", "Redshift cluster")


@dataclass(frozen=True, slots=True)
class Aws:
    """`databases[].aws`."""

    region: str = key(some_text, "", "AWS region")
    redshift: Redshift = key(forms.section(Redshift), Redshift, "Redshift")


@dataclass(frozen=True, slots=True)
class Gcp:
    """`databases[].gcp`: both keys or neither."""

    project_id: str = key(some_text, "", "Google Cloud project")
    instance_id: str = key(some_text, "", "Cloud SQL instance")


def _check_gcp(section: Gcp, node: Node, problems: Problems) -> None:
    if (node.get("project_id") is None) != (node.get("instance_id") is None):
        node.problem(problems, "project_id and instance_id, or neither", found="one of them only")


@dataclass(frozen=True, slots=True)
class Database:
    """One of `db_service.databases`."""

    name: str = key(forms.dns_label, "", "name", required=True)
    protocol: str = key(one_of(("postgres", "mysql", "mongodb")), "", "protocol of the database", required=True)
    uri: str = key(some_text, "", "host:port, or a MongoDB connection string", required=True)
    description: str = key(text, "", "free text")
    ca_cert_file: Path | None = key(forms.path, None, "CA of the database")
    tls: DatabaseTls = key(forms.section(DatabaseTls), DatabaseTls, "how the database is proved")
    static_labels: Mapping[str, str] = key(forms.labels, forms.NOTHING, "labels of the database")
    dynamic_labels: tuple[CommandLabel, ...] = key(forms.commands, (), "labels whose values commands find out")
    aws: Aws = key(forms.section(Aws), Aws, "Amazon RDS and Redshift")
    gcp: Gcp = key(forms.section(Gcp, _check_gcp), Gcp, "Google Cloud SQL")


def _check_database(section: Database, node: Node, problems: Problems) -> None:
    uri = node.get("uri")
    if uri is None or not uri.is_scalar:
        return
    if section.protocol == "mongodb" and uri.value.startswith(("mongodb://", "mongodb+srv://")):
        return
    try:
        HostPort.parse(uri.value)
    except ValueError:
        uri.problem(problems, "host:port" + (" or mongodb://..." if section.protocol == "mongodb" else ""))


_database: Final[Section[Database]] = forms.section(Database, _check_database)


@dataclass(frozen=True, slots=True)
class DbSection:
    """`db_service` as it stands in the file."""

    enabled: bool = key(boolean, False, "run the database service")
    databases: tuple[Database, ...] = key(ListOf(_database), (), "databases")


def check_db(section: DbSection, node: Node, problems: Problems) -> None:
    _unique_names(node, "databases", problems)
