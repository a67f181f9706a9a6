"""From Python's logging to shippers: one for each receiver that the configuration names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from teleport.copies.copier import Place
from teleport.copies.settings import HttpsCopy
from teleport.daemon.config.values import ShippedLog
from teleport.daemon.log_shipping.form import Entry, message
from teleport.daemon.log_shipping.shipping import Shipper
from teleport.daemon.log_shipping.spool import LogSpool
from teleport.daemon.logs import component_of, message_of

WHAT: Final = "log lines"
WITHIN: Final = 5.0  # seconds for each step with a syslog receiver: an end of the daemon may wait for one


class ShippingHandler(logging.Handler):
    """Hands each entry to all shippers."""

    def __init__(self, shippers: Sequence[Shipper]) -> None:
        super().__init__()
        self._shippers = tuple(shippers)
        self._plain = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = Entry(
                record.created,
                record.levelname.lower(),
                component_of(record),
                f"{record.module}:{record.lineno}",
                message_of(record, self._plain),
            )
        except Exception:  # logging's own way with a record that cannot be formatted
            self.handleError(record)
            return
        for shipper in self._shippers:
            shipper.add(entry)


def shipper_of(shipped: ShippedLog, folder: Path, host: str) -> Shipper:
    """`folder` holds a folder for each receiver; `host` is how this host is named there."""
    settings = shipped.receiver

    def make() -> Place:
        if isinstance(settings, HttpsCopy):
            from teleport.copies.https import HttpsPlace

            return HttpsPlace(settings, what=WHAT, all_others=True)
        from teleport.copies.syslog import SyslogPlace

        return SyslogPlace(settings, host, within=WITHIN, form=message, what=WHAT)

    return Shipper(settings.name, make, LogSpool(folder / settings.name, shipped.spool), host)
