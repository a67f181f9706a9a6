"""Messages about sessions that run: what nodes tell of theirs, and what people may know of them."""

from __future__ import annotations

from datetime import datetime

from teleport.api.messages.base import Message, Request
from teleport.resources.metadata import Moment


class SessionPartyInfo(Request, frozen=True, kw_only=True):
    """Somebody in a session."""

    user: str
    mode: str  # observer, peer or moderator


class PodPlace(Request, frozen=True, kw_only=True):
    """Where a session in a pod runs, and by which call: whoever joins it must be let in there."""

    kube_cluster: str
    labels: dict[str, str] = {}  # of the Kubernetes cluster
    namespace: str
    pod: str
    container: str = ""  # as it was asked for; empty: the pod's first
    verb: str  # of the call
    subresource: str  # exec or attach


class TrackedSession(Request, frozen=True, kw_only=True):
    """One session in a terminal, as its node tells of it; in a pod, as the proxy that leads there."""

    sid: str
    user: str
    login: str
    roles: list[str]  # of the user when it began
    started: Moment
    state: str  # waiting (for people who have to be there), running, standing still
    command: str = ""  # empty: a shell
    parties: list[SessionPartyInfo] = []
    missing: str = ""  # who has to be there and is not
    place: PodPlace | None = None  # None: on the node itself


class TrackSessionsRequest(Request, frozen=True, kw_only=True):
    """Every session in a terminal of one process of the calling node or proxy; replaces what it told before."""

    epoch: str  # of the process
    sessions: list[TrackedSession]


class RunningSession(Message, frozen=True, kw_only=True):
    """A session that runs, and what the caller may do in it."""

    sid: str
    user: str
    login: str
    host_id: str
    hostname: str
    started: datetime
    state: str  # waiting, running, standing still
    interactive: bool = True
    command: str = ""
    parties: list[SessionPartyInfo] = []
    missing: str = ""
    modes: list[str] = []  # in which the caller may join
    disputed: bool = False  # whether other hosts told of this id, too
    kind: str = "ssh"  # or k8s: in a pod
    kube_cluster: str = ""
    pod_namespace: str = ""
    pod: str = ""
    container: str = ""
    join_at: str = ""  # name of the host to go to for joining; empty: host_id
    needs_factor: bool = False  # in a pod: joining needs a second factor of its own; hosts say it themselves


class RunningSessions(Message, frozen=True, kw_only=True):
    """The sessions that the caller may join or see, those that began first first."""

    sessions: list[RunningSession]
