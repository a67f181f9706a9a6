"""Questions to a person: at the terminal without echo, or, where stdin is no terminal, as lines of stdin for scripts.

Secrets are never taken from arguments or the environment.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from teleport.cli import render
from teleport.errors import AccessDenied, BadRequest

if TYPE_CHECKING:
    from teleport.api import messages as m


def interactive() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def secret(question: str) -> str:
    """A line that is not shown. Raises `BadRequest` when there is none."""
    if sys.stdin.isatty():
        import getpass

        try:
            return getpass.getpass(question)
        except EOFError:
            raise BadRequest("nothing was typed", hint="start again and type it") from None
    return _line(question)


def at_terminal(question: str) -> str:
    """A line from the terminal, also where stdin is something else, which belongs to a session.

    Raises `BadRequest` when there is no terminal.
    """
    if sys.stdin.isatty():
        return visible(question)
    try:
        with open("/dev/tty", "r+b", buffering=0) as terminal:
            terminal.write(question.encode())
            text = b""
            while not text.endswith(b"\n") and len(text) < 4096 and (piece := terminal.read(256)):
                text += piece
    except OSError:
        raise BadRequest(
            f"there is nobody to ask for: {question.strip().rstrip(':')}", hint="run it in a terminal"
        ) from None
    return text.decode("utf-8", "replace").strip()


def second_factor(web: tuple[str, int]) -> Callable[[m.FactorChallenge], m.FactorResponse]:
    """Asks for a second factor behind the proxy at `web`, also where stdin belongs to a session.

    What it gives raises `TeleportError`.
    """

    def ask(challenge: m.FactorChallenge) -> m.FactorResponse:
        from teleport.client.factors import answer_challenge

        return answer_challenge(challenge, web, at_terminal, render.say)

    return ask


def visible(question: str) -> str:
    """A line."""
    if sys.stdin.isatty():
        sys.stderr.write(question)
        sys.stderr.flush()
    return _line(question).strip()


def _line(question: str) -> str:
    try:
        text = sys.stdin.readline(4096)
    except UnicodeDecodeError:
        raise BadRequest(
            "what was typed is not UTF-8", hint="set LANG to what the terminal sends, such as C.UTF-8"
        ) from None
    if not text:
        raise BadRequest(
            f"there is nobody to ask for: {question.strip().rstrip(':')}",
            hint="run it in a terminal, or write the answers to stdin, a line each",
        )
    return text.rstrip("\r\n")


def yes(question: str) -> bool:
    """Whether the person agrees; nobody to ask means no."""
    if not interactive():
        return False
    return visible(f"{question} [y/N] ").lower() in ("y", "yes")


class Person:
    """What logging in asks (`client.login.Asking`)."""

    def accept_certificate(self, address: str, fingerprint: str) -> bool:
        if not interactive():
            return False
        render.say(f"The certificate of {address} is not signed by an authority that this machine trusts.")
        render.say(f"Its fingerprint is {fingerprint}")
        render.say("Compare it with what the administrator tells you: whoever is in between sees your password.")
        return yes("Trust this certificate from now on?")

    def read(self, message: str) -> None:
        """To stderr; at a terminal it has to be confirmed, as `message_of_the_day` promises. A script is not asked:
        its stdin holds the password."""
        for line in message.splitlines():
            render.say(render.printable(line))
        if interactive() and visible("Press Enter to go on, or type no to leave: ").lower() in ("n", "no", "q", "quit"):
            raise AccessDenied("not logged in: the message was not agreed to", hint="tsh login shows it again")

    def password(self, user: str) -> str:
        return secret(f"Password of {render.printable(user)}: ")

    def code(self, question: str = "One-time code: ") -> str:
        return visible(question).replace(" ", "")

    def touch(self, text: str) -> None:
        render.say(text)
