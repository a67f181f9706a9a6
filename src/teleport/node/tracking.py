"""What a node tells auth of its sessions in terminals."""

from __future__ import annotations

from collections.abc import Iterable

from teleport.api import messages as m
from teleport.node.session import Session
from teleport.sharing.company import State

MOST = 2000
_LONGEST = 500  # characters


def tracked(sessions: Iterable[Session]) -> list[m.TrackedSession]:
    """Those that auth is told of: what can be joined or waits for people."""
    told = [one for one in sessions if one.about.interactive and one.state in (State.WAITING, State.RUNNING)]
    return [_tracked(one) for one in told[:MOST]]


def _tracked(session: Session) -> m.TrackedSession:
    about = session.about
    state = "waiting" if session.state is State.WAITING else "standing still" if session.company.held else "running"
    return m.TrackedSession(
        sid=about.sid,
        user=about.user,
        login=about.login,
        roles=[role for role in about.roles if len(role) <= _LONGEST][:100],
        started=session.began,
        state=state,
        command=session.command[:_LONGEST],
        parties=[m.SessionPartyInfo(user=party.user, mode=str(party.mode)) for party in session.company.parties],
        missing=session.company.missing[:_LONGEST],
    )
