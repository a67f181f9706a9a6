"""Tokens, joining and expelling over the API: what a host may become, and what a token never shows."""

from __future__ import annotations

import asyncio
import logging
import ssl
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.errors import AccessDenied, BadRequest, TeleportError
from teleport.identity import HostIdentity, SystemRole
from teleport.pki.keys import PrivateKey, generate_p256
from teleport.pki.x509verify import identity_from_tls
from teleport.resources.codec import to_json
from teleport.resources.metadata import Metadata
from teleport.resources.secret import SecretText
from teleport.resources.server import Server, ServerSpec
from teleport.resources.token import Token, TokenRole
from teleport.testing.auth import ANONYMOUS, CLUSTER, RunningAuth, present_clock, running_auth


def join_request(token: str, key: PrivateKey, **fields: Any) -> m.JoinRequest:
    given: dict[str, Any] = {"host_id": str(uuid.uuid4()), "node_name": "web-1", "role": "Node", **fields}
    return m.JoinRequest(
        token=token, public_ssh_key=key.public.line(), public_tls_key=key.public.spki_pem().decode(), **given
    )


async def join(auth: RunningAuth, token: str, **fields: Any) -> m.HostCredentials:
    reply = await auth.call(ANONYMOUS, routes.JOIN, join_request(token, generate_p256(), **fields))
    assert isinstance(reply, m.HostCredentials)
    return reply


async def new_token(auth: RunningAuth, *roles: str, **fields: Any) -> m.JoinToken:
    reply = await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(roles=list(roles), **fields))
    assert isinstance(reply, m.JoinToken)
    return reply


def announcement(kind: Any, host_id: str, *public: str) -> m.HeartbeatRequest:
    spec = ServerSpec(addr="192.0.2.9:3022", hostname=f"{kind}-1", public_addrs=public, epoch="1")
    server = Server(kind=kind, metadata=Metadata(name=host_id), spec=spec)
    return m.HeartbeatRequest(item=m.Document(to_json(server)))


async def test_a_good_token_gives_certificates_that_verify(tmp_path: Path) -> None:
    """And they work: the new host announces itself, and renews what it has."""
    async with running_auth(tmp_path) as auth:
        token = await new_token(auth, "node", labels={"env": "dev"})
        key, host_id = generate_p256(), str(uuid.uuid4())
        given = await auth.call(ANONYMOUS, routes.JOIN, join_request(token.token, key, host_id=host_id))
        assert (given.cluster, given.tls_ca_certs, given.ssh_ca_keys) == (CLUSTER, auth.tls_cas, auth.ssh_cas)
        assert given.token_labels == {"env": "dev"}
        who = auth.keep(key, given.tls_cert, host_id)
        assert (await auth.call(who, routes.WHO_AM_I, m.Empty())).roles == ["Node"]
        await auth.call(who, routes.HEARTBEAT, announcement("node", host_id))
        renewed = await auth.call(
            who,
            routes.RENEW_HOST,
            m.RenewHostRequest(
                public_ssh_key=key.public.line(), public_tls_key=key.public.spki_pem().decode(), node_name="web-1"
            ),
        )
        identity = identity_from_tls(
            ssl.PEM_cert_to_DER_cert(renewed.tls_cert), await auth.service.state.trusted_tls(), auth.clock.now()
        )
        assert isinstance(identity, HostIdentity)
        assert (identity.host_id, identity.role) == (host_id, SystemRole.NODE)
        joined = (await auth.events("host.join"))[0]
        assert (joined["code"], joined["host_id"], joined["token"]) == ("T9014I", host_id, token.id)
        assert [event["name"] for event in await auth.events("token.used")] == [token.id]


async def test_refused_joins_read_alike_and_the_log_knows_why(tmp_path: Path) -> None:
    """Wrong, expired, removed token and wrong role: one text, so that nobody learns which tokens exist."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        good, removed = await new_token(auth, "proxy"), await new_token(auth, "node")
        brief = await new_token(auth, "node", ttl=60)
        await auth.call(await auth.admin(), routes.REMOVE["token"], m.ExpelRequest(name=removed.id))
        clock.advance(61)
        texts = set()
        for secret in (uuid.uuid4().hex, good.token, removed.token, brief.token, good.id, ""):
            with pytest.raises(AccessDenied) as caught:
                await join(auth, secret)
            texts.add((caught.value.message, caught.value.hint))
        assert len(texts) == 1, texts
        failed = await auth.events("host.join_failed", wait_for=6)
        assert {event["code"] for event in failed} == {"T9015W"}
        assert {event["error"] for event in failed} == {
            "the token is unknown or has expired",
            "the token is not for the role Node",
        }
        assert not await auth.events("host.join", wait_for=0)


@pytest.mark.parametrize(("together", "sqlite"), [(1, True), (50, True), (50, False)])
async def test_a_single_use_token_lets_exactly_one_host_in(tmp_path: Path, together: int, sqlite: bool) -> None:
    """However many come at the same moment, or later; the others read what any refused host reads."""
    # callers and auth share this process's threads: all callers at once must leave some for signing
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(together + 20))
    async with running_auth(tmp_path, sqlite=sqlite) as auth:
        token = await new_token(auth, "node", "proxy", single_use=True)
        assert token.single_use
        keys = [generate_p256() for _ in range(together + 1)]
        asked = [join_request(token.token, key, node_name=f"web-{number}") for number, key in enumerate(keys)]
        tries = [auth.call(ANONYMOUS, routes.JOIN, request) for request in asked[:together]]
        outcomes = [*await asyncio.gather(*tries, return_exceptions=True)]
        outcomes += await asyncio.gather(auth.call(ANONYMOUS, routes.JOIN, asked[-1]), return_exceptions=True)
        let_in = [number for number, one in enumerate(outcomes) if isinstance(one, m.HostCredentials)]
        assert len(let_in) == 1
        refused = {str(one).partition(" may not ")[2] for one in outcomes if isinstance(one, BaseException)}
        assert refused == {"join as Node: the token is unknown, has expired, was used up, or is not for this role"}
        (joined,) = await auth.events("host.join")
        winner = asked[let_in[0]]
        assert joined["host_id"] == winner.host_id
        failed = await auth.events("host.join_failed", wait_for=together)
        assert {one["error"] for one in failed} == {f"the single-use token was used by the host {winner.host_id}"}

        # killed before it wrote down the answer, the one host asks again for the same
        given = await auth.call(ANONYMOUS, routes.JOIN, winner)
        with pytest.raises(AccessDenied):  # with other keys it is another host
            await join(auth, token.token, host_id=winner.host_id)
        # expelled, it needs a new token
        who = auth.keep(keys[let_in[0]], given.tls_cert, winner.host_id)
        await auth.call(who, routes.HEARTBEAT, announcement("node", winner.host_id))
        await auth.call(await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=winner.host_id))
        with pytest.raises(AccessDenied):
            await auth.call(ANONYMOUS, routes.JOIN, winner)


@pytest.mark.parametrize("role", ["Admin", "admin", "Auth", "", "node,proxy", "Root"])
async def test_a_token_for_nodes_makes_nothing_else(tmp_path: Path, role: str) -> None:
    """No spelling of a role gets more than the token is for; nobody becomes the administrator by joining."""
    async with running_auth(tmp_path) as auth:
        token = await new_token(auth, "node")
        with pytest.raises((AccessDenied, BadRequest)):
            await join(auth, token.token, role=role)
        assert not await auth.events("host.join", wait_for=0)


async def test_no_host_takes_the_names_of_another(tmp_path: Path) -> None:
    """T14: another live host's UUID and address, and the names of proxies and auth servers, are refused."""
    async with running_auth(tmp_path) as auth:
        token = await new_token(auth, "node", "proxy")
        proxy = await auth.host(SystemRole.PROXY, name="front")
        await auth.call(proxy, routes.HEARTBEAT, announcement("proxy", proxy.host_id, "proxy.example.com:443"))
        node = await auth.host(SystemRole.NODE, name="db-1")
        await auth.call(node, routes.HEARTBEAT, announcement("node", node.host_id, "db.example.net:3022"))
        server = await auth.host(SystemRole.AUTH, name="auth-2")
        await auth.call(server, routes.HEARTBEAT, announcement("auth_server", server.host_id, "auth.example.net:3025"))
        taken: list[dict[str, Any]] = [
            {"host_id": node.host_id},
            {"additional_principals": ["proxy.example.com"]},
            {"dns_names": ["PROXY.example.com"]},
            {"additional_principals": ["db.example.net"]},
            {"additional_principals": ["auth.example.net"]},
            {"additional_principals": [proxy.host_id]},
            {"additional_principals": [f"{node.host_id}.{CLUSTER}"]},
            {"additional_principals": ["*"]},
            {"additional_principals": ["*.example.com"]},
            {"additional_principals": ["a,b"]},
            {"dns_names": ["teleport.cluster.local"]},
            {"host_id": "../nodes"},
            {"host_id": proxy.host_id.upper()},
            {"node_name": "proxy.example.com"},
        ]
        for fields in taken:
            with pytest.raises((AccessDenied, BadRequest)):
                await join(auth, token.token, **fields)
        assert not await auth.events("host.join", wait_for=0)
        await join(auth, token.token, node_name="db-1")  # equal node names are legal


async def test_a_host_joins_once_and_again_after_it_was_expelled(tmp_path: Path) -> None:
    """Expelled, its certificates are refused at once; a new token lets it in again, and the old ones stay refused."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        admin, token = await auth.admin(), await new_token(auth, "node", ttl=48 * 3600)
        key, host_id = generate_p256(), str(uuid.uuid4())
        given = await auth.call(ANONYMOUS, routes.JOIN, join_request(token.token, key, host_id=host_id))
        old = auth.keep(key, given.tls_cert, host_id)
        await auth.call(old, routes.HEARTBEAT, announcement("node", host_id))
        with pytest.raises(AccessDenied, match="has joined already"):
            await join(auth, token.token, host_id=host_id)
        clock.advance(60)
        await auth.call(admin, routes.REMOVE["node"], m.ExpelRequest(name=host_id))
        with pytest.raises(AccessDenied, match="does not belong to the cluster any more"):
            await auth.call(old, routes.STATUS, m.Empty())
        clock.advance(60)
        key = generate_p256()
        given = await auth.call(ANONYMOUS, routes.JOIN, join_request(token.token, key, host_id=host_id))
        await auth.call(auth.keep(key, given.tls_cert, host_id), routes.STATUS, m.Empty())
        with pytest.raises(AccessDenied):
            await auth.call(old, routes.STATUS, m.Empty())
        (gone,) = await auth.events("node.delete")
        assert (gone["code"], gone["name"], gone.get("keep_identity", False)) == ("T9017I", host_id, False)


async def test_a_hidden_host_keeps_its_identity(tmp_path: Path) -> None:
    """`--keep-identity`: the host disappears until it announces itself again."""
    async with running_auth(tmp_path) as auth:
        node = await auth.host(SystemRole.NODE)
        await auth.call(node, routes.HEARTBEAT, announcement("node", node.host_id))
        await auth.call(
            await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=node.host_id, keep_identity=True)
        )
        assert not (await auth.call(node, routes.LIST["node"], m.ListRequest())).items
        await auth.call(node, routes.HEARTBEAT, announcement("node", node.host_id))


async def test_the_secret_of_a_token_is_shown_once_and_kept_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """T12: listings, events, logs and storage know tokens by their public ids only."""
    caplog.set_level(logging.DEBUG)
    static_secret = "the secret of the file"
    static = Token.from_secret(SecretText(static_secret), (TokenRole.PROXY,))
    async with running_auth(tmp_path, sqlite=True, static_tokens=[static]) as auth:
        admin = await auth.admin()
        token = await new_token(auth, "node")
        await join(auth, token.token)
        with pytest.raises(TeleportError):
            await join(auth, token.token, role="Proxy")
        await join(auth, static_secret, role="Proxy")
        listed = await auth.call(admin, routes.LIST["token"], m.ListRequest(with_secrets=True))
        one = await auth.call(admin, routes.GET["token"], m.GetRequest(name=token.id, with_secrets=True))
        texts = [bytes(item) for item in [*listed.items, one.item]]
        assert any(token.id.encode() in text for text in texts)
        assert any(b'"teleport.dev/origin":"config-file"' in text and static.name.encode() in text for text in texts)
        await auth.events("host.join", wait_for=2)
        await auth.events("host.join_failed")
        texts += [str(await auth.events()).encode(), caplog.text.encode()]
        with pytest.raises(BadRequest, match="static"):
            await auth.call(admin, routes.REMOVE["token"], m.ExpelRequest(name=static.name))
    texts += stored(tmp_path)
    for secret in (token.token, static_secret):
        assert not [text for text in texts if secret.encode() in text]


def stored(directory: Path) -> list[bytes]:
    """Everything that auth keeps."""
    return [path.read_bytes() for path in directory.rglob("*") if path.is_file() and "callers" not in path.parts]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"roles": ["node"], "ttl": 10}, "1m to 48h"),
        ({"roles": ["node"], "ttl": 49 * 3600}, "1m to 48h"),
        ({"roles": ["boss"]}, "tokens are for"),
        ({"roles": []}, "role"),
        ({"roles": ["node"], "value": "short"}, "16 characters"),
    ],
)
async def test_tokens_that_make_no_sense_are_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    """A token lives for hours, is for roles that exist, and cannot be guessed."""
    async with running_auth(tmp_path) as auth:
        with pytest.raises(BadRequest, match=message):
            await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(**fields))


async def test_a_join_may_be_repeated_word_for_word_and_in_no_other_way(tmp_path: Path) -> None:
    """A host that was killed before it wrote auth's answer down asks again; nobody else gets anything by asking."""
    async with running_auth(tmp_path) as auth:
        token, other = await new_token(auth, "node", labels={"env": "dev"}), await new_token(auth, "node")
        key, host_id = generate_p256(), str(uuid.uuid4())
        asked = join_request(token.token, key, host_id=host_id)
        await auth.call(ANONYMOUS, routes.JOIN, asked)  # the answer is lost
        again = await auth.call(ANONYMOUS, routes.JOIN, asked)
        assert (await auth.call(auth.keep(key, again.tls_cert, host_id), routes.WHO_AM_I, m.Empty())).roles == ["Node"]
        for changed in (
            join_request(token.token, generate_p256(), host_id=host_id),
            join_request(other.token, key, host_id=host_id),  # its labels would come with it
            join_request(token.token, key, host_id=host_id, node_name="another"),
            join_request(token.token, key, host_id=host_id, additional_principals=["db"]),
        ):
            with pytest.raises(AccessDenied, match="has joined already"):
                await auth.call(ANONYMOUS, routes.JOIN, changed)
        await auth.call(await auth.admin(), routes.REMOVE["token"], m.ExpelRequest(name=token.id))
        with pytest.raises(AccessDenied, match="the token is unknown"):
            await auth.call(ANONYMOUS, routes.JOIN, asked)
        record = await auth.backend.get(f"hosts/{host_id}")
        assert record is not None
        assert token.token.encode() not in record.value


async def test_an_expelled_host_cannot_repeat_its_old_join_into_its_old_standing(tmp_path: Path) -> None:
    """It joins as anew: what it held before stays refused."""
    clock = present_clock()
    async with running_auth(tmp_path, clock=clock) as auth:
        token = await new_token(auth, "node", ttl=48 * 3600)
        key, host_id = generate_p256(), str(uuid.uuid4())
        asked = join_request(token.token, key, host_id=host_id)
        old = auth.keep(key, (await auth.call(ANONYMOUS, routes.JOIN, asked)).tls_cert, host_id)
        await auth.call(old, routes.HEARTBEAT, announcement("node", host_id))
        clock.advance(60)
        await auth.call(await auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=host_id))
        clock.advance(60)
        await auth.call(ANONYMOUS, routes.JOIN, asked)
        with pytest.raises(AccessDenied):
            await auth.call(old, routes.STATUS, m.Empty())
