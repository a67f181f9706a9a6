"""Locks: a resource that stops a user, role, login, node, device or certificate now (`resources.md` 9)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from teleport.resources.metadata import Finding, Metadata, Moment, Value, shown, text_findings

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TARGETS = ("user", "role", "login", "node", "mfa_device", "serial", "session")


class LockTarget(Value, frozen=True, kw_only=True):
    """Exactly one of these is set; compared as plain text."""

    user: str = ""
    role: str = ""
    login: str = ""
    node: str = ""  # UUID or name
    mfa_device: str = ""
    serial: str = ""  # of a certificate, decimal, as ssh-keygen -L prints it
    session: str = ""  # UUID of a session that runs

    @property
    def kind(self) -> str:
        return next((name for name in TARGETS if getattr(self, name)), "")

    def __str__(self) -> str:
        return f"{self.kind}: {getattr(self, self.kind)}" if self.kind else "nothing"


class LockSpec(Value, frozen=True, kw_only=True):
    target: LockTarget
    message: str = ""
    expires: Moment | None = None


class Lock(Value, frozen=True, kw_only=True):
    kind: Literal["lock"] = "lock"
    version: Literal["v2"] = "v2"
    metadata: Metadata
    spec: LockSpec

    @property
    def name(self) -> str:
        return self.metadata.name

    def in_force(self, now: datetime) -> bool:
        """Whether the lock holds at `now`: neither its own end nor that of the resource has passed."""
        return all(end is None or now < end for end in (self.spec.expires, self.metadata.expires))

    def findings(self) -> Iterator[Finding]:
        yield from self.metadata.findings()
        given = [name for name in TARGETS if getattr(self.spec.target, name)]
        if len(given) != 1:
            found = " and ".join(given) or "nothing"
            yield Finding(("spec", "target"), found, f"exactly one of {', '.join(TARGETS)}")
        for name in given:
            yield from text_findings(("spec", "target", name), getattr(self.spec.target, name), 256)
        serial = self.spec.target.serial
        if serial and not (serial.isascii() and serial.isdecimal() and str(int(serial[:64])) == serial):
            yield Finding(("spec", "target", "serial"), shown(serial), "a serial number, decimal: tctl certs ls")
        session = self.spec.target.session
        if session and not _UUID.fullmatch(session):
            yield Finding(("spec", "target", "session"), shown(session), "a session's id: tctl sessions ls")
        yield from text_findings(("spec", "message"), self.spec.message)
        if self.spec.expires is not None and self.spec.expires.tzinfo is None:
            yield Finding(("spec", "expires"), str(self.spec.expires), "a time with a zone")
