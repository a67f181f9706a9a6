"""`tsh login`, `status`, `logout`, `env`, `accept` as scripts: what is typed, exit status, what is shown and kept."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.cli.tsh_runner import PROGRAM, Tsh

from teleport.pki.keys import generate_p256
from teleport.pki.sshcert import UserCertRequest, issue_user_cert
from teleport.testing.terminal import Terminal
from teleport.testing.web_lab import CODE, PASSWORD, TOKEN, TOTP_SECRET, WebLab

ANSWERS = f"{PASSWORD}\n{CODE}\n"


@pytest.fixture
def tsh(tmp_path: Path) -> Tsh:
    return Tsh(tmp_path)


def logged_in(tsh: Tsh, lab: WebLab) -> Tsh:
    ran = tsh("login", f"--proxy={lab.address}", "--user=alice", f"--ca-pin={lab.cluster.pin}", stdin=ANSWERS)
    assert ran.status == 0, ran.stderr
    return tsh


def test_a_script_logs_in_by_pin_and_sees_who_it_is(tsh: Tsh, lab: WebLab) -> None:
    ran = tsh("login", f"--proxy={lab.address}", "--user=alice", f"--ca-pin={lab.cluster.pin}", stdin=ANSWERS)
    assert ran.status == 0
    assert re.search(
        r"> Profile URL: +https://127.0.0.1:\d+\n  Logged in as: +alice\n  Cluster: +lab.test\n", ran.stdout
    )
    assert "valid for 11h59m" in ran.stdout or "valid for 12h" in ran.stdout
    assert PASSWORD not in ran.stdout + ran.stderr
    again = tsh("login", f"--proxy={lab.address}")
    assert (again.status, again.stdout) == (0, ran.stdout) or "valid for 11h59m" in again.stdout
    assert len(lab.auth.logins) == 1, "with a valid login nothing is asked"

    shown = tsh("status", "--format=json")
    (profile,) = json.loads(shown.stdout)["profiles"]
    assert (profile["username"], profile["roles"], profile["logins"]) == ("alice", ["access"], ["root", "ubuntu"])
    assert profile["active"]
    assert not profile["expired"]


def test_flags_may_stand_before_the_command_and_beat_the_variables(tsh: Tsh, lab: WebLab) -> None:
    ran = tsh(
        f"--proxy={lab.address}", "login", f"--ca-pin={lab.cluster.pin}", "--user=alice",
        stdin=ANSWERS, TELEPORT_USER="bob", TELEPORT_PROXY="nowhere.invalid",
    )  # fmt: skip
    assert ran.status == 0, ran.stderr
    assert lab.auth.logins[-1].user == "alice"


def test_without_pin_and_terminal_an_unknown_certificate_ends_it(tsh: Tsh, lab: WebLab) -> None:
    before = len(lab.auth.logins)
    ran = tsh("login", f"--proxy={lab.address}", "--user=alice", stdin=f"y\n{ANSWERS}")
    assert ran.status == 6
    assert re.search(r"fingerprint sha256:[0-9a-f]{64}", ran.stderr)
    assert "--ca-pin" in ran.stderr
    assert len(lab.auth.logins) == before
    assert not tsh.home.exists()


def test_at_a_terminal_the_fingerprint_is_asked_once_and_the_password_is_not_shown(tsh: Tsh, lab: WebLab) -> None:
    command = [*PROGRAM, "login", f"--proxy={lab.address}", "--user=alice"]
    with Terminal(command, tsh.environment()) as terminal:
        terminal.expect(r"fingerprint is sha256:[0-9a-f]{64}")
        terminal.expect(r"\[y/N\]")
        terminal.type("y\n")
        terminal.expect("Password of alice: ")
        terminal.type(f"{PASSWORD}\n")
        terminal.expect("One-time code: ")
        terminal.type(f"{CODE}\n")
        terminal.expect("Logged in as: +alice")
        assert PASSWORD.encode() not in terminal.shown
    assert 'proxy_trust: "sha256:' in (tsh.home / "127.0.0.1.yaml").read_text()
    assert tsh("ls", "--format=names").status == 0, "remembered"


@pytest.mark.parametrize("answer", ["n", "", "yess"])
def test_anything_but_yes_is_no(tsh: Tsh, lab: WebLab, answer: str) -> None:
    with Terminal([*PROGRAM, "login", f"--proxy={lab.address}", "--user=alice"], tsh.environment()) as terminal:
        terminal.expect(r"\[y/N\]")
        terminal.type(f"{answer}\n")
        terminal.expect("did not prove who it is")
    assert not tsh.home.exists()


def test_a_failed_login_keeps_nothing_and_is_told_in_one_sentence(tsh: Tsh, lab: WebLab) -> None:
    ran = tsh(
        "login", f"--proxy={lab.address}", "--user=alice", f"--ca-pin={lab.cluster.pin}", stdin=f"wrong\n{CODE}\n"
    )
    assert (ran.status, ran.stdout) == (5, "")
    assert ran.stderr == (
        "tsh: the user name, the password or the code is wrong\n"
        "  hint: try again; when a password or a device is lost, an administrator makes a link: tctl users reset NAME\n"
    )
    assert not tsh.home.exists()


def test_nobody_to_ask_is_an_error_and_no_endless_wait(tsh: Tsh, lab: WebLab) -> None:
    ran = tsh("login", f"--proxy={lab.address}", "--user=alice", f"--ca-pin={lab.cluster.pin}")
    assert ran.status == 2
    assert "there is nobody to ask for: Password of alice" in ran.stderr


def test_insecure_is_refused_with_the_way_that_works(tsh: Tsh) -> None:
    ran = tsh("login", "--proxy=127.0.0.1:1", "--insecure")
    assert ran.status == 2
    assert "--ca-pin" in ran.stderr


def test_credentials_are_written_where_asked_and_the_profile_is_left_alone(tsh: Tsh, lab: WebLab) -> None:
    login = ["login", f"--proxy={lab.address}", "--user=alice", f"--ca-pin={lab.cluster.pin}", "--out=id"]
    ran = tsh(*login, stdin=ANSWERS)
    assert (ran.status, ran.stdout) == (0, "")
    assert stat.S_IMODE((tsh.folder / "id").stat().st_mode) == 0o600
    assert not tsh.home.exists()
    before = (tsh.folder / "id").read_bytes()
    again = tsh(*login, stdin=ANSWERS)
    assert again.status == 4
    assert (tsh.folder / "id").read_bytes() == before
    assert tsh(*login, "--overwrite", stdin=ANSWERS).status == 0
    assert (tsh.folder / "id").read_bytes() != before
    listed = tsh("-i", "id", f"--proxy={lab.address}", "ls", "--format=names")
    assert listed.status == 0, listed.stderr
    assert tsh("login", "-i", "id", f"--proxy={lab.address}").status == 2


def old_certificate(lab: WebLab) -> str:
    """One that ended in the billionth second."""
    request = UserCertRequest(generate_p256().public, "alice", ("root",), ("access",), timedelta(hours=1))
    began = datetime.fromtimestamp(1_000_000_000 - 3600, UTC)
    return issue_user_cert(request, lab.cluster.user.ssh_signer(), "lab.test", began).line()


def test_status_fails_without_a_login_and_after_its_end(tsh: Tsh, lab: WebLab) -> None:
    assert tsh("status").status == 1
    logged_in(tsh, lab)
    (certificate,) = (tsh.home / "keys").rglob("*-cert.pub")
    certificate.write_text(old_certificate(lab) + "\n")
    ran = tsh("status")
    assert ran.status == 1
    assert "[EXPIRED]" in ran.stdout
    assert "tsh login --proxy=" in ran.stderr
    listed = tsh("ls")
    assert listed.status == 5
    assert "your login expired at 2001-09-09 01:46:40 UTC" in listed.stderr


def test_errors_are_one_json_object_where_json_was_asked_for(tsh: Tsh) -> None:
    ran = tsh("ls", "--format=json")
    assert (ran.status, ran.stdout) == (5, "")
    assert json.loads(ran.stderr) == {
        "code": "access_denied",
        "message": "you are not logged in",
        "hint": "tsh login --proxy=HOST",
    }


def test_logging_out_takes_both_flags_or_neither(tsh: Tsh, lab: WebLab) -> None:
    logged_in(tsh, lab)
    assert tsh("logout", f"--proxy={lab.address}").status == 2
    assert tsh("logout", f"--proxy={lab.address}", "--user=bob").status == 1
    assert (tsh.home / "keys").exists()
    assert tsh("logout", f"--proxy={lab.address}", "--user=alice").status == 0
    assert [path for path in tsh.home.rglob("*") if path.is_file()] == []
    logged_in(tsh, lab)
    (tsh.home / "notes.txt").write_text("mine")
    assert tsh("logout").status == 0
    assert [path.name for path in tsh.home.rglob("*")] == ["notes.txt"]


def test_env_is_read_by_a_shell(tsh: Tsh, lab: WebLab) -> None:
    logged_in(tsh, lab)
    script = f"{tsh('env').stdout}echo $TELEPORT_PROXY $TELEPORT_CLUSTER\n{tsh('env', '--unset').stdout}env"
    plain = {name: value for name, value in os.environ.items() if not name.startswith("TELEPORT_")}
    ran = subprocess.run(["sh", "-eu"], input=script, capture_output=True, text=True, check=True, env=plain)
    assert ran.stdout.startswith(f"{lab.address} lab.test\n")
    assert "TELEPORT_" not in ran.stdout.split("\n", 1)[1]


# --- invitations


def test_an_invitation_is_accepted_by_a_script(tsh: Tsh, lab: WebLab) -> None:
    lab.auth.finished.clear()
    url = f"https://{lab.address}/web/invite/{TOKEN}"
    ran = tsh("accept", url, f"--ca-pin={lab.cluster.pin}", stdin=ANSWERS)
    assert ran.status == 0, ran.stderr
    assert f"Secret: {TOTP_SECRET}\n" in ran.stdout
    assert "█" in ran.stdout
    assert ran.stdout.endswith(f"tsh login --proxy={lab.address} --user=alice --ca-pin={lab.cluster.pin}\n")
    (finished,) = lab.auth.finished
    assert (finished.token, finished.password, finished.otp_token) == (TOKEN, PASSWORD, CODE)
    assert PASSWORD not in ran.stdout + ran.stderr


def test_the_link_may_come_from_stdin_so_that_it_is_in_no_list_of_processes(tsh: Tsh, lab: WebLab) -> None:
    link = f"https://{lab.address}/web/reset/{TOKEN}\n"
    assert tsh("accept", "-", f"--ca-pin={lab.cluster.pin}", stdin=link + ANSWERS).status == 0


def test_a_short_password_is_refused_before_it_is_sent(tsh: Tsh, lab: WebLab) -> None:
    lab.auth.finished.clear()
    ran = tsh("accept", f"https://{lab.address}/web/invite/{TOKEN}", f"--ca-pin={lab.cluster.pin}", stdin="short\n1\n")
    assert (ran.status, lab.auth.finished) == (2, [])
    assert "at least 12 characters" in ran.stderr


def test_at_a_terminal_a_wrong_code_is_asked_again_and_nothing_typed_is_shown(tsh: Tsh, lab: WebLab) -> None:
    lab.auth.finished.clear()
    command = [*PROGRAM, "accept", f"https://{lab.address}/web/invite/{TOKEN}", f"--ca-pin={lab.cluster.pin}"]
    with Terminal(command, tsh.environment()) as terminal:
        terminal.expect("Secret: ")
        for text in (PASSWORD, "another password of mine"):
            terminal.expect(": $")
            terminal.type(f"{text}\n")
        terminal.expect("not the same")
        for question in ("New password", "The same again"):
            terminal.expect(question)
            terminal.type(f"{PASSWORD}\n")
        terminal.expect("One-time code: ")
        terminal.type("000000\n")
        terminal.expect("the code is wrong")
        terminal.expect("One-time code: ")
        terminal.type(f"{CODE}\n")
        terminal.expect("Done")
        assert PASSWORD.encode() not in terminal.shown
    assert len(lab.auth.finished) == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://proxy/web/invite/abcdefgh12",
        "https://proxy/web/invite/",
        "https://u:p@proxy/web/invite/abcdefgh12",
        "https://proxy/web/invite/abcdefgh12/../x",
        "https://proxy/web/invite/abcdefgh12?x=1",
        "https:///web/invite/abcdefgh12",
    ],
)
def test_what_is_no_invitation_is_refused_without_repeating_it(tsh: Tsh, url: str) -> None:
    ran = tsh("accept", url)
    assert ran.status == 2
    assert "abcdefgh12" not in ran.stdout + ran.stderr
