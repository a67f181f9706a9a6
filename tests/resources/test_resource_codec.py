"""Stored and wire forms: round trips, vectors of every version, secrets only where asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from teleport.errors import BadRequest
from teleport.resources.authority import (
    Authority,
    AuthorityType,
    JWTKeyPair,
    KeySet,
    RoleMapping,
    Rotation,
    SSHKeyPair,
    TLSKeyPair,
)
from teleport.resources.cluster import (
    AuditConfig,
    AuditSpec,
    AuthPreference,
    ClusterName,
    ClusterNameSpec,
    NetworkingConfig,
    NetworkingSpec,
    SessionRecordingConfig,
)
from teleport.resources.codec import (
    MAX_DOCUMENT,
    TYPES,
    Resource,
    at_a_glance,
    from_document,
    from_json,
    heard_again,
    resource_warnings,
    to_document,
    to_json,
    without_secrets,
)
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.mfa_lease import MfaLease, MfaLeaseSpec, lease_name
from teleport.resources.parse import parse_resources, to_yaml
from teleport.resources.presets import preset_roles
from teleport.resources.secret import SecretText
from teleport.resources.server import CommandLabelState, KubeClusterEntry, Server, ServerSpec
from teleport.resources.token import Token, TokenRole
from teleport.resources.trusted_cluster import (
    RemoteCluster,
    RemoteClusterSpec,
    RemoteClusterStatus,
    TrustedCluster,
    TrustedClusterSpec,
    TrustedClusterStatus,
)
from teleport.resources.user import CreatedBy, Creator, LocalAuth, User, UserSpec, UserStatus
from teleport.resources.values import Duration
from teleport.store.resolve import RegisteredNode

WHEN = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
KEYS = KeySet(
    ssh=(SSHKeyPair(public_key="ssh-ed25519 AAAA", private_key=SecretText("PRIVATE-SSH")),),
    tls=(TLSKeyPair(cert="-----BEGIN CERTIFICATE-----\nAAAA\n", key=SecretText("PRIVATE-TLS")),),
    jwt=(JWTKeyPair(public_key="-----BEGIN PUBLIC KEY-----\n", private_key=SecretText("PRIVATE-JWT")),),
)
AUTHORITY = Authority.new(AuthorityType.USER, "example.com", KEYS)
USER = User(
    metadata=Metadata(name="alice", labels={"team": "core"}, expires=WHEN),
    spec=UserSpec(
        roles=("access", "editor"),
        traits={"logins": ("root", "alice"), "x-y": ("1.10", "no", "null", "é")},
        status=UserStatus(is_locked=True, lock_expires=WHEN, locked_message="too many failures"),
        created_by=CreatedBy(time=WHEN, user=Creator(name="admin")),
    ),
)
USER_WITH_SECRETS = msgspec.structs.replace(
    USER, spec=msgspec.structs.replace(USER.spec, local_auth=LocalAuth(password_hash=SecretText("$argon2id$HASH")))
)
RESOURCES: list[Resource] = [
    USER,
    *preset_roles("12345678-1234-1234-1234-123456789012"),
    Token.from_secret(SecretText("a-long-join-secret"), (TokenRole.NODE, TokenRole.PROXY), WHEN, {"env": "prod"}),
    Server(
        kind="node",
        metadata=Metadata(name="11111111-2222-3333-4444-555555555555", labels={"env": "prod"}, expires=WHEN),
        spec=ServerSpec(
            addr="[::1]:3022",
            public_addrs=("web.example.com:3022",),
            hostname="web-1",
            cmd_labels={"arch": CommandLabelState(period=Duration.of(hours=1), command=("uname", "-m"), result="arm")},
            version="0.1.0",
            epoch="7",
            started=WHEN,
        ),
    ),
    Server(kind="proxy", metadata=Metadata(name="p")),
    Server(kind="auth_server", metadata=Metadata(name="a")),
    Server(
        kind="kube_service",
        metadata=Metadata(name="k"),
        spec=ServerSpec(
            kube_clusters=(
                KubeClusterEntry(
                    name="demo",
                    static_labels={"env": "dev"},
                    dynamic_labels={"up": CommandLabelState(period=Duration.of(minutes=1), command=("uptime",))},
                ),
            )
        ),
    ),
    AUTHORITY.without_secrets(),
    Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="bob"), message="left", expires=WHEN)),
    MfaLease(
        metadata=Metadata(name=lease_name("bob", "SHA256:x", "192.0.2.1"), expires=WHEN),
        spec=MfaLeaseSpec(
            user="bob", key="SHA256:x", client_address="192.0.2.1", device="d", granted=WHEN, expires=WHEN
        ),
    ),
    TrustedCluster(
        metadata=Metadata(name="root.example.com"),
        spec=TrustedClusterSpec(
            enabled=True,
            web_proxy_addr="root.example.com:443",
            tunnel_addr="root.example.com:3024",
            role_map=(RoleMapping(remote="^admin-(.*)$", local=("access-$1", "guest")),),
            ca_pins=("sha256:" + "0" * 64,),
        ),
        status=TrustedClusterStatus(last_exchange=WHEN),
    ),
    RemoteCluster(
        metadata=Metadata(name="leaf.example.com", labels={"env": "prod"}),
        spec=RemoteClusterSpec(removed=WHEN),
        status=RemoteClusterStatus(connection="offline", last_heartbeat=WHEN),
    ),
    AuthPreference(),
    NetworkingConfig(spec=NetworkingSpec(client_idle_timeout=Duration.of(minutes=10))),
    SessionRecordingConfig(),
    AuditConfig(
        spec=AuditSpec(audit_events_uri=("file:///var/log/teleport",), audit_sessions_uri="file:///srv/records")
    ),
    ClusterName(spec=ClusterNameSpec(cluster_name="example.com", cluster_id="x", created=WHEN)),
]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: f"{resource.kind}/{resource.name}"[:30])
def test_a_resource_comes_back_the_same(resource: Resource) -> None:
    """From the stored form, from the wire, and from what a person is shown."""
    assert from_json(to_json(resource)) == resource
    assert from_document(to_document(resource)) == resource
    assert parse_resources(to_yaml(resource), "shown.yaml") == [resource]


def test_every_kind_that_can_be_stored_has_a_round_trip() -> None:
    assert {resource.kind for resource in RESOURCES} == {str(kind) for kind in TYPES}


def test_several_resources_come_back_from_one_file() -> None:
    assert parse_resources(to_yaml(*RESOURCES), "backup.yaml") == RESOURCES


# What earlier versions stored. Lines are added, never changed: formats only grow.
VECTORS: list[tuple[bytes, Resource]] = [
    (
        b'{"schema":1,"kind":"user","version":"v2","metadata":{"name":"alice"},'
        b'"spec":{"roles":["access"],"traits":{"logins":["root"]}}}',
        User(metadata=Metadata(name="alice"), spec=UserSpec(roles=("access",), traits={"logins": ("root",)})),
    ),
    (
        b'{"schema":1,"kind":"cluster_networking_config","version":"v2","metadata":'
        b'{"name":"cluster-networking-config"},"spec":{"client_idle_timeout":"10m0s"}}',
        NetworkingConfig(spec=NetworkingSpec(client_idle_timeout=Duration.of(minutes=10))),
    ),
    (
        b'{"schema":1,"kind":"lock","version":"v2","metadata":{"name":"l"},"spec":{"target":{"user":"bob"},'
        b'"expires":"2030-01-02T03:04:05Z"}}',
        Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(user="bob"), expires=WHEN)),
    ),
    (
        b'{"schema":1,"kind":"token","version":"v2","metadata":{"name":"2bb80d53"},"spec":{"roles":["node"],'
        b'"sha256":"2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b"}}',
        Token.from_secret(SecretText("secret"), (TokenRole.NODE,)),
    ),
]


@pytest.mark.parametrize(("stored", "resource"), VECTORS, ids=[resource.kind for _, resource in VECTORS])
def test_what_was_stored_is_still_read_and_written(stored: bytes, resource: Resource) -> None:
    assert from_json(stored) == resource
    assert to_json(resource) == stored


@pytest.mark.parametrize("resource", [AUTHORITY, USER_WITH_SECRETS], ids=["authority", "user"])
def test_secrets_are_written_only_where_asked_for(resource: Resource) -> None:
    """Neither lost in silence nor shown in silence."""
    for write in (to_json, to_document):
        with pytest.raises(BadRequest, match="holds secrets"):
            write(resource)
    stored = to_json(resource, with_secrets=True)
    assert from_json(stored) == resource
    assert b"PRIVATE" in stored or b"argon2" in stored
    bare = without_secrets(resource)
    assert "PRIVATE" not in to_yaml(resource)
    assert "argon2" not in to_yaml(resource)
    assert parse_resources(to_yaml(resource), "x") == [bare]
    assert parse_resources(to_yaml(resource, with_secrets=True), "x") == [resource]
    for text in (repr(resource), str(resource), f"{resource}"):
        assert "PRIVATE" not in text
        assert "argon2" not in text


def test_an_authority_without_secrets_still_lists_what_it_trusts() -> None:
    old = KeySet(ssh=(SSHKeyPair(public_key="ssh-ed25519 OLD", private_key=SecretText("x")),))
    spec = msgspec.structs.replace(AUTHORITY.spec, additional_trusted_keys=old, rotation=Rotation(current_id="r"))
    bare = msgspec.structs.replace(AUTHORITY, spec=spec).without_secrets()
    assert bare.trusted_ssh_keys == ("ssh-ed25519 AAAA", "ssh-ed25519 OLD")
    assert bare.trusted_tls_certs == ("-----BEGIN CERTIFICATE-----\nAAAA\n",)
    assert bare.spec.rotation.current_id == "r"
    to_json(bare)


ROLE = b'{"kind":"role","version":"v4","metadata":{"name":"r"},"spec":{"options":%s,"allow":%s}}'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"kind":"user"}',
        b'{"kind":"user","version":"v2"}',
        b'{"kind":"user","version":"v3","metadata":{"name":"a"}}',
        b'{"kind":"nonsense","version":"v2","metadata":{"name":"a"}}',
        b'{"kind":["user"],"version":"v2","metadata":{"name":"a"}}',
        b'{"kind":"user","version":"v2","metadata":{"name":"a/b"}}',
        b'{"kind":"user","version":"v2","metadata":{"name":"a"},"spec":{"is_admin":true}}',
        b'{"kind":"user","version":"v2","metadata":{"name":"a"},"spec":{"traits":{"logins":["-x"]}}}',
        b'{"kind":"user","version":"v2","metadata":{"name":"a"},"extra":1}',
        b'{"schema":2,"kind":"user","version":"v2","metadata":{"name":"a"}}',
        b'{"kind":"node","version":"v2","metadata":{"name":"a"},"spec":{"cmd_labels":{"x":{"period":5}}}}',
        b'{"kind":"node","version":"v2","metadata":{"name":"a"},"spec":{"cmd_labels":7}}',
        b'{"kind":"cert_authority","sub_kind":"user","version":"v2","metadata":{"name":"a"},'
        b'"spec":{"type":"host","cluster_name":"a","active_keys":{"ssh":[{"public_key":"k"}]}}}',
        b'{"kind":"lock","version":"v2","metadata":{"name":"a"},"spec":{"target":{}}}',
        b'{"kind":"lock","version":"v2","metadata":{"name":"a"},"spec":{"target":{"user":"a","role":"b"}}}',
        b'{"kind":"token","version":"v2","metadata":{"name":"secret"},"spec":{"roles":["node"]}}',
        ROLE % (b'{"max_session_ttl":30}', b"{}"),
        ROLE % (b'{"max_session_ttl":"30"}', b"{}"),
        ROLE % (b'{"max_session_ttl":{"nanoseconds":30}}', b"{}"),
        ROLE % (b"{}", b'{"logins":["*"]}'),
        ROLE % (b"{}", b'{"unknown_grant":["*"]}'),
        b"[" * 100_000,
        b" " * 1_000_001,
    ],
    ids=lambda data: data[:40].decode() + f" ({len(data)})",
)
def test_what_is_no_valid_resource_is_refused_with_one_kind_of_error(data: bytes) -> None:
    """Unknown fields too (T60): nothing a newer version meant as a limit may be dropped (T33)."""
    with pytest.raises(BadRequest):
        from_json(data)


def test_a_resource_above_the_limit_is_not_written() -> None:
    traits = {f"t{number}": ("x" * 1000,) * 10 for number in range(200)}
    with pytest.raises(BadRequest, match="the limit is"):
        to_json(User(metadata=Metadata(name="a"), spec=UserSpec(traits=traits)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "spec", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.sampled_from([str(kind) for kind in TYPES]), JSON, JSON)
def test_any_document_is_a_resource_or_refused(kind: str, metadata: object, spec: object) -> None:
    """Fuzz: what comes in from a caller raises nothing but `BadRequest`."""
    try:
        resource = from_document({"kind": kind, "version": "v2", "metadata": metadata, "spec": spec})
    except BadRequest:
        return
    assert from_document(to_document(resource, with_secrets=True)) == resource


@pytest.mark.parametrize("use_tunnel", [True, False])
def test_a_server_that_is_heard_of_again_is_written_as_if_it_had_been_read(use_tunnel: bool) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    later = now + timedelta(seconds=240)
    spec = ServerSpec(
        hostname="web",
        addr="10.0.0.1:3022",
        use_tunnel=use_tunnel,
        epoch="5",
        heard=now,
        lost_after=210,
        cmd_labels={"up": CommandLabelState(period=Duration(60), command=("uptime",), result="1")},
    )
    stored = Server(metadata=Metadata(name="a", labels={"env": "prod"}, expires=now), spec=spec)
    again = msgspec.structs.replace(
        stored,
        metadata=msgspec.structs.replace(stored.metadata, expires=later),
        spec=msgspec.structs.replace(spec, heard=later, lost_after=330),
    )
    assert heard_again(to_json(stored), later, later, 330) == to_json(again)
    few = msgspec.structs.replace(stored, spec=msgspec.structs.replace(spec, lost_after=0))
    assert heard_again(to_json(few), later, later, 330) is None, "its form is another one"
    newer = msgspec.json.encode({**msgspec.json.decode(to_json(stored)), "schema": 2})
    assert heard_again(newer, later, later, 330) is None
    document = msgspec.json.decode(to_json(stored))
    document["metadata"]["labels"]["env"] = "p" * (MAX_DOCUMENT - len(to_json(stored)) + 4)
    assert len(msgspec.json.encode(document)) == MAX_DOCUMENT
    assert heard_again(msgspec.json.encode(document), later, later, 10_000) is None, "it could not be read again"


@pytest.mark.parametrize("lost_after", [0, 330])
@pytest.mark.parametrize("silent", [10, 151, 329, 331])
def test_whether_a_server_is_lost_is_seen_at_a_glance(lost_after: int, silent: int) -> None:
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    spec = ServerSpec(hostname="web", addr="10.0.0.1:3022", heard=now, lost_after=lost_after)
    server, later = Server(metadata=Metadata(name="a"), spec=spec), now + timedelta(seconds=silent)
    seen = at_a_glance(to_json(server))
    assert (seen.hostname, seen.lost(later)) == ("web", server.lost(later))
    assert RegisteredNode.of(seen, later) == RegisteredNode.of(server, later)
    agentless = Server(
        sub_kind="openssh",
        metadata=Metadata(name="a", labels={"env": "prod"}),
        spec=ServerSpec(hostname="web", addr="10.0.0.1:22", started=now),
    )
    seen = at_a_glance(to_json(agentless))
    assert not seen.lost(later)
    assert RegisteredNode.of(seen, later) == RegisteredNode.of(agentless, later)
    assert (seen.namespace, seen.all_labels) == (agentless.namespace, agentless.all_labels)
    tunnel = Server(metadata=Metadata(name="a"), spec=ServerSpec(public_addrs=("b:22", "c:22"), use_tunnel=True))
    assert RegisteredNode.of(at_a_glance(to_json(tunnel)), later) == RegisteredNode.of(tunnel, later)
    with pytest.raises(BadRequest, match="not a server"):
        at_a_glance(b"[]")


def test_labels_of_a_server_are_merged_dynamic_over_static() -> None:
    spec = ServerSpec(cmd_labels={"a": CommandLabelState(period=Duration(1), command=("x",), result="dynamic")})
    server = Server(metadata=Metadata(name="n", labels={"a": "static", "b": "static"}), spec=spec)
    assert server.all_labels == {"a": "dynamic", "b": "static"}


def test_ends_are_exclusive() -> None:
    token = Token.from_secret(SecretText("s"), (TokenRole.NODE,), WHEN)
    assert not token.expired(WHEN - timedelta(seconds=1))
    assert token.expired(WHEN)
    assert not Token.from_secret(SecretText("s"), (TokenRole.NODE,)).expired(WHEN)


def test_warnings_name_kept_fields_of_other_kinds() -> None:
    (preference,) = parse_resources(
        "kind: cluster_auth_preference\nversion: v2\nmetadata: {name: cluster-auth-preference}\n"
        "spec: {type: github, require_session_mfa: true, locking_mode: strict}",
        "x",
    )
    assert {warning.path for warning in resource_warnings(preference)} == {
        "spec.type",
        "spec.require_session_mfa",
    }
