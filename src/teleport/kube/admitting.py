"""What a request says that reaches nobody by itself: which call it is, as whom, and whether it is relayed at all.

Commands in pods are recorded where sessions have to be, or refused. The services of nodes, which run commands too and
tell nobody, are refused then. Ports of pods are as roles say. Other protocols on a connection lead into pods only.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from teleport.authz.decision import AccessDenial
from teleport.authz.kube import ActAs, KubeAccessPermit
from teleport.errors import BadRequest
from teleport.kube import exec_request, impersonate, streams
from teleport.kube.calls import Call, classify, makes
from teleport.kube.heads import asks_upgrade, values
from teleport.kube.http import Request
from teleport.kube.refusals import Refused
from teleport.kube.status import Refusal

MOST_TOLD: Final = 8000  # characters of a command's path and query: events hold that much of a text


def denied(denial: AccessDenial) -> Refused:
    """The refusal of somebody who is not allowed."""
    return Refused(Refusal(403, denial.public, denial.hint), f"{denial.code}: {'; '.join(denial.reasons)}")


def read(request: Request) -> Call:
    """Which call it is. Raises `Refused`."""
    try:
        call = classify(request.method, request.target)
    except BadRequest as error:
        raise Refused(Refusal(400, error.message, error.hint)) from None
    return replace(call, makes=makes(request.method, values(request.headers, b"content-type")))


def asked(request: Request) -> ActAs:
    """As whom the client asks to act. Raises `Refused`."""
    try:
        return impersonate.asked(request.headers)
    except BadRequest as error:
        raise Refused(Refusal(403, error.message, error.hint)) from None


def why_not(call: Call, request: Request, permit: KubeAccessPermit, recorded: bool) -> Refusal | None:
    """What is not relayed for the person, whatever the API server would say; None: this is. `recorded`: as a session
    in a pod."""
    if call.subresource == "portforward" and call.into_pod:
        if not permit.port_forwarding:
            return Refusal(403, "Your roles do not allow port forwarding.")
    elif call.into_pod:
        if permit.record and not recorded:
            return Refusal(403, f"Sessions have to be recorded here, and {call.subresource} into pods cannot be.")
        if permit.needs_company:
            return Refusal(403, "Your roles ask for somebody else in your sessions, and in pods nobody can be yet.")
    elif call.through_node and permit.record:
        return Refusal(
            403, "A node's own service runs commands that nobody records, and sessions have to be recorded here."
        )
    elif call.through_node and permit.needs_company:
        return Refusal(403, "Your roles ask for somebody else in your sessions, and at a node's service nobody can be.")
    if call.into_pod and len(call.told) > MOST_TOLD:
        return Refusal(400, f"The command is too long to be put on record: at most {MOST_TOLD} characters are taken.")
    if call.into_pod and not streams.wanted(request.headers):
        return Refusal(400, "A stream into a pod is asked for as SPDY/3.1 or as a websocket.")
    if recorded and (refusal := exec_request.why_unrecordable(request)) is not None:
        return refusal
    if asks_upgrade(request.headers) and not call.into_pod:
        return Refusal(403, "No other protocol than HTTP is relayed here.")
    return None
