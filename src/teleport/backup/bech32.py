"""Bech32 (BIP 173), in which age writes keys: a readable prefix, the bytes, and a checksum over both. Pure.

A key with a mistyped character is told before anything is encrypted to somebody else.
"""

from __future__ import annotations

from typing import Final

from teleport.errors import BadRequest

_LETTERS: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM: Final = 6  # letters
MAX_TEXT: Final = 200  # characters; keys have 62 and 74


def encode(prefix: str, data: bytes) -> str:
    """`data` after `prefix`, in lower case."""
    values = _regroup(data, 8, 5, pad=True)
    check = _polymod([*_expanded(prefix), *values, *[0] * _CHECKSUM]) ^ 1
    values += [(check >> 5 * (_CHECKSUM - 1 - place)) & 31 for place in range(_CHECKSUM)]
    return f"{prefix}1" + "".join(_LETTERS[value] for value in values)


def decode(text: str) -> tuple[str, bytes]:
    """Prefix and bytes; raises `BadRequest` when the text is not of this form, without showing it: it may be secret."""
    if len(text) > MAX_TEXT or text not in (text.lower(), text.upper()):
        raise BadRequest("not a key: too long, or of mixed case")
    prefix, separator, rest = text.lower().rpartition("1")
    if not separator or not prefix or len(rest) < _CHECKSUM or not set(rest) <= set(_LETTERS):
        raise BadRequest("not a key: a character is not one that keys have")
    values = [_LETTERS.index(letter) for letter in rest]
    if _polymod([*_expanded(prefix), *values]) != 1:
        raise BadRequest("not a key: its checksum is wrong; a character was lost or mistyped")
    return prefix, bytes(_regroup(values[:-_CHECKSUM], 5, 8, pad=False))


def _expanded(prefix: str) -> list[int]:
    return [*(ord(letter) >> 5 for letter in prefix), 0, *(ord(letter) & 31 for letter in prefix)]


def _polymod(values: list[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for place, factor in enumerate(_GENERATOR):
            check ^= factor if (top >> place) & 1 else 0
    return check


def _regroup(values: bytes | list[int], width: int, wanted: int, *, pad: bool) -> list[int]:
    """Bits in groups of another width. Bits that are left over must be a short run of zeros."""
    held, bits, found = 0, 0, []
    for value in values:
        held, bits = held << width | value, bits + width
        while bits >= wanted:
            bits -= wanted
            found.append(held >> bits & (1 << wanted) - 1)
    rest = held & (1 << bits) - 1
    if pad:
        return [*found, rest << wanted - bits] if bits else found
    if bits >= width or rest:
        raise BadRequest("not a key: it ends in the middle of a byte")
    return found
