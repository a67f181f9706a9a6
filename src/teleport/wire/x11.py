"""The first message of an X11 client: who it says it may be (X Window System Protocol, "Connection Setup")."""

from __future__ import annotations

import struct
from dataclasses import dataclass

MOST = 12 + 256 + 256  # bytes: longer names and cookies than any that is given out
_ORDERS = {0x42: ">", 0x6C: "<"}


@dataclass(frozen=True, slots=True)
class Setup:
    """Name and data of the authorization that a client shows."""

    protocol: str
    cookie: bytes


def parse_setup(data: bytes) -> Setup | None:
    """The setup that `data` begins with; None: more has to come. `ValueError` when it is none."""
    if not data:
        return None
    order = _ORDERS.get(data[0])
    if order is None:
        raise ValueError("it does not begin as X11 does")
    if len(data) < 12:
        return None
    major, _, name_size, cookie_size = struct.unpack_from(f"{order}HHHH", data, 2)
    if major != 11 or name_size > 256 or cookie_size > 256:
        raise ValueError("it is not X11")
    cookie_at = 12 + name_size + -name_size % 4
    if len(data) < cookie_at + cookie_size + -cookie_size % 4:
        return None
    name = data[12 : 12 + name_size].decode("ascii", "replace")
    return Setup(name, data[cookie_at : cookie_at + cookie_size])
