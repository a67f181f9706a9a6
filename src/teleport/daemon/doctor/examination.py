"""All checks of a host, one after another. One that fails itself says so, and the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from teleport.daemon.doctor import (
    backend,
    certificates,
    clock,
    denials,
    ipv6,
    limits,
    listening,
    names,
    permissions,
    settings,
    tracing,
)
from teleport.daemon.doctor.patient import Finding, Patient, Said, Unseen
from teleport.errors import TeleportError


@dataclass(frozen=True, slots=True)
class Report:
    """What was found, what was not looked at, and which checks were made."""

    findings: tuple[Finding, ...]
    unseen: tuple[Unseen, ...]
    checks: tuple[str, ...]

    @property
    def blind(self) -> bool:
        """Whether nothing good can be said, for want of rights or because a check failed."""
        return any(one.blind for one in self.unseen)


def checks(now: Callable[[], datetime]) -> dict[str, Callable[[Patient], Said]]:
    """In the order in which they are made and told."""
    return {
        settings.CHECK: settings.looked,
        permissions.CHECK: permissions.looked,
        listening.CHECK: listening.looked,
        names.CHECK: names.looked,
        clock.CHECK: lambda patient: clock.looked(patient, now),
        certificates.CHECK: certificates.looked,
        backend.CHECK: backend.looked,
        tracing.CHECK: tracing.looked,
        limits.CHECK: limits.looked,
        denials.CHECK: denials.looked,
        ipv6.CHECK: ipv6.looked,
    }


def examined(patient: Patient, table: dict[str, Callable[[Patient], Said]]) -> Report:
    """Makes each check of `table`."""
    said: list[Finding | Unseen] = []
    for name, look in table.items():
        try:
            said += look(patient)
        except (OSError, ValueError, TeleportError) as error:
            said.append(
                Unseen(name, f"the check failed: {type(error).__name__}: {error}", "teleport doctor", blind=True)
            )
    return report(said, table)


def report(said: Iterable[Finding | Unseen], names_of: Iterable[str]) -> Report:
    once = list(dict.fromkeys(said))
    return Report(
        tuple(one for one in once if isinstance(one, Finding)),
        tuple(one for one in once if isinstance(one, Unseen)),
        tuple(names_of),
    )
