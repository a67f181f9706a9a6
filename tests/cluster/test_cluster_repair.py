"""`teleport repair` on the auth host: refused while the daemon runs, and a way back in while it is down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.testing.cluster import BIN, PASSWORD, Cluster, Person, Ran, plain_environment, run


@pytest.fixture
def lost(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster of its own, whose daemon the test stops and starts."""
    with Cluster(tmp_path / "lost") as cluster:
        yield cluster


def repair(cluster: Cluster, *arguments: str) -> Ran:
    return run(
        BIN / "teleport", "repair", f"--config={cluster.config_path}", *arguments,
        environment=plain_environment(cluster.folder),
    )  # fmt: skip


EMPTIED = "kind: role\nversion: v3\nmetadata: {name: editor}\nspec: {allow: {logins: [nobody]}}\n"


def test_an_administrator_gets_back_in(lost: Cluster, login: str) -> None:
    eve = lost.add_person("eve", roles=["editor"], logins=[login])
    eve.log_in()
    running = repair(lost, "--admin=eve")
    assert (running.status, "a daemon uses data_dir" in running.stderr) == (4, True), running
    locks = [
        lost.tctl("lock", *what, "--force", "--format=json").json()[0]["name"]
        for what in (("--user=eve",), ("--role=editor",), ("--login=x",))
    ]
    lost.tctl("create", "-f", "--confirm", "-", stdin=EMPTIED).ok()
    assert eve.tsh("ls").status != 0
    lost.daemon.stop()

    epoch = (lost.data_dir / "epoch").read_text()
    found = repair(lost).ok().stdout
    assert "nobody may edit roles; to make somebody an administrator: teleport repair --admin=NAME" in found
    assert f"lock {locks[0]} on user: eve; to remove it: teleport repair --remove-lock={locks[0]}" in found
    assert "preset roles that are missing or were changed: editor" in found
    assert repair(lost, "--remove-lock=nothing").status == 3
    assert repair(lost, "--logins=x").status == 2

    repair(lost, f"--remove-lock={locks[2]}").ok()
    done = repair(lost, "--restore-roles", "--remove-locks", "--admin=eve").ok().stdout
    assert "The role editor is as it was at first." in done
    url = next(line for line in done.splitlines() if line.startswith("https://"))
    after = repair(lost).ok().stdout
    assert "users who may edit roles: eve" in after
    assert "lock" not in after
    assert (lost.data_dir / "epoch").read_text() == epoch, "it is no run of the daemon"

    lost.daemon.start()
    eve.tsh("logout").ok()
    where = (f"--proxy={lost.web_address}", "--user=eve", f"--ca-pin={lost.ca_pin()}")
    assert eve.tsh("login", *where, stdin=f"{PASSWORD}\n{eve.code()}\n").status == 5, "the old password has ended"
    again = Person(lost, "eve", lost.folder / "homes" / "eve-again")
    again.accept(url)
    again.log_in()
    identity = again.home / "identity.pem"
    lost.tctl("auth", "sign", "--user=eve", "--format=file", f"--out={identity}").ok()
    lost.tctl("users", "ls", f"--identity={identity}").ok()
    told = [set(event["what"]) for event in lost.events("--type=cluster.repaired")]
    removed = {f"lock {name} removed" for name in locks[:2]}
    assert told == [
        {f"lock {locks[2]} removed"},
        {"role editor restored", "user eve made an administrator", *removed},
    ]
    assert lost.events("--type=cluster.repaired")[0]["actor"]["unix_user"]
    assert len(lost.events("--type=lock.deleted")) == 3
    lost.tctl("audit", "verify").ok()


@pytest.mark.long
def test_a_user_who_is_not_there_is_made(lost: Cluster, login: str) -> None:
    lost.daemon.stop()
    done = repair(lost, "--admin=nora", f"--logins={login}").ok().stdout
    url = next(line for line in done.splitlines() if line.startswith("https://"))
    lost.daemon.start()
    nora = Person(lost, "nora", lost.folder / "homes" / "nora")
    nora.accept(url)
    nora.log_in()
    nora.tsh("ssh", f"{login}@alpha", "true").ok()


def test_where_no_auth_service_is_there_is_nothing_to_repair(tmp_path: Path) -> None:
    config = tmp_path / "teleport.yaml"
    config.write_text(f"teleport: {{data_dir: {tmp_path / 'data'}}}\n")
    done = run(BIN / "teleport", "repair", f"--config={config}", environment=plain_environment(tmp_path))
    assert done.status == 3, done
    assert not (tmp_path / "data").exists(), "asking makes nothing"
