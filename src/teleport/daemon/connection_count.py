"""A node's count of connections, kept by auth (`transport.places.Control`)."""

from __future__ import annotations

from collections.abc import Sequence

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.client import AuthClient
from teleport.transport.places import Place


class RemoteControl:
    """Asks auth for each place."""

    def __init__(self, client: AuthClient) -> None:
        self._client = client

    async def hold(self, place: Place) -> float:
        request = m.HoldConnectionRequest(id=place.id, user=place.user, most=place.most)
        return (await self._client.call(routes.HOLD_CONNECTION, request)).seconds

    async def renew(self, places: Sequence[Place]) -> tuple[float, frozenset[str]]:
        answer = await self._client.call(routes.RENEW_CONNECTIONS, m.RenewConnectionsRequest(places=_told(places)))
        return answer.seconds, frozenset(answer.lost)

    async def release(self, places: Sequence[Place]) -> None:
        await self._client.call(routes.RELEASE_CONNECTIONS, m.ReleaseConnectionsRequest(places=_told(places)))


def _told(places: Sequence[Place]) -> list[m.ConnectionPlace]:
    return [m.ConnectionPlace(id=place.id, user=place.user, most=place.most) for place in places]
