"""The second step of an authentication: what is asked by keyboard-interactive once a key was proved (RFC 4256).

Trap T-1: asyncssh forgets the options of a proved key at every further request. Nothing of it is used here: who the
peer is, and as whom it comes, was settled with the proof and is kept by the `SecondStep` that the gate made then.
Rules: the user name is that of the proof; no other key is taken meanwhile; answers are as many as prompts; a step is
told when the peer leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from teleport.ssh.handlers import ConnectionHandler, Question, SecondStep
from teleport.ssh.surface import Refusal

if TYPE_CHECKING:
    from teleport.ssh.server_connection import ServerConnection

_LANGUAGE = "en"
MAX_ANSWER = 1024  # characters


def is_step(outcome: ConnectionHandler | SecondStep) -> TypeGuard[SecondStep]:
    """Whether a gate asks further before it lets in."""
    return hasattr(outcome, "begin")


class SecondSteps:
    """The one step that a connection may have to take."""

    def __init__(self, connection: ServerConnection) -> None:
        self._connection = connection
        self._step: SecondStep | None = None
        self._prompts = 0
        self.login = ""  # of the proof
        self.notice = ""

    @property
    def pending(self) -> bool:
        """Whether the peer has proved a key and is not let in yet."""
        return self._step is not None

    def asks(self, login: str) -> bool:
        """Whether the peer that has just proved its key for `login` is to be told to go on."""
        return self._step is not None and login == self.login

    def offer(self, login: str, step: SecondStep, client_version: str) -> ConnectionHandler | None:
        """Takes the step up; gives the handler when this client is not asked."""
        handler = step.skip(client_version)
        if handler is not None:
            return handler
        self._step, self.login, self.notice = step, login, step.notice
        self._connection.wait_for_answers()
        return None

    async def begin(self) -> Any:
        """The challenge, as asyncssh wants it: a tuple, True to let in, False to refuse."""
        return self._shown(await self._step.begin()) if self._step is not None else False

    async def answer(self, answers: Sequence[str]) -> Any:
        """As `begin`, with the answers to the last challenge."""
        asked, self._prompts = self._prompts, 0  # what comes twice answers nothing
        if self._step is None or not asked or len(answers) != asked or any(len(text) > MAX_ANSWER for text in answers):
            return False
        return self._shown(await self._step.answer(answers))

    def _shown(self, outcome: Question | ConnectionHandler | Refusal) -> Any:
        self._prompts = 0
        if isinstance(outcome, Question):
            self._prompts = len(outcome.prompts)
            return ("", outcome.instruction, _LANGUAGE, outcome.prompts)
        if isinstance(outcome, Refusal):
            self._connection.send_auth_banner(f"{outcome.message}\r\n")
            return False
        self._step = None
        self._connection.admitted(self.login, outcome)
        return True

    def abandon(self) -> None:
        """The connection is gone."""
        step, self._step = self._step, None
        if step is not None:
            step.abandoned("the client left before it was let in")
