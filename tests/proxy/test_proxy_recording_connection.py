"""What changes while a client is connected to a host behind a recording proxy counts for whatever begins after it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import pytest

from teleport.audit.events import Event, PortClosed, SessionEnd, SessionStart
from teleport.authz.channels import ChannelTerms, RoleGrant
from teleport.authz.decision import AccessDenial, DenialCode
from teleport.authz.ssh import SSHAccessPermit
from teleport.errors import ConnectionProblem
from teleport.identity import UserIdentity
from teleport.proxy.recording.connection import RecordedConnection
from teleport.proxy.recording.facts import Facts
from teleport.proxy.recording.needs import RecordingConfig, Tools
from teleport.proxy.recording.session import RecordedSession
from teleport.recording.format import RecordingHeader
from teleport.resources.metadata import Metadata
from teleport.resources.role import ExecMode
from teleport.resources.server import Server, ServerSpec
from teleport.ssh.surface import Exec, Peer, Refusal, ServerLimits, TcpPlace
from teleport.testing.clock import FakeClock

START = datetime(2026, 11, 28, tzinfo=UTC)
OPEN = ChannelTerms(port_forwarding=True, grants=(RoleGrant("access"),))
PERMIT = SSHAccessPermit("ann", "root", ("access",), 0, 0, timedelta(0), None, False, (), False, channels=OPEN)
GONE = AccessDenial(DenialCode.NOT_GRANTED, "It is over.", ("a role went",), "tsh login")


class Stub:
    """A channel, a recording, a session at the host: takes everything, and remembers what was called."""

    def __init__(self) -> None:
        self.called: list[str] = []
        self.failed: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()
        self.must_drain = False
        self.sha256 = "00"

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*_: object, **__: object) -> None:
            self.called.append(name)

        return call

    async def wait(self) -> None:
        await asyncio.Event().wait()

    async def drain(self) -> None: ...


class Taken(Stub):
    """A recording."""

    async def close(self, reason: str) -> Taken:
        self.called.append("close")
        return self


class World:
    """Host, auth, disk and log of one connection; `meanwhile` happens while something is waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, user: UserIdentity, *, agentless: bool = True) -> None:
        self.decision: SSHAccessPermit | AccessDenial = PERMIT
        self.meanwhile: Callable[[], None] = lambda: None
        self.started: list[str] = []  # at the host
        self.recorded: list[Taken] = []
        self.told: list[Event] = []
        self.remote = Stub()
        monkeypatch.setattr(Facts, "decide", lambda facts, tools: self.decision)
        config = RecordingConfig("c", uuid.uuid4(), "proxy", ServerLimits())
        node = Server(
            sub_kind="openssh" if agentless else "",
            metadata=Metadata(name=str(uuid.uuid4())),
            spec=ServerSpec(addr="192.0.2.1:22", hostname="web"),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        tools = Tools(config, cast("Any", self), cast("Any", self), self, FakeClock(), uuid.uuid4, self.in_background)
        facts = Facts(config, node, Peer("192.0.2.7", 1), user, "root")
        self.connection = RecordedConnection(tools, facts, PERMIT, cast("Any", self), lambda _: None)

    def in_background(self, work: Coroutine[Any, Any, None], _: str) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settled(self) -> None:
        """Until nothing is done in the background any more."""
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def emit(self, event: Event) -> None:
        self.told.append(event)
        if isinstance(event, SessionStart):
            self.meanwhile()

    async def wait_lost(self) -> None:
        await asyncio.Event().wait()

    def abort(self) -> None: ...

    def mode(self) -> str:
        return "proxy"

    def reserved(self, *_: object) -> str:
        return ""

    async def unrecorded(self, header: RecordingHeader) -> None: ...

    def unended(self, sid: str) -> None: ...

    def on_record(self, sid: str) -> None: ...

    async def start(self, header: RecordingHeader | None = None, **asked: Any) -> Stub:
        if header is not None:
            self.recorded.append(Taken())
            return self.recorded[-1]
        self.started.append(asked["command"])
        return self.remote

    async def stream(self, end: object, **_: object) -> Stub:
        self.started.append(str(end))
        self.meanwhile()
        return self.remote

    async def session(self) -> RecordedSession:
        made = await self.connection.open_session(cast("Any", Stub()))
        assert isinstance(made, RecordedSession)
        return made

    async def forward(self) -> object:
        return await self.connection.open_stream(cast("Any", Stub()), "192.0.2.50", 80, ("192.0.2.7", 5))


AnyWorld = TypeVar("AnyWorld", bound=World)


@asynccontextmanager
async def connected(
    monkeypatch: pytest.MonkeyPatch, user: UserIdentity, *, agentless: bool = True
) -> AsyncIterator[World]:
    """A world, and nothing of it afterwards."""
    async with alone(World(monkeypatch, user, agentless=agentless)) as world:
        yield world


@asynccontextmanager
async def alone(world: AnyWorld) -> AsyncIterator[AnyWorld]:
    """That world, and nothing of it afterwards."""
    yield world
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


ANN = UserIdentity("ann", "c", ("access",), ("root",), START + timedelta(hours=1))
LIMITED = replace(PERMIT, channels=replace(OPEN, grants=(RoleGrant("access", exec=ExecMode.NONE),)))


@pytest.mark.parametrize("change", ["disconnected", "denied", "commands"])
@pytest.mark.parametrize("when", ["before", "while it starts"])
async def test_a_session_starts_under_what_holds_when_it_starts(
    monkeypatch: pytest.MonkeyPatch, change: str, when: str
) -> None:
    async with connected(monkeypatch, ANN) as world:
        session = await world.session()

        def happens() -> None:
            if change == "disconnected":
                world.connection.disconnect("a lock")
            else:
                world.decision = GONE if change == "denied" else LIMITED

        if when == "before":
            happens()
        else:
            world.meanwhile = happens
        assert isinstance(await session.start(Exec("id")), Refusal)
        assert world.started == []
        kinds = [type(event) for event in world.told]
        assert kinds.count(SessionStart) == kinds.count(SessionEnd) == (when != "before")


async def test_a_session_is_recorded_when_it_is_to_be_at_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(monkeypatch, ANN) as world:
        session, later = await world.session(), await world.session()
        world.decision = replace(PERMIT, record=True)
        assert await session.start(Exec("id")) is None
        assert (len(world.recorded), world.started) == (1, ["id"])
        world.decision = PERMIT
        world.meanwhile = lambda: setattr(world, "decision", replace(PERMIT, record=True))
        assert isinstance(await later.start(Exec("late")), Refusal)
        assert world.started == ["id"]


@pytest.mark.parametrize("agentless", [True, False])
async def test_a_certificate_for_one_command_forwards_nothing(monkeypatch: pytest.MonkeyPatch, agentless: bool) -> None:
    async with connected(monkeypatch, replace(ANN, force_command="id"), agentless=agentless) as world:
        assert isinstance(await world.forward(), Refusal)
        assert world.started == []


@pytest.mark.parametrize("change", ["disconnected", "narrowed", ""])
async def test_a_forward_obeys_what_changed_while_the_host_connected(
    monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    async with connected(monkeypatch, ANN) as world:
        if change == "disconnected":
            world.meanwhile = lambda: world.connection.disconnect("a lock")
        elif change:
            world.meanwhile = lambda: world.connection.obey(replace(PERMIT, channels=ChannelTerms()))
        refused = isinstance(await world.forward(), Refusal)
        await asyncio.sleep(0)
        closed = [type(event) for event in world.told].count(PortClosed)
        assert (refused, "close" in world.remote.called, closed) == (bool(change), bool(change), int(bool(change)))
        assert world.started == ["192.0.2.50:80"]


class Listening(Stub):
    """What listens at the host."""

    port = 4711

    async def close(self) -> None:
        self.called.append("close")


async def test_a_listener_of_the_host_ends_with_the_right_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told the place that was decided about; nobody else cancels it; connections are asked about one by one."""
    async with connected(monkeypatch, ANN) as world:
        came: list[Any] = []
        made = Listening()

        async def listen(place: object, asked: object) -> Listening:
            world.started.append(str(place))
            came.append(asked)
            return made

        monkeypatch.setattr(world, "listen", listen, raising=False)
        connection = world.connection
        assert isinstance(await connection.listen(TcpPlace("0.0.0.0", 0)), Refusal)
        assert isinstance(await connection.listen(TcpPlace("127.1", 0)), Refusal)
        assert world.started == []
        assert await connection.listen(TcpPlace("::ffff:127.0.0.1", 0)) == 4711
        assert world.started == [str(TcpPlace("127.0.0.1", 0))]
        assert not await connection.cancel(TcpPlace("localhost", 4711))
        connection.obey(replace(PERMIT, channels=ChannelTerms()))
        assert await came[0](("192.0.2.9", 5)) is None
        await asyncio.sleep(0)
        assert made.called == ["close"]
        assert not await connection.cancel(TcpPlace("::ffff:127.0.0.1", 4711))


async def test_nothing_listens_that_cannot_be_put_on_record(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(monkeypatch, ANN) as world:
        made = Listening()

        async def listen(place: object, asked: object) -> Listening:
            return made

        async def emit(event: Event) -> None:
            raise ConnectionProblem("the disk is full")

        monkeypatch.setattr(world, "listen", listen, raising=False)
        monkeypatch.setattr(world, "emit", emit)
        assert isinstance(await world.connection.listen(TcpPlace("localhost", 0)), Refusal)
        assert isinstance(await world.forward(), Refusal)
        assert world.started == []
        await asyncio.sleep(0)
        assert made.called == ["close"]


@pytest.mark.parametrize("kind", ["agent", "x11"])
async def test_an_agent_or_display_is_reached_while_a_session_has_it(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Not before it is lent, not after the session, not once roles take it away."""
    lends = replace(PERMIT, channels=replace(OPEN, forward_agent=True, x11_forwarding=True))

    class Client:
        async def open(self, what: object, make: Callable[[Any], object]) -> None:
            make(Stub())

    async with connected(monkeypatch, ANN) as world:
        forwards = world.connection.forwards
        world.connection.began(cast("Any", Client()))
        came = forwards.agent_came() if kind == "agent" else forwards.display_came()
        one = object()
        assert not await forwards.lend(one, kind)
        assert await came(("", 0)) is None
        world.connection.obey(lends)
        assert await came(("", 0)) is None
        assert await forwards.lend(one, kind)
        assert await forwards.lending(one, kind)
        assert await came(("", 0)) is not None
        world.connection.obey(PERMIT)
        assert await came(("", 0)) is None
        world.connection.obey(lends)
        forwards.release(one)
        assert await came(("", 0)) is None
