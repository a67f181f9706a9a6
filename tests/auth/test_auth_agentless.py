"""Hosts with a plain sshd: registering them, and what a proxy is and is not given for them."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from tests.auth.test_auth_api import document
from tests.pki.test_pki_live_proof import evidence

from teleport.api import messages as m
from teleport.api import routes
from teleport.audit.chain import ChainKey, ChainState
from teleport.audit.events import SessionStart, new_event
from teleport.backend.interface import PutOp
from teleport.errors import AccessDenied, BadRequest, NotFound, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, PublicKey, generate_ed25519, generate_p256
from teleport.pki.live_proof import Evidence
from teleport.pki.refusal import CertificateRefused
from teleport.pki.sshformat import parse_certificate_line
from teleport.pki.sshverify import verify_user_cert
from teleport.pki.trust import AuthorityKind, TrustedSSHAuthority
from teleport.resources.cluster import RecordingMode, RecordingSpec, SessionRecordingConfig
from teleport.resources.codec import to_json
from teleport.resources.lock import Lock, LockSpec, LockTarget
from teleport.resources.metadata import Metadata
from teleport.resources.role import Conditions, Options, Role, RoleSpec
from teleport.resources.server import Server, ServerSpec
from teleport.store.records import CLUSTER as CLUSTER_SETTINGS
from teleport.store.records import HOSTS, HostRecord
from teleport.testing.auth import CLUSTER, Credentials, RunningAuth, present_clock, running_auth
from teleport.testing.clock import FakeClock

CLIENT = "192.0.2.7"


@dataclass
class Site:
    """A cluster with one registered host, a proxy that speaks for it, and somebody who may go there as root."""

    auth: RunningAuth
    proxy: Credentials
    node: str
    host_key: PrivateKey  # of the proxy, for that name
    user: PrivateKey
    line: str  # of the user's certificate

    def evidence(self, *, login: str = "root", host_key: PrivateKey | None = None) -> Evidence:
        blob = parse_certificate_line(self.line).blob
        shown = (host_key or self.host_key).public.blob
        return evidence(login=login, host_key=shown, certificate=blob, key=self.user)

    def request(self, given: Evidence | None = None, *, line: str = "") -> m.SignOpensshRequest:
        given = given or self.evidence()
        return m.SignOpensshRequest(
            certificate=line or self.line,
            client_addr=CLIENT,
            public_key=generate_ed25519().public.line(""),
            exchange=base64.b64encode(given.exchange).decode(),
            hash_name=given.hash_name,
            request=base64.b64encode(given.request).decode(),
            signature=base64.b64encode(given.signature).decode(),
        )

    async def sign(self, request: m.SignOpensshRequest | None = None, who: Credentials | None = None) -> m.OpensshCert:
        found = await self.auth.call(who or self.proxy, routes.SIGN_OPENSSH, request or self.request())
        assert isinstance(found, m.OpensshCert)
        return found

    async def name(self, who: Credentials | None = None, node: str = "") -> PrivateKey:
        key = generate_ed25519()
        asked = m.OpensshNameRequest(host_id=node or self.node, public_key=key.public.line(""))
        await self.auth.call(who or self.proxy, routes.OPENSSH_NAME, asked)
        return key


async def register(auth: RunningAuth, **fields: Any) -> m.OpensshHost:
    asked: dict[str, Any] = {
        "hostname": "web",
        "addr": "192.0.2.9:22",
        "host_key": generate_ed25519().public.line(""),
        "labels": {"env": "prod"},
        **fields,
    }
    made = await auth.call(await auth.admin(), routes.REGISTER_OPENSSH, m.RegisterOpensshRequest(**asked))
    assert isinstance(made, m.OpensshHost)
    return made


@asynccontextmanager
async def site(directory: Path, **options: object) -> AsyncIterator[Site]:
    async with running_auth(directory, clock=present_clock()) as auth:
        role = Role(
            metadata=Metadata(name="prod"),
            spec=RoleSpec(
                options=Options(**options),  # type: ignore[arg-type]
                allow=Conditions(logins=("root", "deploy"), node_labels={"env": ("prod",)}),
            ),
        )
        admin = await auth.admin()
        await auth.call(admin, routes.STORE["role"], m.StoreRequest(item=document(role)))
        await auth.call(admin, routes.ADD_USER, m.AddUserRequest(name="ann", roles=["prod"]))
        key = generate_p256()
        certs = await auth.call(
            admin, routes.SIGN_USER, m.SignUserRequest(name="ann", public_key=key.public.line(), ttl=3600)
        )
        node = await register(auth)
        proxy = await auth.host(SystemRole.PROXY, name="proxy")
        made = Site(auth, proxy, node.host_id, generate_ed25519(), key, certs.cert)
        made.host_key = await made.name()
        yield made


async def test_a_proxy_enters_a_registered_host_for_who_is_connected(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        signed = await here.sign()
        body = parse_certificate_line(signed.ssh_cert).body
        assert body.principals == (f"root@{here.node}",)
        assert signed.host_id == here.node
        openssh = await here.auth.service.state.authority("openssh")
        assert parse_certificate_line(signed.ssh_cert).signer == PublicKey.parse(openssh.trusted_ssh_keys[0]).blob
        [told] = await here.auth.events("openssh.cert")
        assert (told["user"], told["login"], told["server_id"], told["addr.remote"]) == (
            "ann",
            "root",
            here.node,
            CLIENT,
        )
        assert told["proxy"] == here.proxy.host_id
        assert told["code"] == "T9241I"
        assert told["serial"] == str(body.serial)


async def test_a_connection_is_signed_for_once_whoever_asks_at_the_same_moment(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        given = here.evidence()
        client = here.auth.async_client(here.proxy)
        asked = [client.call(routes.SIGN_OPENSSH, here.request(given)) for _ in range(8)]
        results = await asyncio.gather(*asked, return_exceptions=True)
        await client.close()
        signed = [one for one in results if isinstance(one, m.OpensshCert)]
        assert len(signed) == 1, results
        assert all(isinstance(one, m.OpensshCert | AccessDenied) for one in results)
        assert isinstance(here.auth.clock, FakeClock)
        for _ in range(12):  # and never again, up to when the key of the name is long forgotten
            here.auth.clock.advance(120)
            with pytest.raises(AccessDenied):
                await here.sign(here.request(given))


async def test_a_stolen_proxy_disk_gets_no_certificate_without_somebody_who_is_connected(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        made_up = evidence(host_key=here.host_key.public.blob, certificate=parse_certificate_line(here.line).blob)
        with pytest.raises(TeleportError):  # the user's certificate, which the proxy has seen, and no key of the user's
            await here.sign(here.request(made_up))
        own = generate_p256()
        with pytest.raises(TeleportError):  # a key of its own in the place of the user's
            await here.sign(
                here.request(
                    evidence(
                        host_key=here.host_key.public.blob, certificate=parse_certificate_line(here.line).blob, key=own
                    )
                )
            )
        empty = replace(here.evidence(), signature=b"")
        with pytest.raises(TeleportError):
            await here.sign(here.request(empty))


async def test_a_signature_that_was_made_for_another_server_enters_nowhere(tmp_path: Path) -> None:
    """Somebody logs in to a server of the attacker's, who holds the disk of a proxy."""
    async with site(tmp_path) as here:
        with pytest.raises(AccessDenied, match="does not prove whom it is for"):
            await here.sign(here.request(here.evidence(host_key=generate_ed25519())))
        [told] = await here.auth.events("openssh.cert")
        assert told["code"] == "T9241W"
        assert told["user"] == "ann"


async def test_a_proof_at_one_proxy_is_none_at_another(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        other = await here.auth.host(SystemRole.PROXY, name="other")
        with pytest.raises(AccessDenied):
            await here.sign(who=other)
        assert await here.sign()


async def test_a_proof_is_for_the_account_that_was_signed_for(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        signed = await here.sign(here.request(here.evidence(login="deploy")))
        assert parse_certificate_line(signed.ssh_cert).body.principals == (f"deploy@{here.node}",)
        with pytest.raises(AccessDenied):
            await here.sign(here.request(here.evidence(login="postgres")))


async def test_an_old_connection_is_no_live_one(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        given = here.evidence()
        assert isinstance(here.auth.clock, FakeClock)
        here.auth.clock.advance(601)  # the name's certificate, to which it was, has ended
        with pytest.raises(AccessDenied):
            await here.sign(here.request(given))


@pytest.mark.parametrize("target", [{"user": "ann"}, {"role": "prod"}, {"login": "root"}, {"node": "web"}])
async def test_locks_count(tmp_path: Path, target: dict[str, str]) -> None:
    async with site(tmp_path) as here:
        lock = Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=LockTarget(**target)))
        await here.auth.call(await here.auth.admin(), routes.STORE["lock"], m.StoreRequest(item=document(lock)))
        with pytest.raises(AccessDenied):
            await here.sign()
        [told] = await here.auth.events("openssh.cert")
        assert told["code"] == "T9241W"
        assert "lock" in told["error"]


async def test_a_proxy_that_is_locked_gets_nothing(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        target = LockTarget(node=here.proxy.host_id)
        lock = Lock(metadata=Metadata(name="stop"), spec=LockSpec(target=target))
        await here.auth.call(await here.auth.admin(), routes.STORE["lock"], m.StoreRequest(item=document(lock)))
        with pytest.raises(AccessDenied):
            await here.sign()
        with pytest.raises(AccessDenied):
            await here.name()


async def test_labels_of_the_registered_host_decide(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        await register(here.auth, labels={"env": "lab"})
        with pytest.raises(AccessDenied):
            await here.sign()


async def test_a_user_who_is_gone_is_nobody(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        admin = await here.auth.admin()
        await here.auth.call(admin, routes.REMOVE["user"], m.ExpelRequest(name="ann"))
        with pytest.raises(AccessDenied):
            await here.sign()


async def test_a_second_factor_that_is_due_is_asked_for_first(tmp_path: Path) -> None:
    async with site(tmp_path, require_session_mfa=True) as here:
        with pytest.raises(AccessDenied):
            await here.sign()


async def at_proxies(here: Site) -> None:
    """The cluster's setting, as if the configuration said so."""
    config = SessionRecordingConfig(spec=RecordingSpec(mode=RecordingMode.PROXY))
    key = CLUSTER_SETTINGS + "session-recording-config"
    await here.auth.service.state.commit([PutOp(key, to_json(config))], events=[])


async def own_node(here: Site) -> str:
    """A host with a node service, labelled as the registered one is."""
    node = await here.auth.host(SystemRole.NODE, name="own")
    said = Server(
        metadata=Metadata(name=node.host_id, labels={"env": "prod"}),
        spec=ServerSpec(hostname="own", addr="127.0.0.1:3022"),
    )
    await here.auth.call(node, routes.HEARTBEAT, m.HeartbeatRequest(item=document(said)))
    return node.host_id


async def test_where_proxies_record_nodes_see_what_the_user_is(tmp_path: Path) -> None:
    """Threat T06: nothing that the user's certificate is bound to is lost on the way."""
    async with site(tmp_path) as here:
        node = await own_node(here)
        with pytest.raises(NotFound):
            await here.name(node=node)
        await at_proxies(here)
        here.host_key = await here.name(node=node)
        signed = parse_certificate_line((await here.sign()).ssh_cert)
        authority = await here.auth.service.state.authority("user")
        trusted = TrustedSSHAuthority(
            AuthorityKind.USER, CLUSTER, tuple(PublicKey.parse(line) for line in authority.trusted_ssh_keys)
        )
        now = here.auth.clock.now()
        before = verify_user_cert(parse_certificate_line(here.line).blob, (trusted,), now)
        after = verify_user_cert(signed.blob, (trusted,), now)
        assert after.recorded_by == here.proxy.host_id
        assert after.logins == ("root",)
        assert (after.expires - now).total_seconds() == 300
        assert (after.login_expires, after.login_serial) == (before.expires, before.serial)
        same = ("name", "cluster", "roles", "traits", "route_to_cluster", "source_ip", "mfa_device", "active_requests")
        assert [getattr(after, name) for name in same] == [getattr(before, name) for name in same]
        [made] = await here.auth.events("cert.create", where=lambda event: event.get("factor") == "proxy")
        assert (made["renewed_from"], made["serial"]) == (before.serial, after.serial)
        await here.auth.call(
            await here.auth.admin(), routes.REVOKE_CERT, m.RevokeCertRequest(serial=before.serial, message="stolen")
        )
        with pytest.raises(AccessDenied):
            await here.sign()
        locks = await here.auth.service.state.locks()
        assert {lock.spec.target.serial for lock in locks} == {before.serial, after.serial}


async def test_what_a_proxy_got_for_a_user_is_no_way_to_auth(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        node = await own_node(here)
        await at_proxies(here)
        here.host_key = await here.name(node=node)
        signed = await here.sign()
        assert signed.host_id == node
        assert "BEGIN" not in signed.ssh_cert  # no TLS certificate comes with it
        again = here.request()
        with pytest.raises(TeleportError):  # and it is not what a user proves
            await here.sign(msgspec.structs.replace(again, certificate=signed.ssh_cert))


async def test_only_proxies_speak_for_hosts(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        callers = [await here.auth.admin(), await here.auth.user("bob", ["prod"])]
        callers += [await here.auth.host(role) for role in (SystemRole.NODE, SystemRole.AUTH, SystemRole.KUBE)]
        for caller in callers:
            with pytest.raises(AccessDenied):
                await here.sign(who=caller)
            with pytest.raises(AccessDenied):
                await here.name(caller)


async def test_a_name_is_shown_for_registered_hosts_only(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        node = await here.auth.host(SystemRole.NODE, name="own")
        said = Server(metadata=Metadata(name=node.host_id), spec=ServerSpec(hostname="own", addr="127.0.0.1:3022"))
        await here.auth.call(node, routes.HEARTBEAT, m.HeartbeatRequest(item=document(said)))
        for host in (node.host_id, here.proxy.host_id, str(uuid4()), "web", "*", ""):
            with pytest.raises(NotFound):
                await here.name(node=host or "x")
        key = generate_ed25519()
        asked = m.OpensshNameRequest(host_id=here.node, public_key=key.public.line(""))
        shown = await here.auth.call(here.proxy, routes.OPENSSH_NAME, asked)
        body = parse_certificate_line(shown.ssh_cert).body
        assert set(body.principals) == {
            here.node, f"{here.node}.{here.auth.service.state.cluster}", "web",
            f"web.{here.auth.service.state.cluster}", "192.0.2.9",
        }  # fmt: skip
        assert body.key_id == here.proxy.host_id  # it is the proxy's, and stands for that host nowhere else
        with pytest.raises(BadRequest):  # a key is for one host
            await here.auth.call(here.proxy, routes.OPENSSH_NAME, asked)


async def test_a_node_service_does_not_take_the_place_of_a_registered_host(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        node = await here.auth.host(SystemRole.NODE, host_id=here.node, name="web")
        said = Server(metadata=Metadata(name=node.host_id), spec=ServerSpec(hostname="web", addr="127.0.0.1:3022"))
        with pytest.raises(AccessDenied):
            await here.auth.call(node, routes.HEARTBEAT, m.HeartbeatRequest(item=document(said)))
        own = await here.auth.host(SystemRole.NODE, name="own")
        claims = Server(
            sub_kind="openssh",
            metadata=Metadata(name=own.host_id),
            spec=ServerSpec(hostname="own", addr="127.0.0.1:22"),
        )
        with pytest.raises(AccessDenied):
            await here.auth.call(own, routes.HEARTBEAT, m.HeartbeatRequest(item=document(claims)))
        with pytest.raises(BadRequest):  # nor does somebody register the host of a node service
            await here.auth.call(await here.auth.admin(), routes.STORE["node"], m.StoreRequest(item=document(claims)))


async def test_registering_again_keeps_the_host(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        first = await register(auth)
        again = await register(auth, addr="192.0.2.10:2222", labels={})
        assert (again.host_id, again.renewed) == (first.host_id, True)
        found = await auth.call(await auth.admin(), routes.GET["node"], m.GetRequest(name=first.host_id))
        shown = msgspec.json.decode(bytes(found.item))
        assert shown["sub_kind"] == "openssh"
        assert shown["spec"]["addr"] == "192.0.2.10:2222"
        assert shown["metadata"]["labels"] == {"env": "prod"}
        assert "expires" not in shown["metadata"] or shown["metadata"]["expires"] is None
        for who in (await auth.host(SystemRole.PROXY), await auth.user("bob", ["editor"])):
            request = m.RegisterOpensshRequest(
                hostname="x", addr="192.0.2.1:22", host_key=generate_ed25519().public.line("")
            )
            with pytest.raises(AccessDenied):
                await auth.call(who, routes.REGISTER_OPENSSH, request)


@pytest.mark.parametrize(
    "fields",
    [
        {"hostname": "a b"}, {"hostname": "$(reboot)"}, {"hostname": ""}, {"addr": "192.0.2.9"}, {"addr": ""},
        {"host_id": "web"}, {"host_id": "../../x"}, {"labels": {"a\nb": "c"}},
    ],
)  # fmt: skip
async def test_what_is_no_host_is_not_registered(tmp_path: Path, fields: dict[str, object]) -> None:
    async with running_auth(tmp_path) as auth:
        with pytest.raises(TeleportError):
            await register(auth, **fields)


async def test_a_key_that_is_none_is_not_certified(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        asked = m.SignHostRequest(principals=["x"], public_key=generate_ed25519().public.line(""))
        certified = await auth.call(await auth.admin(), routes.SIGN_HOST, asked)
        for key in ("", "ssh-rsa AAAA", certified.ssh_cert):
            with pytest.raises((CertificateRefused, TeleportError)):
                await register(auth, host_key=key)


async def test_an_older_cluster_gets_the_authority_at_its_next_start(tmp_path: Path) -> None:
    from teleport.auth.cluster.bootstrap import bootstrap
    from teleport.backend.interface import DeleteOp
    from teleport.store import records

    async with running_auth(tmp_path) as auth:
        state = auth.service.state
        former = await state.authority("openssh")
        assert former.spec.active_keys.ssh
        assert not former.spec.active_keys.tls
        await state.commit([DeleteOp(records.authority_key("openssh", state.cluster))], events=[])
        assert not await bootstrap(state, ())
        made = await state.authority("openssh")
        assert made.trusted_ssh_keys != former.trusted_ssh_keys
        await bootstrap(state, ())
        assert (await state.authority("openssh")).trusted_ssh_keys == made.trusted_ssh_keys


async def test_the_authority_is_rotated_when_it_is_named(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        admin, node = await auth.admin(), await register(auth)
        before = (await auth.service.state.authority("openssh")).trusted_ssh_keys
        host_before = await auth.service.state.authority("host")
        plan = await auth.call(admin, routes.ROTATION_PLAN, m.RotationPlanRequest(types=["openssh"]))
        assert [row.subject for row in plan.left_behind] == [node.host_id]
        for phase in ("init", "update_clients", "update_servers", "standby"):
            await auth.call(
                admin,
                routes.ROTATE,
                m.RotateRequest(types=["openssh"], phase=phase, mode="manual", grace_period=3600, force=True),
            )
            told = (await register(auth)).bundle
            now = (await auth.service.state.authority("openssh")).trusted_ssh_keys
            assert told.count("user-ca ") == len(now)
        assert now != before
        assert len(now) == 1
        assert await auth.service.state.authority("host") == host_before  # the pin stays
        reply = await auth.call(
            admin, routes.ROTATE, m.RotateRequest(types=[], phase="init", mode="manual", grace_period=3600)
        )
        assert {one.kind for one in reply.authorities} == {"user", "host", "jwt"}


async def test_a_proxy_tells_of_hosts_without_a_daemon_and_of_no_others(tmp_path: Path) -> None:
    async with site(tmp_path) as here:
        node = await here.auth.host(SystemRole.NODE, name="own")
        joined = HostRecord(host_id=node.host_id, roles=["Node"], joined=here.auth.clock.now())
        proxy = HostRecord(host_id=here.proxy.host_id, roles=["Proxy"], joined=here.auth.clock.now())
        for record in (joined, proxy):
            await here.auth.service.state.commit([PutOp(HOSTS + record.host_id, record.encode())], events=[])

        def line(emitter: str, epoch: int, server: str) -> m.IntakeRequest:
            event = new_event(
                SessionStart,
                here.auth.clock.now(),
                str(uuid4()),
                cluster_name=CLUSTER,
                sid=str(uuid4()),
                server_id=server,
            )
            chained, _ = ChainState(ChainKey(emitter, epoch)).append(event)
            return m.IntakeRequest(emitter=emitter, epoch=epoch, lines=[chained.decode()])

        with pytest.raises(AccessDenied, match="another server"):
            await here.auth.call(here.proxy, routes.INTAKE, line(here.proxy.host_id, 1, node.host_id))
        with pytest.raises(AccessDenied, match="another server"):
            await here.auth.call(node, routes.INTAKE, line(node.host_id, 1, here.node))
        await here.auth.call(here.proxy, routes.INTAKE, line(here.proxy.host_id, 1, here.node))
        for no_host in (f"x/{node.host_id}", "n" * 1500):  # what is told of sessions is kept under the host's id
            with pytest.raises(AccessDenied, match="another server"):
                await here.auth.call(here.proxy, routes.INTAKE, line(here.proxy.host_id, 3, no_host))
        # what comes late, of a host that was removed meanwhile, holds up nothing
        await here.auth.call(await here.auth.admin(), routes.REMOVE["node"], m.ExpelRequest(name=here.node))
        await here.auth.call(here.proxy, routes.INTAKE, line(here.proxy.host_id, 2, here.node))
