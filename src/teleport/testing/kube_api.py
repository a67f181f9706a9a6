"""A stand-in API server of Kubernetes: real TLS, real client certificates, and so much of the API that `kubectl` works.

Pods of namespaces can be listed (as tables, too), got, made and watched, have logs that can be followed, and run
commands (`kube_exec`) by websocket and by SPDY. As in a real cluster, whoever proves the certificate of the forwarder
may act as others, and everybody else may not; what a call said of that is kept in `calls`. `rights` are its RBAC:
groups that may do everything, by name.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from teleport.testing.kube_exec import PodStreams, SpdySide, WebsocketSide, hold, serve_command
from teleport.testing.kube_lists import answer_list, event_in_form, form
from teleport.testing.loopback import listening
from teleport.testing.public_authority import PublicAuthority

LINE: Final = (
    b"a line of a log, as long as they are, with a number 0123456789 in it, and then some more of the same 01234567\n"
)
FORWARDER: Final = "forwarder"  # in whose name the credentials of the kubeconfig are
RESOURCES: Final = (
    ("pods", True, "Pod", ["create", "delete", "get", "list", "watch"]),
    ("pods/log", True, "Pod", ["get"]),
    ("pods/exec", True, "PodExecOptions", ["create", "get"]),
    ("pods/attach", True, "PodAttachOptions", ["create", "get"]),
    ("namespaces", False, "Namespace", ["get", "list"]),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """A call that arrived."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""

    def of(self, name: str) -> list[str]:
        """The values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


@dataclass
class KubeApi:
    """One server. Use `serving` within a loop, or `running_kube_api`."""

    folder: Path
    rights: set[str] = field(default_factory=lambda: {"developers", "system:masters"})
    calls: list[Seen] = field(default_factory=list)
    pods: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    port: int = 0
    open_streams: int = 0  # watches, logs that are followed, and commands
    speaks_spdy: bool = True
    speaks_websocket: bool = True
    loop: asyncio.AbstractEventLoop | None = None  # that serves
    long_log: int = 0  # bytes of logs that are not followed

    def __post_init__(self) -> None:
        self.authority = PublicAuthority("Kubernetes")
        self._watches: set[asyncio.Queue[bytes]] = set()
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.add_pod("dev", "web")

    def add_pod(self, namespace: str, name: str) -> None:
        self.pods[namespace, name] = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": f"{namespace}-{name}",
                "resourceVersion": "1",
                "creationTimestamp": "2030-01-01T00:00:00Z",
            },
            "spec": {"containers": [{"name": "main", "image": "example"}]},
            "status": {"phase": "Running"},
        }

    def kubeconfig(self, context: str = "one", *, port: int = 0) -> str:
        """A kubeconfig with the forwarder's certificate, everything inline."""
        pair = self.authority.issue(FORWARDER)
        inline = {
            name: base64.b64encode(pem).decode()
            for name, pem in (("ca", self.authority.root), ("crt", pair.chain), ("key", pair.key))
        }
        cluster = {
            "server": f"https://localhost:{port or self.port}",
            "certificate-authority-data": inline["ca"],
        }
        user = {"client-certificate-data": inline["crt"], "client-key-data": inline["key"]}
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": context, "context": {"cluster": "c", "user": "u"}}],
                "current-context": context,
            }
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[KubeApi]:
        """Serves while entered."""
        self.loop = asyncio.get_running_loop()
        chain, key = self.authority.issue("localhost", "127.0.0.1").write(self.folder, "kube-api")
        root = self.folder / "kube-api-root.pem"
        root.write_bytes(self.authority.root)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=root)
        context.load_cert_chain(chain, key)
        context.verify_mode = ssl.CERT_REQUIRED
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=0.1, handler_cancellation=True
        )
        self._runner = runner
        await runner.setup()
        listener: socket.socket = listening()
        self.port = listener.getsockname()[1]
        try:
            await web.SockSite(runner, listener, ssl_context=context).start()
            yield self
        finally:
            for queue in self._watches:
                queue.put_nowait(b"")
            await runner.cleanup()

    def drop_connections(self) -> None:
        """Ends every connection, as a server that restarts does."""
        assert self._runner is not None
        assert self._runner.server is not None
        for connection in list(self._runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()

    def _streams(self, change: int) -> None:
        self.open_streams += change
        self._changed.set()

    async def wait_streams(self, count: int) -> None:
        """Returns when so many watches and logs are open."""
        while self.open_streams != count:
            self._changed.clear()
            await self._changed.wait()

    def tell(self, event: str, namespace: str, name: str) -> None:
        """An event for everybody who watches."""
        pod = self.pods[namespace, name]
        for queue in self._watches:
            queue.put_nowait(json.dumps({"type": event, "object": pod}).encode() + b"\n")

    def call(self, action: Callable[[], None]) -> None:
        """Does it in the loop that serves, from another thread."""
        assert self.loop is not None
        self.loop.call_soon_threadsafe(action)

    def say(self, line: bytes) -> None:
        """A line for everybody who follows a log."""
        for queue in self._watches:
            queue.put_nowait(line)

    # answers

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        headers = [(name.decode(), value.decode()) for name, value in request.raw_headers]
        seen = Seen(request.method, request.raw_path, headers, await request.read())
        self.calls.append(seen)
        user, groups = seen.of("Impersonate-User"), seen.of("Impersonate-Group")
        if len(user) != 1 or "system:authenticated" not in groups:
            return _status(403, "Forbidden", "the forwarder itself may do nothing but act as others")
        parts = request.path.strip("/").split("/")
        if parts[0] == "version":
            return web.json_response({"major": "1", "minor": "32", "gitVersion": "v1.32.0"})
        if request.path in ("/api", "/apis", "/api/v1"):
            return web.json_response(_discovery(request.path))
        if not self.rights & set(groups):
            return _status(403, "Forbidden", f'pods is forbidden: User "{user[0]}" cannot do that')
        match parts:
            case ["api", "v1", "namespaces"]:
                names = sorted({namespace for namespace, _ in self.pods})
                return answer_list(request, [{"metadata": {"name": name}} for name in names], "Namespace")
            case ["api", "v1", "pods"]:
                return await self._pods(request, "", seen.body)
            case ["api", "v1", "namespaces", namespace, "pods"]:
                return await self._pods(request, namespace, seen.body)
            case ["api", "v1", "namespaces", namespace, "pods", name]:
                return self._pod(namespace, name)
            case ["api", "v1", "namespaces", namespace, "pods", name, "log"] if (namespace, name) in self.pods:
                return await self._log(request)
            case ["api", "v1", "namespaces", namespace, "pods", name, "exec" | "attach"] if (
                namespace,
                name,
            ) in self.pods:
                return await self._exec(request, ["cat"] if parts[-1] == "attach" else request.query.getall("command"))
            case ["api", "v1", "namespaces", namespace, "pods", name, "portforward"] if (namespace, name) in self.pods:
                return await self._port(request)
        return _status(404, "NotFound", "the server could not find the requested resource")

    async def _port(self, request: web.Request) -> web.StreamResponse:
        """Takes a stream to ports, behind which nothing answers."""
        if request.headers.get("Upgrade", "").lower() != "spdy/3.1":
            return _status(400, "BadRequest", "Upgrade request required")
        self._streams(+1)
        try:
            return await hold(request)
        finally:
            self._streams(-1)

    async def _exec(self, request: web.Request, command: list[str]) -> web.StreamResponse:
        """Runs the command, on this machine, in the folder of the pod."""
        side: PodStreams
        if request.headers.get("Upgrade", "").lower() == "spdy/3.1" and self.speaks_spdy:
            side = SpdySide(request)
        elif self.speaks_websocket and WebsocketSide.can(request):
            side = WebsocketSide(request)
        else:
            return _status(400, "BadRequest", "Upgrade request required")
        await side.begin()
        self._streams(+1)
        try:
            place = self.folder / "pods" / "/".join(request.path.split("/")[4:7:2])
            place.mkdir(parents=True, exist_ok=True)
            await serve_command(side, command, terminal=request.query.get("tty") in ("true", "1"), place=place)
        finally:
            self._streams(-1)
        return side.response

    async def _pods(self, request: web.Request, namespace: str, body: bytes) -> web.StreamResponse:
        if request.method == "POST":
            pod = json.loads(body)
            self.add_pod(namespace, pod["metadata"]["name"])
            return self._pod(namespace, pod["metadata"]["name"], 201)
        found = [pod for (where, _), pod in self.pods.items() if namespace in ("", where)]
        if request.query.get("watch") in ("true", "1"):
            return await self._stream(request, "application/json", b"", form(request))
        return answer_list(request, found)

    def _pod(self, namespace: str, name: str, status: int = 200) -> web.Response:
        pod = self.pods.get((namespace, name))
        if pod is None:
            return _status(404, "NotFound", f'pods "{name}" not found')
        return web.json_response(pod, status=status)

    async def _log(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("follow") in ("true", "1"):
            return await self._stream(request, "text/plain", b"first line\n")
        if self.long_log:
            return await self._long(request)
        return web.Response(text="first line\n")

    async def _long(self, request: web.Request) -> web.StreamResponse:
        lines = LINE * ((1 << 20) // len(LINE))
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        for _ in range(self.long_log // len(lines)):
            await response.write(lines)
        return response

    async def _stream(self, request: web.Request, kind: str, first: bytes, wanted: str = "json") -> web.StreamResponse:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(request)
        self._watches.add(queue)
        self._streams(+1)
        try:
            if first:
                await response.write(first)
            begins = True
            while line := await queue.get():
                await response.write(event_in_form(line, wanted, first=begins))
                begins = False
        except ConnectionResetError:
            pass  # whoever watched has left
        finally:
            self._watches.discard(queue)
            self._streams(-1)
        return response


def _status(code: int, reason: str, message: str) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return web.json_response(body, status=code)


def _discovery(path: str) -> dict[str, Any]:
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": []}
    resources = [
        {"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": verbs}
        for name, namespaced, kind, verbs in RESOURCES
    ]
    return {"kind": "APIResourceList", "groupVersion": "v1", "resources": resources}


@contextmanager
def running_kube_api(folder: Path) -> Iterator[KubeApi]:
    """One in a thread of its own, for tests without a loop. Its `tell` and `say` are called through `call`."""
    api = KubeApi(folder)
    ready, stops, loops = threading.Event(), list[asyncio.Event](), list[asyncio.AbstractEventLoop]()

    async def serve() -> None:
        stops.append(asyncio.Event())
        loops.append(asyncio.get_running_loop())
        async with api.serving():
            ready.set()
            await stops[0].wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="kube api", daemon=True)
    thread.start()
    assert ready.wait(10), "the API server did not start"
    try:
        yield api
    finally:
        with contextlib.suppress(RuntimeError):
            loops[0].call_soon_threadsafe(stops[0].set)
        thread.join(10)
        assert not thread.is_alive(), "the API server did not stop"
