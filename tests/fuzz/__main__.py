"""`python -m tests.fuzz [NAME...]`: fuzzes until stopped or for `--seconds`; keeps what it finds in the corpus.

With `--atheris` (not a requirement: it is 35 MB and takes over its process) one target runs under libFuzzer.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import sys
import time
from typing import Any

from tests.fuzz.corpus import FOLDER, corpus_of
from tests.fuzz.engine import Finding, Target, check, fuzz
from tests.fuzz.targets import TARGETS


def keep(finding: Finding) -> None:
    print(finding, flush=True)
    folder = FOLDER / finding.target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"found-{hashlib.sha256(finding.data).hexdigest()[:12]}").write_bytes(finding.data)


def under_atheris(target: Target, seconds: float) -> None:
    atheris = importlib.import_module("atheris")

    def one(data: bytes) -> None:
        finding = check(target, data)
        if finding is not None:
            keep(finding)
            raise AssertionError(finding.what)

    folder = FOLDER / target.name
    arguments: list[Any] = [sys.argv[0], f"-max_total_time={seconds:.0f}", f"-max_len={target.longest}", "-timeout=5"]
    atheris.instrument_all()
    atheris.Setup([*arguments, *([str(folder)] if folder.exists() else [])], one)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[[], *TARGETS], metavar="NAME")
    parser.add_argument("--seconds", type=float, default=10.0, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--atheris", action="store_true")
    given = parser.parse_args()
    found = 0
    for name in given.names or TARGETS:
        target = TARGETS[name]
        if given.atheris:
            under_atheris(target, given.seconds)
            continue
        end, seed, runs = time.monotonic() + given.seconds, given.seed, 0
        while time.monotonic() < end:
            findings = fuzz(target, corpus_of(name), runs=target.runs, seed=seed)
            seed, runs = seed + 1, runs + target.runs
            for finding in findings:
                keep(finding)
                found += 1
            if findings:
                break
        print(f"{name}: {runs} inputs", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
