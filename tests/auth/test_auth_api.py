"""Who may call what of the auth API (threat T33), and what auth says of itself."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.routes import ROUTES, Stream
from teleport.api.sync_client import SyncAuthClient
from teleport.audit.chain import ChainKey, ChainState
from teleport.audit.events import ServiceStart, UserLogin, new_event
from teleport.errors import AccessDenied, AlreadyExists, BadRequest, NotFound, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import generate_p256
from teleport.resources.authority import Authority, AuthorityType, JWTKeyPair, KeySet, RoleMapping
from teleport.resources.cluster import SINGLETONS
from teleport.resources.codec import Resource, to_json
from teleport.resources.kinds import Kind
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.mfa_lease import MfaLease, MfaLeaseSpec, lease_name
from teleport.resources.role import Role
from teleport.resources.secret import SecretText
from teleport.resources.server import Server, ServerSpec
from teleport.resources.token import Token, TokenRole
from teleport.resources.trusted_cluster import RemoteCluster, TrustedCluster, TrustedClusterSpec
from teleport.resources.user import User, UserSpec
from teleport.testing.auth import ANONYMOUS, CLUSTER, PASSWORD, Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock

CALLERS = ("anonymous", "user", "editor", "auditor", "node", "proxy", "admin")
EVERYBODY = "anonymous user editor auditor node proxy admin"
CERTIFIED = "user editor auditor node proxy admin"
HOSTS = "node proxy admin"
READERS_OF_POLICY = "editor node proxy admin"  # hosts decide about access, so they read what decides

WHO_MAY: dict[str, str] = {
    "cluster_ca": EVERYBODY,  # public
    "join": EVERYBODY,  # the token is the proof
    "validate_cluster": "",  # a wrong token is refused to everybody
    "exchange_authorities": "",  # so is a statement of a cluster that is not known
    "seen_clusters": "proxy",
    "lost_tunnels": "proxy",
    "web_cert_turn": "proxy",
    "web_cert_account": "proxy",
    "web_cert_challenge": "proxy",
    "web_cert_store": "proxy",
    "web_cert_failed": "proxy",
    "web_cert_read": "proxy",
    "status": CERTIFIED,
    "who_am_i": CERTIFIED,
    "watch": HOSTS,
    "heartbeat": "node proxy",  # of oneself
    "withdraw": "node proxy",
    "renew_host": "node proxy",
    "renew_user": "user editor auditor",
    "rotate": "admin",
    "rotation_progress": "admin",
    "rotation_plan": "admin",
    "session_challenge": "user editor auditor",
    "session_cert": "user editor auditor",
    "mfa_lease": "proxy",
    "lease_challenge": "proxy",
    "lease_approval": "proxy",
    "approve_lease": "proxy",
    "sign_user": "admin",
    "explain_access": "editor admin",
    "diff_access": "editor admin",
    "check_removal": "editor admin",
    "sign_host": "admin",
    "sign_server": "admin",
    "register_openssh": "admin",
    "openssh_name": "proxy",
    "sign_openssh": "proxy",
    "list_certs": "editor admin",
    "revoke_cert": "editor admin",
    "revocation_list": "editor node proxy admin",
    "login": "proxy admin",
    "login_challenge": "proxy admin",
    "passkey_challenge": "proxy admin",  # where passkeys do not log in it says so to them
    "begin_browser_login": "proxy admin",
    "browser_login": "proxy admin",
    "finish_browser_login": "proxy admin",
    "collect_browser_login": "proxy admin",
    "user_token": "proxy admin",
    "user_token_challenge": "proxy admin",
    "factor_challenge": "user editor auditor",  # of one's own
    "own_factors": "user editor auditor",
    "begin_factor": "user editor auditor",
    "finish_factor": "",  # what was never begun is refused to everybody
    "remove_factor": "user editor auditor",
    "finish_user_token": "proxy admin",
    "begin_web_session": "proxy admin",
    "use_web_session": "",  # what was never begun is refused to everybody
    "end_web_session": "proxy admin",  # of one that never was: nothing happens
    "own_web_sessions": "user editor auditor",
    "end_own_web_sessions": "user editor auditor",
    "change_password": "",  # a wrong one is refused to everybody
    "find_nodes": CERTIFIED,  # each sees those that its roles reach
    "find_kube_clusters": "user editor auditor",  # of their own
    "find_users": READERS_OF_POLICY,
    "add_user": "editor admin",
    "update_user": "editor admin",
    "reset_user": "editor admin",
    "unlock_user": "editor admin",
    "add_token": "editor admin",
    "list_user": READERS_OF_POLICY,
    "get_user": READERS_OF_POLICY,
    "store_user": "editor admin",
    "remove_user": "editor admin",
    "list_role": READERS_OF_POLICY,
    "get_role": READERS_OF_POLICY,
    "store_role": "editor admin",
    "remove_role": "editor admin",
    "list_token": "editor admin",
    "get_token": "editor admin",
    "store_token": "editor admin",
    "remove_token": "editor admin",
    "list_node": CERTIFIED,  # each sees those that its roles reach
    "get_node": CERTIFIED,
    "store_node": "admin",
    "remove_node": "admin",
    "list_cert_authority": CERTIFIED,  # without private keys
    "get_cert_authority": CERTIFIED,
    "store_cert_authority": "admin",
    "remove_cert_authority": "admin",
    "list_lock": READERS_OF_POLICY,
    "get_lock": READERS_OF_POLICY,
    "store_lock": "editor admin",
    "remove_lock": "editor admin",
    "list_mfa_lease": HOSTS,
    "get_mfa_lease": HOSTS,
    "store_mfa_lease": "proxy admin",  # a bad request from everybody: by hand nobody makes one
    "remove_mfa_lease": "admin",
    "list_trusted_cluster": READERS_OF_POLICY,
    "get_trusted_cluster": READERS_OF_POLICY,
    "store_trusted_cluster": "editor admin",
    "remove_trusted_cluster": "editor admin",
    "list_remote_cluster": "user editor auditor proxy admin",
    "get_remote_cluster": "user editor auditor proxy admin",
    "store_remote_cluster": "editor admin",
    "remove_remote_cluster": "editor admin",
    "list_proxy": CERTIFIED,
    "get_proxy": CERTIFIED,
    "store_proxy": "admin",
    "remove_proxy": "admin",
    "list_auth_server": CERTIFIED,
    "get_auth_server": CERTIFIED,
    "store_auth_server": "admin",
    "remove_auth_server": "admin",
    "list_kube_service": "user editor auditor proxy admin",
    "get_kube_service": "user editor auditor proxy admin",
    "store_kube_service": "admin",
    "remove_kube_service": "admin",
    "list_cluster_auth_preference": CERTIFIED,  # everybody may know how to log in
    "get_cluster_auth_preference": CERTIFIED,
    "store_cluster_auth_preference": "editor admin",
    "remove_cluster_auth_preference": "editor admin",
    "list_cluster_networking_config": READERS_OF_POLICY,
    "get_cluster_networking_config": READERS_OF_POLICY,
    "store_cluster_networking_config": "editor admin",
    "remove_cluster_networking_config": "editor admin",
    "list_session_recording_config": READERS_OF_POLICY,
    "get_session_recording_config": READERS_OF_POLICY,
    "store_session_recording_config": "editor admin",
    "remove_session_recording_config": "editor admin",
    "list_cluster_audit_config": READERS_OF_POLICY,
    "get_cluster_audit_config": READERS_OF_POLICY,
    "intake": HOSTS,  # of one's own chain
    "search_events": "user auditor admin",  # the preset `access` reads events, as the reference says
    "count_events": "user auditor admin",
    "tail_events": "user auditor admin",
    "verify_events": "user auditor admin",
    "list_recordings": "user auditor admin",  # a user's list holds the own sessions
    "track_sessions": "node proxy",
    "running_sessions": "user editor auditor admin",  # each sees what it may join or list
    "hold_connection": "node proxy admin",
    "renew_connections": "node proxy admin",
    "release_connections": "node proxy admin",
    "read_recording": "auditor admin",  # and a user the own ones, which the missing one here is not
    "search_recordings": "user auditor admin",  # a user the own ones
    "verify_recordings": "user auditor admin",
    "recording_offset": HOSTS,
    "append_recording": HOSTS,
    "complete_recording": HOSTS,
    "add_hold": "admin",  # who may let evidence go is nobody with a certificate alone
    "list_holds": "admin",
    "remove_hold": "admin",
    "create_backup": "admin",  # it holds every secret
}


class Asking:
    """One caller, and a request of its own for each route that would work if the caller may."""

    def __init__(self, name: str, auth: RunningAuth, who: Credentials, token: str, code: Callable[[], str]) -> None:
        self.name = name
        self.auth = auth
        self.who = who
        self.token = token
        self.code = code
        self.key = generate_p256().public

    def request(self, route: str) -> m.Request:
        public, pem = self.key.line(), self.key.spki_pem().decode()
        missing = "0" * 32
        match route:
            case "join":
                return m.JoinRequest(
                    token=self.token, host_id=str(uuid.uuid4()), node_name="n", role="Node", public_ssh_key=public,
                    public_tls_key=pem,
                )  # fmt: skip
            case "validate_cluster":
                return m.ValidateClusterRequest(token=missing, document="{}", signatures={})
            case "exchange_authorities":
                return m.ExchangeRequest(document="{}", signatures={})
            case "web_cert_turn":
                return m.WebCertTurnRequest(name=missing, directory=missing, new_key="")
            case "web_cert_account":
                return m.WebCertAccountRequest(name=missing, directory=missing, account_url="")
            case "web_cert_challenge":
                return m.WebCertChallengeRequest(name=missing, directory=missing, digest="")
            case "web_cert_store":
                return m.WebCertStoreRequest(name=missing, directory=missing, chain="", key="")
            case "web_cert_failed":
                return m.WebCertFailedRequest(name=missing, directory=missing, error="", seconds=0)
            case "web_cert_read":
                return m.WebCertNamed(name=missing, directory=missing)
            case "lost_tunnels":
                return m.LostTunnelsRequest(hosts=["missing"])
            case "seen_clusters":
                return m.SeenClustersRequest(clusters=["missing"])
            case "watch":
                return m.WatchRequest(kinds=["role"])
            case "heartbeat":
                kind = "proxy" if self.name == "proxy" else "node"
                return m.HeartbeatRequest(item=document(server(kind, self.who.host_id or str(uuid.uuid4()))))
            case "withdraw":
                return m.Named(name="1")
            case "renew_host":
                return m.RenewHostRequest(public_ssh_key=public, public_tls_key=pem, node_name="n")
            case "revoke_cert":
                return m.RevokeCertRequest(serial="7")
            case "revocation_list":
                return m.RevocationListRequest()
            case "list_certs":
                return m.ListCertsRequest()
            case "check_removal":
                return m.CheckRemovalRequest(kind="user", name="plain", along=m.Document(b"[]"))
            case "diff_access":
                return m.AccessDiffRequest(roles=m.Document(b"[" + bytes(document(self.resource("role"))) + b"]"))
            case "explain_access":
                return m.ExplainRequest(user="missing", login="root", host="n")
            case "sign_user":
                return m.SignUserRequest(name="plain", public_key=public, ttl=3600)
            case "sign_host":
                return m.SignHostRequest(principals=["sshd.example.org"], public_key=public)
            case "sign_server":
                return m.SignServerRequest(names=["db.example.org"], public_key=public)
            case "register_openssh":
                return m.RegisterOpensshRequest(hostname=f"of-{self.name}", addr="192.0.2.9:22", host_key=public)
            case "openssh_name":
                return m.OpensshNameRequest(host_id=missing, public_key=public)
            case "sign_openssh":
                return m.SignOpensshRequest(
                    certificate="none", client_addr="192.0.2.7", public_key=public, exchange="", hash_name="sha256",
                    request="", signature="",
                )  # fmt: skip
            case "lease_challenge":
                return m.LeaseChallengeRequest(certificate="none", client_addr="192.0.2.7")
            case "lease_approval":
                return m.LeaseApprovalRequest(token=missing)
            case "approve_lease":
                return m.ApproveLeaseRequest(token=missing, factor=m.FactorResponse())
            case "session_challenge":
                return m.SessionChallengeRequest(host="missing", login="root")
            case "session_cert":
                return m.SessionCertRequest(host="missing", login="root", factor=m.FactorResponse(totp_code="000000"))
            case "mfa_lease":
                return m.LeaseRequest(
                    certificate="none", client_addr="192.0.2.7", factor=m.FactorResponse(totp_code="000000")
                )
            case "login":
                return m.LoginRequest(
                    user="person", password=PASSWORD, otp_token=self.code(), public_key=public, ttl=3600,
                    client_addr="192.0.2.7",
                )  # fmt: skip
            case "begin_web_session":
                return m.BeginWebSessionRequest(
                    user="person", password=PASSWORD, otp_token=self.code(), public_key=public, sealed_key="sealed",
                    proof="p" * 43, client_addr="192.0.2.7:1",
                )  # fmt: skip
            case "use_web_session":
                return m.UseWebSessionRequest(id=missing, proof="p")
            case "end_web_session":
                return m.EndWebSessionRequest(id=missing, proof="p")
            case "end_own_web_sessions":
                return m.EndOwnWebSessionsRequest()
            case "change_password":
                return m.ChangePasswordRequest(old="not the password", new="another password")
            case "find_nodes":
                return m.FindNodesRequest()
            case "find_kube_clusters":
                return m.FindKubeClustersRequest()
            case "find_users":
                return m.FindUsersRequest()
            case "begin_browser_login":
                return m.BeginBrowserLoginRequest(public_key=public, ttl=0, client_addr="192.0.2.7:1")
            case "browser_login" | "collect_browser_login":
                return m.BrowserLoginRequest(id=missing)
            case "finish_browser_login":
                return m.FinishBrowserLoginRequest(id=missing, code="", user="person", password=PASSWORD)
            case "login_challenge":
                return m.LoginChallengeRequest(user="person")
            case "begin_factor":
                return m.BeginFactorRequest(name="", type="totp")
            case "finish_factor":
                return m.NewFactorProof(id=missing)
            case "remove_factor":
                return m.RemoveFactorRequest(name="missing")
            case "user_token_challenge":
                return m.UserTokenChallengeRequest(token=missing)
            case "user_token":
                return m.UserTokenRequest(token=missing)
            case "finish_user_token":
                return m.FinishUserTokenRequest(token=missing, password=PASSWORD)
            case "add_user":
                return m.AddUserRequest(name=f"made-by-{self.name}", roles=["access"])
            case "update_user":
                return m.UpdateUserRequest(name="missing", roles=["access"])
            case "reset_user":
                return m.ResetUserRequest(name="missing")
            case "unlock_user":
                return m.UnlockUserRequest(name="missing")
            case "rotation_plan":
                return m.RotationPlanRequest()
            case "rotate":
                return m.RotateRequest(types=["jwt"], grace_period=0)
            case "add_token":
                return m.AddTokenRequest(roles=["node"])
            case "intake":
                return m.IntakeRequest(emitter=self.who.host_id or "x", epoch=1, lines=[])
            case "search_events":
                return m.SearchEventsRequest(limit=1)
            case "tail_events":
                return m.TailEventsRequest()
            case "count_events":
                return m.CountEventsRequest(start=datetime.now(UTC), end=datetime.now(UTC) + timedelta(days=1))
            case "list_recordings":
                return m.ListRecordingsRequest()
            case "search_recordings":
                return m.SearchRecordingsRequest(text="needle")
            case "verify_recordings":
                return m.VerifyRecordingsRequest()
            case "read_recording" | "recording_offset":
                return m.RecordingRequest(sid=str(uuid.uuid4()))
            case "track_sessions":
                return m.TrackSessionsRequest(epoch="1", sessions=[])
            case "hold_connection":
                return m.HoldConnectionRequest(id=str(uuid.uuid4()), user="person", most=100)
            case "renew_connections":
                return m.RenewConnectionsRequest(places=[])
            case "release_connections":
                return m.ReleaseConnectionsRequest(places=[])
            case "append_recording":
                return m.AppendRecordingRequest(sid=str(uuid.uuid4()), offset=0)
            case "add_hold":
                return m.AddHoldRequest(user="person", reason="test")
            case "list_holds":
                return m.Empty()
            case "remove_hold":
                return m.RemoveHoldRequest(id="none", reason="test")
            case "create_backup":
                return m.BackupRequest()
            case "complete_recording":
                return m.CompleteRecordingRequest(sid=str(uuid.uuid4()), sha256="0" * 64)
        verb, _, kind = route.partition("_")
        match verb:
            case "list":
                return m.ListRequest()
            case "get":
                return m.GetRequest(name=f"user/{CLUSTER}" if kind == "cert_authority" else "missing")
            case "remove":
                return m.ExpelRequest(name="user/other.example" if kind == "cert_authority" else "missing")
            case "store":
                return m.StoreRequest(item=document(self.resource(kind)), force=kind in SINGLETONS)
        return m.Empty()

    def resource(self, kind: str) -> Resource:
        metadata = Metadata(name=f"of-{self.name}")
        match kind:
            case "user":
                return User(metadata=metadata, spec=UserSpec(roles=("access",)))
            case "role":
                return Role(metadata=metadata)
            case "token":
                end = datetime.now(UTC) + timedelta(hours=1)
                return Token.from_secret(SecretText(f"a secret of {self.name}"), (TokenRole.NODE,), end)
            case "lock":
                return Lock(metadata=metadata, spec=LockSpec(target=LockTarget(login="nobody")))
            case kind if kind in SINGLETONS:
                return SINGLETONS[Kind(kind)]()
            case "mfa_lease":
                return lease(f"of-{self.name}")
            case "trusted_cluster":
                mapping = (RoleMapping(remote="access", local=("access",)),)
                return TrustedCluster(
                    metadata=metadata, spec=TrustedClusterSpec(web_proxy_addr="192.0.2.1:443", role_map=mapping)
                )
            case "remote_cluster":
                return RemoteCluster(metadata=metadata)
            case "cert_authority":
                pair = JWTKeyPair(public_key=self.key.spki_pem().decode(), private_key=SecretText("a key"))
                return Authority.new(AuthorityType.JWT, f"{self.name}.example", KeySet(jwt=(pair,)))
        return server(kind, str(uuid.uuid4()))


def lease(user: str) -> MfaLease:
    now = datetime.now(UTC)
    name = lease_name(user, "SHA256:x", "192.0.2.7")
    spec = MfaLeaseSpec(
        user=user, key="SHA256:x", client_address="192.0.2.7", granted=now, expires=now + timedelta(hours=1)
    )
    return MfaLease(metadata=Metadata(name=name), spec=spec)


def server(kind: str, host_id: str, hostname: str = "h") -> Server:
    spec = ServerSpec(addr="192.0.2.1:22", hostname=hostname, epoch="1")
    return Server(kind=cast(Any, kind), metadata=Metadata(name=host_id), spec=spec)


def document(resource: Resource) -> m.Document:
    return m.Document(to_json(resource, with_secrets=True))


async def callers(auth: RunningAuth) -> list[Asking]:
    secret = await auth.person("person")
    clock = auth.clock
    assert isinstance(clock, FakeClock)

    def code() -> str:
        clock.advance(30)  # a code is good once
        return auth.code(secret)

    await auth.user("plain", ["access"])
    token = await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"], ttl=48 * 3600))
    who = {
        "anonymous": ANONYMOUS,
        "user": await auth.user("plain", ["access"]),
        "editor": await auth.user("edith", ["editor"]),
        "auditor": await auth.user("audrey", ["auditor"]),
        "node": await auth.host(SystemRole.NODE),
        "proxy": await auth.host(SystemRole.PROXY),
        "admin": await auth.admin(),
    }
    return [Asking(name, auth, who[name], token.token, code) for name in CALLERS]


def allowed(client: SyncAuthClient, name: str, asking: Asking) -> bool:
    """Whether auth does not refuse; that the thing asked for does not exist is no refusal."""
    route, request = ROUTES[name], asking.request(name)
    try:
        if route.stream is Stream.DOWN:
            parts = client.download(route, request)
            next(parts, b"")
            parts.close()  # type: ignore[attr-defined]
        else:
            client.call(route, request)
    except AccessDenied:
        return False
    except TeleportError as error:
        if error.code not in ("not_found", "bad_request", "compare_failed"):
            raise
    return True


async def who_may(auth: RunningAuth) -> dict[str, str]:
    asking = await callers(auth)

    def work() -> dict[str, str]:
        found: dict[str, list[str]] = {name: [] for name in ROUTES}
        for caller in asking:
            with auth.client(caller.who) as client:
                for name in ROUTES:
                    if allowed(client, name, caller):
                        found[name].append(caller.name)
        return {name: " ".join(names) for name, names in found.items()}

    return await auth.in_thread(work)


async def test_every_route_serves_exactly_the_callers_of_the_table(tmp_path: Path) -> None:
    """T33: each route is called by everybody; a route without a row fails, and so does one that serves more."""
    assert set(WHO_MAY) == set(ROUTES), "a route is missing in the table"
    async with running_auth(tmp_path) as auth:
        found = await who_may(auth)
    assert {name: set(found[name].split()) for name in ROUTES} == {n: set(who.split()) for n, who in WHO_MAY.items()}


async def test_secrets_are_read_by_the_administrator_only_and_leave_an_event(tmp_path: Path) -> None:
    """No role, and no host, reads password hashes, second factors or private keys."""
    async with running_auth(tmp_path) as auth:
        await auth.person("person")
        await auth.user("root-of-roles", ["editor", "auditor", "access"])
        asking = {
            "editor": await auth.user("root-of-roles", []),
            "node": await auth.host(SystemRole.NODE),
            "proxy": await auth.host(SystemRole.PROXY),
        }
        for kind, name in (("user", "person"), ("cert_authority", "host")):
            for who in asking.values():
                with pytest.raises(AccessDenied):
                    await auth.call(who, routes.GET[kind], m.GetRequest(name=name, with_secrets=True))
                with pytest.raises(AccessDenied):
                    await auth.call(who, routes.LIST[kind], m.ListRequest(with_secrets=True))
                shown = await auth.call(who, routes.GET[kind], m.GetRequest(name=name))
                assert not re.search(rb"argon2|PRIVATE KEY|password_hash|totp", bytes(shown.item))
            told = await auth.call(await auth.admin(), routes.GET[kind], m.GetRequest(name=name, with_secrets=True))
            assert re.search(rb"argon2|PRIVATE KEY", bytes(told.item))
        revealed = [event["kind"] for event in await auth.events("secret.revealed", wait_for=3)]
        assert sorted(revealed) == ["cert_authority", "user", "user_token"]


async def test_a_user_learns_of_no_host_that_the_roles_do_not_reach(tmp_path: Path) -> None:
    """Hosts that a user's roles do not reach stay unknown to that user, whichever way is asked."""
    async with running_auth(tmp_path) as auth:
        node = await auth.host(SystemRole.NODE)
        await auth.call(
            node, routes.HEARTBEAT, m.HeartbeatRequest(item=document(server("node", node.host_id, "hidden")))
        )
        await auth.call(
            await auth.admin(),
            routes.STORE["role"],
            m.StoreRequest(item=document(Role(metadata=Metadata(name="nothing")))),
        )
        user = await auth.user("blind", ["nothing"])
        assert (await auth.call(user, routes.LIST["node"], m.ListRequest())).items == []

        def watch() -> bytes:
            with auth.client(user) as client:
                return next(client.download(routes.WATCH, m.WatchRequest(kinds=["node"])))

        with pytest.raises(AccessDenied):
            await auth.in_thread(watch)
        with pytest.raises(NotFound):
            await auth.call(user, routes.GET["node"], m.GetRequest(name=node.host_id))


async def test_a_host_announces_only_itself_in_its_own_role(tmp_path: Path) -> None:
    """A stolen host key does not speak for other hosts."""
    async with running_auth(tmp_path) as auth:
        node, proxy = await auth.host(SystemRole.NODE), await auth.host(SystemRole.PROXY)
        own = m.HeartbeatRequest(item=document(server("node", node.host_id, "web-1")))
        await auth.call(node, routes.HEARTBEAT, own)
        for who, kind, host_id in (
            (node, "node", proxy.host_id),
            (node, "proxy", node.host_id),
            (proxy, "node", proxy.host_id),
            (proxy, "proxy", node.host_id),
            (await auth.admin(), "auth_server", auth.host_id),
        ):
            with pytest.raises(AccessDenied):
                await auth.call(who, routes.HEARTBEAT, m.HeartbeatRequest(item=document(server(kind, host_id))))
        admin = await auth.admin()
        listed = await auth.call(admin, routes.LIST["node"], m.ListRequest())
        assert [msgspec.json.decode(item)["spec"]["hostname"] for item in listed.items] == ["web-1"]
        await auth.call(node, routes.WITHDRAW, m.Named(name="an earlier run"))
        assert (await auth.call(admin, routes.LIST["node"], m.ListRequest())).items
        await auth.call(node, routes.WITHDRAW, m.Named(name="1"))
        assert not (await auth.call(admin, routes.LIST["node"], m.ListRequest())).items


async def test_each_change_is_in_the_audit_log_with_its_code(tmp_path: Path) -> None:
    """Decision 10: a change and its event are one transaction; a refused call is told of, too."""
    async with running_auth(tmp_path) as auth:
        admin = await auth.admin()
        headers = {"X-Teleport-Unix-User": "olga", "X-Teleport-Login-Uid": "1001", "X-Teleport-Terminal": "/dev/pts/3"}

        async def tctl(route: routes.Route[Any, Any], request: m.Request) -> Any:
            return await auth.call(admin, route, request, headers=headers)

        await tctl(routes.ADD_USER, m.AddUserRequest(name="ann", roles=["access"]))
        await tctl(routes.UPDATE_USER, m.UpdateUserRequest(name="ann", roles=["auditor"]))
        await tctl(routes.RESET_USER, m.ResetUserRequest(name="ann"))
        role = document(Role(metadata=Metadata(name="dev")))
        await tctl(routes.STORE["role"], m.StoreRequest(item=role))
        with pytest.raises(AlreadyExists):
            await tctl(routes.STORE["role"], m.StoreRequest(item=role))
        await tctl(routes.STORE["role"], m.StoreRequest(item=role, force=True))
        await tctl(routes.REMOVE["role"], m.ExpelRequest(name="dev"))
        lock = document(Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(login="nobody"))))
        await tctl(routes.STORE["lock"], m.StoreRequest(item=lock))
        await tctl(routes.REMOVE["lock"], m.ExpelRequest(name="l"))
        token = await tctl(routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"]))
        await tctl(routes.REMOVE["token"], m.ExpelRequest(name=token.id))
        key = generate_p256().public.line()
        await tctl(routes.SIGN_USER, m.SignUserRequest(name="ann", public_key=key, ttl=600))
        await tctl(routes.SIGN_HOST, m.SignHostRequest(principals=["a"], public_key=key))
        await tctl(routes.REMOVE["user"], m.ExpelRequest(name="ann"))
        with pytest.raises(AccessDenied):
            await auth.call(
                await auth.host(SystemRole.NODE), routes.ADD_USER, m.AddUserRequest(name="x", roles=["access"])
            )

        codes = {
            "user.create": "T1002I",
            "user.update": "T1003I",
            "user.delete": "T1004I",
            "reset_password_token.create": "T6000I",
            "role.created": "T9000I",
            "role.deleted": "T9001I",
            "lock.created": "TLK00I",
            "lock.deleted": "TLK01I",
            "token.create": "T9011I",
            "token.delete": "T9012I",
            "auth.sign": "T9031I",
            "cert.create": "T9010I",
        }
        await auth.events("api.denied")
        mine: dict[str, Any] = {}
        async with asyncio.timeout(10):
            while not set(codes) <= set(mine):  # what happened at one moment comes in any order
                events = await auth.events()
                mine = {event["event"]: event for event in events if event.get("actor")}
        assert {name: event["code"] for name, event in mine.items()} == codes
        assert mine["user.create"]["actor"] == {"unix_user": "olga", "login_uid": 1001, "terminal": "/dev/pts/3"}
        denied = [event for event in events if event["event"] == "api.denied"]
        assert [(event["code"], event["route"], event["kind"]) for event in denied] == [("T9033W", "add_user", "user")]
        reply = await auth.call(admin, routes.VERIFY_EVENTS, m.Empty())
        assert (reply.ok, reply.problems) == (True, [])
        assert reply.events >= len(events)


async def test_only_the_administrator_says_on_whose_behalf_it_acts(tmp_path: Path) -> None:
    """The headers of a local tctl are not believed from anybody else."""
    async with running_auth(tmp_path) as auth:
        editor = await auth.user("edith", ["editor"])
        await auth.call(
            editor,
            routes.ADD_USER,
            m.AddUserRequest(name="ann", roles=["access"]),
            headers={"X-Teleport-Unix-User": "root"},
        )
        created = await auth.events("user.create", where=lambda event: event["name"] == "ann")
        assert [(event["user"], event.get("actor")) for event in created] == [("edith", None)]


async def test_intake_takes_a_host_s_own_chain_only(tmp_path: Path) -> None:
    """Nobody adds events in another host's name, and what only auth can know is not taken from a host."""
    async with running_auth(tmp_path) as auth:
        node = await auth.host(SystemRole.NODE)
        chain = ChainState(ChainKey(node.host_id, 7))
        event = new_event(ServiceStart, auth.clock.now(), str(uuid.uuid4()), services=["node"], cluster_name=CLUSTER)
        line, chain = chain.append(event)
        request = m.IntakeRequest(emitter=node.host_id, epoch=7, lines=[line.decode()])
        other = await auth.host(SystemRole.NODE)
        with pytest.raises(AccessDenied):
            await auth.call(other, routes.INTAKE, request)
        taken = await auth.call(node, routes.INTAKE, request)
        assert taken.next_seq == 2
        assert (await auth.call(node, routes.INTAKE, request)).next_seq == 2, "sent again, it is taken in once"
        forged = new_event(
            UserLogin, auth.clock.now(), str(uuid.uuid4()), user="ann", success=True, cluster_name=CLUSTER
        )
        line, _ = chain.append(forged)
        with pytest.raises(TeleportError):
            await auth.call(node, routes.INTAKE, m.IntakeRequest(emitter=node.host_id, epoch=7, lines=[line.decode()]))
        assert len(await auth.events("service.start")) == 1
        assert "ann" not in str(await auth.events(wait_for=0))


async def test_the_first_start_makes_a_cluster_and_later_ones_find_it(tmp_path: Path) -> None:
    """Authorities, presets and the cluster's name are there at once, and the same after a restart."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        first = await auth.call(await auth.admin(), routes.STATUS, m.Empty())
        roles = await auth.call(await auth.admin(), routes.LIST["role"], m.ListRequest())
        assert [msgspec.json.decode(item)["metadata"]["name"] for item in roles.items] == [
            "access",
            "auditor",
            "editor",
        ]
        await auth.call(await auth.admin(), routes.STORE["role"], edited := edited_preset(roles.items[2]))
        await auth.events("role.created", wait_for=4)
    assert sorted(one.kind for one in first.authorities) == ["host", "jwt", "openssh", "user"]
    assert {one.rotation for one in first.authorities} == {"never updated"}
    assert (first.cluster, len(first.ca_pins)) == (CLUSTER, 1)
    async with running_auth(tmp_path, sqlite=True, host_id=auth.host_id, epoch=2) as auth:
        admin = await auth.admin()
        again = await auth.call(admin, routes.STATUS, m.Empty())
        assert again.ca_pins == first.ca_pins
        editor = await auth.call(admin, routes.GET["role"], m.GetRequest(name="editor"))
        assert msgspec.json.decode(editor.item)["metadata"]["description"] == "edited", (
            f"presets are left alone: {edited}"
        )
        reply = await auth.call(admin, routes.VERIFY_EVENTS, m.Empty())
        assert (reply.ok, reply.problems) == (True, [])


def edited_preset(item: m.Document) -> m.StoreRequest:
    changed: dict[str, Any] = msgspec.json.decode(item)
    changed["metadata"]["description"] = "edited"
    return m.StoreRequest(item=m.Document(json.dumps(changed).encode()), force=True)


async def test_a_role_that_somebody_holds_is_not_removed(tmp_path: Path) -> None:
    """Removing it would silently change what its holders may do."""
    async with running_auth(tmp_path) as auth:
        await auth.user("ann", ["access"])
        with pytest.raises(BadRequest, match="held by ann"):
            await auth.call(await auth.admin(), routes.REMOVE["role"], m.ExpelRequest(name="access"))


async def test_a_removed_user_s_certificate_is_refused(tmp_path: Path) -> None:
    """Certificates live for hours; the user is asked for at each call."""
    async with running_auth(tmp_path) as auth:
        user = await auth.user("ann", ["auditor"])
        await auth.call(user, routes.STATUS, m.Empty())
        await auth.call(await auth.admin(), routes.REMOVE["user"], m.ExpelRequest(name="ann"))
        with pytest.raises(AccessDenied, match="does not exist any more"):
            await auth.call(user, routes.STATUS, m.Empty())


async def test_unknown_fields_and_paths_are_refused(tmp_path: Path) -> None:
    """Nobody sets what a route does not mean to take (T33), nor reaches what no route declares."""
    async with running_auth(tmp_path) as auth:
        admin = await auth.admin()

        def ask(method: str, path: str, body: bytes = b"") -> tuple[int, str]:
            with auth.client(admin) as client:
                client.call(routes.STATUS, m.Empty())
                connection = client._connection
                assert connection is not None
                connection.request(method, path, body=body, headers={"Content-Type": "application/json"})
                answer = connection.getresponse()
                return answer.status, answer.read().decode()

        body = b'{"name": "ann", "roles": ["access"], "is_admin": true}'
        status, text = await auth.in_thread(lambda: ask("POST", "/v1/users", body))
        assert status == 400
        assert "is_admin" in text
        status, text = await auth.in_thread(lambda: ask("GET", "/v1/nothing"))
        assert (status, json.loads(text)["code"]) == (404, "not_found")
        status, text = await auth.in_thread(
            lambda: ask("PUT", "/v1/users/ann/roles", b'{"name":"bob","roles":["access"]}')
        )
        assert (status, json.loads(text)["code"]) == (400, "bad_request")
