"""A backup taken under load restores elsewhere: people log in, hosts come back, what was spent stays spent (T59).

One story, told by real daemons and real clients: a cluster with a second host, sessions running, join tokens and an
invitation outstanding. It is backed up, killed, and restored on other ports; then everybody comes.
"""

from __future__ import annotations

import getpass
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from teleport.testing.cluster import NODE, PASSWORD, Cluster, Host, Person, Ran, at, wait_until

ME = getpass.getuser()


@dataclass
class Story:
    """What the tests look at."""

    before: Cluster
    after: Cluster
    other: Host  # the second host
    backup: Path
    key: Path  # the private key that opens it
    secret: str  # of a join token that was outstanding
    invitation: str
    person: Person
    pin: str = ""
    ran: int = 0  # sessions on the second host, before and after the backup


def opened(cluster: Cluster, key: Path, *words: str | Path) -> Ran:
    return cluster.tctl("backup", *words, f"--key-file={key}", seconds=60)


@contextmanager
def load(person: Person, host: str) -> Iterator[list[int]]:
    """Short sessions, one after the other, while the block runs; how many have ended."""
    over, ended = threading.Event(), [0]

    def run() -> None:
        while not over.is_set():
            person.ssh(f"{ME}@{host}.{person.cluster.name}", "echo load").ok()
            ended[0] += 1

    thread = threading.Thread(target=run, name="load")
    thread.start()
    try:
        yield ended
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    folder = tmp_path_factory.mktemp("backup")
    key = folder / "backup.key"
    before = Cluster(folder / "before")
    with before, ExitStack() as stack:
        person = before.add_person("vera", logins=[ME])
        person.log_in()
        token = before.tctl("tokens", "add", "--type=node", "--format=json").json()["token"]
        invitation = before.tctl("users", "add", "ines", "--roles=access", "--format=json").json()["url"]
        other = Host(folder / "other", before.node_config("beta", auth_token=token, ca_pin=before.ca_pin()))
        other.daemon.start()
        stack.push(lambda kind, error, trace: other.daemon.abandon() if kind is not None else None)
        wait_until("beta is reached", lambda: person.ssh(f"{ME}@beta.{before.name}", "true").status == 0)
        pin = before.ca_pin()
        backup = folder / "cluster.backup"
        public = before.tctl("backup", "keygen", "-o", key).ok().stdout.strip()
        waiting = subprocess.Popen(
            person.ssh_arguments(f"{ME}@{NODE}.{before.name}", "echo in; exec sleep 60"),
            env=person.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert waiting.stdout is not None
        waiting.stdout.readline()
        with load(person, "beta") as ended:
            wait_until("some load", lambda: ended[0] > 0)
            before.tctl("backup", "create", backup, f"--recipient={public}").ok()
            at_backup = ended[0]
            wait_until("load goes on", lambda: ended[0] > at_backup)
        with waiting:
            waiting.kill()
    other.daemon.stop()  # auth is gone: what it has to tell of waits in its spool, behind events that are lost
    after = Cluster(folder / "after")
    made = Story(before, after, other, backup, key, token, invitation, person, pin=pin, ran=ended[0])
    return made


def test_a_backup_is_proved_and_every_flipped_bit_or_missing_end_is_told(story: Story) -> None:
    done = opened(story.before, story.key, "verify", story.backup, "--format=json").json()
    assert (done["ok"], done["problems"], done["cluster"], done["ca_pins"]) == (
        True,
        [],
        story.before.name,
        [story.pin],
    )
    assert done["resources"]["user"] == 2
    assert done["recordings"] >= 1
    assert story.backup.stat().st_mode & 0o777 == 0o600
    assert story.key.stat().st_mode & 0o777 == 0o600
    whole = story.backup.read_bytes()
    hurt = story.backup.with_name("hurt")
    for changed in (
        whole[: len(whole) // 2] + bytes([whole[len(whole) // 2] ^ 1]) + whole[len(whole) // 2 + 1 :],
        whole[:-1] + bytes([whole[-1] ^ 1]),
        whole[:-1],
        whole[: len(whole) // 2],
        whole + b"\0",
    ):
        hurt.write_bytes(changed)
        refused = opened(story.before, story.key, "verify", hurt)
        assert (refused.status, refused.stdout, "is damaged behind" in refused.stderr) == (1, "", True), refused
    assert PASSWORD.encode() not in whole
    assert b"PRIVATE KEY" not in whole


def test_it_is_restored_elsewhere_and_everybody_comes_back(story: Story) -> None:
    """People with their password, hosts with their identity; nothing that was spent or outstanding, and no session."""
    after = story.after
    wrong = Cluster(story.backup.parent / "wrong", name="other.test")
    refused = opened(wrong, story.key, "restore", story.backup)
    assert (refused.status, "so it cannot change" in refused.stderr) == (2, True)
    assert not wrong.data_dir.exists()
    done = opened(after, story.key, "restore", story.backup, "--format=json").json()
    assert done["sessions_ended"] >= 1
    assert (done["left_out"]["join tokens"], done["left_out"]["links of invitations and resets"]) == (1, 1)
    assert done["unknown"] == {}
    again = opened(after, story.key, "restore", story.backup)
    assert (again.status, "is not empty" in again.stderr) == (4, True)
    with after:
        assert after.ca_pin() == story.pin
        person = Person(after, "vera", story.person.home)
        person.totp_secret, person._last_period = story.person.totp_secret, story.person._last_period + 1
        assert person.tsh("ls").status != 0, "its login was with the old proxy"
        person.log_in()
        story.other.config["teleport"]["auth_servers"] = [at(after.auth_port)]
        del story.other.config["teleport"]["auth_token"]
        story.other.write()
        with story.other:
            wait_until("beta is back", lambda: person.ssh(f"{ME}@beta.{after.name}", "echo back").stdout == "back\n")
            stranger = Host(
                story.backup.parent / "stranger",
                after.node_config("stranger", auth_token=story.secret, ca_pin=story.pin),
            )
            stranger.daemon.begin()
            assert stranger.daemon.ended() == 5, stranger.daemon.log()
            after.wait_event("host.join_failed")
            token = urlsplit(story.invitation).path.rpartition("/")[2]
            assert person.tsh(
                "accept", f"--ca-pin={story.pin}", f"https://{after.web_address}/web/invite/{token}"
            ).status
            assert [one["spec"]["hostname"] for one in after.tctl("nodes", "ls", "--format=json").json()] == [
                NODE,
                "beta",
            ]
            told = after.wait_event("backup.restore")
            assert told["actor"]["unix_user"] == ME
            ended = after.wait_event("session.end", initial_command=["echo in; exec sleep 60"])
            assert ended["reason"] == "restored from a backup"
            beta = (story.other.data_dir / "host_uuid").read_text().strip()
            after.wait_event("service.stop", emitter=beta)
            starts = after.events("--type=session.start")
            ran = [one for one in starts if one["server_id"] == beta and one["initial_command"] == ["echo load"]]
            assert len(ran) == story.ran, "what came after the backup, the host still had, and delivers again"
            proved = after.tctl("audit", "verify")
            assert proved.status == 0, proved
        assert after.wait_event("backup.create")["audit"] is True
