"""A proxy whose pages could take no security key says so at its start, and when a setting makes it so."""

from __future__ import annotations

import logging

from teleport.authz.second_factor import why_no_keys_in_browsers
from teleport.daemon.live_settings import PREFERENCE
from teleport.daemon.view import View

log = logging.getLogger(__name__)


def follow_key_domain(view: View, host: str) -> None:
    """`host`: where people reach this proxy, as its first public address says. What was said is not said twice."""
    said = ""

    def tell() -> None:
        nonlocal said
        why = why_no_keys_in_browsers(view.preference().spec, host)
        if why and why != said:
            log.warning("%s", why)
        said = why

    view.cache.subscribe(PREFERENCE, lambda _: tell())
    tell()


__all__ = ["follow_key_domain"]
