"""What a client offers to one session: its SSH agent and its display.

Socket, display and the file with the display's cookie are made by the errands, as the login, for this session alone,
and end with it. A program that comes to the display has to show the cookie that the client gave out for it; only then a
channel is opened to the client, which puts the true one in its place.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import socket
from collections.abc import Awaitable, Callable
from functools import partial

from teleport.audit.events import AgentForward, X11Forward
from teleport.authz.channels import why_no_agent, why_no_x11
from teleport.errors import ConnectionProblem, TeleportError
from teleport.launcher.errand_client import Made
from teleport.node.forward_story import Record
from teleport.node.forwards import Forwards, Listener
from teleport.node.listening import Listening
from teleport.node.needs import Errands
from teleport.ssh.surface import FromAgentSocket, FromX11, X11Request
from teleport.wire import x11

log = logging.getLogger(__name__)

Variables = tuple[tuple[str, str], ...]
_SETUP_SECONDS = 10.0  # for a program to show the cookie


async def take_agent(forwards: Forwards, session: object) -> Variables | None:
    """A socket for the session that leads to the client's agent: the variables that tell of it; None: it is refused."""
    record = Record("auth-agent@openssh.com", "", why_no_agent, ports=False)
    made = await _made(forwards, session, record, AgentForward, lambda errands: errands.agent())
    if made is None:
        return None
    record.addr = made.path
    listener = Listener(record, None, made.token, session)
    came = partial(_agent_came, forwards, listener)
    if not await _told(forwards, AgentForward, path=made.path):
        forwards.drop(made.listeners, made.token)
        return None
    listener.listening = Listening(made.listeners, came)
    forwards.own(listener)
    return (("SSH_AUTH_SOCK", made.path),)


def _agent_came(forwards: Forwards, listener: Listener, sock: socket.socket, origin: tuple[str, int]) -> None:
    record = Record(listener.record.kind, listener.record.addr, why_no_agent, ports=False)
    forwards.bring(listener, record, sock, FromAgentSocket())


async def take_display(forwards: Forwards, session: object, request: X11Request) -> Variables | None:
    """A display for the session that leads to the client's: the variables that tell of it; None: it is refused."""
    record = Record("x11", "", why_no_x11, ports=False)
    make = partial(_display, request)
    made = await _made(forwards, session, record, X11Forward, make)
    if made is None:
        return None
    record.addr = f"localhost:{made.display}.{request.screen}"
    listener = Listener(record, None, made.token, session)
    if not await _told(forwards, X11Forward, display=record.addr):
        forwards.drop(made.listeners, made.token)
        return None
    listener.listening = Listening(made.listeners, partial(_x11_came, forwards, listener, request))
    forwards.own(listener)
    return (("DISPLAY", record.addr), ("XAUTHORITY", made.path))


def _x11_came(
    forwards: Forwards, listener: Listener, request: X11Request, sock: socket.socket, origin: tuple[str, int]
) -> None:
    record = Record("x11", listener.record.addr, why_no_x11, f"{origin[0]}:{origin[1]}", ports=False)
    forwards.bring(listener, record, sock, FromX11(origin), prepare=partial(_checked, listener, request))


async def _checked(listener: Listener, request: X11Request, sock: socket.socket) -> bytes:
    """What a program began with, once it has shown the cookie. Raises `ConnectionProblem`."""
    loop = asyncio.get_running_loop()
    data = b""
    try:
        async with asyncio.timeout(_SETUP_SECONDS):
            while (setup := x11.parse_setup(data)) is None:
                more = await loop.sock_recv(sock, x11.MOST)
                if not more:
                    raise ConnectionProblem("it closed before it showed a cookie")
                data += more
    except TimeoutError:
        raise ConnectionProblem(f"it showed no cookie within {_SETUP_SECONDS:g} s") from None
    except (OSError, ValueError) as error:
        raise ConnectionProblem(f"it showed no cookie: {error}") from error
    if setup.protocol != request.protocol or not hmac.compare_digest(setup.cookie, request.cookie):
        raise ConnectionProblem("it did not show the display's cookie")
    if request.single and listener.listening is not None:
        if not listener.listening.open:
            raise ConnectionProblem("the display was for one connection")
        listener.listening.close()
    return data


def _display(request: X11Request, errands: Errands) -> Awaitable[Made]:
    return errands.x11(request.protocol, request.cookie)


async def _made(
    forwards: Forwards,
    session: object,
    record: Record,
    cls: type[AgentForward] | type[X11Forward],
    make: Callable[[Errands], Awaitable[Made]],
) -> Made | None:
    """What listens for the session, if it may have it; otherwise why not is on record."""
    denied = forwards.why_not(record)
    if denied is not None:
        reason = "; ".join(denied.reasons)
    elif forwards.has(session, record.kind):
        reason = "the session has it already"
    else:
        try:
            return await make(await forwards.errands())
        except TeleportError as error:
            reason = error.message
    await _told(forwards, cls, success=False, error=reason)
    return None


async def _told(forwards: Forwards, cls: type[AgentForward] | type[X11Forward], **fields: object) -> bool:
    """Puts the outcome on record; False when that fails, and then nothing may be given."""
    try:
        await forwards.story.tell(cls, **fields)
    except TeleportError as error:
        log.error("an offer of the client cannot be put on record error=%s", error)
        return False
    return True
