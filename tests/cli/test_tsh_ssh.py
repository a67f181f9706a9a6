"""`tsh ssh` and `tsh config` against a real proxy and node, with OpenSSH's client where plain ssh is promised."""

from __future__ import annotations

import asyncio
import getpass
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.cli.tsh_runner import PROGRAM, Ran, Tsh

from teleport.client import keystore, known_hosts, profile
from teleport.client.access import from_profile
from teleport.client.home import Home
from teleport.client.keystore import KeyFiles
from teleport.client.profile import Profile
from teleport.client.ssh_config import openssh_arguments, openssh_block, proxy_subsystem
from teleport.client.webapi import Signer
from teleport.errors import BadRequest
from teleport.identity import SystemRole
from teleport.launcher import LauncherEnd
from teleport.launcher.client import Launcher
from teleport.pki.keys import generate_p256
from teleport.pki.x509cert import new_tls_authority, pem_of
from teleport.testing.launching import forked_launcher
from teleport.testing.running import wait_until
from teleport.testing.ssh_lab import Lab, running_lab
from teleport.testing.terminal import Terminal

ME = getpass.getuser()


@pytest.fixture
def launcher_end() -> Iterator[LauncherEnd]:
    """Forked before the test's loop; ended with every session when the test is over."""
    with forked_launcher() as end:
        yield end


@pytest.fixture
def tsh(tmp_path: Path) -> Tsh:
    folder = tmp_path / "a home"  # with a blank, as people have them
    folder.mkdir()
    return Tsh(folder)


def log_in(tsh: Tsh, lab: Lab, *, logins: tuple[str, ...] = (ME,), signer: str = "") -> None:
    """Puts into the home what a login would."""
    home, key = Home(tsh.home), generate_p256()
    user = lab.authorities.user(logins, key=key)
    cluster = lab.authorities.cluster
    signers = (
        Signer(
            cluster,
            (signer or lab.authorities.host_key.public.line(),),
            (pem_of(new_tls_authority(cluster, generate_p256(), datetime.now(UTC))).decode(),),
        ),
    )
    files = KeyFiles("127.0.0.1", "alice")
    keystore.write_keys(
        home,
        files,
        key_pem=key.pkcs8_pem(),
        public_line=key.public.line(),
        ssh=user.certificate.line(),
        tls="unused here",
        cluster=cluster,
    )
    keystore.write_authorities(home, files, signers)
    own = known_hosts.proxy_lines(signers, "127.0.0.1", lab.proxy_port, cluster)
    known_hosts.update(home, "127.0.0.1", own, known_hosts.cluster_lines(signers), ())
    address = f"127.0.0.1:{lab.proxy_port}"
    profile.save(home, Profile("127.0.0.1", "127.0.0.1:3080", address, "alice", cluster, cluster))


async def run(tsh: Tsh, *arguments: str, stdin: str = "") -> Ran:
    return await asyncio.to_thread(lambda: tsh(*arguments, stdin=stdin))


async def test_output_errors_input_and_exit_status_come_through(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        ran = await run(tsh, "ssh", f"{ME}@node1", "cat; echo err >&2; exit 3", stdin="in\n")
        assert (ran.status, ran.stdout, ran.stderr) == (3, "in\n", "err\n")
        assert bytes(lab.recordings.all[0].stdout) == b"in\n"
        zero = await run(tsh, "ssh", "-l", ME, "--cluster=lab.test", "node1.lab.test", "true")
        assert (zero.status, zero.stdout, zero.stderr) == (0, "", "")


async def test_large_input_and_output_are_whole(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    """From a pipe and from a file, which an event loop cannot wait for."""
    text = "0123456789abcde\n" * 200_000
    (tsh.folder / "input").write_text(text)
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        assert (await run(tsh, "ssh", f"{ME}@node1", "cat", stdin=text)).stdout == text
        with (tsh.folder / "input").open("rb") as file:
            ran = await asyncio.to_thread(
                subprocess.run,
                [*PROGRAM, "ssh", f"{ME}@node1", "wc", "-c"],
                stdin=file,
                capture_output=True,
                env=tsh.environment(),
                timeout=60,
                check=False,
            )
    assert ran.stdout.split() == [str(len(text)).encode()]


async def test_flags_behind_the_host_belong_to_the_command(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        assert (await run(tsh, "ssh", f"{ME}@node1", "echo", "-l", "x", "--help")).stdout == "-l x --help\n"
        assert (await run(tsh, "ssh", f"{ME}@node1", "--", "echo", "--", "x")).stdout == "-- x\n", "as with ssh"


async def test_death_by_signal_is_told_and_gives_255(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        ran = await run(tsh, "ssh", f"{ME}@node1", "kill -TERM $$")
    assert (ran.status, ran.stderr) == (255, "tsh: the command was ended by signal TERM\n")


async def test_a_shell_has_the_terminal_its_size_its_changes_and_its_keys(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)

        def person() -> None:
            command = [*PROGRAM, "ssh", f"{ME}@node1"]
            with Terminal(command, tsh.environment(), columns=91, rows=17) as terminal:
                terminal.type("PS1=ready'> '\n")
                terminal.expect("ready> ")
                terminal.type("stty size\n")
                terminal.expect("17 91")
                # a key that comes before there is a process in the foreground interrupts nothing
                terminal.type("sh -c 'echo be\"\"gun; exec sleep 1000'; echo interrupted=$?\n")
                terminal.expect("begun\r\n")
                terminal.type("\x03")  # raw: the key reaches the remote side and does not end tsh
                terminal.expect(r"\^C[^>]*ready> ")
                terminal.resize(64, 20)
                terminal.type("until stty size | grep '20 64'; do :; done\n")
                terminal.expect("20 64\r")
                terminal.type("exit 7\n")
                assert terminal.ended() == 7

        await asyncio.to_thread(person)
        assert (64, 20) in lab.recordings.all[0].sizes


async def test_a_command_gets_a_terminal_only_when_asked(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)

        def ask(*options: str) -> bytes:
            with Terminal([*PROGRAM, "ssh", *options, f"{ME}@node1", "tty; true"], tsh.environment()) as terminal:
                assert terminal.ended() == 0
                return terminal.shown

        assert b"not a tty" in await asyncio.to_thread(ask)
        assert b"/dev/pts/" in await asyncio.to_thread(ask, "-t")
        assert b"/dev/pts/" in await asyncio.to_thread(ask, "-o", "RequestTTY=yes")
        piped = await run(tsh, "ssh", "-t", f"{ME}@node1", "true")
        assert (piped.status, piped.stderr) == (0, "tsh: no terminal is asked for, because stdin is none\n")


async def test_escape_sequences_act_here_at_the_start_of_a_line(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    """Help, the list, a suspended tsh that goes on, the character itself, and the end; nothing of it reaches the host
    but what is sent."""
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)

        def person() -> None:
            command = ["sh", "-ic", " ".join(map(shlex.quote, [*PROGRAM, "ssh", f"{ME}@node1"])) + "; fg; echo s=$?"]
            with Terminal(command, tsh.environment()) as terminal:
                terminal.type("PS1=ready'> '\n")
                terminal.expect("ready> ")
                terminal.type("~?")
                terminal.expect("Escape sequences, at the start of a line")
                terminal.type("~#")
                terminal.expect("Open over this connection:\r\n  0 session\r\n")
                terminal.type("echo a~.b\n")  # not at the start of a line
                terminal.expect(r"a~\.b\r\n.*a~\.b\r\n.*ready> ")
                terminal.type("~~twice\n")
                terminal.expect("~twice")
                terminal.expect("ready> ")
                terminal.type("~\x1a")
                terminal.type("echo back=$((1+1))\n")
                terminal.expect("back=2")
                terminal.expect("ready> ")
                terminal.type("printf '\\033[?1049h\\033[?25l\\033[?1000h'; sleep 100\n")
                terminal.expect(r"\x1b\[\?1000h")
                terminal.type("\n~.")
                terminal.expect(r"\x1b\[\?1000l.*\x1b\[\?1049l.*\x1b\[\?25h")
                terminal.expect("s=255")
                assert terminal.ended() == 0

        await asyncio.to_thread(person)
        await lab.events.wait_for("session.end")


async def test_a_program_that_is_killed_leaves_the_terminal_as_it_was(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    """Its host ends it, by a lock for example, and it cannot tidy up."""
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)

        def person() -> bytes:
            remote = r"printf '\033[?1049h\033[?25l'; kill -KILL $$"
            with Terminal([*PROGRAM, "ssh", "-t", f"{ME}@node1", remote], tsh.environment()) as terminal:
                assert terminal.ended() == 255
                return terminal.shown

        shown = await asyncio.to_thread(person)
    assert shown.index(b"\x1b[?1049l\x1b[?25h") < shown.index(b"ended by signal KILL")


@pytest.mark.parametrize("hop", ["node", "proxy"])
async def test_a_lost_link_names_the_hop_and_leaves_the_terminal_as_it_was(
    launcher_end: LauncherEnd, tsh: Tsh, hop: str
) -> None:
    """The alternate screen is left, the cursor is there, echo works again."""
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        shown = asyncio.Event()
        loop = asyncio.get_running_loop()
        words = [*map(shlex.quote, [*PROGRAM, "ssh", "-t", f"{ME}@node1"])]
        remote = "'printf \"\\033[?1049h\\033[?25lshown\"; sleep 100'"
        script = f"{' '.join(words)} {remote}; stty -a; echo s=$?"

        def person() -> bytes:
            with Terminal(["sh", "-c", script], tsh.environment()) as terminal:
                terminal.expect(r"\x1b\[\?25lshown")
                loop.call_soon_threadsafe(shown.set)
                terminal.expect("s=0")
                return terminal.shown

        typing = asyncio.create_task(asyncio.to_thread(person))
        await asyncio.wait([typing, asyncio.create_task(shown.wait())], return_when=asyncio.FIRST_COMPLETED)
        cut_connections(lab, hop)
        text = (await typing).decode()
    said = {
        "node": f"tsh: the connection between the proxy 127.0.0.1:{lab.proxy_port} and the host node1 was lost",
        "proxy": f"tsh: the connection to the proxy 127.0.0.1:{lab.proxy_port} was lost",
    }[hop]
    assert said in text
    assert "\x1b[?1049l\x1b[?25h" in text
    assert text.index("\x1b[?25h") < text.index(said)
    assert " echo " in text
    assert " icanon " in text


def cut_connections(lab: Lab, hop: str) -> None:
    """As a network that fails: sockets are closed, nobody says goodbye."""
    port = lab.node_port if hop == "node" else lab.proxy_port
    cut = 0
    for transport in list(asyncio.get_running_loop()._transports.values()):  # type: ignore[attr-defined]
        name = transport.get_extra_info("sockname")
        if isinstance(name, tuple) and name[1] == port and transport.get_extra_info("peername"):
            transport.abort()
            cut += 1
    assert cut


async def test_a_subsystem_nothing_of_stdin_and_variables(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        assert (await run(tsh, "ssh", "-n", f"{ME}@node1", "cat", stdin="lost\n")).stdout == ""
        ran = await run(tsh, "ssh", "-o", "SetEnv=LC_SEEN=yes", f"{ME}@node1", "echo $LC_SEEN")
        assert ran.stdout == "yes\n"
        refused = await run(tsh, "ssh", "-s", f"{ME}@node1", "nonsense")
    assert refused.status == 255
    assert refused.stderr


async def test_a_command_on_many_hosts_fails_where_it_fails(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    """Lines behind names, one summary, a status that says so; and an interruption ends what runs."""
    from teleport.client.many import Host, Many

    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        access = from_profile(Home(tsh.home), "", "", "", datetime.now(UTC))
        lines: list[tuple[str, bytes, bool]] = []
        hosts = [Host("node1", "node1"), Host("gone", "gone")]

        def show(host: Host, line: bytes, is_stderr: bool) -> None:
            lines.append((host.shown, line, is_stderr))

        many = Many(hosts, ME, 0, "echo out; echo err >&2; printf end", {}, show)
        assert await many.run(access, datetime.now(UTC), 2) == 255
        assert sorted(lines) == [("node1", b"end", False), ("node1", b"err", True), ("node1", b"out", False)]
        assert many.outcomes[hosts[0]].good
        assert many.summary().startswith("2 hosts: 1 done, 1 failed: gone (No node gone is registered")
        both = Many([hosts[0], Host("again", str(lab.node_host.host_id))], ME, 0, "exit 3", {}, show)
        assert await both.run(access, datetime.now(UTC), 1) == 3
        assert both.summary() == "2 hosts: 0 done, 2 failed: node1 (exit 3); again (exit 3)"

        lines.clear()
        long = Many([hosts[0]], ME, 0, "echo begun; exec sleep 1000", {}, show)
        running = asyncio.create_task(long.run(access, datetime.now(UTC), 2))
        await wait_until(lambda: bool(lines))
        os.kill(os.getpid(), signal.SIGINT)
        await running
        assert long.interrupted
        assert not long.outcomes[hosts[0]].good
        await lab.events.wait_for("session.end", 4)


async def test_who_reads_our_output_may_leave(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        command = f"{' '.join(map(repr, PROGRAM))} ssh {ME}@node1 yes | head -n 1"
        ran = await asyncio.to_thread(
            subprocess.run, ["sh", "-c", command], env=tsh.environment(), capture_output=True, timeout=60, check=False
        )
        await lab.events.wait_for("session.end")
    assert (ran.stdout, ran.stderr) == (b"y\n", b"")


async def test_a_refused_login_is_a_sentence_and_255(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    """Done-when 5. What the certificate cannot give is said without connecting."""
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        ran = await run(tsh, "ssh", "nobody@node1", "id")
        assert ran.status == 255
        assert ran.stderr.startswith(f"tsh: you may not log in as nobody: your roles give you {ME}\n")
        lab.rules.role = type(lab.rules)(["somebody-else"]).role
        refused = await run(tsh, "ssh", f"{ME}@node1", "id")
    assert (refused.status, refused.stdout) == (255, "")
    assert refused.stderr.startswith(f"tsh: Your roles do not allow the login '{ME}' on this host.")


async def test_an_unknown_host_is_refused_with_the_nearest_names(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        ran = await run(tsh, "ssh", f"{ME}@node2", "id")
    assert ran.status == 255
    assert "No node node2 is registered" in ran.stderr
    assert "node1" in ran.stderr


async def test_a_proxy_of_another_authority_never_sees_the_certificate_used(
    launcher_end: LauncherEnd, tsh: Tsh
) -> None:
    """Threat T01, client side."""
    from teleport.pki.keys import generate_ed25519

    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab, signer=generate_ed25519().public.line())
        ran = await run(tsh, "ssh", f"{ME}@node1", "id")
        assert not lab.events.all
    assert ran.status == 255
    assert "the proxy at 127.0.0.1 did not prove who it is" in ran.stderr


async def test_a_node_is_no_proxy(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    """Threat T02: a host certificate counts for its own role only."""
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        ran = await run(tsh, f"--proxy=127.0.0.1:3080,{lab.node_port}", "ssh", f"{ME}@node1", "id")
    assert ran.status == 255
    assert "shows the certificate of a Node, not of a Proxy" in ran.stderr


async def test_a_host_that_is_not_the_one_asked_for_is_refused(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    """The proxy may lead anywhere: the host has to prove the name."""
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        lab.directory.registered[0] = replace(lab.directory.registered[0], hostname="other")
        ran = await run(tsh, "ssh", f"{ME}@other", "id")
    assert ran.status == 255
    assert "the host other did not prove who it is" in ran.stderr


def test_a_login_that_expired_is_said_before_connecting(tsh: Tsh) -> None:
    """Exit status as for every failed connection, and the command that helps."""
    from teleport.pki.sshcert import UserCertRequest, issue_user_cert
    from teleport.testing.lab_certificates import Authorities

    authorities, key = Authorities(), generate_p256()
    request = UserCertRequest(key.public, "alice", (ME,), ("access",), timedelta(hours=1))
    old = issue_user_cert(request, authorities.user_key, "lab.test", datetime(2020, 1, 1, tzinfo=UTC))
    home = Home(tsh.home)
    home.write(old.line().encode(), *KeyFiles("127.0.0.1", "alice").ssh("lab.test"))
    profile.save(home, Profile("127.0.0.1", "127.0.0.1:3080", "127.0.0.1:1", "alice", "lab.test", "lab.test"))
    ran = tsh("ssh", "node1", "id")
    assert ran.status == 255
    assert ran.stderr == (
        "tsh: your login expired at 2020-01-01 01:00:00 UTC\n  hint: tsh login --proxy=127.0.0.1:3080 --user=alice\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-J", "x"], "is not available yet"),
        (["-L", "nonsense"], "-L 'nonsense' is not [bind:]port:host:hostport"),
        (["-D", "1:2:3"], "-D '1:2:3' is not [bind:]port"),
        (["-A"], "no SSH agent runs here"),
        (["-o", "ForwardAgent=yes"], "no SSH agent runs here"),
        (["-X"], "there is no X display here"),
        (["--local"], "--local needs a command"),
        (["-s"], "-s needs the name of a subsystem"),
        (["-t", "-T"], "-t and -T ask for opposite things"),
        (["-e", "abc"], "is no escape character"),
        (["-o", "ProxyJump=x"], "is no option of tsh\n  hint: there are AddKeysToAgent, BatchMode, "),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_asked(tsh: Tsh, arguments: list[str], said: str) -> None:
    ran = tsh("ssh", *arguments, "root@node1")
    assert ran.status == 2
    assert said in ran.stderr


def test_host_keys_are_always_checked(tsh: Tsh) -> None:
    ran = tsh("ssh", "-o", "StrictHostKeyChecking=no", "root@node1")
    assert ran.status == 2
    assert "hosts always prove who they are" in ran.stderr


# --- plain ssh


async def test_plain_ssh_runs_commands_with_the_printed_configuration(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    """Done-when 1: from a file of its own, with strict checking, and nothing of ours on the path."""
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        printed = await run(tsh, "config")
        assert printed.status == 0
        assert "tsh " not in printed.stdout.replace("tsh config", "")
        config = tsh.folder.parent / "ssh_config"  # ssh -J cannot take a path with a blank
        config.write_text(printed.stdout)
        for command in (
            ["ssh", "-F", str(config)],
            ["ssh", "-F", str(config), "-J", f"{ME}@127.0.0.1:{lab.proxy_port}"],
        ):
            ran = await asyncio.to_thread(
                subprocess.run,
                [*command, "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", f"{ME}@node1.lab.test", "exit 3"],
                env=tsh.environment(),
                capture_output=True,
                timeout=60,
                check=False,
            )
            assert (ran.returncode, ran.stdout, ran.stderr.decode()) == (3, b"", ""), command


async def test_config_proxy_is_a_proxy_command(launcher_end: LauncherEnd, tsh: Tsh) -> None:
    async with running_lab(Launcher(launcher_end)) as lab:
        log_in(tsh, lab)
        block = (await run(tsh, "config")).stdout
        program = " ".join(f"'{word}'" if " " in word or ";" in word else word for word in PROGRAM)
        lines = [
            f"    ProxyCommand {program} config-proxy --login=%r --proxy=127.0.0.1 %h:%p"
            if "ProxyCommand" in line
            else line
            for line in block.splitlines()
        ]
        config = tsh.folder / "ssh_config"
        config.write_text("\n".join(lines) + "\n")
        ran = await asyncio.to_thread(
            subprocess.run,
            ["ssh", "-F", str(config), "-o", "BatchMode=yes", f"{ME}@node1.lab.test", "exit 4"],
            env=tsh.environment(),
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert (ran.returncode, ran.stderr) == (4, b"")


def test_the_suffix_of_the_cluster_is_taken_off() -> None:
    assert proxy_subsystem("node1.main:3022", "main") == "proxy:node1:3022@main"
    assert proxy_subsystem("node1:22", "main") == "proxy:node1:22@main"
    for bad in ("node1", "a b:22", "-o:22", "x;y:22"):
        with pytest.raises(BadRequest):
            proxy_subsystem(bad, "main")


def test_a_folder_that_openssh_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    from teleport.client.ssh_config import OpenSSHPaths

    strange = tmp_path / 'a"b'
    with pytest.raises(BadRequest, match="cannot be written into"):
        openssh_block("p", ("p", 3023), "main", OpenSSHPaths(strange, strange, strange))


def test_the_inner_ssh_reads_no_configuration_and_takes_no_option_from_names() -> None:
    from teleport.client.ssh_config import OpenSSHPaths

    path = Path("/x")
    arguments = openssh_arguments(("proxy", 3023), "root", "proxy:a:1@c", OpenSSHPaths(path, path, path))
    assert arguments[:3] == ["ssh", "-F", "none"]
    assert arguments[-3:] == ["--", "proxy", "proxy:a:1@c"]
    assert "StrictHostKeyChecking=yes" in arguments


async def test_the_right_role_is_asked_of_each(launcher_end: LauncherEnd) -> None:
    """The lab's own parts have the roles that the tests above rely on."""
    async with running_lab(Launcher(launcher_end)) as lab:
        assert lab.authorities.verify_host(lab.node_host.certificate).role is SystemRole.NODE
        assert lab.authorities.verify_host(lab.proxy_host.certificate).role is SystemRole.PROXY
