"""PAM for one session: account, credentials and session, the auth stack if asked for (pam(3), pam_conv(3)).

Modules act on the process that calls them: limits, keyrings, namespaces, login uid. So each session's monitor calls
them, before it forks the session's program, and closes what it opened before it ends. Whatever a module answers but
success refuses the session (threat T53). The library is loaded by a monitor whose session needs it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from teleport.launcher.values import LauncherRefused, PamRequest, Reason

_SUCCESS, _BUFFER_ERROR, _NEW_TOKEN, _CONVERSATION_ERROR = 0, 5, 12, 19
_USER, _TTY, _REMOTE_HOST = 2, 3, 4
_ESTABLISH, _DELETE = 2, 4
_PROMPT_HIDDEN, _PROMPT_SHOWN, _ERROR, _INFO = 1, 2, 3, 4
_MOST_TEXT: Final = 65_536  # characters that modules may say
_MOST_MESSAGES: Final = 32  # of one call (PAM_MAX_NUM_MSG)

# Asks a person, who sees what is typed or not; None when nobody can be asked.
Ask = Callable[[str, bool], str | None]


class _Message(ctypes.Structure):
    _fields_ = [("style", ctypes.c_int), ("text", ctypes.c_char_p)]


class _Response(ctypes.Structure):
    _fields_ = [("text", ctypes.c_void_p), ("unused", ctypes.c_int)]


_Talk = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.POINTER(ctypes.POINTER(_Message)),
    ctypes.POINTER(ctypes.POINTER(_Response)),
    ctypes.c_void_p,
)


class _Conversation(ctypes.Structure):
    _fields_ = [("talk", _Talk), ("data", ctypes.c_void_p)]


@dataclass(frozen=True, slots=True)
class _Library:
    pam: ctypes.CDLL
    libc: ctypes.CDLL

    @classmethod
    def load(cls) -> _Library:
        """`OSError` without libpam."""
        pam, libc = ctypes.CDLL("libpam.so.0"), ctypes.CDLL(None)
        handle, number, text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
        pam.pam_start.argtypes = [text, text, ctypes.POINTER(_Conversation), ctypes.POINTER(handle)]
        pam.pam_set_item.argtypes = [handle, number, text]
        pam.pam_get_item.argtypes = [handle, number, ctypes.POINTER(ctypes.c_char_p)]
        pam.pam_putenv.argtypes = [handle, text]
        pam.pam_strerror.argtypes, pam.pam_strerror.restype = [handle, number], text
        pam.pam_getenvlist.argtypes, pam.pam_getenvlist.restype = [handle], ctypes.POINTER(ctypes.c_void_p)
        for name in ("authenticate", "acct_mgmt", "setcred", "open_session", "close_session", "end"):
            getattr(pam, f"pam_{name}").argtypes = [handle, number]
        libc.calloc.argtypes, libc.calloc.restype = [ctypes.c_size_t, ctypes.c_size_t], ctypes.c_void_p
        libc.strdup.argtypes, libc.strdup.restype = [text], ctypes.c_void_p
        libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
        return cls(pam, libc)


class PamSession:
    """One use of PAM in this process. `open`, and in the end `close`, whatever happened."""

    def __init__(self, request: PamRequest, *, user: str, tty: str | None, host: str, ask: Ask) -> None:
        """`host`: the client's address. `ask` is used by the auth stack only."""
        self._request = request
        self._user = user
        self._ask: Ask = ask
        self._may_ask = False
        self._said: list[str] = []
        self._handle = ctypes.c_void_p()
        self._established = self._opened = False
        try:
            self._library = _Library.load()
        except OSError as error:
            raise _refused("the library of PAM (libpam.so.0) cannot be loaded", "") from error
        self._conversation = _Conversation(_Talk(self._talk), None)  # kept: the library holds its address
        started = self._library.pam.pam_start(
            os.fsencode(request.service),
            os.fsencode(user),
            ctypes.byref(self._conversation),
            ctypes.byref(self._handle),
        )
        if started != _SUCCESS:
            raise _refused("PAM cannot be used", "")
        try:
            self._set(_TTY, tty or "ssh")
            if host:
                self._set(_REMOTE_HOST, host)
            for name, value in request.environment:
                self._check(self._library.pam.pam_putenv(self._handle, os.fsencode(f"{name}={value}")), "environment")
        except BaseException:
            self.close()
            raise

    def open(self) -> None:
        """Runs the stacks in the order in which sshd does; `LauncherRefused` at the first that does not succeed."""
        pam = self._library.pam
        with _children_left_alone():
            if self._request.auth:
                self._may_ask = True
                self._check(pam.pam_authenticate(self._handle, 0), "auth")
                self._may_ask = False
            self._check(pam.pam_acct_mgmt(self._handle, 0), "account")
            self._check_user()
            self._check(pam.pam_setcred(self._handle, _ESTABLISH), "credentials")
            self._established = True
            self._check(pam.pam_open_session(self._handle, 0), "session")
            self._opened = True

    @property
    def said(self) -> str:
        """What modules had to say to the user, a line each."""
        return "".join(text if text.endswith("\n") else f"{text}\n" for text in self._said)

    def environment(self) -> tuple[tuple[str, str], ...]:
        """The variables that modules set for the session."""
        found = self._library.pam.pam_getenvlist(self._handle)
        if not found:
            return ()
        pairs = []
        index = 0
        while found[index]:
            name, equals, value = os.fsdecode(ctypes.string_at(found[index])).partition("=")
            if name and equals:
                pairs.append((name, value))
            self._library.libc.free(found[index])
            index += 1
        self._library.libc.free(ctypes.cast(found, ctypes.c_void_p))
        return tuple(pairs)

    def close(self) -> None:
        """Closes the session and gives the credentials back, as far as they were got. Idempotent."""
        if not self._handle:
            return
        pam, status = self._library.pam, _SUCCESS
        with _children_left_alone():
            if self._opened:
                status = pam.pam_close_session(self._handle, 0)
            if self._established:
                pam.pam_setcred(self._handle, _DELETE)
            pam.pam_end(self._handle, status)
        self._handle = ctypes.c_void_p()

    def _set(self, item: int, value: str) -> None:
        self._check(self._library.pam.pam_set_item(self._handle, item, os.fsencode(value)), "preparation")

    def _check_user(self) -> None:
        """A module may have put another user in the place of the one that was allowed."""
        found = ctypes.c_char_p()
        self._check(self._library.pam.pam_get_item(self._handle, _USER, ctypes.byref(found)), "account")
        if found.value != os.fsencode(self._user):
            raise _refused("PAM names another account than the one that was asked for", "")

    def _check(self, status: int, stack: str) -> None:
        if status == _SUCCESS:
            return
        why = "the password has to be changed first" if status == _NEW_TOKEN else ""
        if not why:
            why = os.fsdecode(self._library.pam.pam_strerror(self._handle, status) or b"unknown error")
        said = " ".join(self.said.split())
        raise _refused(
            f"PAM refuses the login ({stack}): {why}" + (f" ({said})" if said else ""), self._request.service
        )

    def _talk(self, count: int, messages: Any, responses: Any, _data: Any) -> int:
        """What modules say and ask; called by the library."""
        try:
            if not 0 < count <= _MOST_MESSAGES:
                return _CONVERSATION_ERROR
            answers = [self._answer(messages[number].contents) for number in range(count)]
        except Exception:  # an exception must not pass through the library
            return _CONVERSATION_ERROR
        if any(answer is None for answer in answers):
            return _CONVERSATION_ERROR
        block = self._library.libc.calloc(count, ctypes.sizeof(_Response))
        if not block:
            return _BUFFER_ERROR
        array = ctypes.cast(block, ctypes.POINTER(_Response))
        for number, answer in enumerate(answers):
            if answer:
                array[number].text = self._library.libc.strdup(os.fsencode(answer))
        responses[0] = array  # the caller frees it
        return _SUCCESS

    def _answer(self, message: _Message) -> str | None:
        """The answer to one message, "" to those that want none; None when nobody answers."""
        text = os.fsdecode(message.text or b"")
        if message.style in (_ERROR, _INFO):
            if sum(map(len, self._said)) + len(text) <= _MOST_TEXT:
                self._said.append(text)
            return ""
        if message.style in (_PROMPT_HIDDEN, _PROMPT_SHOWN) and self._may_ask:
            return self._ask(text, message.style == _PROMPT_SHOWN)
        return None


def _refused(message: str, service: str) -> LauncherRefused:
    hint = (
        f"an administrator of the host sees why in its log; the stacks are in /etc/pam.d/{service}" if service else ""
    )
    return LauncherRefused(Reason.PAM, message, hint=hint)


@contextlib.contextmanager
def _children_left_alone() -> Iterator[None]:
    """Modules wait for helpers of their own, and count on the usual disposition of SIGCHLD."""
    former = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, former)


def nobody_to_ask(prompt: str, shown: bool) -> str | None:
    """For sessions without a terminal."""
    return None


def check_variables(pairs: Sequence[tuple[str, str]]) -> None:
    """`LauncherRefused` for a variable that a module could take for something else."""
    for name, value in pairs:
        if not name or not name.isascii() or not name.replace("_", "a").isalnum() or not value.isprintable():
            raise LauncherRefused(Reason.BAD_REQUEST, f"The variable {name!r} for PAM holds what is not text")
