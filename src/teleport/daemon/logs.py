"""The daemon's log, as `teleport.log` says: where to, from which severity, in which form.

One line an entry, whatever foreign text is in it, tracebacks included (T45): what is not printable is escaped, so that
nobody forges an entry or drives the terminal of whoever reads the log.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from teleport.clock import rfc3339
from teleport.daemon.config.values import LogConfig, ShippedLog
from teleport.daemon.monitoring.metrics import Gauge, Metrics
from teleport.errors import TeleportError

if TYPE_CHECKING:
    from teleport.daemon.log_shipping.shipping import Shipper

SHIPPED: Final = "ship"  # in the data directory: what waits for receivers of the log
MAX_MESSAGE = 32 * 1024  # characters of one entry

WAITING: Final = Gauge(
    "teleport_log_ship_waiting_bytes", "How much of the log waits on disk for a receiver.", "receiver"
)
SENT: Final = Gauge(
    "teleport_log_ship_sent_lines_total", "Lines that a receiver of the log has taken.", "receiver", counts=True
)
DROPPED: Final = Gauge(
    "teleport_log_ship_dropped_lines_total",
    "Lines that were dropped since too many waited for a receiver.",
    "receiver",
    counts=True,
)
_shippers: list[Shipper] = []
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def component_of(record: logging.LogRecord) -> str:
    """What made an entry: the package below `teleport`."""
    return record.name.removeprefix("teleport.").split(".")[0]


def message_of(record: logging.LogRecord, formatter: logging.Formatter) -> str:
    """The text of an entry with its traceback, of bounded length."""
    text = record.getMessage()
    if record.exc_info:
        text += "\n" + formatter.formatException(record.exc_info)
    if len(text) > MAX_MESSAGE:
        return f"{text[:MAX_MESSAGE]}... ({len(text) - MAX_MESSAGE} characters left out)"
    return text


def one_line(text: str) -> str:
    """`text` with everything that is not printable escaped: controls, line ends, bidirectional marks, surrogates."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _json_escape(text: str) -> str:
    """As `one_line` for JSON, whose strings are the only place where such letters are."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


class TextFormatter(logging.Formatter):
    """`2026-01-01T00:00:00Z INFO    auth: message`"""

    def format(self, record: logging.LogRecord) -> str:
        when = rfc3339(datetime.fromtimestamp(record.created, UTC).replace(microsecond=0))
        return f"{when} {record.levelname:<7} {component_of(record)}: {one_line(message_of(record, self))}"


class JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "timestamp": rfc3339(datetime.fromtimestamp(record.created, UTC)),
            "level": record.levelname.lower(),
            "component": component_of(record),
            "caller": f"{record.module}:{record.lineno}",
            "message": message_of(record, self),
        }
        return _json_escape(json.dumps(entry, ensure_ascii=False))


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


def set_up(log: LogConfig) -> None:
    """Points the root logger where the configuration says. Raises `TeleportError` when that cannot be opened."""
    try:
        handler = _handler(log.output)
    except OSError as error:
        raise TeleportError(f"the log cannot be opened: {error}", hint="change teleport.log.output") from None
    handler.setFormatter(JSONFormatter() if log.format == "json" else TextFormatter())
    root = logging.getLogger()
    for former in list(root.handlers):
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(_LEVELS[log.severity])
    for name in ("asyncio", "aiohttp", "asyncssh"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def ship_to(receivers: Sequence[ShippedLog], data_dir: Path, host: str) -> None:
    """What is logged from now on goes to receivers elsewhere, too, once `start_shipping` was called.

    What waits for them is in `data_dir`; `host` is how this host is named there.
    """
    _shippers.clear()
    if receivers:
        from teleport.daemon.log_shipping.handler import ShippingHandler, shipper_of

        _shippers.extend(shipper_of(one, data_dir / SHIPPED, host) for one in receivers)
        logging.getLogger().addHandler(ShippingHandler(_shippers))


def start_shipping() -> None:
    """Begins to bring the log to receivers, in threads: once no process is forked and the data directory is ours."""
    for shipper in _shippers:
        shipper.start()


def finish_shipping() -> None:
    """Brings what is there where that is quick; the rest waits for the next start."""
    for shipper in _shippers:
        shipper.close()


def add_metrics(metrics: Metrics) -> None:
    """What monitors should know of receivers of the log; no values where there are none."""
    metrics.add(WAITING, lambda: {one.name: one.waiting for one in _shippers})
    metrics.add(SENT, lambda: {one.name: one.sent for one in _shippers})
    metrics.add(DROPPED, lambda: {one.name: one.dropped for one in _shippers})
