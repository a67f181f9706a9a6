"""Threat T25 where the proxy records: each row of the table is asked about as at a node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from tests.proxy.test_proxy_recording_connection import ANN, PERMIT, Listening, Stub, World, connected

from teleport.audit.events import AgentForward, Port, X11Forward
from teleport.authz.channel_table import TABLE, AskedKind, Rule, names
from teleport.authz.channels import ChannelDenies, ChannelTerms, RoleGrant
from teleport.authz.forwarding import why_no_unseen_socket
from teleport.proxy.recording.service import SURFACE
from teleport.resources.role import ExecMode
from teleport.ssh.surface import Refusal, SocketPlace, TcpPlace

FREE = ChannelTerms(
    port_forwarding=True, forward_agent=True, x11_forwarding=True, grants=(RoleGrant("access"),)
)  # a role that gives everything


def grants(**said: Any) -> ChannelTerms:
    return replace(FREE, grants=(RoleGrant("access", **said),))


async def ask(world: World, name: str) -> bool:
    """Whether what the row names is let through."""
    connection = world.connection
    match name:
        case "direct-tcpip":
            got: object = await world.forward()
        case "direct-streamlocal@openssh.com":
            got = await connection.open_socket(cast("Any", Stub()), "/run/some/socket")
        case "tcpip-forward":
            got = await connection.listen(TcpPlace("localhost", 0))
        case "streamlocal-forward@openssh.com":
            got = await connection.listen(SocketPlace("/run/some/socket"))
        case _:
            kind = "agent" if name == "auth-agent-req@openssh.com" else "x11"
            return await connection.forwards.lend(object(), kind)
    return not isinstance(got, Refusal)


NONE = {"no forwards": replace(FREE, port_forwarding=False), "no grant": replace(FREE, grants=())}
TO = {
    "no local": grants(local_forwarding=False),
    "elsewhere": grants(forward_to=("10.0.0.0/8:*", "unix:/nowhere/*")),
    "denied": replace(FREE, denies=ChannelDenies(forward_to=("192.0.2.0/24:*", "unix:/**"))),
    **NONE,
}
FROM = {
    "no remote": grants(remote_forwarding=False),
    "elsewhere": grants(listen_on=("10.0.0.0/8:*", "unix:/nowhere/*")),
    "denied": replace(FREE, denies=ChannelDenies(listen_on=("127.0.0.0/8:*", "unix:/**"))),
    **NONE,
}
# What of links only the host sees is allowed by no path.
LINKS = {"denied elsewhere": replace(FREE, denies=ChannelDenies(forward_to=("unix:/x",), listen_on=("unix:/x",)))}
DENIED: dict[str, dict[str, ChannelTerms]] = {
    "direct-tcpip": TO,
    "direct-streamlocal@openssh.com": {**TO, **LINKS, "named": grants(forward_to=("unix:/run/some/*",))},
    "tcpip-forward": FROM,
    "streamlocal-forward@openssh.com": {**FROM, **LINKS, "named": grants(listen_on=("unix:/run/some/*",))},
    "auth-agent-req@openssh.com": {"not said": replace(FREE, forward_agent=False)},
    "x11-req": {"not said": replace(FREE, x11_forwarding=False)},
}


def test_what_nodes_offer_is_offered_and_every_row_is_asked_for_here() -> None:
    for kind, offered in (
        (AskedKind.CHANNEL, SURFACE.channels),
        (AskedKind.SESSION_REQUEST, SURFACE.session_requests),
        (AskedKind.GLOBAL_REQUEST, SURFACE.global_requests),
    ):
        assert offered == names(kind)
    decided = {Rule.LOCAL_FORWARD, Rule.REMOTE_FORWARD, Rule.AGENT, Rule.X11}
    assert {row.name for row in TABLE if row.rule in decided} == set(DENIED)


@pytest.mark.parametrize("name", DENIED)
async def test_a_row_is_open_to_a_role_that_allows_it_and_closed_to_others(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Closed: refused, on record as such, and the host was asked for nothing."""
    async with connected(monkeypatch, ANN) as world:

        async def listen(place: object, came: object) -> Listening:
            world.started.append(str(place))
            return Listening()

        monkeypatch.setattr(world, "listen", listen, raising=False)
        world.decision = replace(PERMIT, channels=FREE)
        world.connection.obey(world.decision)
        assert await ask(world, name)
        for why, terms in DENIED[name].items():
            world.decision = replace(PERMIT, channels=terms)
            world.connection.obey(world.decision)
            world.started.clear()
            world.told.clear()
            assert not await ask(world, name), why
            await world.settled()
            assert world.started == [], why
            assert [one.success for one in world.told if isinstance(one, Port | AgentForward | X11Forward)] == [False]


@pytest.mark.parametrize("local", [True, False])
def test_sockets_of_whom_no_shell_is_given_need_all_to_be_named(local: bool) -> None:
    limited = grants(exec=ExecMode.TRANSFER)
    assert why_no_unseen_socket(limited, "/run/some/socket", local=local) is not None
    every = grants(exec=ExecMode.TRANSFER, forward_to=("unix:/**",), listen_on=("unix:/**",))
    assert why_no_unseen_socket(every, "/run/some/socket", local=local) is None
    assert why_no_unseen_socket(every, "some/socket", local=local) is not None
