"""Joining sessions in pods as this daemon runs it: who may, by what the view knows, and what auth is told of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from teleport.api import messages as m
from teleport.authz.decision import AccessDenial
from teleport.authz.joining import unknown_session
from teleport.authz.kube import KubeAccessRequest
from teleport.authz.kube_joining import PodJoinPermit, evaluate_pod_join
from teleport.authz.ssh import why_nothing
from teleport.daemon.view import View
from teleport.identity import UserIdentity
from teleport.kube.live import LiveSession, LiveSessions
from teleport.resources.joining import JoinMode

MOST = 2000  # sessions that auth is told of
_LONGEST = 500  # characters


class JoinRules:
    """Who joins, and what they may (`kube.joining.Rules`)."""

    def __init__(self, view: View) -> None:
        self._view = view

    def verify_user(self, certificate: bytes, *, opened: bool = False) -> UserIdentity:
        return self._view.verify_user(certificate, opened=opened)

    def now(self, identity: UserIdentity) -> UserIdentity:
        return self._view.present(identity) or replace(identity, roles=())

    def why_nothing(self, identity: UserIdentity, client_address: str) -> AccessDenial | None:
        view = self._view
        return why_nothing(
            self.now(identity),
            view.policy(),
            cluster=view.cluster,
            now=view.clock.now(),
            client_address=client_address,
            locks=view.locks(),
        )

    def permit_join(
        self, identity: UserIdentity, client_address: str, session: LiveSession, mode: JoinMode | None
    ) -> PodJoinPermit | AccessDenial:
        view, place = self._view, session.place
        cluster = place.now()
        if cluster is None:
            return unknown_session("its Kubernetes cluster is gone")
        request = KubeAccessRequest(
            identity=self.now(identity),
            cluster=view.cluster,
            now=view.clock.now(),
            kube_cluster=place.name,  # also where it was not named: a mark names it
            labels=cluster.labels,
            client_address=client_address,
            locks=view.locks(),
            call=place.call,
        )
        return evaluate_pod_join(request, session.about, mode, view.policy())


def tracked(live: LiveSessions) -> list[m.TrackedSession]:
    """Those that auth is told of."""
    return [one for one in map(_tracked, _some(live)) if one is not None]


def _some(live: Iterable[LiveSession]) -> list[LiveSession]:
    return list(live)[:MOST]


def _tracked(session: LiveSession) -> m.TrackedSession | None:
    about, place = session.about, session.place
    cluster = place.now()
    if cluster is None:
        return None  # nobody may join it
    return m.TrackedSession(
        sid=about.sid,
        user=about.user,
        login=about.login,
        roles=[role for role in about.roles if len(role) <= _LONGEST][:100],
        started=session.began,
        state="running",
        command=session.command[:_LONGEST],
        parties=[m.SessionPartyInfo(user=party.user, mode=str(party.mode)) for party in session.company.parties],
        place=m.PodPlace(
            kube_cluster=place.name,
            labels=dict(cluster.labels),
            namespace=place.call.namespace,
            pod=place.call.name,
            container=place.container,
            verb=place.call.verb,
            subresource=place.call.subresource,
        ),
    )
