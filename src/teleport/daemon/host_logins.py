"""What a node needs of its host so that sessions can begin as the configuration says; looked at once, at the start."""

from __future__ import annotations

import os
from pathlib import Path

from teleport.daemon.config.values import Pam
from teleport.errors import TeleportError
from teleport.node.pam import PamSettings

_PLACES = (Path("/etc/pam.d"), Path("/usr/lib/pam.d"))


def pam_settings(settings: Pam | None) -> PamSettings | None:
    """`TeleportError` when PAM is on and no session could ever be opened by it: the node does not start then."""
    if settings is None:
        return None
    if os.geteuid() != 0:
        raise TeleportError(
            "ssh_service.pam is on, but only root may open sessions of PAM for other accounts",
            hint="run the node as root, or set ssh_service.pam.enabled: no",
        )
    # Without a file of that name PAM takes the one called "other", which is for nobody in particular.
    if not any((place / settings.service).is_file() for place in _PLACES):
        raise TeleportError(
            f"ssh_service.pam.service_name is {settings.service}, but there is no file of that name in /etc/pam.d",
            hint="name a file that is there, or write one",
        )
    return PamSettings(settings.service, settings.auth, settings.environment)
