"""A proxy's web address on loopback with a simple auth service behind it, for tests of clients in other processes.

The web service, its tunnel, TLS and all certificates are real; auth is a table of users, hosts and recordings. It runs
in a thread of its own. `Eavesdropper` is a server in the middle: it shows what it likes and keeps what it reads.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar, cast
from uuid import uuid4

from aiohttp import web

from teleport.api import messages as m
from teleport.api import routes
from teleport.clock import SystemClock
from teleport.errors import AccessDenied, NotFound
from teleport.identity import SystemRole
from teleport.pki.authority import Authority, new_authority
from teleport.pki.keys import PrivateKey, PublicKey, generate_p256
from teleport.pki.sshcert import UserCertRequest, issue_user_cert
from teleport.pki.trust import AuthorityKind
from teleport.pki.x509cert import (
    HostTLSRequest,
    UserTLSRequest,
    issue_host_tls,
    issue_user_tls,
    pem_of,
    self_signed_web_pair,
)
from teleport.pki.x509subject import UserSubject
from teleport.transport.tls import mutual_server_context, web_server_context
from teleport.web.messages import SSHAddresses
from teleport.web.service import WebConfig, WebService

Req = TypeVar("Req", bound=m.Request)
Rep = TypeVar("Rep", bound=m.Message)

PASSWORD = "correct horse battery"
CODE = "123456"
TOKEN = "invitation-token-of-the-lab"
TOTP_SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"


class LabCluster:
    """The authorities of a cluster, and certificates by them, as files in `folder`."""

    def __init__(self, folder: Path, cluster: str = "lab.test") -> None:
        now = datetime.now(UTC)
        self.folder = folder
        self.cluster = cluster
        self.user = new_authority(AuthorityKind.USER, cluster, now)
        self.host = new_authority(AuthorityKind.HOST, cluster, now)

    @property
    def pin(self) -> str:
        return self.host.pins()[0]

    @property
    def ca_pems(self) -> list[str]:
        return [_ca(self.host).decode()]

    def host_pair(self, role: SystemRole, name: str) -> tuple[Path, Path]:
        """Certificate and key of a service."""
        key = generate_p256()
        request = HostTLSRequest(key.public, str(uuid4()), role, ("127.0.0.1", "localhost"))
        ca, signer = self.host.tls_signer()
        return self._write(name, issue_host_tls(request, ca, signer, self.cluster, datetime.now(UTC)), key)

    def web_pair(self, name: str = "web") -> tuple[Path, Path]:
        """A self-signed certificate for the web address."""
        key = generate_p256()
        return self._write(name, self_signed_web_pair(["127.0.0.1", "localhost"], key, datetime.now(UTC)), key)

    def user_certificates(
        self, user: str, public_key: str, ttl: timedelta, logins: tuple[str, ...] = ("root", "ubuntu")
    ) -> m.UserCerts:
        now, key = datetime.now(UTC), PublicKey.parse(public_key)
        ssh = issue_user_cert(
            UserCertRequest(key, user, logins, ("access",), ttl, route_to_cluster=self.cluster),
            self.user.ssh_signer(),
            self.cluster,
            now,
        )
        ca, signer = self.user.tls_signer()
        subject = UserSubject(user, self.cluster, ("access",), logins, route_to_cluster=self.cluster)
        tls = issue_user_tls(UserTLSRequest(key, subject, ttl), ca, signer, now)
        return m.UserCerts(
            username=user,
            cert=ssh.line(),
            tls_cert=pem_of(tls).decode(),
            host_signers=[
                m.HostSigner(
                    domain_name=self.cluster,
                    checking_keys=[pair.public.line() for pair in self.host.active.ssh],
                    tls_certs=self.ca_pems,
                )
            ],
            expires=now + ttl,
        )

    def _write(self, name: str, certificate: bytes, key: PrivateKey) -> tuple[Path, Path]:
        cert_file, key_file = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        cert_file.write_bytes(pem_of(certificate))
        key_file.write_bytes(key.pkcs8_pem().reveal())
        return cert_file, key_file


def _ca(authority: Authority) -> bytes:
    return authority.active.tls[0].certificate


@dataclass
class LabAuth:
    """What the proxy and users ask; `logins` keeps the requests for certificates."""

    cluster: LabCluster
    nodes: list[dict[str, Any]] = field(default_factory=list)
    recordings: dict[str, bytes] = field(default_factory=dict)
    ttl: timedelta = timedelta(hours=12)
    logins: list[m.LoginRequest] = field(default_factory=list)
    finished: list[m.FinishUserTokenRequest] = field(default_factory=list)
    change: Callable[[m.UserCerts], m.UserCerts] = lambda certs: certs

    async def call(self, route: routes.Route[Req, Rep], request: Req) -> Rep:
        return cast("Rep", self._answer(request, route))

    def _answer(self, request: m.Request, route: routes.Route[Any, Any]) -> m.Message:
        match request:
            case m.LoginRequest():
                self.logins.append(request)
                if request.password != PASSWORD or request.otp_token != CODE:
                    raise AccessDenied("the user name, the password or the code is wrong")
                ttl = timedelta(seconds=request.ttl) if request.ttl else self.ttl
                return self.change(self.cluster.user_certificates(request.user, request.public_key, ttl))
            case m.UserTokenRequest():
                if request.token != TOKEN:
                    raise NotFound("the link is not valid")
                return m.UserTokenInfo(
                    user="alice",
                    kind="invite",
                    cluster=self.cluster.cluster,
                    expires=datetime.now(UTC) + timedelta(hours=1),
                    second_factor="otp",
                    totp_secret=TOTP_SECRET,
                    totp_url=f"otpauth://totp/{self.cluster.cluster}:alice?secret={TOTP_SECRET}",
                )
            case m.FinishUserTokenRequest():
                if request.otp_token != CODE:
                    raise AccessDenied("the code is wrong")
                self.finished.append(request)
                return m.FinishedUserToken()
            case _:
                assert route is routes.CLUSTER_CA, route.name
                return m.ClusterCA(cluster=self.cluster.cluster, tls_certs=self.cluster.ca_pems)

    def app(self) -> web.Application:
        """The part of the auth API that users reach through the tunnel."""

        async def nodes(_: web.Request) -> web.Response:
            return web.json_response({"items": self.nodes})

        async def recording(request: web.Request) -> web.Response:
            found = self.recordings.get(request.match_info["sid"])
            if found is None:
                return web.json_response({"code": "not_found", "message": "there is no such recording"}, status=404)
            return web.Response(body=found)

        app = web.Application(middlewares=[_only_with_certificate])
        app.router.add_get("/v1/resources/node", nodes)
        app.router.add_get("/v1/recordings/{sid}", recording)
        return app


@web.middleware
async def _only_with_certificate(request: web.Request, handler: Any) -> web.StreamResponse:
    transport = request.transport
    if transport is None or not transport.get_extra_info("peercert"):
        return web.json_response({"code": "access_denied", "message": "who are you?"}, status=403)
    response: web.StreamResponse = await handler(request)
    return response


@dataclass
class WebLab:
    """What runs: `address` is the proxy's web address."""

    cluster: LabCluster
    auth: LabAuth
    port: int
    web_cert: Path

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def running_web_lab(folder: Path, *, ssh_port: int = 3023, cluster: LabCluster | None = None) -> Iterator[WebLab]:
    """Serves until the context ends. With the TLS name of the cluster the proxy shows its host certificate."""
    made = cluster or LabCluster(folder)
    auth = LabAuth(made)
    web_pair = made.web_pair()
    outer, inner = web_server_context(*web_pair), web_server_context(*made.host_pair(SystemRole.PROXY, "proxy"))
    outer.sni_callback = lambda connection, name, _: _choose(connection, name, inner)
    auth_pair = made.host_pair(SystemRole.AUTH, "auth")
    auth_context = mutual_server_context(*auth_pair, [_ca(made.user).decode()])
    proxy_socket, auth_socket = _listener(), _listener()
    port = proxy_socket.getsockname()[1]

    async def serve(started: Callable[[], None], stop: asyncio.Event) -> None:
        runner = web.AppRunner(auth.app(), access_log=None, shutdown_timeout=1)
        await runner.setup()
        await web.SockSite(runner, auth_socket, ssl_context=auth_context).start()
        service = WebService(
            WebConfig(
                cluster=made.cluster,
                ssh=SSHAddresses(listen_addr=f"0.0.0.0:{ssh_port}"),
                auth_servers=(("127.0.0.1", auth_socket.getsockname()[1]),),
            ),
            auth,
            SystemClock(),
        )
        serving = asyncio.create_task(service.run(proxy_socket, outer, started))
        await stop.wait()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await runner.cleanup()

    with proxy_socket, _in_thread(serve):
        yield WebLab(made, auth, port, web_pair[0])


def _choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, inner: ssl.SSLContext) -> None:
    if name == "teleport.cluster.local":
        connection.context = inner


@contextmanager
def _in_thread(serve: Callable[[Callable[[], None], asyncio.Event], Any]) -> Iterator[None]:
    ready = threading.Event()
    ends, stops = list[asyncio.AbstractEventLoop](), list[asyncio.Event]()
    failures = list[BaseException]()

    async def body() -> None:
        ends.append(asyncio.get_running_loop())
        stops.append(asyncio.Event())
        await serve(ready.set, stops[0])

    def thread() -> None:
        try:
            asyncio.run(body())
        except BaseException as error:
            failures.append(error)
        finally:
            ready.set()

    running = threading.Thread(target=thread, name="web lab", daemon=True)
    running.start()
    assert ready.wait(10), "the lab did not start"
    try:
        yield
    finally:
        if not failures:
            ends[0].call_soon_threadsafe(stops[0].set)
        running.join(10)
        assert not running.is_alive(), "the lab did not stop"
        assert not failures, failures


class Eavesdropper:
    """A server that terminates TLS with any certificate, answers `answers` by path, and keeps all that it reads."""

    def __init__(self, context: ssl.SSLContext, answers: dict[str, object]) -> None:
        self.heard = bytearray()
        self.connections = 0
        self._context = context
        self._answers = answers
        self._listener = _listener()
        self._listener.setblocking(True)
        self._listener.settimeout(0.1)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="eavesdropper", daemon=True)
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Eavesdropper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            self.connections += 1
            connection.settimeout(5)
            try:
                with self._context.wrap_socket(connection, server_side=True) as stream:
                    self._answer(stream)
            except OSError:
                connection.close()

    def _answer(self, stream: ssl.SSLSocket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            piece = stream.recv(65536)
            self.heard += piece
            request += piece
            if not piece:
                return
        head, _, body = request.partition(b"\r\n\r\n")
        for line in head.split(b"\r\n"):
            if line.lower().startswith(b"content-length:"):
                while len(body) < int(line.split(b":")[1]):
                    piece = stream.recv(65536)
                    self.heard += piece
                    body += piece
                    if not piece:
                        return
        path = head.split(b" ")[1].decode()
        answer = self._answers.get(path)
        data = answer if isinstance(answer, bytes) else json.dumps(answer if answer is not None else {}).encode()
        status = b"200 OK" if answer is not None else b"404 Not Found"
        stream.sendall(b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(data)) + data)


def _listener() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    sock.setblocking(False)
    return sock
