"""How Kubernetes API servers are reached and what proves us to them: contexts of a kubeconfig, or a pod's own account.

Read once, by the process that reads the configuration: what is here travels to the daemon as plain values. What would
make the connection weaker than it should be, or start a program, is refused with the context's name: no TLS, a server
whose certificate is not checked, passwords, plugins, impersonation in the file itself. A token that lies in a file is
read anew for each connection, because a pod's own changes every hour.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from teleport.errors import BadRequest
from teleport.resources.values import HostPort

IN_POD: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_FILE: Final = 4 << 20  # bytes
_HINT: Final = "kubectl config view --flatten shows what a kubeconfig says"
_REFUSED: Final = {
    "exec": "starts a program",
    "auth-provider": "needs a plugin",
    "username": "is a password",
    "password": "is a password",
    "as": "acts as somebody else",
    "as-groups": "acts as somebody else",
    "as-uid": "acts as somebody else",
    "as-user-extra": "acts as somebody else",
}


@dataclass(frozen=True, slots=True)
class KubeCluster:
    """One Kubernetes cluster. Of the ways to prove who we are one is set: a pair, a token, or a token's file."""

    name: str
    address: HostPort
    authorities: str  # PEM
    server_name: str = ""  # asked for and checked in the server's certificate
    path: str = ""  # with which every path at the server begins
    certificate: bytes = b""  # PEM
    key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


def from_kubeconfig(text: bytes, folder: Path) -> tuple[KubeCluster, ...]:
    """Each context as one cluster; `folder` is where the file lies. Raises `BadRequest` for what cannot be used."""
    import yaml

    try:
        document = yaml.safe_load(text)
    except (
        yaml.YAMLError,
        ValueError,
        OverflowError,
        RecursionError,
    ) as error:  # the library's, for odd numbers and dates
        raise BadRequest(f"this is no YAML: {(str(error) or 'too deep').splitlines()[0]}", hint=_HINT) from None
    if not isinstance(document, dict) or document.get("kind") != "Config":
        raise BadRequest("this is no kubeconfig: it is not of kind Config", hint=_HINT)
    clusters, users = _named(document, "clusters", "cluster"), _named(document, "users", "user")
    found = []
    for name, context in _named(document, "contexts", "context").items():
        cluster, user = clusters.get(_text(context, "cluster")), users.get(_text(context, "user"))
        if cluster is None or user is None:
            raise BadRequest(f"the context {name!r} names a cluster or a user that is not there", hint=_HINT)
        try:
            found.append(_cluster(name, cluster, user, folder))
        except (BadRequest, OSError, ValueError) as error:
            message = error.message if isinstance(error, BadRequest) else str(error)
            raise BadRequest(f"the context {name!r} cannot be used: {message}", hint=_HINT) from None
    if not found:
        raise BadRequest("the kubeconfig has no context", hint=_HINT)
    return tuple(found)


def in_pod(name: str, environment: Mapping[str, str], folder: Path = IN_POD) -> KubeCluster:
    """The cluster that this process runs in, by the account that every pod is given. Raises `BadRequest`."""
    host, port = environment.get("KUBERNETES_SERVICE_HOST", ""), environment.get("KUBERNETES_SERVICE_PORT", "")
    token = folder / "token"
    try:
        if not host or not port.isdigit():
            raise BadRequest(
                "this process does not run in a pod, and no kubeconfig is named", hint="set kubeconfig_file"
            )
        authorities = _read(folder / "ca.crt").decode("ascii")
        _read(token)
    except (OSError, ValueError) as error:
        raise BadRequest(f"the pod's own account cannot be read: {error}", hint="set kubeconfig_file") from None
    return KubeCluster(name, HostPort(host, int(port)), authorities, server_name=host, token_file=token)


def _named(document: Mapping[str, Any], plural: str, single: str) -> dict[str, Mapping[str, Any]]:
    """The entries of a list by their names."""
    entries = document.get(plural) or []
    found: dict[str, Mapping[str, Any]] = {}
    for entry in entries if isinstance(entries, list) else ():
        name = _text(entry, "name") if isinstance(entry, dict) else ""
        content = entry.get(single) if isinstance(entry, dict) else None
        if not name or not isinstance(content or {}, dict) or name in found:
            raise BadRequest(f"{plural} has an entry without a name, without a {single}, or twice", hint=_HINT)
        found[name] = content or {}
    return found


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadRequest(f"{key} is no text", hint=_HINT)
    return value


def _cluster(name: str, cluster: Mapping[str, Any], user: Mapping[str, Any], folder: Path) -> KubeCluster:
    for refused, why in _REFUSED.items():
        if user.get(refused):
            raise BadRequest(f"{refused} {why}, which is not done here; use a certificate or a token", hint=_HINT)
    if cluster.get("insecure-skip-tls-verify"):
        raise BadRequest("insecure-skip-tls-verify: the server would not be checked", hint=_HINT)
    if cluster.get("proxy-url"):
        raise BadRequest("proxy-url is not taken", hint=_HINT)
    url = urlsplit(_text(cluster, "server"))
    if url.scheme != "https" or not url.hostname or url.query or url.fragment or url.username:
        raise BadRequest("its server is no https URL", hint=_HINT)
    authorities = _inline(cluster, "certificate-authority", folder)
    if not authorities:
        raise BadRequest("it names no certificate authority", hint=_HINT)
    certificate, key = _inline(user, "client-certificate", folder), _inline(user, "client-key", folder)
    token_file = _text(user, "tokenFile")
    ways = [bool(certificate and key), bool(_text(user, "token") or token_file)]
    if not any(ways) or bool(certificate) != bool(key):
        raise BadRequest("its user has neither a certificate with its key nor a token", hint=_HINT)
    return KubeCluster(
        name=name,
        address=HostPort(url.hostname, url.port or 443),
        authorities=authorities.decode("ascii"),
        server_name=_text(cluster, "tls-server-name") or url.hostname,
        path=url.path.rstrip("/"),
        certificate=certificate,
        key=key,
        token="" if token_file else _header(_text(user, "token")),
        token_file=folder / token_file if token_file else None,
    )


def _inline(entry: Mapping[str, Any], key: str, folder: Path) -> bytes:
    """The PEM that stands in the file itself, or in one that it names."""
    data, file = _text(entry, f"{key}-data"), _text(entry, key)
    if data:
        try:
            return base64.b64decode(data, validate=True)
        except binascii.Error:
            raise BadRequest(f"{key}-data is no base64", hint=_HINT) from None
    return _read(folder / file) if file else b""


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        found = file.read(MAX_FILE + 1)
    if len(found) > MAX_FILE:
        raise ValueError(f"{path} is too large")
    return found


def _header(token: str) -> str:
    """The token, as a header can carry it."""
    if not token.isascii() or not token.isprintable() or " " in token:
        raise BadRequest("its token has characters that no header carries", hint=_HINT)
    return token


def authorization(cluster: KubeCluster) -> bytes:
    """The header's value that proves who we are; empty where the certificate does. Raises `OSError` or `BadRequest`."""
    token = cluster.token
    if cluster.token_file is not None:
        token = _header(_read(cluster.token_file).decode("ascii", "replace").strip())
        if not token:
            raise BadRequest(f"{cluster.token_file} is empty", hint="the file has to hold a token")
    return b"Bearer " + token.encode() if token else b""
