"""SSH clients: to a proxy, through it to a node, and a session there.

Rules it keeps: no configuration file, no agent and no key is used that the caller did not hand in; a server is
believed only by a host certificate that the caller's `HostCheck` accepted for the name asked for; a refusal reaches the
caller as `AccessDenied` with the server's own sentence.

    proxy = await connect(("proxy.example.com", 3023), login="ann", key=key, check=check)
    node = await proxy.through("node1", 0, cluster="main", login="root", check=check_node)
    session = await node.start(command="uptime", on_output=show)
    end = await session.wait()
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

import asyncssh
from asyncssh.channel import SSHTCPChannel
from asyncssh.constants import MSG_REQUEST_SUCCESS, OPEN_RESOURCE_SHORTAGE
from asyncssh.misc import HostKeyNotVerifiable
from asyncssh.packet import String

from teleport.errors import AccessDenied, Busy, ConnectionLost, ConnectionProblem
from teleport.ssh.brought import Came, Listened, listen
from teleport.ssh.client_connection import (
    HOST_CERTIFICATES,
    HOST_KEYS,
    ClientConnection,
    ClientKey,
    ClientOwner,
    HostCheck,
    banners_of,
    client_options,
)
from teleport.ssh.client_forwards import Forwards, described
from teleport.ssh.client_session import RemoteSession, SessionChannel, encoded_modes
from teleport.ssh.packets import DataPath
from teleport.ssh.surface import (
    KeepAlive,
    Place,
    TerminalRequest,
    TerminalSize,
    X11Request,
)
from teleport.wire.forward_spec import End, SocketEnd, TcpEnd

C = TypeVar("C")
_WINDOW = 2 * 1024 * 1024  # bytes
_PACKET = 32 * 1024
KEEPALIVE = KeepAlive(15.0, 3)
_ROUND_TRIP_SECONDS = 10.0  # no path is so long
_ANSWER_SECONDS = 3.0  # in which a proxy that is there answers, whatever became of the host behind it


class _Tunnel(DataPath, SSHTCPChannel[bytes]):
    """The channel that carries the connection to the node."""


class SshClient:
    """An authenticated connection to a server."""

    def __init__(
        self,
        connection: ClientConnection,
        owner: ClientOwner,
        key: ClientKey,
        outer: SshClient | None,
        keepalive: KeepAlive,
    ) -> None:
        self._connection = connection
        self._owner = owner
        self._key = key
        self._outer = outer
        self._keepalive = keepalive

    @property
    def banners(self) -> Sequence[str]:
        """What the server said before it let us in."""
        return self._owner.banners

    async def through(self, host: str, port: int, *, cluster: str = "", login: str, check: HostCheck) -> SshClient:
        """A connection to a node behind this proxy. Port 0 means any; `cluster` empty the certificate's own.

        Raises `ConnectionProblem` (the proxy's sentence when it refuses to lead there) and `AccessDenied`.
        """
        target = f"{host}@{cluster}" if cluster else host

        async def open_tunnel(protocol: ClientConnection) -> None:
            self._connection.create_task(self._connection.measure_delay())
            channel = self._new(
                lambda: _Tunnel(self._connection, self._connection._loop, None, "strict", _WINDOW, _PACKET)
            )
            try:
                await channel.connect(lambda: cast(Any, protocol), target, port, "127.0.0.1", 0)
            except asyncssh.ChannelOpenError as error:
                if self.lost:
                    raise ConnectionLost("the connection to the proxy was lost", hint="try again") from error
                what, then = _told(error.reason, f"the proxy does not lead to {host}")
                raise ConnectionProblem(what, hint=then) from error

        return await authenticate(open_tunnel, host, login, self._key, check, self, self._keepalive)

    async def start(
        self,
        *,
        command: str | None = None,
        subsystem: str | None = None,
        terminal: TerminalRequest | None = None,
        environment: Mapping[str, str] | None = None,
        agent: str = "",
        x11: bool = False,
        agent_came: Came | None = None,
        display: X11Request | None = None,
        on_output: Callable[[bytes, bool], None],
        on_writable: Callable[[bool], None] | None = None,
        window: int = _WINDOW,
    ) -> RemoteSession:
        """Starts a command, a subsystem, or a shell. `on_output(data, is_stderr)` gets the output from the event loop,
        `on_writable` whether input is taken, whenever that changes.
        `window`: bytes of output that the host may send ahead, at first.
        `agent` is the socket of the agent that the host may ask; `x11` offers this machine's display. `agent_came`
        offers an agent that somebody else has, and `display` such a display; `display_for` says who takes what comes.

        Raises `AccessDenied` when the server refuses it, `ConnectionProblem` when the connection is lost.
        """
        connection = self._connection
        connection.create_task(connection.measure_delay())
        channel = self._new(
            lambda: SessionChannel(connection, connection._loop, "strict", None, "strict", window, _PACKET)
        )
        session = RemoteSession(channel, on_output, on_writable)
        encoded = {name.encode(): value.encode() for name, value in (environment or {}).items()}
        size = terminal.size if terminal else TerminalSize(0, 0)
        connection.agent = SocketEnd(agent) if agent else None
        if agent_came is not None:
            connection.agent_came = agent_came
        channel.display = display
        try:
            await channel.create(
                lambda: session._deliveries,
                command,
                subsystem,
                encoded,
                terminal is not None,
                terminal.term if terminal else None,
                (size.columns, size.rows, size.width, size.height),
                encoded_modes(terminal.modes) if terminal else {},
                "ignore_failure" if display is not None else x11,
                None,
                None,
                display is not None and display.single,
                bool(agent) or agent_came is not None,
            )
        except asyncssh.ChannelOpenError as error:
            if self.lost:
                raise ConnectionProblem("the connection was lost", hint="try again") from error
            what, then = _told(error.reason, "the server refused the session")
            raise AccessDenied(what, hint=then) from error
        except (asyncssh.Error, OSError) as error:
            raise ConnectionProblem(f"the connection was lost: {error}", hint="try again") from error
        return session

    async def stream(
        self,
        end: End,
        *,
        on_output: Callable[[bytes, bool], None],
        on_writable: Callable[[bool], None] | None = None,
        on_eof: Callable[[], None] | None = None,
    ) -> RemoteSession:
        """A connection that the host makes to `end`; `on_eof` hears that no more output follows, while input still may.
        Raises `ConnectionProblem`; `Busy` when it may be tried again soon."""
        connection = self._connection
        create: Any = connection.create_tcp_channel if isinstance(end, TcpEnd) else connection.create_unix_channel
        channel = self._new(create)
        session = RemoteSession(channel, on_output, on_writable, on_eof)
        where = (end.host, end.port, "127.0.0.1", 0) if isinstance(end, TcpEnd) else (end.path,)
        try:
            await channel.connect(lambda: session._deliveries, *where)
        except asyncssh.ChannelOpenError as error:
            what, then = _told(error.reason, "it is refused")
            kind = Busy if error.code == OPEN_RESOURCE_SHORTAGE else ConnectionProblem
            raise kind(f"the host does not lead to {end}: {what}", hint=then) from error
        return session

    def _new(self, make: Callable[[], C]) -> C:
        """A channel that is not open yet. Raises `ConnectionLost`."""
        try:
            return make()
        except asyncssh.ChannelOpenError as error:  # it ended between two turns of the loop
            raise ConnectionLost("the connection was lost", hint="try again") from error

    async def listen(self, place: Place, came: Came) -> Listened:
        """Has the host listen; `came` is asked about each connection. Raises `ConnectionProblem`."""
        return await listen(self._connection, place, came)

    def display_for(self, came: Came) -> None:
        """`came` is asked about each connection to a display that was handed on to the host."""
        self._connection.display_came = came

    def forwards(self, tell: Callable[[str], None]) -> Forwards:
        """What listens for this connection, here and there. `tell` gets what a person should know."""
        self._connection.create_task(self._connection.measure_delay())
        return Forwards(self._connection, tell)

    @property
    def delay(self) -> float:
        """Seconds there and back, 0 as long as nobody has measured it."""
        return self._connection.delay or 0.0

    def channels(self) -> list[str]:
        """What is open over this connection, a line each."""
        return [described(channel) for channel in self._connection._channels.values()]

    def exchange_keys(self) -> None:
        """Makes new keys for both directions."""
        self._connection._send_kexinit()

    async def answers(self, seconds: float = _ANSWER_SECONDS) -> bool:
        """Whether the other end still says something when asked."""
        try:
            async with asyncio.timeout(seconds):
                await self._connection._make_global_request(b"keepalive@openssh.com")
        except TimeoutError:
            return False
        return not self.lost

    async def round_trip(self, seconds: float = _ROUND_TRIP_SECONDS) -> float:
        """How long a question and its answer take, in seconds. Raises `ConnectionLost` when no answer comes."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if not await self.answers(seconds):
            raise ConnectionLost("the other end does not answer", hint="try again")
        return loop.time() - begun

    def traced(self, header: str) -> None:
        """Says to which trace belongs what is asked from now on. Who does not know such words ignores them."""
        self._connection._send_global_request(b"trace@teleport", String(header))

    async def ends_at_proxy(self) -> bool:
        """Whether the other end, which has a host's name, is a proxy that records what is done on the host."""
        kind, packet = await self._connection._make_global_request(b"recording-proxy@teleport.com")
        return kind == MSG_REQUEST_SUCCESS and packet.get_remaining_payload() == b"true"

    @property
    def lost(self) -> bool:
        """Whether the connection is gone."""
        return self._owner.lost.done()

    async def wait_lost(self) -> str:
        """Until the connection is gone; gives the reason, empty when it was closed here."""
        error = await asyncio.shield(self._owner.lost)
        return str(error) if error is not None else ""

    @property
    def ended_there(self) -> bool:
        """Whether the other end ended it: by saying so, or by closing or resetting the connection. It is none of that
        when nothing was heard any more."""
        error = self._owner.lost.result() if self._owner.lost.done() else None
        if isinstance(error, asyncssh.ConnectionLost):  # asyncssh tells so of an end without a word, and of silence
            return "not responding" not in str(error)
        return isinstance(error, ConnectionError | asyncssh.DisconnectError)

    def abort(self) -> None:
        """Ends this connection now."""
        self._connection.abort()

    async def close(self, *, alone: bool = False) -> None:
        """Closes this connection and, unless `alone`, the one it goes through."""
        self._connection.close()
        await self._connection.wait_closed()
        if self._outer is not None and not alone:
            await self._outer.close()


async def connect(
    address: tuple[str, int],
    *,
    login: str,
    key: ClientKey,
    check: HostCheck | None,
    seconds: float = 20.0,
    keepalive: KeepAlive = KEEPALIVE,
    reach: Callable[[asyncio.Protocol], Awaitable[None]] | None = None,
) -> SshClient:
    """Connects and logs in. Raises `ConnectionProblem`, `AccessDenied`, or what `check` raised; None checks nothing.

    `reach` connects the protocol that it gets, where that is not by TCP to `address`.
    """

    async def open_socket(protocol: ClientConnection) -> None:
        if reach is not None:
            await reach(protocol)
            return
        loop = asyncio.get_running_loop()
        await loop.create_connection(lambda: protocol, *address)

    name = f"{address[0]}:{address[1]}"
    try:
        async with asyncio.timeout(seconds):
            return await authenticate(open_socket, name, login, key, check, None, keepalive)
    except TimeoutError as error:
        raise ConnectionProblem(f"{name} does not answer within {seconds:g} s", hint="check the address") from error


async def connect_by(
    reach: Callable[[asyncio.Protocol], Awaitable[None]],
    name: str,
    *,
    login: str,
    key: ClientKey,
    check: HostCheck | None,
) -> SshClient:
    """As `connect`, over a connection that `reach` gives the protocol to; `name` is for messages."""
    return await authenticate(reach, name, login, key, check, None, KEEPALIVE)


async def authenticate(
    open_transport: Callable[[ClientConnection], Any],
    name: str,
    login: str,
    key: ClientKey,
    check: HostCheck | None,
    outer: SshClient | None,
    keepalive: KeepAlive,
    make: Callable[..., ClientConnection] = ClientConnection,
) -> SshClient:
    """Logs in over what `open_transport` connects the protocol to; `make` gets loop, options and check. Raises
    `ConnectionProblem`, `AccessDenied`, or what `check` raised."""
    loop = asyncio.get_running_loop()
    options = client_options(name, login, key, keepalive)
    if check is None:
        options.server_host_key_algs = [*HOST_CERTIFICATES, *HOST_KEYS]
    waiter: asyncio.Future[None] = loop.create_future()
    options.waiter = waiter
    connection = make(loop, options, check)
    try:
        await open_transport(connection)
        await waiter
    except (ConnectionResetError, ConnectionAbortedError, BrokenPipeError) as error:
        raise ConnectionLost(f"the connection to {name} was lost: {error}", hint="try again") from error
    except OSError as error:
        raise ConnectionProblem(f"{name} cannot be reached: {error}", hint="check the address") from error
    except asyncssh.PermissionDenied as error:
        said = " ".join(line.strip() for line in banners_of(options))
        what, then = _told(said, f"{name} refused the login {login}")
        raise AccessDenied(what, hint=then) from error
    except HostKeyNotVerifiable as error:
        raise connection.refusal or ConnectionProblem(
            f"{name} did not prove who it is: {error}",
            hint="check the address; after a rotation of the authority: tsh login",
        ) from error
    except asyncssh.Error as error:
        said = " ".join(line.strip() for line in banners_of(options))
        lost = isinstance(error, asyncssh.ConnectionLost) and not said
        raise (ConnectionLost if lost else ConnectionProblem)(
            f"the connection to {name} ended: {said or error}", hint="try again; tsh ls shows whether the host is there"
        ) from error
    finally:
        if not waiter.done() or waiter.cancelled() or waiter.exception() is not None:
            waiter.cancel()
            connection.abort()
    return SshClient(connection, cast(ClientOwner, connection.get_owner()), key, outer, keepalive)


def _told(said: str, otherwise: str) -> tuple[str, str]:
    """What a server's sentence says, and the next step that it names; `otherwise` when it says nothing."""
    what, _, then = said.partition(" Next: ")
    return what or otherwise, then.rstrip(".") or "tsh ls shows the hosts that you may reach, and the logins there"
