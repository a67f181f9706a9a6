"""Which recording is meant by a session's id, where several hosts have recorded one session.

That is rare, and means that a host claims a session of another (`auth.sessions.claims`), or that both a node and a
proxy recorded it. Then whoever asks has to say which: `SID.HOST`, the name that lists show. Nothing decides between
them by itself: who is in the hands of somebody else can tell all that a host tells, and earlier.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from teleport.errors import BadRequest
from teleport.recording.storage import StoredRecording


def undisputed(found: Sequence[StoredRecording], hosts: Collection[str]) -> bool:
    """Whether a session has one recording, and that is of the only host that told anything of the session; `hosts` are
    those that did, as far as known."""
    return len(found) == 1 and not set(hosts) - {found[0].node_id}


def full_name(one: StoredRecording) -> str:
    """The name that means this recording and no other, wherever it lies."""
    return f"{one.sid}.{one.made_by}"


def undecided(sid: str, found: Sequence[StoredRecording]) -> BadRequest:
    """Says between which recordings one has to choose."""
    if len(found) == 1:
        what = f"host {found[0].node_id} has a recording of session {sid}, which another host claims"
    else:
        what = f"{len(found)} hosts have brought a recording of session {sid}"
    return BadRequest(what, hint="say whose is meant: " + " or ".join(full_name(one) for one in found))
