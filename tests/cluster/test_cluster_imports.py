"""Commands that need no SSH do not load it: what they have imported, seen in `sys.modules` when they end."""

from __future__ import annotations

from pathlib import Path

import pytest

from teleport.testing.cluster import BIN, Cluster, Person, plain_environment, run

REPORT = """\
import atexit, sys
atexit.register(lambda: open({path!r}, "w").write(" ".join(sys.modules)))
from teleport.cli.{program} import main
sys.argv = [{program!r}, *{arguments!r}]
main()
"""


def imported(folder: Path, environment: dict[str, str], program: str, *arguments: str) -> set[str]:
    """The modules that a command has loaded when it ends."""
    path = folder / "modules"
    code = REPORT.format(path=str(path), program=program, arguments=list(arguments))
    run(BIN / "python", "-c", code, environment=environment).ok()
    return set(path.read_text().split())


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["ls"], ["version"]], ids=" ".join)
def test_tsh_needs_no_ssh_library_for(alice: Person, tmp_path: Path, arguments: list[str]) -> None:
    modules = imported(tmp_path, alice.environment, "tsh", *arguments)
    assert "teleport" in modules
    assert modules.isdisjoint({"asyncssh", "teleport.ssh", "aiohttp"})


@pytest.mark.parametrize("arguments", [["--help"], ["status"], ["nodes", "ls"]], ids=" ".join)
def test_tctl_needs_no_ssh_library_for(cluster: Cluster, tmp_path: Path, arguments: list[str]) -> None:
    config = [] if "--help" in arguments else ["--config", str(cluster.config_path)]
    modules = imported(tmp_path, plain_environment(tmp_path), "tctl", *config, *arguments)
    assert "teleport" in modules
    assert modules.isdisjoint({"asyncssh", "teleport.ssh", "aiohttp"})


@pytest.mark.parametrize("arguments", [["--help"], ["version"], ["start", "--help"]], ids=" ".join)
def test_teleport_needs_no_ssh_library_for(tmp_path: Path, arguments: list[str]) -> None:
    modules = imported(tmp_path, plain_environment(tmp_path), "teleport", *arguments)
    assert "teleport" in modules
    assert modules.isdisjoint({"asyncssh", "teleport.ssh", "aiohttp"})


@pytest.mark.parametrize(
    ("side", "foreign"),
    [
        ("node", ("auth", "proxy", "web")),
        ("auth", ("node", "proxy", "web")),
        ("proxy", ("auth", "node")),
    ],
    ids=["node", "auth", "proxy"],
)
def test_a_daemon_loads_nothing_of_services_that_it_does_not_run(
    tmp_path: Path, side: str, foreign: tuple[str, ...]
) -> None:
    """What a host that is only a node keeps in memory, and what an attacker of it could find there."""
    code = f"import sys, teleport.daemon.assembly, teleport.daemon.starting.{side}; print(*sys.modules)"
    modules = run(BIN / "python", "-c", code, environment=plain_environment(tmp_path)).ok().stdout.split()
    assert f"teleport.daemon.{side}_side" in modules
    assert not [name for name in modules if name.split(".")[:2] in [["teleport", one] for one in foreign]]


def test_a_node_loads_nothing_of_its_libraries_that_it_never_uses(tmp_path: Path) -> None:
    """As `teleport start` imports them. Each costs every host memory for as long as the daemon runs."""
    code = (
        "import sys, teleport.cli.teleport.daemon, teleport.transport.quick_aiohttp, teleport.daemon.assembly\n"
        "import teleport.daemon.starting.node; print(*sys.modules)"
    )
    modules = set(run(BIN / "python", "-c", code, environment=plain_environment(tmp_path)).ok().stdout.split())
    assert {"asyncssh", "aiohttp", "teleport.daemon.node_side"} <= modules
    assert not modules & {
        "click",
        "yaml",
        "aiohttp.web",
        "teleport.daemon.config.file",
        "pkcs11",
        "asn1crypto",
        "fido2",
    }
    unused = {"html.entities", "argparse", "pickle", "urllib.request", "frozenlist._frozenlist", "difflib"}
    unused |= {"decimal", "typing_extensions", "email._header_value_parser", "lzma", "bz2"}
    assert "teleport.spans" in modules
    assert not modules & {"teleport.daemon.tracing", "teleport.transport.trace_export", "teleport.wire.otlp"}
    assert not modules & (unused | {"asyncssh.sftp", "asyncssh.scp", "sqlite3", "segno", "argon2"})
