"""`tctl get --format=text`: the columns of each kind (`cli.md` 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from teleport.cli import render
from teleport.cli.tctl.clusters import remote_table, trusted_table
from teleport.cli.tctl.kube import kube_table
from teleport.cli.tctl.nodes import server_table
from teleport.cli.tctl.tokens import token_table
from teleport.resources.authority import Authority
from teleport.resources.cluster import SINGLETONS
from teleport.resources.codec import Resource
from teleport.resources.lock import Lock
from teleport.resources.metadata import ORIGIN_LABEL
from teleport.resources.mfa_lease import MfaLease
from teleport.resources.role import Role
from teleport.resources.server import Server
from teleport.resources.token import Token
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster
from teleport.resources.user import User


def resource_table(kind: str, found: Sequence[Resource]) -> str:
    """The resources of one kind as a table."""
    match kind:
        case "role":
            headers = ["Role", "Allowed to login as", "Node Labels", "Access to resources"]
            return render.table(headers, [_role(one) for one in found if isinstance(one, Role)])
        case "user":
            return render.table(["User"], [[one.name] for one in found if isinstance(one, User)])
        case "cert_authority":
            headers = ["Cluster Name", "CA Type", "Fingerprint", "Role Map"]
            return render.table(
                headers, [row for one in found if isinstance(one, Authority) for row in _authority(one)]
            )
        case "lock":
            rows = [
                [one.name, str(one.spec.target), one.spec.message, render.when(one.spec.expires)]
                for one in found
                if isinstance(one, Lock)
            ]
            return render.table(["ID", "Target", "Message", "Expires (UTC)"], rows)
        case "trusted_cluster":
            return trusted_table([one for one in found if isinstance(one, TrustedCluster)])
        case "remote_cluster":
            return remote_table([one for one in found if isinstance(one, RemoteCluster)])
        case "mfa_lease":
            return lease_table([one for one in found if isinstance(one, MfaLease)])
        case "token":
            return token_table([one for one in found if isinstance(one, Token)])
        case "kube_service":
            return kube_table([one for one in found if isinstance(one, Server)])
        case kind if kind in SINGLETONS:
            return "\n".join(_settings(one) for one in found)
        case _:
            return server_table([one for one in found if isinstance(one, Server)])


def _settings(resource: Resource) -> str:
    """Every field with its value, the ones that nobody chose too."""
    spec = getattr(resource, "spec", None)
    values = {name: getattr(spec, name) for name in spec.__struct_fields__} if spec is not None else {}
    rows = [[name, _value(value)] for name, value in values.items()]
    return render.table(["Setting", "Value"], [*rows, ["origin", resource.metadata.labels.get(ORIGIN_LABEL, "")]])


def _value(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ",".join(map(str, value))
        case None:
            return ""
        case _:
            return render.printable(str(value))


def lease_table(found: Sequence[MfaLease]) -> str:
    """Leases of second factors."""
    rows = [
        [one.name, one.spec.user, one.spec.client_address, one.spec.key, render.when(one.spec.expires)] for one in found
    ]
    return render.table(["ID", "User", "From", "Key", "Expires (UTC)"], rows)


def _role(role: Role) -> list[str]:
    rules = [f"{','.join(rule.resources)}:{','.join(rule.verbs)}" for rule in role.allow.rules]
    return [role.name, ",".join(role.allow.logins), _selector(role.allow.node_labels or {}), " ".join(rules)]


def _selector(labels: Mapping[str, Sequence[str]]) -> str:
    return ",".join(f"{name}={'|'.join(values)}" for name, values in sorted(labels.items()))


def _authority(authority: Authority) -> list[list[str]]:
    from teleport.pki.keys import PublicKey

    mapped = ", ".join(f"{one.remote}={'|'.join(one.local)}" for one in authority.spec.role_map)
    lines = authority.trusted_ssh_keys
    prints = [PublicKey.parse(line).fingerprint() for line in lines] or [
        PublicKey.from_spki(pair.public_key.encode()).fingerprint() for pair in authority.spec.active_keys.jwt
    ]
    return [[authority.name, str(authority.type), fingerprint, mapped] for fingerprint in prints]
