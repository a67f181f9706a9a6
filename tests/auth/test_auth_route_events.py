"""Whatever changes something or reveals a secret is on record, under the name that its route declares (threat T46).

Each route that declares events is really called, and its events are looked for; each that declares none stands here,
with the reason. So neither a route without an event nor an event that is never written can come in unseen.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from tests.auth.test_auth_api import Asking, callers, document, server
from tests.auth.test_auth_factors import Ann
from tests.auth.test_auth_session_mfa import careful, otp
from tests.auth.test_auth_web_certificates import DIRECTORY, NAME, announced, turn_request
from tests.pki.test_pki_live_proof import evidence
from tests.security.test_security_recordings import RecordingHost, _read, _recorded

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.routes import ROUTES, Stream
from teleport.errors import AccessDenied, BadRequest, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import generate_ed25519, generate_p256
from teleport.pki.sshformat import parse_certificate_line
from teleport.resources.cluster import SINGLETONS, setting_name
from teleport.resources.kinds import Kind
from teleport.resources.metadata import Metadata
from teleport.resources.trusted_cluster import RemoteCluster
from teleport.testing.auth import (
    ANONYMOUS,
    CLUSTER,
    PASSWORD,
    Credentials,
    RunningAuth,
    present_clock,
    running_auth,
)
from teleport.testing.public_authority import PublicAuthority
from teleport.testing.two_clusters import TwoClusters, lead_to

CHANGES_WITHOUT_EVENT = {
    "heartbeat": "presence: one every minute of every host; joining and leaving have events",
    "withdraw": "presence of the caller itself, which writes service.stop",
    "intake": "it is the way of events itself",
    "hold_connection": "a count that lapses by itself; who is turned away has session.rejected from the node",
    "renew_connections": "likewise",
    "release_connections": "likewise",
    "append_recording": "pieces of a recording; session.upload follows when it is whole",
    "web_cert_challenge": "a digest that everybody may see, for minutes; the order has acme.order",
    "lost_tunnels": "a note that tunnels ended, kept in memory for a minute",
    "seen_clusters": "a note that tunnels are there, every half minute",
    "store_mfa_lease": "always refused: leases are made by proving a second factor",
    "store_proxy": "always refused: proxies announce themselves",
    "store_kube_service": "always refused: Kubernetes services announce themselves",
    "store_auth_server": "always refused: auth servers announce themselves",
    "begin_browser_login": "a question for five minutes; its answer has user.login",
    "collect_browser_login": "hands over what user.login and cert.create told of",
    "login_challenge": "a question for five minutes; the login that answers it has user.login",
    "passkey_challenge": "a question of which nothing is kept; the login that answers it has user.login",
    "lease_challenge": "a question for five minutes; the answer has session.mfa",
    "session_challenge": "a question for five minutes; the answer has session.mfa",
    "factor_challenge": "a question for five minutes; what answers it has an event",
    "user_token_challenge": "a question for five minutes; finishing the link has events",
    "begin_factor": "what is begun counts for nothing; mfa.add follows when it is finished",
    "check_removal": "says what a removal would be refused with; POST because what goes along is too long for a query",
    "diff_access": "compares and answers; POST because roles are too long for a query",
    "verify_recordings": "reads and answers whether they are whole; nothing of what they hold is told",
    "verify_events": "reads the log and answers; POST because it takes long",
    "tail_events": "reads the log; the cursor is too long for a query",
}
READS_WITHOUT_EVENT = {
    "running_sessions",
    "cluster_ca",
    "status",
    "who_am_i",
    "watch",
    "explain_access",
    "list_certs",
    "revocation_list",
    "own_factors",
    "own_web_sessions",
    "find_nodes",
    "find_kube_clusters",
    "find_users",
    "lease_approval",
    "browser_login",
} | {
    *("search_events", "list_holds", "count_events", "list_recordings", "recording_offset"),
    *("rotation_progress", "rotation_plan"),
    *(
        f"{verb}_{kind}"
        for verb in ("list", "get")
        for kind in (
            "role",
            "token",
            "node",
            "lock",
            "mfa_lease",
            "trusted_cluster",
            "remote_cluster",
            "proxy",
            "auth_server",
            "kube_service",
            *SINGLETONS,
        )
    ),
}


def test_a_route_without_an_event_only_reads_or_says_why() -> None:
    silent = {name for name, route in ROUTES.items() if not route.events}
    assert silent == READS_WITHOUT_EVENT | set(CHANGES_WITHOUT_EVENT)
    assert {name for name in READS_WITHOUT_EVENT if ROUTES[name].method != "GET"} == set()


Call = Callable[[], Awaitable[Any]]


class Recorder:
    """Calls routes and notes which events came of it."""

    def __init__(self, auth: RunningAuth) -> None:
        self.auth = auth
        self.missing: dict[str, set[str]] = {}
        self.called: set[str] = set()

    async def events(self) -> dict[str, str]:
        return {event["uid"]: event["event"] for event in await self.auth.events(wait_for=0)}

    async def call(self, name: str, *calls: Call) -> list[Any]:
        """What the calls of route `name` answered; what it declares must be on record after them."""
        before = await self.events()
        answers = [await call() for call in calls]
        wanted = set(ROUTES[name].events)
        for _ in range(100):
            after = await self.events()
            wanted -= {event for uid, event in after.items() if uid not in before}
            if not wanted:
                break
            await asyncio.sleep(0.05)
        self.called.add(name)
        if wanted:
            self.missing[name] = wanted
        return answers


async def test_every_event_that_a_route_declares_is_written(tmp_path: Path) -> None:
    async with running_auth(tmp_path, sqlite=True, clock=present_clock()) as auth:
        everybody = {asking.name: asking for asking in await callers(auth)}
        admin, proxy = everybody["admin"], everybody["proxy"]
        recorder = Recorder(auth)

        def ask(name: str, request: m.Request | None = None, asking: Asking = admin) -> Call:
            return lambda: auth.call(asking.who, ROUTES[name], request or asking.request(name))

        async def refused(call: Call) -> None:
            with suppress(TeleportError):
                await call()

        # hosts and certificates
        bad = m.JoinRequest(
            token="0" * 32, host_id=str(uuid.uuid4()), node_name="n", role="Node",
            public_ssh_key=admin.key.line(), public_tls_key=admin.key.spki_pem().decode(),
        )  # fmt: skip
        await recorder.call("join", ask("join"), lambda: refused(lambda: auth.call(ANONYMOUS, routes.JOIN, bad)))
        await recorder.call("renew_host", ask("renew_host", asking=everybody["node"]))
        await recorder.call("sign_user", ask("sign_user"))
        await recorder.call("sign_host", ask("sign_host"))
        await recorder.call("sign_server", ask("sign_server"))
        await recorder.call("revoke_cert", ask("revoke_cert"))
        registered, *_ = await recorder.call("register_openssh", ask("register_openssh"))
        named = m.OpensshNameRequest(host_id=registered.host_id, public_key=generate_ed25519().public.line(""))
        await recorder.call("openssh_name", ask("openssh_name", named, proxy))
        entered = await _nobody_connected(auth)
        await recorder.call("sign_openssh", lambda: refused(ask("sign_openssh", entered, proxy)))
        await recorder.call("login", ask("login", asking=proxy))
        begun = await auth.call(proxy.who, routes.BEGIN_BROWSER_LOGIN, proxy.request("begin_browser_login"))
        answered = m.FinishBrowserLoginRequest(
            id=begun.id, code=begun.code, user="person", password=PASSWORD, otp_token=proxy.code()
        )
        await recorder.call("finish_browser_login", ask("finish_browser_login", answered, proxy))
        await _browsers(recorder, proxy)
        await recorder.call("renew_user", ask("renew_user", asking=everybody["user"]))
        await recorder.call("rotate", ask("rotate"))
        lea = await careful(auth, "lea")
        marked = m.SessionCertRequest(factor=otp(lea.code()))
        await recorder.call("session_cert", lambda: auth.call(lea.who, routes.SESSION_CERT, marked))
        leased = m.LeaseRequest(certificate=lea.line, client_addr="192.0.2.7", factor=otp(lea.code()))
        (lease,) = await recorder.call("mfa_lease", ask("mfa_lease", leased, proxy))
        await auth.set_second_factor("on")
        key = await Ann(auth, proxy.who, lea.who, lea.secret).add_key()
        asked = m.LeaseChallengeRequest(certificate=lea.line, client_addr="192.0.2.8")
        link = (await auth.call(proxy.who, routes.LEASE_CHALLENGE, asked)).link.rpartition("/")[2]
        shown = await auth.call(proxy.who, routes.LEASE_APPROVAL, m.LeaseApprovalRequest(token=link))
        approve = m.ApproveLeaseRequest(token=link, factor=key.answer(shown.challenge))
        await recorder.call("approve_lease", ask("approve_lease", approve, proxy))
        # users
        (link,) = await recorder.call("add_user", ask("add_user"))
        (info,) = await recorder.call("user_token", ask("user_token", m.UserTokenRequest(token=link.token), proxy))
        begun = m.NewWebSession(public_key=generate_p256().public.line(""), sealed_key="sealed", proof="p" * 43)
        finish = m.FinishUserTokenRequest(
            token=link.token, password=PASSWORD, otp_token=auth.code(info.totp_secret), session=begun
        )
        await recorder.call("finish_user_token", ask("finish_user_token", finish, proxy))
        # second factors of one's own
        plain = everybody["user"]
        await auth.set_password("plain")
        begin = m.BeginFactorRequest(name="app", type="totp", password=PASSWORD)
        (new,) = await recorder.call("begin_factor", ask("begin_factor", begin, plain))
        proof = m.NewFactorProof(id=new.id, totp_code=auth.code(new.totp_secret))
        await recorder.call("finish_factor", ask("finish_factor", proof, plain))
        await auth.set_second_factor("optional")
        answer = m.FactorResponse(totp_code=auth.code(new.totp_secret, periods=1))
        removal = m.RemoveFactorRequest(name="app", factor=answer)
        await recorder.call("remove_factor", ask("remove_factor", removal, plain))
        recorder.called.discard("begin_factor")  # declares none
        await recorder.call("update_user", ask("update_user", m.UpdateUserRequest(name="plain", roles=["auditor"])))
        await recorder.call("unlock_user", ask("unlock_user", m.UnlockUserRequest(name="plain")))
        await recorder.call("reset_user", ask("reset_user", m.ResetUserRequest(name="plain")))
        await recorder.call("add_token", ask("add_token"))
        await _other_clusters(recorder, tmp_path)
        await _by_acme(recorder, proxy.who)
        # resources
        for kind in routes.RESOURCE_EVENTS:
            if kind in ("trusted_cluster", "remote_cluster"):
                continue  # above
            store = m.StoreRequest(item=document(admin.resource(kind)), force=True)
            if kind == "node":
                host_id = str(uuid.uuid4())
                store = m.StoreRequest(item=document(server(kind, host_id)), force=True)
            if ROUTES[f"store_{kind}"].events:
                await recorder.call(f"store_{kind}", ask(f"store_{kind}", store), ask(f"store_{kind}", store))
            elif kind != "mfa_lease":
                host_id = await _announced(auth, kind)
            if ROUTES[f"list_{kind}"].events:
                await recorder.call(f"list_{kind}", ask(f"list_{kind}", m.ListRequest(with_secrets=True)))
                name = f"user/{CLUSTER}" if kind == "cert_authority" else "plain"
                await recorder.call(f"get_{kind}", ask(f"get_{kind}", m.GetRequest(name=name, with_secrets=True)))
            listed = await auth.call(admin.who, ROUTES[f"list_{kind}"], m.ListRequest())
            assert listed.items
            name = {
                "cert_authority": "jwt/admin.example",
                "token": _token_name(admin),
                "node": host_id if kind == "node" else "",
                "proxy": host_id if kind == "proxy" else "",
                "mfa_lease": lease.name if kind == "mfa_lease" else "",
                "auth_server": host_id if kind == "auth_server" else "",
                "kube_service": host_id if kind == "kube_service" else "",
            }.get(kind, setting_name(Kind(kind)) if kind in SINGLETONS else "of-admin")
            await recorder.call(f"remove_{kind}", ask(f"remove_{kind}", m.ExpelRequest(name=name)))
        # recordings
        sid = await _recorded(auth, "plain")
        first, second = await _recorded(auth, "plain"), await RecordingHost.join(auth)
        await recorder.call("complete_recording", lambda: second.upload(first, "plain"))
        third = await RecordingHost.join(auth)
        await recorder.call("track_sessions", lambda: third.track(first))
        await recorder.call("read_recording", lambda: _read(auth, admin.who, sid))
        needle = m.SearchRecordingsRequest(text="whoami")
        await recorder.call("search_recordings", ask("search_recordings", needle))
        await recorder.call("add_hold", ask("add_hold", m.AddHoldRequest(user="person", reason="test")))
        (hold,) = (await auth.call(admin.who, routes.LIST_HOLDS, m.Empty())).holds
        await recorder.call("remove_hold", ask("remove_hold", m.RemoveHoldRequest(id=hold.id, reason="test")))
        await recorder.call("create_backup", lambda: _backed_up(auth, admin.who))
        assert recorder.missing == {}
        assert recorder.called == {name for name, route in ROUTES.items() if route.events}


async def _by_acme(recorder: Recorder, proxy: Credentials) -> None:
    auth, now = recorder.auth, recorder.auth.clock.now()
    own = PublicAuthority().issue(NAME, begin=now - timedelta(days=60), end=now + timedelta(days=20))  # to be renewed
    named = {"name": NAME, "directory": DIRECTORY}
    await announced(auth, proxy, NAME)
    turn = turn_request()
    await recorder.call("web_cert_turn", lambda: auth.call(proxy, routes.WEB_CERT_TURN, turn))
    made = m.WebCertAccountRequest(**named, account_url="https://directory.test/account/1")
    await recorder.call("web_cert_account", lambda: auth.call(proxy, routes.WEB_CERT_ACCOUNT, made))
    store = m.WebCertStoreRequest(**named, chain=own.chain.decode(), key=own.key.decode())
    await recorder.call("web_cert_store", lambda: auth.call(proxy, routes.WEB_CERT_STORE, store))
    await recorder.call("web_cert_read", lambda: auth.call(proxy, routes.WEB_CERT_READ, m.WebCertNamed(**named)))
    await auth.call(proxy, routes.WEB_CERT_TURN, turn)
    failed = m.WebCertFailedRequest(**named, error="no", seconds=0)
    await recorder.call("web_cert_failed", lambda: auth.call(proxy, routes.WEB_CERT_FAILED, failed))


async def _browsers(recorder: Recorder, proxy: Asking) -> None:
    """Sessions of browsers: one that is used and ended, and one that its user ends with a new password."""
    auth = recorder.auth
    key = generate_p256()

    async def begun() -> m.WebSession:
        asked = proxy.request("begin_web_session")
        assert isinstance(asked, m.BeginWebSessionRequest)
        asked = msgspec.structs.replace(asked, public_key=key.public.line())
        return cast(m.WebSession, await auth.call(proxy.who, routes.BEGIN_WEB_SESSION, asked))

    (first,) = await recorder.call("begin_web_session", begun)
    use = m.UseWebSessionRequest(id=first.id, proof="p" * 43, client_addr="192.0.2.7:1")
    await recorder.call("use_web_session", lambda: auth.call(proxy.who, routes.USE_WEB_SESSION, use))
    end = m.EndWebSessionRequest(id=first.id, proof="p" * 43)
    await recorder.call("end_web_session", lambda: auth.call(proxy.who, routes.END_WEB_SESSION, end))
    second = await begun()
    assert second.certs is not None
    person = auth.keep(key, second.certs.tls_cert)
    change = m.ChangePasswordRequest(
        old=PASSWORD, new="another good password", factor=otp(proxy.code()), keep=second.id
    )
    await recorder.call("change_password", lambda: auth.call(person, routes.CHANGE_PASSWORD, change))
    ended = m.EndOwnWebSessionsRequest(id=second.id)
    await recorder.call("end_own_web_sessions", lambda: auth.call(person, routes.END_OWN_WEB_SESSIONS, ended))


async def _other_clusters(recorder: Recorder, directory: Path) -> None:
    """This cluster as the leaf of one, and as the root of another."""
    auth = recorder.auth
    async with AsyncExitStack() as stack:
        root, leaf = [
            await stack.enter_async_context(running_auth(directory / name, clock=auth.clock, cluster=name))
            for name in ("its-root", "its-leaf")
        ]
        lead_to(auth, root)
        lead_to(leaf, auth)
        above, below = TwoClusters(root, auth), TwoClusters(auth, leaf)
        wanted = await above.document(await above.token())
        off = msgspec.structs.replace(wanted, spec=msgspec.structs.replace(wanted.spec, enabled=False))
        await recorder.call(
            "store_trusted_cluster", lambda: above.create(wanted), lambda: above.create(off, force=True)
        )
        admin = await auth.admin()
        gone = m.ExpelRequest(name="its-root")
        await recorder.call("remove_trusted_cluster", lambda: auth.call(admin, routes.REMOVE["trusted_cluster"], gone))
        await recorder.call("validate_cluster", below.establish)

        async def forged() -> None:
            with pytest.raises(AccessDenied):
                await auth.call(ANONYMOUS, routes.EXCHANGE_AUTHORITIES, m.ExchangeRequest(document="{}", signatures={}))

        async def turned() -> None:
            turn = m.RotateRequest(types=["host"], phase="init", mode="manual", grace_period=3600)
            await leaf.call(await leaf.admin(), routes.ROTATE, turn)
            await leaf.service.clusters.leaf.exchange(auth.cluster)

        await recorder.call("exchange_authorities", forged, turned)
        labelled = RemoteCluster(metadata=Metadata(name="its-leaf", labels={"env": "prod"}))
        store = m.StoreRequest(item=document(labelled), force=True)
        await recorder.call("store_remote_cluster", lambda: auth.call(admin, routes.STORE["remote_cluster"], store))
        gone = m.ExpelRequest(name="its-leaf")
        await recorder.call("remove_remote_cluster", lambda: auth.call(admin, routes.REMOVE["remote_cluster"], gone))


async def _backed_up(auth: RunningAuth, who: Credentials) -> bytes:
    def work() -> bytes:
        with auth.client(who) as client:
            return b"".join(client.download(routes.CREATE_BACKUP, m.BackupRequest()))

    return await auth.in_thread(work)


async def _announced(auth: RunningAuth, kind: str) -> str:
    """A proxy, auth server or Kubernetes service that made itself known; its id. By hand nobody makes one."""
    admin, request = await auth.admin(), m.StoreRequest(item=document(server(kind, str(uuid.uuid4()))), force=True)
    with pytest.raises(BadRequest, match="not made by hand"):
        await auth.call(admin, ROUTES[f"store_{kind}"], request)
    roles = {"proxy": SystemRole.PROXY, "auth_server": SystemRole.AUTH, "kube_service": SystemRole.KUBE}
    who = await auth.host(roles[kind], name="h")
    await auth.call(who, routes.HEARTBEAT, m.HeartbeatRequest(item=document(server(kind, who.host_id, "h"))))
    return who.host_id


def _token_name(asking: Asking) -> str:
    resource: Any = asking.resource("token")
    return str(resource.name)


@pytest.mark.parametrize("who", ["stranger", "node"])
async def test_every_refusal_is_on_record(tmp_path: Path, who: str) -> None:
    """Whoever is refused, at whichever route: the event names caller, route, verb and kind."""
    async with running_auth(tmp_path, sqlite=True) as auth:
        if who == "node":
            caller = await auth.host(SystemRole.NODE)
        else:
            caller = await auth.user("stranger", ["auditor"])
        asking = Asking("node", auth, caller, "0" * 32, lambda: "000000")

        def work() -> set[str]:
            denied = set()
            with auth.client(caller) as client:
                for name, route in ROUTES.items():
                    try:
                        if route.stream is Stream.DOWN:
                            for _ in client.download(route, asking.request(name)):
                                break
                        else:
                            client.call(route, asking.request(name))
                    except AccessDenied:
                        denied.add(name)
                    except TeleportError:
                        continue  # the thing asked for does not exist: no refusal
            return denied

        denied = await auth.in_thread(work)
        assert len(denied) > 20
        denied -= {"join", "validate_cluster", "exchange_authorities"}  # have events of their own
        found = await auth.events("api.denied", wait_for=0)
        for _ in range(100):
            if {event["route"] for event in found} >= denied:
                break
            await asyncio.sleep(0.05)
            found = await auth.events("api.denied", wait_for=0)
        assert {event["route"] for event in found} == denied
        for event in found:
            route = ROUTES[event["route"]]
            assert (event["verb"], event["kind"].lstrip("*")) == (str(route.verb), route.kind.lstrip("*"))
            assert event["user"] or event["host_id"]


async def _nobody_connected(auth: RunningAuth) -> m.SignOpensshRequest:
    """A proof of a connection to a key that speaks for no host."""
    key = generate_p256()
    signed = await auth.call(
        await auth.admin(), routes.SIGN_USER, m.SignUserRequest(name="plain", public_key=key.public.line(), ttl=3600)
    )
    given = evidence(certificate=parse_certificate_line(signed.cert).blob, key=key)
    exchange, request, signature = (
        base64.b64encode(one).decode() for one in (given.exchange, given.request, given.signature)
    )
    return m.SignOpensshRequest(
        certificate=signed.cert, client_addr="192.0.2.7", public_key=generate_ed25519().public.line(""),
        exchange=exchange, hash_name=given.hash_name, request=request, signature=signature,
    )  # fmt: skip
