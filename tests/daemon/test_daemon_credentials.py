"""A host's keys and certificates: private, whole after a crash at any step, renewed in time and for new names."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
import stat
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from teleport.api import messages as m
from teleport.api import routes
from teleport.api.join import Door, join_cluster
from teleport.daemon import credentials, following, identities
from teleport.daemon.config.effective import StartFlags, effective_config
from teleport.daemon.config.file import load_config
from teleport.daemon.config.values import Config
from teleport.daemon.credentials import Credentials
from teleport.daemon.following import SILENT, Follower
from teleport.daemon.host import Host
from teleport.errors import BadRequest, ConnectionProblem, TeleportError
from teleport.identity import SystemRole
from teleport.pki.keys import PrivateKey, PublicKey, generate_ed25519, generate_p256
from teleport.pki.pin import ca_pin
from teleport.pki.secret import Secret
from teleport.pki.sshcert import HostCertRequest, issue_host_cert
from teleport.pki.x509cert import HostTLSRequest, issue_host_tls, new_tls_authority, pem_of
from teleport.resources.authority import Authority, AuthorityType
from teleport.testing.auth import CLUSTER, RunningAuth, running_auth
from teleport.testing.auth import Credentials as Caller
from teleport.testing.clock import FakeClock
from teleport.transport.tls import cluster_client_context

ROLE = SystemRole.NODE


def asking(auth: RunningAuth, host_id: str, names: tuple[str, ...] = ()) -> credentials.Ask:
    async def ask(ssh_key: str, tls_key: str) -> m.HostCredentials:
        return await auth.service.local_host(host_id, "alpha", ROLE, names, ssh_key, tls_key)

    return ask


def assert_whole(found: Credentials) -> None:
    """Keys and certificates belong together, for SSH and for TLS."""
    assert found.ssh_cert.body.public_key == found.ssh_key.public
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(found.tls_cert_file, found.tls_key_file)


def same(one: Credentials | None, other: Credentials) -> bool:
    return one is not None and one.ssh_cert == other.ssh_cert and one.cluster == other.cluster


def config(folder: Path, text: str = "", *, token: str = "", pins: tuple[str, ...] = ()) -> Config:
    file = load_config(
        f"teleport:\n  data_dir: {folder}\n{text}auth_service:\n  enabled: no\nproxy_service:\n  enabled: no\n",
        "teleport.yaml",
    )
    return effective_config(file, StartFlags(token=token, ca_pins=pins or None), "alpha")


def host_in(folder: Path) -> Host:
    return Host(folder, str(uuid.uuid4()), 1, -1)


async def test_what_was_obtained_is_loaded_again_and_is_the_owners_only(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        proc, host_id = tmp_path / "data" / "proc", str(uuid.uuid4())
        assert credentials.load(proc, ROLE) is None
        assert credentials.load_cluster(proc) is None
        assert not credentials.has_any(proc)
        made = await credentials.obtain(proc, ROLE, asking(auth, host_id, ("10.1.2.3",)))
        found = credentials.load(proc, ROLE)
        assert found is not None
        assert found.ssh_cert == made.ssh_cert
        assert_whole(found)
        assert found.cluster.cluster == CLUSTER
        assert found.cluster.tls_ca_certs == auth.tls_cas
        assert [key.blob for key in found.ssh_authorities()] == [PublicKey.parse(key).blob for key in auth.ssh_cas]
        assert credentials.has_any(proc)
        assert credentials.load(proc, SystemRole.PROXY) is None
        for folder in (proc, proc / "node"):
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for name in ("ssh.key", "tls.key", "../cas.json"):
            assert stat.S_IMODE((proc / "node" / name).stat().st_mode) == 0o600
        assert sorted(path.name for path in proc.iterdir()) == ["cas.json", "node"]
        assert sorted(path.name for path in (proc / "node").iterdir()) == sorted(credentials.FILES)
        assert "PRIVATE" not in repr(found)


async def test_nothing_is_written_when_auth_refuses(tmp_path: Path) -> None:
    async def refuse(_: str, __: str) -> m.HostCredentials:
        raise ConnectionProblem("no")

    with pytest.raises(ConnectionProblem):
        await credentials.obtain(tmp_path / "proc", ROLE, refuse)
    assert not (tmp_path / "proc").exists()


def authority() -> credentials.Ask:
    """Certificates without an auth service, quickly."""
    ssh_ca, tls_ca, now = generate_ed25519(), generate_p256(), datetime.now(UTC)
    tls_ca_cert = new_tls_authority(CLUSTER, tls_ca, now)

    async def ask(ssh_key: str, tls_key: str) -> m.HostCredentials:
        host_id = str(uuid.uuid4())
        ssh = HostCertRequest(PublicKey.parse(ssh_key), host_id, ROLE, (host_id,))
        tls = HostTLSRequest(PublicKey.from_spki(tls_key.encode()), host_id, ROLE)
        return m.HostCredentials(
            cluster=CLUSTER,
            ssh_cert=issue_host_cert(ssh, ssh_ca, CLUSTER, now).line(),
            tls_cert=pem_of(issue_host_tls(tls, tls_ca_cert, tls_ca, CLUSTER, now)).decode(),
            tls_ca_certs=[pem_of(tls_ca_cert).decode()],
            ssh_ca_keys=[ssh_ca.public.line()],
            expires=now + timedelta(days=90),
        )

    return ask


class Crash(BaseException):
    """The power goes."""


class Disk:
    """Counts the operations that last; the `step`th is the last one that is done."""

    def __init__(self, ask: credentials.Ask, step: int) -> None:
        self._ask, self._step = ask, step
        self._count = 0
        self._armed = False

    async def ask(self, ssh_key: str, tls_key: str) -> m.HostCredentials:
        """Gets certificates; what is written from then on is counted."""
        granted = await self._ask(ssh_key, tls_key)
        self._armed = True
        return granted

    def _counted(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*arguments: Any, **named: Any) -> Any:
            if not self._armed:
                return real(*arguments, **named)
            self._count += 1
            if self._count > self._step:
                raise Crash
            result = real(*arguments, **named)
            if self._count == self._step:
                raise Crash
            return result

        return operation

    async def crashes(self, proc: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
        """Obtains an identity on this disk; whether that came to the crash."""
        with monkeypatch.context() as patched:
            for name in ("replace", "rename", "mkdir", "fsync", "rmdir"):
                patched.setattr(os, name, self._counted(getattr(os, name)))
            try:
                await credentials.obtain(proc, ROLE, self.ask)
            except Crash:
                return True
        return False


async def test_a_crash_at_any_step_of_a_renewal_leaves_the_old_identity_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc, ask = tmp_path / "data" / "proc", authority()
    before = await credentials.obtain(proc, ROLE, ask)
    step, outcomes, crashed = 0, set(), True
    while crashed:
        step += 1
        crashed = await Disk(ask, step).crashes(proc, monkeypatch)
        found = credentials.load(proc, ROLE)
        assert found is not None, f"lost at step {step}"
        assert_whole(found)
        outcomes.add(found.ssh_key.public == before.ssh_key.public)
        before = found
    assert outcomes == {True, False}
    assert step > 10
    assert sorted(path.name for path in proc.iterdir()) == ["cas.json", "node"]


async def test_a_crash_at_any_step_of_the_first_time_leaves_nothing_or_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, crashed, outcomes, ask = 0, True, set(), authority()
    while crashed:
        step += 1
        proc = tmp_path / str(step) / "proc"
        crashed = await Disk(ask, step).crashes(proc, monkeypatch)
        found = credentials.load(proc, ROLE)
        outcomes.add(found is None)
        if found is not None:
            assert_whole(found)
    assert outcomes == {True, False}
    assert step > 10


@pytest.mark.parametrize(
    ("name", "content"),
    [("ssh.key", b""), ("ssh.key", b"\xff"), ("ssh.cert", b"\xff\xfe"), ("ssh.cert", b"nonsense"), ("ssh.cert", b"")],
)
async def test_a_damaged_identity_is_named_with_the_way_out(tmp_path: Path, name: str, content: bytes) -> None:
    async with running_auth(tmp_path) as auth:
        proc = tmp_path / "data" / "proc"
        await credentials.obtain(proc, ROLE, asking(auth, str(uuid.uuid4())))
        (proc / "node" / name).write_bytes(content)
        with pytest.raises(TeleportError, match=r"the identity in .*node cannot be used") as caught:
            credentials.load(proc, ROLE)
        assert "join again" in caught.value.hint


async def test_the_key_of_another_identity_is_noticed(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        proc, other = tmp_path / "one", tmp_path / "two"
        for folder in (proc, other):
            await credentials.obtain(folder, ROLE, asking(auth, str(uuid.uuid4())))
        (proc / "node" / "ssh.key").write_bytes((other / "node" / "ssh.key").read_bytes())
        with pytest.raises(TeleportError, match=r"ssh\.cert is for another key"):
            credentials.load(proc, ROLE)


def test_damaged_authorities_are_named(tmp_path: Path) -> None:
    (tmp_path / "cas.json").write_text("{")
    with pytest.raises(TeleportError, match=r"cas\.json is damaged"):
        credentials.load_cluster(tmp_path)


# renewal


async def renewed_once(
    auth: RunningAuth,
    held: Credentials,
    config: Config,
    host: Host,
    clock: FakeClock,
    *,
    client: Any = None,
    expected: bool = True,
) -> list[Credentials]:
    """What a follower makes of the identity; when nothing is `expected`, within a moment."""
    found: list[Credentials] = []
    got = asyncio.Event()

    async def keep(new: Credentials) -> None:
        found.append(new)
        got.set()

    async def authorities() -> dict[AuthorityType, Authority]:
        return {kind: await auth.service.state.authority(kind) for kind in AuthorityType}

    caller = auth.async_client(_caller(held))
    async with caller:
        follower = Follower(
            host,
            ROLE,
            {ROLE: held},
            source=authorities,
            ask=identities.renewal(client or caller, config, ROLE),
            names=lambda: identities.names_of(config, ROLE),
            clock=clock,
            may=lambda: True,
            jitter=lambda: 0.0,
        )
        follower.effects = replace(SILENT, shown=keep)
        running = asyncio.create_task(follower.run(), name="renewal")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10 if expected else 0.2):
                await got.wait()
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
    return found


def _caller(held: Credentials) -> Caller:
    return Caller(held.tls_cert_file, held.tls_key_file)


@pytest.mark.parametrize(("days", "renews"), [(0, False), (59, False), (61, True), (89, True)])
async def test_certificates_are_renewed_thirty_days_before_they_expire(tmp_path: Path, days: int, renews: bool) -> None:
    async with running_auth(tmp_path) as auth:
        host = host_in(tmp_path / "data")
        held = await credentials.obtain(host.proc_dir, ROLE, asking(auth, host.host_id))
        clock = FakeClock(auth.clock.now() + timedelta(days=days))
        assert held.wants_renewal(clock.now()) is renews
        found = await renewed_once(auth, held, config(tmp_path / "data"), host, clock, expected=renews)
        assert bool(found) is renews
        if renews:
            assert found[0].ssh_key.public != held.ssh_key.public, "a renewal is for new keys"
            assert_whole(found[0])
            assert cluster_client_context(auth.tls_cas, found[0].tls_cert_file, found[0].tls_key_file)
            assert same(credentials.load(host.proc_dir, ROLE), found[0])


async def test_certificates_are_renewed_when_the_configuration_adds_a_name(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        host = host_in(tmp_path / "data")
        held = await credentials.obtain(host.proc_dir, ROLE, asking(auth, host.host_id, ("10.9.8.7",)))
        text = "ssh_service:\n  public_addr: [10.9.8.7, '[2001:DB8::0:1]:22', Alpha.Example.NET.]\n"
        wanted = identities.names_of(config(tmp_path / "data", text), ROLE)
        assert credentials.names_changed(held, wanted)
        assert not credentials.names_changed(held, ["10.9.8.7"])
        found = await renewed_once(auth, held, config(tmp_path / "data", text), host, FakeClock(auth.clock.now()))
        renewed = found[0]
        assert {"10.9.8.7", "2001:db8::1", "alpha.example.net"} <= set(renewed.principals)
        assert not credentials.names_changed(renewed, wanted), "spelling is no change: no endless renewal"


async def test_a_renewal_that_fails_keeps_the_old_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(following, "CHECK", 0.01)
    async with running_auth(tmp_path) as auth:
        host = host_in(tmp_path / "data")
        held = await credentials.obtain(host.proc_dir, ROLE, asking(auth, host.host_id))
        async with auth.async_client(_caller(held)) as real:

            class Flaky:
                failures = 2

                async def call(self, route: Any, request: Any) -> Any:
                    if self.failures:
                        self.failures -= 1
                        assert same(credentials.load(host.proc_dir, ROLE), held)
                        raise ConnectionProblem("auth is away")
                    return await real.call(route, request)

            clock = FakeClock(auth.clock.now() + timedelta(days=70))
            with caplog.at_level(logging.WARNING):
                found = await renewed_once(auth, held, config(tmp_path / "data"), host, clock, client=Flaky())
        assert len(found) >= 1
        assert caplog.text.count("could not be renewed: auth is away") == 2


# joining, as the daemon does


async def join_token(auth: RunningAuth) -> str:
    made = await auth.call(await auth.admin(), routes.ADD_TOKEN, m.AddTokenRequest(roles=["node"]))
    return str(made.token)


async def test_a_host_joins_once_and_then_needs_no_token(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        data, (address, port) = tmp_path / "host", auth.address
        host = host_in(data)
        token_file = tmp_path / "token"
        token_file.write_text(await join_token(auth) + "\n")
        text = f"  auth_servers: ['{address}:{port}']\n"
        pins = (ca_pin(auth.tls_cas[0].encode()),)
        joining = identities.Joiner(config(data, text, token=str(token_file), pins=pins), host, auth.clock)
        joined = await joining.credentials(ROLE)
        assert_whole(joined)
        assert not identities.through_proxy(host, config(data, text))
        token_file.unlink()
        again = await identities.Joiner(config(data, text), host, auth.clock).credentials(ROLE)
        assert same(again, joined)


async def test_a_host_killed_while_it_joins_joins_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Auth has it as joined, but its answer was never written down: the next run asks again, with the same keys."""

    class KilledError(BaseException):
        pass

    def killed(*arguments: Any) -> m.HostCredentials:
        join_cluster(*arguments)
        raise KilledError

    async with running_auth(tmp_path) as auth:
        data, (address, port) = tmp_path / "host", auth.address
        host = host_in(data)
        token_file = tmp_path / "token"
        token_file.write_text(await join_token(auth) + "\n")
        settings = config(data, f"  auth_servers: ['{address}:{port}']\n", token=str(token_file))
        with monkeypatch.context() as patched:
            patched.setattr(identities, "join_cluster", killed)
            with pytest.raises(KilledError):
                await identities.Joiner(settings, host, auth.clock).credentials(ROLE)
        assert len(await auth.events("host.join")) == 1
        kept = (data / "proc" / "node.new" / "ssh.key").read_bytes()
        joined = await identities.Joiner(settings, host, auth.clock).credentials(ROLE)
        assert_whole(joined)
        assert joined.ssh_key.public == PrivateKey.load(Secret(kept)).public
        assert not (data / "proc" / "node.new").exists()


@pytest.mark.parametrize(
    ("hours", "said"),
    [(1, "off by 1 h: it is ahead of"), (-1, "off by 1 h: it is behind"), (-50, "off by 2 d 2 h: it is behind")],
    ids=["ahead", "behind", "days behind"],
)
async def test_a_host_whose_clock_is_off_is_told_so_and_keeps_its_token(tmp_path: Path, hours: int, said: str) -> None:
    """With a clock so far behind, the certificates of auth are not valid yet: the reason is named, not the symptom."""
    async with running_auth(tmp_path) as auth:
        data, (address, port) = tmp_path / "host", auth.address
        token_file = tmp_path / "token"
        token_file.write_text(await join_token(auth) + "\n")
        pins = (ca_pin(auth.tls_cas[0].encode()),)
        settings = config(data, f"  auth_servers: ['{address}:{port}']\n", token=str(token_file), pins=pins)
        wrong = FakeClock(auth.clock.now() + timedelta(hours=hours))
        with pytest.raises(TeleportError, match=said) as caught:
            await identities.Joiner(settings, host_in(data), wrong).credentials(ROLE)
        assert "set the clock" in caught.value.hint
        assert await auth.events("token.used", wait_for=0) == []


async def test_a_clock_that_is_a_little_off_joins(tmp_path: Path) -> None:
    async with running_auth(tmp_path) as auth:
        data, (address, port) = tmp_path / "host", auth.address
        token_file = tmp_path / "token"
        token_file.write_text(await join_token(auth) + "\n")
        settings = config(data, f"  auth_servers: ['{address}:{port}']\n", token=str(token_file))
        almost = FakeClock(auth.clock.now() - timedelta(seconds=25))
        assert_whole(await identities.Joiner(settings, host_in(data), almost).credentials(ROLE))


async def test_without_a_token_the_error_says_how_to_get_one(tmp_path: Path) -> None:
    joiner = identities.Joiner(config(tmp_path), host_in(tmp_path), FakeClock())
    with pytest.raises(BadRequest, match="the role node needs a join token") as caught:
        await joiner.credentials(ROLE)
    assert "tctl nodes add" in caught.value.hint


async def test_joining_waits_for_an_auth_server_and_warns_once_without_a_pin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(identities, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(identities, "LONGEST_PAUSE", 0.02)
    async with running_auth(tmp_path) as auth:
        placeholder = await asyncio.start_server(lambda _, __: None, "127.0.0.1", 0)
        port = placeholder.sockets[0].getsockname()[1]
        placeholder.close()
        await placeholder.wait_closed()
        text = f"  auth_servers: ['127.0.0.1:{port}']\n"
        joiner = identities.Joiner(
            config(tmp_path / "host", text, token=await join_token(auth)), host_in(tmp_path / "host"), auth.clock
        )
        with caplog.at_level(logging.WARNING):
            joining = asyncio.create_task(joiner.credentials(ROLE), name="joining")
            async with asyncio.timeout(10):
                while "trying again" not in caplog.text:  # noqa: ASYNC110 - a log tells nobody
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.1)  # several attempts
            relay = await asyncio.start_server(lambda r, w: _relay(r, w, auth.address), "127.0.0.1", port)
            try:
                async with asyncio.timeout(20):
                    assert_whole(await joining)
            finally:
                relay.close()
        assert caplog.text.count("trying again") == 1, "the same problem is said once"
        assert caplog.text.count("without a CA pin") == 1


async def _relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: tuple[str, int]) -> None:
    far_reader, far_writer = await asyncio.open_connection(*address)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))


def test_how_auth_was_reached_is_remembered_while_the_address_is_configured(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    host.proc_dir.mkdir()
    made = config(tmp_path, "  auth_servers: ['a:3025', 'p:4443', '[::1]:443']\n")
    assert not identities.through_proxy(host, made), "as the first port says"
    identities.remember_door(host, Door("p", 4443, through_proxy=True))
    assert identities.through_proxy(host, made)
    identities.remember_door(host, Door("::1", 443, through_proxy=True))
    assert identities.through_proxy(host, made)
    identities.remember_door(host, Door("gone", 443, through_proxy=True))
    assert not identities.through_proxy(host, made)
    (host.proc_dir / "door").write_text("damaged")
    assert not identities.through_proxy(host, made)
    assert identities.through_proxy(host, config(tmp_path, "  auth_servers: ['p:3080']\n"))


def test_the_names_of_a_host_are_those_it_is_reached_by() -> None:
    text = (
        "teleport:\n  advertise_ip: 10.0.0.5\n"
        "ssh_service:\n  listen_addr: '[::]:3022'\n  public_addr: ['N1.example.com.:22', 'n1.example.com:2222']\n"
        "proxy_service:\n  public_addr: 'p.example.com:443'\n  ssh_public_addr: ['s.example.com']\n"
        "  tunnel_public_addr: [t.example.com, p.example.com]\n  kube_public_addr: k.example.com\n"
        "auth_service:\n  listen_addr: '10.0.0.6:3025'\n"
    )
    made = effective_config(load_config(text, "t.yaml"), StartFlags(), "alpha")
    assert identities.names_of(made, SystemRole.NODE) == ("n1.example.com", "10.0.0.5")
    reached_by = ("p.example.com", "s.example.com", "t.example.com", "k.example.com", "10.0.0.5")
    assert identities.names_of(made, SystemRole.PROXY) == reached_by
    assert identities.names_of(made, SystemRole.AUTH)[0] == "10.0.0.6"
    assert identities.names_of(made, SystemRole.ADMIN) == ("10.0.0.5",)
