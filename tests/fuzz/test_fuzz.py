"""Parsers meet what nobody would write (threat T61): only their own errors, bounded time and memory, round trips hold.

The fuzzer itself is first shown to find planted faults. `python -m tests.fuzz` runs for as long as one likes.
"""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.fuzz.corpus import FOLDER, corpus_of
from tests.fuzz.engine import Target, check, fuzz
from tests.fuzz.targets import TARGETS, argument

from teleport.errors import BadRequest
from teleport.pki import sshwire
from teleport.resources import values
from teleport.store import resolve

LONG = 20  # times as many inputs


def mutant(module: types.ModuleType, old: str, new: str) -> types.ModuleType:
    """A copy of a module with a planted fault."""
    source = Path(str(module.__file__)).read_text()
    assert source.count(old) == 1, old
    copy = types.ModuleType(f"{module.__name__}_mutant")
    sys.modules[copy.__name__] = copy  # dataclasses look their module up
    try:
        exec(compile(source.replace(old, new), str(module.__file__), "exec"), copy.__dict__)
    finally:
        del sys.modules[copy.__name__]
    return copy


def _target_plant() -> Target:
    bad = mutant(resolve, "and port.isdigit()) or len(port) > 5", "and port.isdigit()) and len(port) > 5")
    return Target(
        "proxy_target",
        lambda data: bad.Destination.of_subsystem(argument(data)),
        (BadRequest,),
        TARGETS["proxy_target"].words,
    )


def _bracket_plant() -> Target:
    bad = mutant(resolve, 'host = f"[{self.host}]" if ":" in self.host else self.host', "host = self.host")

    def run(data: bytes) -> None:
        found = bad.Destination.of_subsystem(argument(data))
        assert bad.Destination.of_subsystem(f"proxy:{found}") == found

    return Target("proxy_target", run, (BadRequest,), TARGETS["proxy_target"].words)


def _label_plant() -> Target:
    bad = mutant(values, "if len(text) >= 2 and text[0]", "if text[0]")
    return Target("label_flag", lambda data: bad.parse_labels(argument(data)), (ValueError,), (b"=", b","))


def _wire_plant() -> Target:
    bad = mutant(
        sshwire,
        """            raise WireError("text that is not UTF-8") from error""",
        """            raise RuntimeError("planted") from error""",
    )

    def run(data: bytes) -> None:
        reader = bad.Reader(data)
        reader.string()
        reader.text()

    return Target("ssh_wire", run, (bad.WireError,), ())


@pytest.mark.parametrize("plant", [_target_plant, _bracket_plant, _label_plant, _wire_plant])
def test_a_fault_that_is_planted_in_a_copy_of_a_parser_is_found(plant: Callable[[], Target]) -> None:
    target = plant()
    assert fuzz(target, corpus_of(target.name), runs=600), "the planted fault was not found"
    assert not fuzz(TARGETS[target.name], corpus_of(target.name), runs=100), "the parser itself has none"


def _deep(data: bytes) -> None:
    """A fault behind four bytes that are each compared on a line of their own."""
    if data[:1] != b"f":
        return
    if data[1:2] != b"u":
        return
    if data[2:3] != b"z":
        return
    if data[3:4] == b"!":
        raise RuntimeError("found")


def test_coverage_leads_where_chance_does_not() -> None:
    target = Target("deep", _deep, (), (b"f", b"u", b"z", b"!"), longest=8)
    here = str(Path(__file__).parent)
    assert fuzz(target, [b"...."], runs=15000, source=here)
    assert not fuzz(target, [b"...."], runs=15000, guided=False)


def test_a_slow_parser_is_named() -> None:
    def run(data: bytes) -> None:
        end = time.process_time() + 1.2
        while time.process_time() < end:
            pass

    (found,) = fuzz(Target("slow", run, ()), [b"x"], runs=0)
    assert "takes" in found.what


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 512 * 1024


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_holds_what_is_accepted(name: str) -> None:
    """A target that refuses all of its corpus would fuzz nothing but its first line."""
    target, accepted = TARGETS[name], 0
    for data in corpus_of(name):
        try:
            target.run(data)
            accepted += 1
        except target.allowed:
            continue
    assert accepted


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_keeps_its_promises(name: str) -> None:
    target = TARGETS[name]
    assert [str(finding) for finding in fuzz(target, corpus_of(name), runs=target.runs)] == []


@pytest.mark.long
@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_keeps_its_promises_for_longer(name: str) -> None:
    target = TARGETS[name]
    for seed in range(1, LONG):
        assert [str(finding) for finding in fuzz(target, corpus_of(name), runs=target.runs, seed=seed)] == []


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("data", [b"", b"\0", b"\xff" * 64, b"[" * 2000, b"(" * 2000, b"9" * 5000, b"{" * 2000])
def test_plain_nonsense_is_refused_in_the_parser_s_own_words(name: str, data: bytes) -> None:
    assert check(TARGETS[name], data) is None
