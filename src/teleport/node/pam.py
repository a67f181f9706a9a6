"""What modules of PAM are told of a session: the user, and the variables of `ssh_service.pam.environment`."""

from __future__ import annotations

from dataclasses import dataclass

from teleport.authz.traits import expand
from teleport.identity import UserIdentity
from teleport.launcher.values import PamRequest


@dataclass(frozen=True, slots=True)
class PamSettings:
    """`ssh_service.pam`, when it is on. Values of `environment` may be templates of traits."""

    service: str
    auth: bool
    environment: tuple[tuple[str, str], ...]


def pam_request(settings: PamSettings, user: UserIdentity, login: str) -> PamRequest:
    """A template whose trait the user does not have sets no variable; several values are joined by spaces."""
    variables = {
        "TELEPORT_USERNAME": user.name,
        "TELEPORT_LOGIN": login,
        "TELEPORT_ROLES": " ".join(user.roles),
    }
    for name, text in settings.environment:
        values = expand(text, user.traits)
        if values:
            variables[name] = " ".join(values)
    return PamRequest(settings.service, settings.auth, tuple(variables.items()))
