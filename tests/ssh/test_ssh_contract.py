"""Guards what this package assumes about asyncssh: each sharp edge of `traps.md` that a release could move.

A failure after an upgrade means: read the new code, then change `teleport.ssh`, never the test alone.
"""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from pathlib import Path

import asyncssh
import pytest
from asyncssh.channel import SSHChannel, SSHServerChannel
from asyncssh.connection import SSHConnection, SSHServerConnection
from asyncssh.constants import MSG_CHANNEL_OPEN, MSG_CHANNEL_REQUEST, MSG_GLOBAL_REQUEST
from asyncssh.encryption import GCMEncryption
from asyncssh.packet import String

from teleport.authz.channel_table import AskedKind
from teleport.pki.keys import generate_ed25519
from teleport.pki.sshformat import SSHCertificate, parse_certificate
from teleport.ssh import channels, packets, server_connection
from teleport.ssh.handlers import ConnectionHandler
from teleport.ssh.server import HostKey, SshServer
from teleport.ssh.surface import CIPHERS, Refusal, ServerLimits, Surface
from teleport.testing.lab_certificates import Authorities, LabUser
from teleport.testing.running import listener

SURFACE = Surface(frozenset({"session"}), frozenset({"exec"}), frozenset({"keepalive@openssh.com"}))


class Gate:
    """Remembers what it was asked, and lets nobody in."""

    def __init__(self) -> None:
        self.admitted: list[tuple[str, bytes]] = []
        self.failures: list[str] = []

    async def admit(self, login: str, certificate: bytes) -> ConnectionHandler | Refusal:
        self.admitted.append((login, certificate))
        return Refusal("Not today.")

    def failed(self, login: str, reason: str) -> None:
        self.failures.append(reason)


class Serving:
    """A server whose gate can be looked at."""

    def __init__(self, limits: ServerLimits | None = None) -> None:
        self.gate = Gate()
        self.limits = limits
        self.key = generate_ed25519()

    async def __aenter__(self) -> int:
        made = await SshServer.create([HostKey(self.key.openssh_pem().reveal())], SURFACE, limits=self.limits)
        sock = listener()
        loop = asyncio.get_running_loop()
        self.server = await loop.create_server(lambda: made.connection(lambda _: self.gate), sock=sock)
        return int(sock.getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self.server.close()


async def attempt(port: int, login: str, **options: object) -> str:
    """Tries to log in with asyncssh's own client; gives the banners it saw."""
    banners: list[str] = []

    class Client(asyncssh.SSHClient):
        def auth_banner_received(self, msg: str, lang: str) -> None:
            banners.append(msg)

    settings: dict[str, object] = {"config": None, "known_hosts": None, "agent_path": None, "client_keys": None}
    with pytest.raises((asyncssh.PermissionDenied, asyncssh.DisconnectError, asyncssh.ConnectionLost)):
        await asyncssh.connect("127.0.0.1", port, username=login, client_factory=Client, **(settings | options))
    return "".join(banners)


def pair(user: LabUser, certificate: SSHCertificate | None = None) -> tuple[object, object]:
    line = (certificate or user.certificate).line()
    return asyncssh.import_private_key(user.key.openssh_pem().reveal()), asyncssh.import_certificate(line)


async def test_nothing_but_a_proved_certificate_reaches_the_gate() -> None:
    """No password, no keyboard, no `none`, no plain key; the refusal of the gate is shown as a banner."""
    user = Authorities().user(["root"])
    serving = Serving()
    async with serving as port:
        await attempt(port, "root", password="x", kbdint_auth=True)
        await attempt(port, "root", client_keys=[pair(user)[0]])
        assert serving.gate.admitted == []
        async with asyncio.timeout(10):
            while not serving.gate.failures:  # noqa: ASYNC110 # told once the client has given up
                await asyncio.sleep(0)
        assert serving.gate.failures == ["a certificate is needed: This is not an SSH certificate."]
        assert await attempt(port, "root", client_keys=[pair(user)]) == "Not today.\r\n"
        assert serving.gate.admitted == [("root", user.certificate.blob)]


async def test_a_certificate_that_was_only_offered_leaves_no_trace() -> None:
    """Threat T08: the gate sees the proved key only. The client here knows no private key for the other one."""
    mine, other = Authorities().user(["root"]), Authorities().user(["root"])
    serving = Serving()

    async with serving as port:
        key, _ = pair(mine)
        _, foreign = pair(other)
        with pytest.raises(ValueError):
            await attempt(port, "root", client_keys=[(key, foreign)])
        assert await attempt(port, "root", client_keys=[pair(mine)]) == "Not today.\r\n"
    assert [blob for _, blob in serving.gate.admitted] == [mine.certificate.blob]


async def test_asyncssh_verdict_on_a_certificate_is_never_asked() -> None:
    """Empty principals and critical options are the gate's business: asyncssh would let the first in as anyone."""
    source = inspect.getsource(server_connection.ServerConnection.validate_public_key)
    assert "super()" not in source
    certificate = Authorities().user(["root"]).certificate
    assert parse_certificate(certificate.blob).body.principals == ("root",)
    assert server_connection.ServerConnection.validate_public_key is not SSHServerConnection.validate_public_key


async def test_authentication_attempts_are_limited() -> None:
    """Trap T-6: the connection ends after a few failures."""
    users = [Authorities().user(["root"]) for _ in range(6)]
    serving = Serving(ServerLimits(authentication_attempts=3))
    async with serving as port:
        await attempt(port, "root", client_keys=[pair(user) for user in users])
    assert len(serving.gate.admitted) < 3  # asyncssh's client also tries no method, and each key without certificate
    assert serving.gate.failures[-1] == "too many attempts"


async def test_a_silent_client_is_cut_off() -> None:
    """The login has a time limit, from the first byte on."""
    serving = Serving(ServerLimits(login_seconds=0.2))
    async with serving as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(10):
            assert (await reader.read()).startswith(b"SSH-2.0-Teleport")
        writer.close()


def test_our_handlers_are_in_asyncsshs_dispatch_tables() -> None:
    """asyncssh calls packet handlers by a table of functions; an overridden method that is not in it never runs."""
    connection, session = server_connection.ServerConnection, channels.ServerSessionChannel
    assert connection._packet_handlers[MSG_CHANNEL_OPEN] is connection._process_channel_open
    assert connection._packet_handlers[MSG_GLOBAL_REQUEST] is connection._process_global_request
    assert session._packet_handlers[MSG_CHANNEL_REQUEST] is session._process_request
    assert set(SSHConnection._packet_handlers) == set(connection._packet_handlers)
    assert set(SSHChannel._packet_handlers) == set(session._packet_handlers)


@pytest.mark.parametrize("name", ["shell", "exec", "subsystem", "pty_req", "env", "signal", "break", "window_change"])
def test_session_requests_are_answered_by_our_own_methods(name: str) -> None:
    """Traps T-1 and T-2: asyncssh's versions take a coroutine for a yes and read options of unproved keys."""
    own = getattr(channels.ServerSessionChannel, f"_process_{name}_request")
    assert own is not getattr(SSHServerChannel, f"_process_{name}_request")
    assert not inspect.iscoroutinefunction(own)


def test_the_parts_that_are_replaced_still_exist() -> None:
    """Private names that `teleport.ssh` overrides or calls; a rename would silently bring asyncssh's own back."""
    for cls, names in (
        (
            SSHServerConnection,
            "_finish_userauth send_userauth_failure send_userauth_success validate_public_key _process_session_open "
            "_process_direct_tcpip_open _process_channel_open _process_global_request _service_next_global_request "
            "_send _send_version _force_close _cleanup send_packet internal_error public_key_auth_supported "
            "password_auth_supported kbdint_auth_supported host_based_auth_supported gss_kex_auth_supported "
            "gss_mic_auth_supported send_auth_banner pause_writing resume_writing",
        ),
        (
            SSHServerChannel,
            "_process_request _service_next_request _report_response _flush_send_buf write _close_send "
            "_pause_resume_writing process_open _finish_open_request",
        ),
    ):
        for name in names.split():
            assert hasattr(cls, name), f"{cls.__name__}.{name}"
    cipher = inspect.getsource(GCMEncryption)
    assert "encrypt_and_sign(header, packet)" in cipher


def test_the_chaff_that_is_left_out_serves_ciphers_that_are_not_offered() -> None:
    """asyncssh's ignore packets protect CBC; without CBC they only cost."""
    assert not any("cbc" in name for name in CIPHERS)
    assert String(b"") == packets._EMPTY


def test_callbacks_return_real_bools() -> None:
    """Trap T-2: everything that takes time is a coroutine awaited by us, never handed to asyncssh as an answer."""
    from teleport.node.session_channel import SessionChannelHandler
    from teleport.proxy.connection import _SubsystemSession

    for cls in (SessionChannelHandler, _SubsystemSession):
        for name in ("environment", "terminal", "signalled", "broke", "resized"):
            assert not inspect.iscoroutinefunction(getattr(cls, name)), f"{cls.__name__}.{name}"
        assert inspect.iscoroutinefunction(cls.start)


def test_importing_the_package_searches_for_no_library() -> None:
    """`find_library` costs 50 ms and starts other programs; the search for liboqs is answered without it."""
    script = (
        "import ctypes.util\nasked=[]\nreal=ctypes.util.find_library\n"
        "ctypes.util.find_library=lambda name:(asked.append(name),None)[1]\n"
        "counting=ctypes.util.find_library\nimport teleport.ssh\n"
        "assert ctypes.util.find_library is counting, 'not restored'\nprint(asked)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_of_the_user_is_read(tmp_path: Path) -> None:
    """`config=None` and explicit keys: a hostile ~/.ssh/config has no effect."""
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Ciphers none\nThisIsNoOption x\n")
    script = (
        "import asyncio\nfrom teleport.ssh.client_connection import ClientKey, KeepAlive, client_options\n"
        "from teleport.testing.lab_certificates import Authorities\n"
        "u=Authorities().user(['root'])\n"
        "async def main():\n"
        "  o=client_options('h','root',ClientKey(u.key.openssh_pem().reveal(),u.certificate.line()),KeepAlive(1,1))\n"
        "  assert o.agent_path is None\n"
        "  assert [k.algorithm for k in o.client_keys]==[b'ecdsa-sha2-nistp256-cert-v01@openssh.com']\n"
        "asyncio.run(main())\n"
    )
    environment = {"HOME": str(tmp_path), "SSH_AUTH_SOCK": "/nonexistent", "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_asked_kinds_are_all_covered_by_the_surface() -> None:
    """`Surface.offers` answers for every kind."""
    for kind in AskedKind:
        assert SURFACE.offers(kind, "nonsense") is False
