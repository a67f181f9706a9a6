"""Which recording is meant by a session's id, where several hosts have recorded one session.

That is rare, and means that a host claims a session of another (`auth.sessions.claims`), or that both a node and a
proxy recorded it. Then the one counts whose host told of the session's start; where that does not decide, whoever asks
has to say which: `SID.HOST`, the name that lists show. Nothing is played in the place of something else.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from teleport.errors import BadRequest
from teleport.recording.storage import StoredRecording


def likely(found: Sequence[StoredRecording], hosts: Collection[str]) -> list[StoredRecording]:
    """Of a session's recordings those that an id alone may mean; `hosts` told of its start, as far as known."""
    return [one for one in found if not hosts or one.node_id in hosts]


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
