"""Keys of authorities replaced at once, as after a theft: nothing of before counts a moment later (threat T15)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from teleport.testing.cluster import Cluster, Person, wait_until


@pytest.fixture
def robbed(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "robbed") as cluster:
        yield cluster


def test_old_logins_and_pins_are_refused_at_once_and_the_auth_host_goes_on_by_itself(
    robbed: Cluster, login: str, tmp_path: Path
) -> None:
    """The node and proxy beside auth get certificates of the new keys from it, without a token or a restart; people log
    in again with the new pin; the old pin proves nothing."""
    person = robbed.add_person("rob", logins=[login])
    person.log_in()
    old = robbed.ca_pin()
    assert person.tsh("ssh", f"{login}@alpha", "echo", "before").ok().stdout == "before\n"
    robbed.tctl("auth", "rotate", "--grace-period=0").ok()
    refused = wait_until(
        "what was signed before is refused",
        lambda: ran if (ran := person.tsh("ssh", f"{login}@alpha", "echo", "old")).status else None,
        5,
    )
    # for a moment it may be the proxy's own certificate that is refused, before the proxy has followed
    for words in (("ls",), ("ssh", f"{login}@alpha", "echo", "old")):
        assert "rotation" in refused.stderr, "by whoever noticed first: tsh, the proxy or the node"
        assert "tsh login" in refused.stderr
        refused = person.tsh(*words)
        assert refused.status != 0

    status = wait_until(
        "tctl has a certificate of the new keys, too",
        lambda: ran if not (ran := robbed.tctl("status", "--format=json")).status else None,
        10,
    )
    (new,) = status.json()["ca_pins"]
    assert new != old
    elsewhere = Person(robbed, "rob", tmp_path / "elsewhere")  # where no login is known
    login_with_old = ("login", f"--proxy={robbed.web_address}", "--user=rob", f"--ca-pin={old}")

    def refused_by_its_pin() -> bool:
        again = elsewhere.tsh(*login_with_old, stdin="never sent\n")
        assert again.status != 0
        return "does not have the pin that was given" in again.stderr

    wait_until(
        "the proxy has a certificate of the new keys, and the old pin is none of the cluster", refused_by_its_pin, 10
    )
    robbed._pin = new
    person.log_in()
    assert person.tsh("ssh", f"{login}@alpha", "echo", "after").ok().stdout == "after\n"
