"""What happens on the channel of a party goes to the company of its session: nothing before it is in one, all after."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from teleport.authz.decision import AccessDenial
from teleport.authz.joining import JoinPermit, RunningSession, unknown_session
from teleport.identity import UserIdentity
from teleport.kube.live import Facts, Unattended
from teleport.resources.joining import JoinMode
from teleport.sharing.company import Company, State
from teleport.sharing.parties import Party
from teleport.sharing.party_channel import PartyChannel
from teleport.sharing.scrollback import Replay, Scrollback
from teleport.ssh.surface import KeepAlive, Peer, TerminalSize

ABOUT = RunningSession("s", "here", "ann", "here", "root", ("prod",), interactive=True)
SIZE = TerminalSize(80, 24)


class Channel:
    """What is said on it, in order."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **named: self.said.append(f"{name} {' '.join(str(one) for one in given)}".strip())


class Connection:
    """Somebody's, under rules that change when `forbidden` does."""

    def __init__(self, name: str) -> None:
        end = datetime(2027, 1, 1, tzinfo=UTC) + timedelta(hours=1)
        self.identity = UserIdentity(name=name, cluster="here", roles=(), logins=(), expires=end)
        self.facts = Facts(self.identity, Peer("127.0.0.1", 1))
        self.permit = Unattended()
        self.forbidden = False
        self.refused: list[str] = []

    def active(self) -> None: ...

    def denied(self, what: str, reason: str) -> None:
        self.refused.append(f"{what}: {reason}")

    def may_join(self, session: RunningSession, mode: JoinMode | None) -> JoinPermit | AccessDenial:
        return unknown_session() if self.forbidden else JoinPermit(mode or JoinMode.PEER, "test")


class Session:
    """A terminal that notes what reaches it (`sharing.company.Life`, `Streams` and `Story`)."""

    def __init__(self) -> None:
        self.state = State.RUNNING
        self.noted: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.first = Party(Connection("ann"), Channel(), lambda: None)
        self.company = Company(
            self, self.first, ABOUT, self, linger=0.0, probe=KeepAlive(15.0, 3), in_background=self._begin,
            changed=lambda: None,
        )  # fmt: skip
        self.company.moderate()
        self.company.begun(self)

    def _begin(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(work, name=what)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    @property
    def lives_on(self) -> bool:
        return self.state is State.RUNNING

    def end(self, reason: str) -> None:
        self.noted.append(f"end {reason}")

    def replay(self) -> Replay:
        return Scrollback().replay()

    def wait_for(self, parties: Sequence[Party]) -> None: ...
    def hold(self, held: bool) -> None: ...

    def flow(self) -> None:
        self.noted.append("flow")

    def drained(self) -> None:
        self.noted.append("drained")

    def typed(self, data: bytes) -> None:
        self.noted.append(f"typed {data!r}")

    def end_input(self) -> None:
        self.noted.append("end of input")

    def resize(self, size: TerminalSize) -> bool:
        self.noted.append(f"size {size.columns} {size.rows}")
        return True

    def send_break(self) -> bool:
        self.noted.append("break")
        return True

    async def joined(self, party: Party, granted_by: str) -> None: ...
    async def left(self, party: Party) -> None:
        self.noted.append(f"{party.user} left")

    async def resized(self, size: TerminalSize) -> None: ...
    async def held(self, missing: Sequence[str], *, started: bool) -> None: ...

    async def settled(self) -> list[str]:
        """What was noted, once nothing is on its way any more; noted no more."""
        while self.tasks:
            await asyncio.gather(*self.tasks)
        noted, self.noted = self.noted, []
        return noted


class Bens(PartyChannel[Session]):
    """Ben's channel."""

    def __init__(self) -> None:
        self.said = Channel()
        self.connection = Connection("ben")
        super().__init__(Party(self.connection, self.said, lambda: None))

    async def join(self, session: Session) -> None:
        assert await session.company.join(self.party, JoinPermit(JoinMode.PEER, "test"))
        self._session = session
        assert await session.settled() == ["drained"], "it was shown what there was"
        self.said.said.clear()


def all_of_it(channel: Bens) -> bool:
    channel.data_received(b"ls\n")
    channel.pause_writing()
    channel.resume_writing()
    channel.resized(SIZE)
    channel.eof_received()
    return channel.broke(0)


async def test_before_it_takes_part_nothing_reaches_anybody_and_nothing_fails() -> None:
    session, channel = Session(), Bens()
    assert not all_of_it(channel)
    channel.pause_writing()
    assert channel.party.full, "a session that it gets has to know that it takes nothing now"
    channel.reconsider()
    channel.end("no longer allowed")
    channel.closed()
    assert await session.settled() == []
    assert channel.said.said == []


async def test_once_it_takes_part_its_session_has_all_of_it_in_order() -> None:
    session, channel = Session(), Bens()
    await channel.join(session)
    assert all_of_it(channel)
    assert await session.settled() == ["typed b'ls\\n'", "flow", "drained", "size 80 24", "break"]
    assert channel.party.done, "who ends the input does not come back; only the first party ends the session's"


async def test_who_may_not_go_on_is_told_and_leaves_while_the_session_goes_on() -> None:
    session, channel = Session(), Bens()
    await channel.join(session)
    channel.end("a lock")
    assert await session.settled() == ["ben left"]
    assert "This session is over for you: a lock" in channel.said.said[0]
    assert channel.said.said[-1] == "exit 255"
    channel.closed()  # as its connection does after that
    assert await session.settled() == []


async def test_rules_are_asked_again() -> None:
    session, channel = Session(), Bens()
    await channel.join(session)
    channel.reconsider()
    assert await session.settled() == []
    channel.connection.forbidden = True
    channel.reconsider()
    assert await session.settled() == ["ben left"]
    assert len(channel.connection.refused) == 1


async def test_a_closed_channel_leaves() -> None:
    session, channel = Session(), Bens()
    await channel.join(session)
    channel.closed()
    assert await session.settled() == ["ben left"]
    assert session.company.parties == [session.first]
