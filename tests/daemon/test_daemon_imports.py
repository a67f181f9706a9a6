"""A replaced process imports nothing any more: what its services import late is imported ahead."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import teleport
from teleport.daemon.imports import BY_SERVICE, EVERY

SOURCE = Path(teleport.__file__).parent
PACKAGES = {
    "auth": ("auth",),
    "proxy": ("proxy", "web", "kube"),
    "node": ("node", "recording"),
    "every": ("daemon", "api", "store", "backend", "audit", "transport", "ssh", "authz", "pki", "wire", "resources"),
}
NOT_LATE = {
    "transport/quick_aiohttp.py",  # run while it is imported
    "ssh/__init__.py",  # likewise
    "daemon/large_pages.py",  # the interpreter's own; without it memory stays in small pages
    "api/sync_client.py",  # of commands
    "transport/blocking.py",  # likewise
    "resources/role_checks.py",  # for types only
    "ssh/channels.py",  # likewise
    "daemon/config/hints.py",  # of the process that reads the configuration
    "daemon/config/__init__.py",  # likewise
    "kube/credentials.py",  # likewise
    "auth/authorities/token_keys.py",  # when it is made, where keys are in a token: `_library` loads all
    "daemon/logs.py",  # of the receivers that are configured, when logging begins: at the start
    "daemon/log_shipping/handler.py",  # likewise, in the thread of each
    "copies/places.py",  # of the places that are configured, when the service is made: at the start
    "auth/evidence/places.py",  # likewise
    "recording/s3/load.py",  # likewise
    "auth/cluster/bootstrap.py",  # while it starts, before anything is served
    "daemon/auth_side.py",  # while it starts, before anything is served
    "daemon/reaching.py",  # likewise, where auth is reached through a proxy
    "daemon/watching.py",  # likewise
    "recording/export.py",  # of commands
    "recording/indexing.py",  # a process of its own
    "backend/etcd/load.py",  # of the storage that is configured, when it is opened: at the start
    "backend/postgresql/load.py",  # likewise
    "backend/dynamodb/load.py",  # likewise
    "daemon/assembly.py",  # the services of this host, loaded before the loop runs (`import_services`)
    "daemon/starting/auth.py",  # what is configured, before auth serves
    "daemon/starting/ground.py",  # likewise, where a service keeps tunnels
    "daemon/starting/node.py",  # likewise
    "daemon/starting/proxy.py",  # likewise
}


ONLY_OF = {
    "pki/webauthn.py": "auth",
    "recording/screen/row.py": "auth",
    "ssh/brought.py": "proxy",
    "store/resolve.py": "proxy",
}  # one service's, wherever they lie
LOADED = {"codecs", "datetime", "asyncio", "cryptography", "yarl"}  # by every daemon


def late(path: Path) -> set[str]:
    """Modules that functions of this file import; those that are loaded anyway left out."""
    found: set[str] = set()
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            for node in ast.walk(function):
                if isinstance(node, ast.ImportFrom):
                    found.add(str(node.module))
                elif isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
    return {name for name in found if name.partition(".")[0] not in LOADED} - {"teleport", "teleport.api"}


@pytest.mark.parametrize("service", PACKAGES)
def test_what_is_imported_late_is_imported_ahead(service: str) -> None:
    ahead = {*EVERY, *BY_SERVICE.get(service, ())}
    for package in PACKAGES[service]:
        for path in sorted((SOURCE / package).rglob("*.py")):
            name = str(path.relative_to(SOURCE))
            if name not in NOT_LATE and name not in ONLY_OF:
                assert late(path) <= ahead, f"{path}: daemon/imports.py must name it"
    for name, only in ONLY_OF.items():
        if only == service:
            assert late(SOURCE / name) <= ahead, f"{name}: daemon/imports.py must name it"


def test_the_daemon_of_a_node_does_not_load_what_its_launcher_runs() -> None:
    """The launcher is another process: what only it needs would lie in the daemon's memory unused."""
    program = (
        "import sys, teleport.launcher.client, teleport.node.service, teleport.daemon.node_side; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    ours = {name.removeprefix("teleport.launcher.") for name in loaded if name.startswith("teleport.launcher.")}
    assert ours == {"client", "environment", "errand_client", "messages", "starting", "values"}
