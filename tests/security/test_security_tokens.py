"""What a join token is good for, to the second and to the role, and what it forces on whom it lets in (T11, T14)."""

from __future__ import annotations

import itertools
import unicodedata
import uuid
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.auth.test_auth_joining import announcement, join_request, new_token

from teleport.api import messages as m
from teleport.api import routes
from teleport.auth.hosts.tokens import MAX_TTL
from teleport.errors import AccessDenied, BadRequest
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, generate_p256
from teleport.resources.codec import from_json, to_json
from teleport.resources.metadata import Metadata
from teleport.resources.secret import SecretText
from teleport.resources.server import CommandLabelState, Server, ServerSpec
from teleport.resources.token import Token, TokenRole
from teleport.resources.values import Duration
from teleport.testing.auth import ANONYMOUS, CLUSTER, Credentials, RunningAuth, present_clock, running_auth
from teleport.testing.clock import FakeClock

JOINS = ("node", "proxy", "auth", "kube")


async def joined(auth: RunningAuth, token: str, who: Credentials = ANONYMOUS, **fields: Any) -> Credentials:
    """A host that has joined; raises what auth answers."""
    key, host_id = generate_p256(), fields.pop("host_id", str(uuid.uuid4()))
    given = await auth.call(who, routes.JOIN, join_request(token, key, host_id=host_id, **fields))
    return auth.keep(key, given.tls_cert, host_id)


# life and role


@pytest.mark.parametrize("sqlite", [False, True], ids=["memory", "sqlite"])
async def test_a_token_is_good_to_its_last_second_and_not_one_more(tmp_path: Path, sqlite: bool) -> None:
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock, sqlite=sqlite) as auth:
        token = await new_token(auth, "node", ttl=600)
        clock.advance(599)
        await joined(auth, token.token)
        await joined(auth, token.token)  # any number of hosts, while it lives
        clock.advance(1)
        for _ in range(2):  # at its end, and a second after
            with pytest.raises(AccessDenied, match="unknown, has expired"):
                await joined(auth, token.token)
            clock.advance(1)
        failed = await auth.events("host.join_failed", wait_for=2)
        assert {(event["code"], event["token"], event["error"]) for event in failed} == {
            ("T9015W", token.id, "the token is unknown or has expired")
        }
        assert len(await auth.events("host.join", wait_for=2)) == 2


async def test_a_token_lets_in_as_what_it_says_and_as_nothing_else(tmp_path: Path) -> None:
    """Every type against every role, with one audit event for each refusal."""
    async with running_auth(tmp_path) as auth:
        refused, tokens = 0, {kind: await new_token(auth, kind) for kind in TokenRole}
        for kind, role in itertools.product(TokenRole, [*TokenRole, "admin"]):
            token = tokens[kind]
            if kind == role and role in JOINS:
                who = await joined(auth, token.token, role=role, node_name=f"{kind}-1")
                assert (await auth.call(who, routes.WHO_AM_I, m.Empty())).roles == [SystemRole(role.capitalize())]
                continue
            with pytest.raises((AccessDenied, BadRequest)) as caught:
                await joined(auth, token.token, role=role)
            if role not in (*JOINS, "admin"):
                assert "this version" in caught.value.message or "no host joins with" in caught.value.message
            refused += 1
        events = await auth.events("host.join_failed", wait_for=refused)
        assert len(events) == refused == 7 * 8 - len(JOINS)
        assert len(await auth.events("host.join", wait_for=len(JOINS))) == len(JOINS)


async def test_every_type_is_stored_listed_and_revoked(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        admin = await auth.admin()
        for kind in TokenRole:
            token = await new_token(auth, kind, labels={"a": "b"})
            (listed,) = (await auth.call(admin, routes.LIST["token"], m.ListRequest())).items
            found = from_json(bytes(listed))
            assert isinstance(found, Token)
            assert (found.name, found.roles, dict(found.metadata.labels)) == (token.id, (kind,), {"a": "b"})
            assert token.token not in bytes(listed).decode()
            await auth.call(admin, routes.REMOVE["token"], m.ExpelRequest(name=token.id))
            with pytest.raises((AccessDenied, BadRequest)):
                await joined(auth, token.token, role=kind)
            assert not (await auth.call(admin, routes.LIST["token"], m.ListRequest())).items


async def test_no_stored_token_lives_longer_than_two_days(tmp_path: Path) -> None:
    """Whichever way it comes: by a document as by the command."""
    async with running_auth(tmp_path) as auth:
        for life in (None, timedelta(seconds=MAX_TTL + 1), timedelta(days=3650), timedelta(seconds=-1)):
            end = auth.clock.now() + life if life is not None else None
            token = Token.from_secret(SecretText(uuid.uuid4().hex), (TokenRole.NODE,), end)
            request = m.StoreRequest(item=m.Document(to_json(token)))
            with pytest.raises(BadRequest, match=r"48h|ended at"):
                await auth.call(await auth.admin(), routes.STORE["token"], request)
        assert not await auth.events("token.create", wait_for=0)


# labels


async def stored(auth: RunningAuth, host_id: str) -> Server:
    found = await auth.call(await auth.admin(), routes.GET["node"], m.GetRequest(name=host_id))
    server = from_json(bytes(found.item))
    assert isinstance(server, Server)
    return server


async def announce(
    auth: RunningAuth, who: Credentials, labels: Mapping[str, str], commands: Mapping[str, str] | None = None
) -> Mapping[str, str]:
    """The labels that the cluster knows after the host announced some."""
    states = {
        name: CommandLabelState(period=Duration.of(minutes=1), command=("/bin/true",), result=result)
        for name, result in (commands or {}).items()
    }
    spec = ServerSpec(addr="192.0.2.9:3022", hostname="web-1", epoch="1", cmd_labels=states)
    server = Server(metadata=Metadata(name=who.host_id, labels=dict(labels)), spec=spec)
    await auth.call(who, routes.HEARTBEAT, m.HeartbeatRequest(item=m.Document(to_json(server))))
    return (await stored(auth, who.host_id)).all_labels


CAFE = unicodedata.normalize("NFC", "café")
OVERRIDES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "nothing": ({}, {}),
    "static": ({"env": "prod", CAFE: "mine"}, {}),
    "dynamic": ({}, {"env": "prod", CAFE: "mine"}),
    "another spelling": ({unicodedata.normalize("NFD", CAFE): "mine"}, {}),
    "another spelling by a command": ({}, {unicodedata.normalize("NFD", CAFE): "mine"}),
}


async def test_labels_of_the_token_hold_whatever_the_host_says(tmp_path: Path) -> None:
    """Its other labels stay its own."""
    async with running_auth(tmp_path) as auth:
        token = await new_token(auth, "node", labels={"env": "dev", CAFE: "theirs"})
        host = await joined(auth, token.token)
        for name, (static, dynamic) in OVERRIDES.items():
            known = await announce(auth, host, {"team": "core", **static}, {"kernel": "6.1", **dynamic})
            assert known == {"env": "dev", CAFE: "theirs", "team": "core", "kernel": "6.1"}, name


async def test_labels_of_the_token_outlive_renewals_the_token_and_a_second_role(tmp_path: Path) -> None:
    """Only who is expelled and joins anew gets those of the new token."""
    async with running_auth(tmp_path) as auth:
        assert isinstance(auth.clock, FakeClock)
        admin = await auth.admin()
        token, key, host_id = await new_token(auth, "node", labels={"env": "dev"}), generate_p256(), str(uuid.uuid4())
        first = join_request(token.token, key, host_id=host_id)
        given = await auth.call(ANONYMOUS, routes.JOIN, first)
        assert given.token_labels == {"env": "dev"}
        host = auth.keep(key, given.tls_cert, host_id)
        # the request of a host that was killed before it wrote the answer down
        assert (await auth.call(ANONYMOUS, routes.JOIN, first)).token_labels == {"env": "dev"}
        renewal = m.RenewHostRequest(
            public_ssh_key=key.public.line(), public_tls_key=key.public.spki_pem().decode(), node_name="web-1"
        )
        renewed = await auth.call(host, routes.RENEW_HOST, renewal)
        host = auth.keep(key, renewed.tls_cert, host_id)
        assert await announce(auth, host, {"env": "prod"}) == {"env": "dev"}
        await auth.call(admin, routes.REMOVE["token"], m.ExpelRequest(name=token.id))
        assert await announce(auth, host, {"env": "prod"}) == {"env": "dev"}
        second = await new_token(auth, "node", "proxy", labels={"env": "prod"})
        as_proxy = await joined(auth, second.token, host, host_id=host_id, role="proxy")
        with pytest.raises(AccessDenied):
            await joined(auth, second.token, host, host_id=host_id)
        assert await announce(auth, host, {"env": "prod"}) == {"env": "dev"}
        await auth.call(admin, routes.REMOVE["node"], m.ExpelRequest(name=host_id))
        auth.clock.advance(30)
        back = await joined(auth, second.token, as_proxy, host_id=host_id)
        assert await announce(auth, back, {"env": "dev"}) == {"env": "prod"}


async def test_a_host_learns_its_own_forced_labels_and_nobody_elses(tmp_path: Path) -> None:
    """By its watch: what it decides by must be what the cluster knows."""
    async with running_auth(tmp_path) as auth:
        token = await new_token(auth, "node", labels={"env": "dev"})
        host, other = await joined(auth, token.token), await joined(auth, token.token, node_name="web-2")
        async with auth.async_client(host) as client:
            lines = client.watch(m.WatchRequest(kinds=["host_cert"]))
            snapshot = await anext(lines)
            await lines.aclose()
        seen = {item.key.rpartition("/")[2]: bytes(item.value) for item in snapshot.put}
        assert b'"dev"' in seen[host.host_id]
        assert other.host_id not in seen, "a node is told of no other node"


# names (T14)


async def test_another_hosts_names_are_refused_and_each_refusal_is_on_record(tmp_path: Path) -> None:
    """Joining, renewing and announcing alike; equal node names are legal."""
    async with running_auth(tmp_path) as auth:
        token = await new_token(auth, "node")
        proxy = await auth.host(SystemRole.PROXY, name="front")
        await auth.call(proxy, routes.HEARTBEAT, announcement("proxy", proxy.host_id, "proxy.example.net:443"))
        server = await auth.host(SystemRole.AUTH, name="auth-2")
        await auth.call(server, routes.HEARTBEAT, announcement("auth_server", server.host_id, "auth.example.net:3025"))
        other = await joined(auth, token.token, node_name="db-1")
        await auth.call(other, routes.HEARTBEAT, announcement("node", other.host_id, "db.example.net:3022"))
        key: PrivateKey = generate_p256()
        host = await joined(auth, token.token)
        names = [
            other.host_id,
            f"{other.host_id}.{CLUSTER}",
            "db.example.net",
            "proxy.example.net",
            "PROXY.example.net.",
            "auth.example.net",
            "proxy-1",
            "auth_server-1",
            "*",
            "*.example.net",
            "teleport.cluster.local",
        ]
        for name in names:
            with pytest.raises((AccessDenied, BadRequest)):
                await joined(auth, token.token, additional_principals=[name])
            renewal = m.RenewHostRequest(
                public_ssh_key=key.public.line(),
                public_tls_key=key.public.spki_pem().decode(),
                node_name="web-1",
                additional_principals=[name],
            )
            with pytest.raises((AccessDenied, BadRequest)):
                await auth.call(host, routes.RENEW_HOST, renewal)
        failed = await auth.events("host.join_failed", wait_for=len(names))
        assert len(failed) == len(names)
        assert all(event["error"] and event["addr"].startswith("127.0.0.1:") for event in failed)
        with pytest.raises(AccessDenied, match="joined already"):
            await joined(auth, token.token, host_id=other.host_id)
        await joined(auth, token.token, node_name="db-1")
        denied = await auth.events("api.denied", wait_for=1)
        assert {event["route"] for event in denied} == {"renew_host"}
