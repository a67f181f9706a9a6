"""`teleport ports` as it is typed; tests/cluster/test_cluster_ports.py runs a cluster behind what it prints."""

from __future__ import annotations

import json
import socket
from pathlib import Path

from teleport.cli.teleport import ports as command
from teleport.cli.teleport.command import teleport
from teleport.testing.commands import Ran, run_command

NODE = """teleport: {{data_dir: {folder}, auth_servers: ['{server}']}}
auth_service: {{enabled: no}}
proxy_service: {{enabled: no}}
"""


def run(folder: Path, server: str, *arguments: str) -> Ran:
    file = folder / "teleport.yaml"
    file.write_text(NODE.format(folder=folder, server=server))
    return run_command(teleport, "teleport", "ports", "-c", str(file), *arguments)


def test_text_names_each_port_with_whom_and_why(tmp_path: Path) -> None:
    out = run(tmp_path, "auth.example.com:3025", "--offline").ok().out
    inbound, _, outbound = out.partition("Outbound")
    assert "tcp 3022" in inbound
    assert "proxies" in inbound
    assert "tcp 3025 auth.example.com" in outbound


def test_a_host_joins_as_it_did_the_last_time(tmp_path: Path) -> None:
    """A port that says nothing of itself: how the host joined is kept in its directory."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "door").write_text("proxy p.example.com 8443\n")
    found = json.loads(run(tmp_path, "p.example.com:8443", "--offline", "--format=json").ok().out)
    assert not [one for one in found["ports"] if one["direction"] == "in"]
    assert [one["port"] for one in found["ports"] if not one["only_if"] and one["port"] != 53] == [8443, 3024]
    assert "3024" in found["notes"][0]


def test_a_proxy_that_cannot_be_asked_is_said(tmp_path: Path) -> None:
    """On stderr, so that what nft reads stays clean."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # taken, and nobody listens
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc" / "door").write_text(f"proxy 127.0.0.1 {bound.getsockname()[1]}\n")
        ran = run(tmp_path, f"127.0.0.1:{bound.getsockname()[1]}", "--format=nft").ok()
    assert "3024 is taken" in ran.err
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        (tmp_path / "proc" / "door").unlink()
        assert "it is taken for auth itself" in run(tmp_path, f"127.0.0.1:{bound.getsockname()[1]}").ok().err
    assert ran.out.startswith("# ")
    assert ran.out.endswith("}\n")


def test_mistakes_are_refused(tmp_path: Path) -> None:
    assert run_command(teleport, "teleport", "ports", "-c", str(tmp_path / "none")).status == 3
    assert run(tmp_path, "a:1", "--format=xml").status == 2


def test_name_servers_are_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# nameserver 9.9.9.9\nsearch x\nnameserver 10.0.0.1\nnameserver\nnameserver fd01::1\n" * 3)
    assert command._name_servers(file) == ("10.0.0.1", "fd01::1")
    assert command._name_servers(tmp_path / "none") == ()
