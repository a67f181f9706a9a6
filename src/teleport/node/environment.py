"""What of a session its program is told: the request to the launcher, with the variables that the node sets."""

from __future__ import annotations

from uuid import UUID

from teleport.launcher.values import HostUserRequest, SpawnRequest
from teleport.node.facts import Facts
from teleport.node.needs import NodeConfig
from teleport.node.pam import pam_request
from teleport.node.programs import Asked, Program


def spawn_request(
    facts: Facts,
    config: NodeConfig,
    program: Program,
    asked: Asked,
    sid: UUID,
    host_groups: tuple[str, ...] | None = None,
) -> SpawnRequest:
    """The request for a session's program. `host_groups`: of its account, where that has to be made."""
    assert facts.user is not None, "a session belongs to a user"
    client = facts.client
    server_host, _, server_port = config.address.rpartition(":")
    server = f"{server_host.strip('[]') or 'localhost'} {server_port or 0}"
    session_env = (
        ("SSH_TELEPORT_USER", facts.user.name),
        ("SSH_TELEPORT_CLUSTER_NAME", config.cluster),
        ("SSH_TELEPORT_HOST_UUID", str(config.host_id)),
        ("SSH_SESSION_ID", str(sid)),
        ("SSH_SESSION_WEBPROXY_ADDR", config.web_proxy),
        ("SSH_CLIENT", f"{client.host} {client.port} {server_port or 0}"),
        ("SSH_CONNECTION", f"{client.host} {client.port} {server}"),
        *((("SSH_ORIGINAL_COMMAND", program.original),) if program.original else ()),
        *asked.offered,
    )
    return SpawnRequest(
        login=facts.login,
        kind=program.kind,
        command=program.command,
        client_env=tuple(asked.environment),
        session_env=session_env,
        pty=asked.pty if program.transfer is None else None,
        permit_user_env=config.permit_user_env,
        pam=pam_request(config.pam, facts.user, facts.login) if config.pam is not None else None,
        client=str(client.host),
        host_user=HostUserRequest(host_groups, config.host_users) if host_groups is not None else None,
        transfer=program.transfer,
    )
