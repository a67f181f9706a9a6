"""Whoever comes to auth by a proxy's websocket comes from their own address, for which the proxy vouches and nobody
else can (threat T24); certificates bound to an address hold from there alone."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.auth.test_auth_api import Asking, allowed
from tests.auth.test_auth_joining import announcement, join_request, new_token
from tests.auth.test_auth_remote_users import of_root
from tests.web.web_rig import NAME, RunningWeb, running_web

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.routes import ROUTES, Route
from teleport.api.sync_client import SyncAuthClient, through_proxy
from teleport.auth.authorities.certify import UserGrant
from teleport.auth.hosts.joining import JOIN_BURST
from teleport.errors import AccessDenied, ConnectionProblem, LimitExceeded, TeleportError
from teleport.identity import SystemRole
from teleport.pki import sshsig
from teleport.pki.authority import new_authority
from teleport.pki.keys import PrivateKey, generate_ed25519, generate_p256
from teleport.pki.sshcert import HostCertRequest, host_principals, issue_host_cert
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.sshverify import SOURCE_PIN
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509cert import auth_server_name
from teleport.resources.authority import RoleMapping
from teleport.resources.codec import to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Options, Role, RoleSpec
from teleport.testing.auth import ANONYMOUS, CLUSTER, Credentials, RunningAuth, running_auth
from teleport.testing.clock import FakeClock
from teleport.testing.two_clusters import two_clusters
from teleport.transport.blocking import ByteStream, TLSStream, dial_tcp
from teleport.transport.mux import HEAD, OPEN, PREFACE, Mux
from teleport.wire import vouch

CLIENT = "192.0.2.7"


@dataclass(frozen=True)
class Proxy:
    """What a proxy vouches with."""

    host_id: str
    key: PrivateKey
    certificate: bytes
    who: Credentials
    auth: RunningAuth

    def line(self, host: str = CLIENT, port: int = 40000, **changes: Any) -> bytes:
        said = vouch.Vouch(host, port, uuid.uuid4(), vouch.auth_target(CLUSTER), self.auth.clock.now(), os.urandom(16))
        return vouch.encode(replace(said, **changes), self.certificate, lambda text: sshsig.sign(self.key, text))


async def a_host(auth: RunningAuth, role: SystemRole = SystemRole.PROXY) -> Proxy:
    """A proxy of the cluster, or another host that would like to be one."""
    key, tls, host_id = generate_ed25519(), generate_p256(), str(uuid.uuid4())
    given = await auth.service.local_host(host_id, "front", role, [], key.public.line(), tls.public.spki_pem().decode())
    who = auth.keep(tls, given.tls_cert, host_id)
    return Proxy(host_id, key, parse_certificate_line(given.ssh_cert).blob, who, auth)


def opened(auth: RunningAuth, who: Credentials, *lines: bytes) -> Callable[[], TLSStream]:
    """What a proxy does: connects, says its lines, and relays a client's TLS."""

    def connect() -> TLSStream:
        plain = dial_tcp(*auth.address, 10)
        plain.sendall(b"".join(lines))
        return TLSStream(plain, auth.context(who), auth_server_name(CLUSTER))

    return connect


async def ask(
    auth: RunningAuth, who: Credentials, *lines: bytes, route: Route[Any, Any] = routes.WHO_AM_I, request: Any = None
) -> Any:
    def work() -> object:
        with SyncAuthClient(opened(auth, who, *lines), "auth") as client:
            return client.call(route, request or m.Empty())

    return await auth.in_thread(work)


async def test_a_proxys_word_is_believed_and_nothing_but_its_last(tmp_path: Path) -> None:
    """Also behind one another; without a word the peer's own address counts."""
    async with running_auth(tmp_path) as auth:
        admin, proxy, other = await auth.admin(), await a_host(auth), await a_host(auth)
        assert (await ask(auth, admin)).client_addr.startswith("127.0.0.1:")
        assert (await ask(auth, admin, proxy.line())).client_addr == f"{CLIENT}:40000"
        assert (await ask(auth, admin, proxy.line("2001:db8::7", 1))).client_addr == "[2001:db8::7]:1"
        lines = [proxy.line("192.0.2.1"), other.line("192.0.2.2"), proxy.line("192.0.2.3", 3)]
        assert (await ask(auth, admin, *lines)).client_addr == "192.0.2.3:3"
        with pytest.raises(TeleportError):
            await ask(auth, admin, *[proxy.line() for _ in range(4)])


@asynccontextmanager
async def led(auth: RunningAuth, *lines: bytes) -> AsyncIterator[Callable[..., TLSStream]]:
    """A proxy's connection of many to auth; gives what a client within it is connected by, once its lines were said."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    transport, link = await loop.create_connection(
        lambda: Mux(None, lambda _: over.set(), first=b"".join(lines)), *auth.address
    )

    def connect(who: Credentials, *said: bytes) -> TLSStream:
        here, there = socket.socketpair()

        async def begin() -> None:
            _, near = await loop.connect_accepted_socket(lambda: Joined(b"".join(said)), there)
            link.open(lambda: Joined(b"", near))

        asyncio.run_coroutine_threadsafe(begin(), loop).result(10)
        here.settimeout(10)
        return TLSStream(here, auth.context(who), auth_server_name(CLUSTER))

    try:
        yield connect
    finally:
        transport.abort()
        await over.wait()


class Joined(asyncio.Protocol):
    """One of two that pass on to each other."""

    def __init__(self, first: bytes, other: Joined | None = None) -> None:
        self.waiting = first
        self.other = other
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        if self.other is not None:
            self.other.other = self
            transport.write(self.other.waiting)

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self.waiting += data
        else:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def asked(auth: RunningAuth, connect: Callable[[], TLSStream]) -> m.WhoAmI:
    def work() -> m.WhoAmI:
        with SyncAuthClient(connect, "auth") as client:
            return client.call(routes.WHO_AM_I, m.Empty())

    return await auth.in_thread(work)


async def test_a_proxy_leads_many_within_one_connection_and_each_has_its_own_address(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        admin, proxy, other = await auth.admin(), await a_host(auth), await a_host(auth)
        async with led(auth, proxy.line("127.0.0.1", 0)) as connect:
            for number in range(3):
                line = proxy.line(f"192.0.2.{number}", 7)
                assert (await asked(auth, lambda line=line: connect(admin, line))).client_addr == f"192.0.2.{number}:7"  # type: ignore[misc]
            assert (await asked(auth, lambda: connect(admin))).client_addr.startswith("127.0.0.1:")
            chained = [other.line("192.0.2.1"), proxy.line("192.0.2.2", 2)]
            assert (await asked(auth, lambda: connect(admin, *chained))).client_addr == "192.0.2.2:2"
            with pytest.raises(TeleportError):  # a line counts once, and here it has no other meaning
                await asked(auth, lambda: connect(admin, line))
            assert (await asked(auth, lambda: connect(admin, proxy.line()))).client_addr == f"{CLIENT}:40000"


async def test_nobody_but_a_proxy_leads_many_and_not_within_such_a_connection(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        admin, proxy, node = await auth.admin(), await a_host(auth), await a_host(auth, SystemRole.NODE)
        for lines in ([], [node.line()], [proxy.line(cluster="leaf.test")]):
            async with led(auth, *lines) as connect:
                with pytest.raises(TeleportError):
                    await asked(auth, lambda: connect(admin, proxy.line()))
        async with led(auth, proxy.line()) as connect:
            with pytest.raises(TeleportError):
                await asked(auth, lambda: connect(admin, proxy.line(), PREFACE, HEAD.pack(OPEN, 1, 0)))


Spoiled = Callable[[RunningAuth, Proxy], bytes]


def altered(auth: RunningAuth, proxy: Proxy) -> bytes:
    """Another address under the same signature."""
    import base64

    words = proxy.line().split()
    claim = base64.b64decode(words[1]).replace(CLIENT.encode(), b"192.0.2.8")
    return b" ".join([words[0], base64.b64encode(claim), words[2]]) + b"\r\n"


def of_another_cluster(auth: RunningAuth, proxy: Proxy) -> bytes:
    authority = new_authority(AuthorityKind.HOST, CLUSTER, auth.clock.now())
    names = host_principals(proxy.host_id, "front", CLUSTER)
    request = HostCertRequest(proxy.key.public, proxy.host_id, SystemRole.PROXY, names)
    forged = issue_host_cert(request, authority.ssh_signer(), CLUSTER, auth.clock.now())
    return replace(proxy, certificate=forged.blob).line()


FORGED: dict[str, Spoiled] = {
    "altered": altered,
    "signed by another key": lambda auth, proxy: replace(proxy, key=generate_ed25519()).line(),
    "of another authority": of_another_cluster,
    "for a node": lambda auth, proxy: proxy.line(target=uuid.uuid4()),
    "for another cluster": lambda auth, proxy: proxy.line(target=vouch.auth_target("other.example")),
    "too old": lambda auth, proxy: proxy.line(time=auth.clock.now() - vouch.VALID - timedelta(seconds=1)),
    "from the future": lambda auth, proxy: proxy.line(time=auth.clock.now() + vouch.VALID + timedelta(seconds=1)),
    "no address": lambda auth, proxy: proxy.line("localhost"),
    "unreadable": lambda auth, proxy: vouch.PREFIX + b"e30= e30=\r\n",
}


async def test_a_word_that_is_not_a_proxys_own_ends_the_connection(tmp_path: Path) -> None:
    """The peer's address is no substitute, whoever the client is; what was refused is on record."""
    async with running_auth(tmp_path) as auth:
        proxy, admin = await a_host(auth), await auth.admin()
        for number, (name, spoil) in enumerate(FORGED.items(), 1):
            with pytest.raises(ConnectionProblem):
                pytest.fail(f"believed: {name}: {await ask(auth, admin, spoil(auth, proxy))}")
            refused = (await auth.events("api.denied", wait_for=number))[-1]
            assert (refused["code"], refused["route"], refused["addr"]) == ("T9033W", "vouch", "127.0.0.1"), name


@pytest.mark.parametrize("role", [SystemRole.NODE, SystemRole.AUTH])
async def test_no_other_host_vouches(tmp_path: Path, role: SystemRole) -> None:
    async with running_auth(tmp_path) as auth:
        host = await a_host(auth, role)
        with pytest.raises(ConnectionProblem):
            await ask(auth, await auth.admin(), host.line())
        (refused,) = await auth.events("api.denied")
        assert "may not vouch" in refused["error"]


async def test_a_word_counts_once_and_not_of_a_proxy_that_was_shut_out(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        admin, locked, expelled = await auth.admin(), await a_host(auth), await a_host(auth)
        line = locked.line()
        await ask(auth, admin, line)
        with pytest.raises(ConnectionProblem):
            await ask(auth, admin, line)
        lock = Lock(metadata=Metadata(name="l"), spec=LockSpec(target=LockTarget(node=locked.host_id)))
        await auth.call(admin, routes.STORE["lock"], m.StoreRequest(item=m.Document(to_json(lock))))
        await auth.call(expelled.who, routes.HEARTBEAT, announcement("proxy", expelled.host_id))
        await auth.call(admin, routes.REMOVE["proxy"], m.ExpelRequest(name=expelled.host_id))
        for proxy in (locked, expelled):
            with pytest.raises(ConnectionProblem):
                await ask(auth, admin, proxy.line())
        errors = {event["error"] for event in await auth.events("api.denied", wait_for=3)}
        for reason in ("used before", "lock l on node", "belong to the cluster"):
            assert [error for error in errors if reason in error], reason


@pytest.mark.parametrize(
    "said", [vouch.PREFIX + b"x" * vouch.MAX_LINE, b"TELEPORT\r\n", b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n", b"T"]
)
async def test_what_is_neither_tls_nor_a_line_gets_no_answer(tmp_path: Path, said: bytes) -> None:
    """Bounded in bytes; a PROXY header says nothing here."""
    async with running_auth(tmp_path) as auth:

        def work() -> bytes:
            plain = dial_tcp(*auth.address, 10)
            try:
                plain.sendall(said)
                plain.shutdown(1)
                return plain.recv(1000)
            except ConnectionResetError:
                return b""
            finally:
                plain.close()

        answer = await auth.in_thread(work)
        assert answer == b"" or answer[0] == 21  # a TLS alert
        assert (await ask(auth, await auth.admin())).name == auth.host_id


# through the web service


@asynccontextmanager
async def a_web(auth: RunningAuth, folder: Path) -> AsyncIterator[RunningWeb]:
    """A proxy's web service that vouches."""
    proxy = await a_host(auth)
    client = auth.async_client(await auth.host(SystemRole.PROXY, name="proxy"))
    async with client, running_web(folder, client, (auth.address,), vouch=proxy.line) as web:
        yield web


async def through(web: RunningWeb, context: ssl.SSLContext, said: bytes = b"", headers: bytes = b"") -> m.WhoAmI:
    """Who auth sees that a client comes from, which first says something of its own in the websocket."""
    import asyncio

    class First:
        """The websocket, with something in front of TLS."""

        def __init__(self, inner: ByteStream) -> None:
            self._inner, self._said = inner, said

        def recv(self, size: int) -> bytes:
            return self._inner.recv(size)

        def sendall(self, data: bytes) -> None:
            self._inner.sendall(self._said + data)
            self._said = b""

        def close(self) -> None:
            self._inner.close()

    class Headers(First):
        """The proxy's HTTPS, with more headers."""

        def sendall(self, data: bytes) -> None:
            self._inner.sendall(data.replace(b"\r\n\r\n", headers + b"\r\n\r\n", 1) if headers else data)

    def work() -> m.WhoAmI:
        from teleport.api.sync_client import TUNNEL_PATH
        from teleport.transport.blocking import WebSocketStream

        outer = Headers(TLSStream(dial_tcp(*web.address, 10), web.trust, NAME))
        inner = First(WebSocketStream(outer, NAME, TUNNEL_PATH))
        with SyncAuthClient(lambda: TLSStream(inner, context, auth_server_name(CLUSTER)), "auth") as client:
            return client.call(routes.WHO_AM_I, m.Empty())

    return await asyncio.to_thread(work)


async def test_nobody_chooses_an_address_through_the_proxy(tmp_path: Path) -> None:
    """Neither by headers, nor by a line, true or not, of one's own."""
    async with running_auth(tmp_path) as auth, a_web(auth, tmp_path) as web:
        context = auth.context(await auth.user("ann", ["access"]))
        other = await a_host(auth, SystemRole.NODE)
        assert (await through(web, context)).client_addr.startswith("127.0.0.1:")
        forged = b"\r\nX-Forwarded-For: 192.0.2.7\r\nForwarded: for=192.0.2.7\r\nX-Real-IP: 192.0.2.7"
        assert (await through(web, context, headers=forged)).client_addr.startswith("127.0.0.1:")
        for said in (other.line(), b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n", vouch.PREFIX + b"e30= e30=\r\n"):
            with pytest.raises(ConnectionProblem):
                await through(web, context, said)


async def test_the_way_of_tsh_through_a_proxy_carries_the_address(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth, a_web(auth, tmp_path) as web:
        context = auth.context(await auth.user("ann", ["access"]))

        def work() -> m.WhoAmI:
            way = through_proxy(
                lambda: TLSStream(dial_tcp(*web.address, 10), web.trust, NAME),
                NAME,
                context,
                auth_server_name(CLUSTER),
            )
            with SyncAuthClient(way, "auth") as client:
                return client.call(routes.WHO_AM_I, m.Empty())

        assert (await auth.in_thread(work)).client_addr.startswith("127.0.0.1:")


# what the address decides


async def pinning(auth: RunningAuth) -> None:
    """A role that binds certificates to the address of the login."""
    role = Role(
        metadata=Metadata(name="pinned"),
        spec=RoleSpec(
            options=Options(pin_source_ip=True), allow=Conditions(logins=("root",), node_labels={"*": ("*",)})
        ),
    )
    await auth.call(await auth.admin(), routes.STORE["role"], m.StoreRequest(item=m.Document(to_json(role))))


async def login(auth: RunningAuth, totp: str, *, client: str, periods: int) -> tuple[m.UserCerts, Credentials]:
    key = generate_p256()
    request = m.LoginRequest(
        user="ann",
        password="correct horse battery",
        otp_token=auth.code(totp, periods=periods),
        public_key=key.public.line(),
        ttl=3600,
        client_addr=client,
    )
    certs = await auth.call(await auth.host(SystemRole.PROXY, name="p"), routes.LOGIN, request)
    assert isinstance(certs, m.UserCerts)
    return certs, auth.keep(key, certs.tls_cert)


async def test_a_bound_certificate_holds_from_the_address_of_its_login_alone(tmp_path: Path) -> None:
    """Through a proxy as without one; the refusal is on record with the true address."""
    async with running_auth(tmp_path) as auth:
        await pinning(auth)
        proxy, totp = await a_host(auth), await auth.person("ann", ["pinned"])
        certs, ann = await login(auth, totp, client=f"{CLIENT}:5", periods=1)
        body = parse_certificate_line(certs.cert).body
        assert not body.critical_options  # what OpenSSH has for this is for plain sshd hosts
        assert (await ask(auth, ann, proxy.line(CLIENT, 9))).name == "ann"
        for lines in ([proxy.line("192.0.2.8", 9)], [proxy.line(f"2001:db8::{1}")], []):
            for route in (routes.WHO_AM_I, routes.RENEW_USER, routes.LIST["node"]):
                again = [proxy.line("192.0.2.8", 9)] if lines else []
                request = m.ListRequest() if route is routes.LIST["node"] else m.Empty()
                with pytest.raises(AccessDenied, match=f"holds only from {CLIENT}"):
                    await ask(auth, ann, *again, route=route, request=request)
        renewed = await ask(auth, ann, proxy.line(CLIENT, 9), route=routes.RENEW_USER)
        pinned = parse_certificate_line(renewed.cert).body
        assert pinned.extensions == body.extensions
        denied = await auth.events("api.denied", wait_for=9)
        assert {event["addr"].rpartition(":")[0] for event in denied} == {"192.0.2.8", "127.0.0.1"}
        created = [event for event in await auth.events("cert.create") if event.get("subject") == "ann"]
        assert {event["source_ip"] for event in created} == {CLIENT}


@pytest.mark.parametrize("client", [CLIENT, f"{CLIENT}:1", f"[::ffff:{CLIENT}]:1"])
async def test_a_login_is_bound_however_the_address_is_written(tmp_path: Path, client: str) -> None:
    async with running_auth(tmp_path) as auth:
        await pinning(auth)
        totp = await auth.person("ann", ["pinned"])
        certs, _ = await login(auth, totp, client=client, periods=1)
        assert parse_certificate_line(certs.cert).body.extensions[SOURCE_PIN].endswith(CLIENT.encode())


@pytest.mark.parametrize("client", ["", "unknown", "@", "999.1.1.1:3"])
async def test_without_an_address_nothing_is_bound_and_nothing_is_given(tmp_path: Path, client: str) -> None:
    async with running_auth(tmp_path) as auth:
        await pinning(auth)
        totp = await auth.person("ann", ["pinned"])
        with pytest.raises(AccessDenied, match="does not see yours"):
            await login(auth, totp, client=client, periods=1)


async def test_a_certificate_from_before_is_refused_once_roles_bind(tmp_path: Path) -> None:
    """And renewing does not bind it to wherever it is now."""
    async with running_auth(tmp_path) as auth:
        await pinning(auth)
        role = Role(metadata=Metadata(name="free"), spec=RoleSpec(allow=Conditions(logins=("root",))))
        admin, item = await auth.admin(), m.Document(to_json(role))
        await auth.call(admin, routes.STORE["role"], m.StoreRequest(item=item))
        ann = await auth.user("ann", ["free"])
        await auth.call(ann, routes.WHO_AM_I, m.Empty())
        bound = replace_options(role, pin_source_ip=True)
        await auth.call(admin, routes.STORE["role"], m.StoreRequest(item=m.Document(to_json(bound)), force=True))
        for route in (routes.WHO_AM_I, routes.RENEW_USER):
            with pytest.raises(AccessDenied, match="address of the login"):
                await auth.call(ann, route, m.Empty())


def replace_options(role: Role, **options: Any) -> Role:
    import msgspec

    return msgspec.structs.replace(role, spec=msgspec.structs.replace(role.spec, options=Options(**options)))


async def test_no_route_serves_a_certificate_from_where_it_does_not_hold(tmp_path: Path) -> None:
    """Each one, with all the roles there are: bound to another address, or to none where a role binds. From the right
    address the very same certificate is served."""
    async with running_auth(tmp_path) as auth:
        await pinning(auth)
        everything = ["editor", "auditor", "access"]
        admin, key = await auth.admin(), generate_p256()
        for name, roles in (("ann", everything), ("bob", [*everything, "pinned"])):
            await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name=name, roles=roles))
        certifier, now = await auth.service.state.certifier(), auth.clock.now()

        def certified(name: str, roles: list[str], source_ip: str) -> Asking:
            grant = UserGrant(
                user=name,
                roles=tuple(roles),
                logins=("root",),
                traits={},
                ttl=timedelta(hours=2),
                route_to_cluster=CLUSTER,
                source_ip=source_ip,
            )
            certs = certifier.user_certs(grant, key.public.line(), now)
            return Asking(name, auth, auth.keep(key, certs.tls_cert), "0" * 32, lambda: "000000")

        elsewhere = certified("ann", everything, CLIENT)
        unbound = certified("bob", [*everything, "pinned"], "")
        right = certified("ann", everything, "127.0.0.1")
        closed = [name for name, route in ROUTES.items() if route.verb is not None]

        def served(asking: Asking) -> set[str]:
            with auth.client(asking.who) as client:
                return {name for name in closed if allowed(client, name, asking)}

        assert await auth.in_thread(lambda: served(elsewhere)) == set()
        assert await auth.in_thread(lambda: served(unbound)) == set()
        assert {"renew_user", "own_factors", "list_node", "add_token"} <= await auth.in_thread(lambda: served(right))


async def test_an_administrator_says_from_where_a_signed_certificate_holds(tmp_path: Path) -> None:
    """Always where a role binds; OpenSSH's own restriction stands in certificates for plain sshd hosts alone."""
    async with running_auth(tmp_path) as auth:
        await pinning(auth)
        admin, key = await auth.admin(), generate_p256()
        await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name="ann", roles=["pinned"]))

        async def sign(**fields: Any) -> m.UserCerts:
            request = m.SignUserRequest(name="ann", public_key=key.public.line(), ttl=3600, **fields)
            certs = await auth.call(admin, routes.SIGN_USER, request)
            assert isinstance(certs, m.UserCerts)
            return certs

        for wrong in ({}, {"source_ip": "10.0.0.0/8"}, {"source_ip": "web-1"}, {"for_sshd": True}):
            with pytest.raises(TeleportError, match="address"):
                await sign(**wrong)
        plain = parse_certificate_line((await sign(source_ip="::ffff:192.0.2.7")).cert).body
        assert not plain.critical_options
        sshd = parse_certificate_line((await sign(source_ip=CLIENT, for_sshd=True)).cert).body
        assert sshd.critical_options["source-address"].endswith(CLIENT.encode())
        assert sshd.extensions == plain.extensions
        signed = await auth.events("auth.sign", wait_for=2)
        assert [event["source_ip"] for event in signed] == [CLIENT, CLIENT]


async def test_hosts_behind_a_proxy_have_a_rate_of_their_own_each(tmp_path: Path) -> None:
    """Whoever guesses tokens keeps nobody else behind the same proxy from joining."""
    async with running_auth(tmp_path) as auth:
        proxy = await a_host(auth)
        request = join_request("0" * 32, generate_p256())

        def guess() -> None:
            with SyncAuthClient(opened(auth, ANONYMOUS, proxy.line("192.0.2.8")), "auth") as client:
                for _ in range(int(JOIN_BURST)):
                    with pytest.raises(AccessDenied):
                        client.call(routes.JOIN, request)
                with pytest.raises(LimitExceeded):
                    client.call(routes.JOIN, request)

        await auth.in_thread(guess)
        token = await new_token(auth, "node")
        good = join_request(token.token, generate_p256())
        given = await ask(auth, ANONYMOUS, proxy.line("192.0.2.9", 9), route=routes.JOIN, request=good)
        assert given.cluster == CLUSTER
        (joined,) = await auth.events("host.join")
        assert joined["addr"] == "192.0.2.9:9"


async def test_a_node_announces_the_loopback_only_where_all_the_way_is_one(tmp_path: Path) -> None:
    """Else proxies would be made to dial themselves: the loopback of another machine is not auth's."""
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        proxy, host_id = await a_host(auth), str(uuid.uuid4())
        node = await auth.host(SystemRole.NODE, host_id=host_id, name="node-1")
        local = announcement("node", host_id, "127.0.0.1:3022")
        await ask(auth, node, proxy.line("127.0.0.1", 9), route=routes.HEARTBEAT, request=local)
        far = [proxy.line("192.0.2.5", 9), proxy.line("127.0.0.1", 9)]  # a proxy elsewhere, and a node beside it
        for lines in ([proxy.line("192.0.2.9", 9)], far):
            with pytest.raises(AccessDenied, match="loopback"):
                await ask(auth, node, *lines, route=routes.HEARTBEAT, request=local)


async def test_by_another_clusters_proxy_come_its_own_users_only(tmp_path: Path) -> None:
    """That proxy can say any address: own users, hosts and strangers are refused, and the word sticks to the way."""
    async with running_auth(tmp_path) as auth:
        proxy, admin = await a_host(auth), await auth.admin()
        token = await new_token(auth, "node")
        join = join_request(token.token, generate_p256())
        for who, route, request in (
            (admin, routes.WHO_AM_I, None),
            (proxy.who, routes.WHO_AM_I, None),
            (ANONYMOUS, routes.JOIN, join),
        ):
            with pytest.raises(AccessDenied, match=r"Through root\.example come its own users only"):
                await ask(auth, who, proxy.line(cluster="root.example"), route=route, request=request)
        with pytest.raises(AccessDenied, match=r"Through root\.example"):
            await ask(auth, admin, proxy.line(cluster="root.example"), proxy.line())
        assert (await ask(auth, admin, proxy.line())).client_addr == f"{CLIENT}:40000"
        assert (await ask(auth, ANONYMOUS, proxy.line(), route=routes.JOIN, request=join)).cluster == CLUSTER


async def test_a_user_of_a_trusted_cluster_comes_by_that_clusters_proxy_and_by_no_others(tmp_path: Path) -> None:
    async with two_clusters(tmp_path) as both:
        alice = await of_root(both, "alice", ["access"])
        await both.establish((RoleMapping(remote="access", local=("access",)),))
        await both.leaf.service.believe_now()
        proxy = await a_host(both.leaf)

        def line(cluster: str) -> bytes:
            return proxy.line(cluster=cluster, target=vouch.auth_target("leaf"))

        async def whoami(cluster: str) -> Any:
            def connect() -> TLSStream:
                plain = dial_tcp(*both.leaf.address, 10)
                plain.sendall(line(cluster))
                return TLSStream(plain, both.leaf.context(alice), auth_server_name("leaf"))

            def work() -> Any:
                with SyncAuthClient(connect, "auth") as client:
                    return client.call(routes.WHO_AM_I, m.Empty())

            return await both.leaf.in_thread(work)

        assert (await whoami("root")).name == "remote-alice-root"
        with pytest.raises(AccessDenied, match="come its own users only"):
            await whoami("other")
