"""What the daemon says when it is ready: commands that can be typed as they stand."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

from teleport.daemon.welcome import Welcome, welcome_text

PIN = "sha256:" + "ab" * 32
ALL = Welcome("example.com", "alpha", ("auth", "proxy", "node"), (PIN,), "proxy.example.com:3080", has_users=False)


def text_of(facts: Welcome) -> str:
    return welcome_text(facts, tctl="tctl -c t.yaml", tsh="tsh", login="ubuntu")


def commands(text: str) -> list[list[str]]:
    return [shlex.split(line) for line in text.splitlines() if re.match(r" {5}\S", line)]


def test_the_first_start_leads_to_the_first_user() -> None:
    text = text_of(ALL)
    assert text.startswith("The cluster example.com is ready: auth, proxy, node on alpha.\n")
    assert "https://proxy.example.com:3080" in text
    assert f"CA pin:       {PIN}" in text
    assert re.findall(r"^(\d)\.", text, re.MULTILINE) == ["1", "2", "3", "4"]
    typed = commands(text)
    assert typed[0] == [
        "tctl", "-c", "t.yaml", "users", "add", "ubuntu", "--roles=access,editor", "--logins=ubuntu"
    ]  # fmt: skip
    assert ["tsh", "login", "--proxy=proxy.example.com:3080", "--user=ubuntu", f"--ca-pin={PIN}"] in typed
    assert ["ssh", "-F", "teleport.ssh", "ubuntu@alpha.example.com"] in typed
    assert text.endswith("\n")


def test_with_users_only_the_way_in_is_said() -> None:
    text = text_of(replace(ALL, has_users=True))
    assert "users add" not in text
    assert re.findall(r"^(\d)\.", text, re.MULTILINE) == ["1", "2"]


def test_every_pin_is_shown_while_there_are_two() -> None:
    other = "sha256:" + "cd" * 32
    text = text_of(replace(ALL, pins=(PIN, other)))
    assert PIN in text
    assert other in text


def test_a_host_without_auth_or_proxy_says_only_what_it_is() -> None:
    assert text_of(Welcome("c", "n1", ("node",), (), "", has_users=True)) == "The cluster c is ready: node on n1.\n"
    alone = text_of(replace(ALL, web="", roles=("auth",)))
    assert "Web address" not in alone
    assert "--proxy" not in alone
    behind = text_of(Welcome("c", "p1", ("proxy",), (), "p.example.com:443", has_users=True))
    assert behind.splitlines() == ["The cluster c is ready: proxy on p1.", "  Web address:  https://p.example.com:443"]
