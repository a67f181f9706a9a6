"""From a command's flags to a patient, or to what is wrong with its configuration."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from teleport.clock import Clock
from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import DEFAULT_PATH, ENVIRONMENT_VARIABLE, read_config
from teleport.daemon.doctor import examination, settings
from teleport.daemon.doctor.patient import Patient, processes_of
from teleport.errors import BadRequest, NotFound, TeleportError


def received(config_file: str | None, roles: str, clock: Clock) -> Patient | examination.Report:
    """The patient; a report alone where nothing can be started with the configuration. Raises `BadRequest` where this
    user may not read it."""
    path = Path(config_file) if config_file is not None else DEFAULT_PATH
    in_environment = config_file is None and bool(os.environ.get(ENVIRONMENT_VARIABLE))
    if not in_environment and path.exists() and not os.access(path, os.R_OK):
        raise BadRequest(f"this user may not read {path}", hint="run it as root, or as the user of the daemon: sudo")
    try:
        if not in_environment and config_file is None and not path.exists():
            raise NotFound(
                f"there is no configuration file {path}", hint=f"write one: teleport configure -o file://{path}"
            )
        found = read_config(None if in_environment else path, "", os.environ if in_environment else {})
        config = effective_config(found, StartFlags(roles=roles), socket.gethostname())
    except TeleportError as error:
        return examination.report(settings.of_mistakes(error, path), [settings.CHECK])
    return Patient(
        file=None if in_environment else path.absolute(),
        text="" if in_environment else path.read_text(errors="replace"),
        config=config,
        now=clock.now(),
        pids=processes_of(config.data_dir),
    )
