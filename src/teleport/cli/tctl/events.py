"""Audit events in the forms that `tctl audit ls` prints. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from teleport.cli import render

_OBJECT = msgspec.json.Decoder(dict[str, Any])
_FRAME: Final = frozenset(
    {
        "event", "code", "time", "uid", "ei", "cluster_name", "emitter", "epoch", "seq", "prev", "hash", "checkpoint",
        "user", "actor", "namespace", "server_hostname", "server_id", "server_labels", "login", "addr.local", "success",
    }
)  # fmt: skip
"""What the description leaves out: it stands in a column of its own, or proves the chain."""
_MOST: Final = 200  # characters of a description
_HEADERS: Final = ("Time (UTC)", "Event", "Code", "User", "Login", "Host", "Description")


class _Link(msgspec.Struct):
    emitter: str = ""
    epoch: int = 0
    seq: int = 0


_LINK = msgspec.json.Decoder(_Link)


def in_chain_order(lines: Sequence[str]) -> Iterable[str]:
    """`lines`, in order of time, with the events of each chain in the chain's own order.

    Events of one moment, or of a host whose clock was set back, may stand otherwise in order of time; a verifier
    reads each chain in its order. Which places belong to which chain stays.
    """
    chains: dict[tuple[str, int], list[tuple[int, str]]] = {}
    owners: list[tuple[str, int]] = []
    for line in lines:
        link = _link(line)
        owner = (link.emitter, link.epoch)
        owners.append(owner)
        chains.setdefault(owner, []).append((link.seq, line))
    ordered = {owner: iter(sorted(chain)) for owner, chain in chains.items()}
    for owner in owners:
        yield next(ordered[owner])[1]


def _link(line: str) -> _Link:
    try:
        return _LINK.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return _Link()  # damaged: printed where it stands, the verifier names it


def table(lines: Iterable[str]) -> str:
    """Events as a table, one line each."""
    return render.table(_HEADERS, [_row(line) for line in lines])


def as_line(line: str) -> str:
    """An event as one line of text."""
    time, event, code, user, login, host, words = _row(line)
    who = "@".join(part for part in (login, host) if part)
    return render.printable("  ".join(part for part in (time, event, code, user, who, words) if part))


def _row(line: str) -> list[str]:
    try:
        event = _OBJECT.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return ["?", "?", "", "", "", "", f"damaged: {line[:80]}"]
    host = event.get("server_hostname") or event.get("hostname") or event.get("server_id") or ""
    time = str(event.get("time", ""))
    return [
        time[:19].replace("T", " "),
        str(event.get("event", "")),
        str(event.get("code", "")),
        _who(event),
        str(event.get("login", "")),
        str(host),
        describe(event),
    ]


def _who(event: dict[str, Any]) -> str:
    """The user; for a local tctl, which auth knows as the host's administrator, the person at it."""
    actor = event.get("actor")
    if isinstance(actor, dict) and actor.get("unix_user"):
        return f"{actor['unix_user']} (tctl)"
    return str(event.get("user", ""))


def describe(event: dict[str, Any]) -> str:
    """What else an event says, as `name=value`, shortened."""
    words = ["FAILED"] if event.get("success") is False else []
    for name, value in event.items():
        if name in _FRAME or value in ("", None, [], {}, 0, False):
            continue
        if name == "hostname" and not event.get("server_hostname"):
            continue
        words.append(f"{name}={_value(value)}")
    text = " ".join(words)
    return text if len(text) <= _MOST else text[: _MOST - 3] + "..."


def _value(value: Any) -> str:
    match value:
        case list():
            return ",".join(_value(item) for item in value)
        case dict():
            return ",".join(f"{name}:{_value(item)}" for name, item in value.items() if item not in ("", None))
        case str() if " " in value:
            return msgspec.json.encode(value).decode()
        case _:
            return str(value)
