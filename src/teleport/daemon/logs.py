"""The daemon's log, as `teleport.log` says: where to, from which severity, in which form. One line an entry."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from datetime import UTC, datetime
from pathlib import Path

from teleport.clock import rfc3339
from teleport.daemon.config.teleport_section import Log
from teleport.errors import TeleportError

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def _component(record: logging.LogRecord) -> str:
    return record.name.removeprefix("teleport.").split(".")[0]


def _message(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    return text


class TextFormatter(logging.Formatter):
    """`2026-01-01T00:00:00Z INFO  auth: message`; what could break a line is escaped."""

    def format(self, record: logging.LogRecord) -> str:
        when = rfc3339(datetime.fromtimestamp(record.created, UTC).replace(microsecond=0))
        text = _message(record, self).encode("unicode_escape").decode() if _hostile(record) else _message(record, self)
        return f"{when} {record.levelname:<7} {_component(record)}: {text}"


def _hostile(record: logging.LogRecord) -> bool:
    return any(not letter.isprintable() for letter in record.getMessage())


class JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "timestamp": rfc3339(datetime.fromtimestamp(record.created, UTC)),
                "level": record.levelname.lower(),
                "component": _component(record),
                "caller": f"{record.module}:{record.lineno}",
                "message": _message(record, self),
            },
            ensure_ascii=False,
        )


def _handler(output: str) -> logging.Handler:
    match output:
        case "" | "stderr" | "error" | "2":
            return logging.StreamHandler(sys.stderr)
        case "stdout" | "out" | "1":
            return logging.StreamHandler(sys.stdout)
        case "syslog":
            return logging.handlers.SysLogHandler(address="/dev/log")
    try:
        # appended to, and opened anew when somebody moved the file away (`ours.md`)
        return logging.handlers.WatchedFileHandler(Path(output), delay=False)
    except OSError as error:
        raise TeleportError(
            f"the log file {output} cannot be opened: {error.strerror}", hint="change teleport.log.output"
        ) from None


def set_up(log: Log) -> None:
    """Points the root logger where the configuration says. Raises `TeleportError` when that cannot be opened."""
    try:
        handler = _handler(str(log.output or ""))
    except OSError as error:
        raise TeleportError(f"the log cannot be opened: {error}", hint="change teleport.log.output") from None
    handler.setFormatter(JSONFormatter() if str(log.format.output) == "json" else TextFormatter())
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(_LEVELS.get(str(log.severity), logging.INFO))
    for name in ("asyncio", "aiohttp", "asyncssh"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
