"""Terminal modes as SSH clients send them (RFC 4254 section 8, IUTF8 from RFC 8160), put onto a terminal.

The encoding is a row of opcode bytes, each from 1 to 159 followed by a 32-bit number; opcode 0 ends it, and one of 160
or more ends the reading because the length of its argument is unknown. Modes that this system lacks are skipped.
"""

from __future__ import annotations

import struct
import termios
from collections.abc import Iterator

_CHARACTERS = {
    1: termios.VINTR,
    2: termios.VQUIT,
    3: termios.VERASE,
    4: termios.VKILL,
    5: termios.VEOF,
    6: termios.VEOL,
    7: termios.VEOL2,
    8: termios.VSTART,
    9: termios.VSTOP,
    10: termios.VSUSP,
    12: termios.VREPRINT,
    13: termios.VWERASE,
    14: termios.VLNEXT,
    16: termios.VSWTC,
    18: termios.VDISCARD,
}
_IUTF8 = 0o40000
_INPUT, _OUTPUT, _CONTROL, _LOCAL = 0, 1, 2, 3  # places in what tcgetattr returns
_FLAGS = {
    30: (_INPUT, termios.IGNPAR),
    31: (_INPUT, termios.PARMRK),
    32: (_INPUT, termios.INPCK),
    33: (_INPUT, termios.ISTRIP),
    34: (_INPUT, termios.INLCR),
    35: (_INPUT, termios.IGNCR),
    36: (_INPUT, termios.ICRNL),
    37: (_INPUT, termios.IUCLC),
    38: (_INPUT, termios.IXON),
    39: (_INPUT, termios.IXANY),
    40: (_INPUT, termios.IXOFF),
    41: (_INPUT, termios.IMAXBEL),
    42: (_INPUT, _IUTF8),
    50: (_LOCAL, termios.ISIG),
    51: (_LOCAL, termios.ICANON),
    52: (_LOCAL, termios.XCASE),
    53: (_LOCAL, termios.ECHO),
    54: (_LOCAL, termios.ECHOE),
    55: (_LOCAL, termios.ECHOK),
    56: (_LOCAL, termios.ECHONL),
    57: (_LOCAL, termios.NOFLSH),
    58: (_LOCAL, termios.TOSTOP),
    59: (_LOCAL, termios.IEXTEN),
    60: (_LOCAL, termios.ECHOCTL),
    61: (_LOCAL, termios.ECHOKE),
    62: (_LOCAL, termios.PENDIN),
    70: (_OUTPUT, termios.OPOST),
    71: (_OUTPUT, termios.OLCUC),
    72: (_OUTPUT, termios.ONLCR),
    73: (_OUTPUT, termios.OCRNL),
    74: (_OUTPUT, termios.ONOCR),
    75: (_OUTPUT, termios.ONLRET),
    92: (_CONTROL, termios.PARENB),
    93: (_CONTROL, termios.PARODD),
}
_SIZES = {90: termios.CS7, 91: termios.CS8}
_DISABLED = 255  # RFC 4254: the character is off; Linux writes that as NUL


def parse_modes(encoded: bytes) -> Iterator[tuple[int, int]]:
    """(opcode, argument) pairs up to the end, an opcode of unknown length, or a cut argument."""
    at = 0
    while at + 5 <= len(encoded) and 0 < encoded[at] < 160:
        (argument,) = struct.unpack_from(">I", encoded, at + 1)
        yield encoded[at], argument
        at += 5


def apply_modes(descriptor: int, encoded: bytes) -> None:
    """Sets the modes on a terminal; `termios.error` when it is none."""
    if not encoded:
        return
    attributes = termios.tcgetattr(descriptor)
    characters = attributes[6]
    for opcode, argument in parse_modes(encoded):
        if opcode in _CHARACTERS:
            characters[_CHARACTERS[opcode]] = bytes([0 if argument >= _DISABLED else argument])
        elif opcode in _FLAGS:
            place, flag = _FLAGS[opcode]
            attributes[place] = attributes[place] | flag if argument else attributes[place] & ~flag
        elif opcode in _SIZES and argument:
            attributes[_CONTROL] = attributes[_CONTROL] & ~termios.CSIZE | _SIZES[opcode]
    termios.tcsetattr(descriptor, termios.TCSANOW, attributes)
