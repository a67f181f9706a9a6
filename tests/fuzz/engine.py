"""A small coverage-guided fuzzer: mutates a corpus, keeps what reaches a new line, reports what must not happen.

Deterministic: the same target, corpus, seed and number of runs try the same inputs. Coverage is the pairs of lines of
the product's own modules that follow one another (`sys.settrace`), so that nothing has to be built or installed;
`python -m tests.fuzz --atheris` runs the same targets under libFuzzer where atheris is installed.

What is reported: an exception that the parser does not promise, a round trip that does not hold (the target asserts
it), an input that takes longer than `SLOW` of processor time, and a target that needs more than `MEMORY` in all.
"""

from __future__ import annotations

import base64
import random
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import teleport

SOURCE = str(Path(teleport.__file__).parent)
SLOW = 1.0  # seconds of processor time for one input, without tracing; all parsers promise far less
MEMORY = 300 * 1024 * 1024  # bytes that the process may grow by while one target runs
MAX_CORPUS = 2000
INTERESTING = (0, 1, 7, 8, 0x7F, 0x80, 0xFF)
SIZES = (b"\0\0\0\0", b"\0\0\0\x01", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\xff\xff\xff\xff")


@dataclass(frozen=True, slots=True)
class Target:
    """A parser under test. `run` raises only `allowed`; an `AssertionError` is a round trip that does not hold."""

    name: str
    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    words: Sequence[bytes] = ()  # of the format, which mutations put in
    longest: int = 2048  # bytes of an input
    runs: int = 4000  # of the short form


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that shows a fault."""

    target: str
    data: bytes
    what: str

    def __str__(self) -> str:
        shown = base64.b64encode(self.data).decode()
        return f"{self.target}: {self.what}\n  input {self.data[:200]!r}\n  keep it: tests/fuzz/corpus, base64 {shown}"


Edge = tuple[CodeType, int, int]


class Coverage:
    """Which lines follow one another in modules below `source`."""

    def __init__(self, source: str = SOURCE) -> None:
        self._source = source
        self.edges: set[Edge] = set()
        self._ours: dict[CodeType, bool] = {}

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        code = frame.f_code
        ours = self._ours.get(code)
        if ours is None:
            ours = self._ours[code] = code.co_filename.startswith(self._source)
        if not ours:
            return None
        edges, last = self.edges, 0

        def line(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal last
            if event == "line":
                edges.add((code, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    def of(self, run: Callable[[], None]) -> set[Edge]:
        """What `run` reaches."""
        self.edges = set()
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            run()
        finally:
            sys.settrace(before)
        return self.edges


def check(target: Target, data: bytes) -> Finding | None:
    """Runs one input; what is wrong with what happens."""
    try:
        target.run(data)
    except target.allowed:
        return None
    except AssertionError as error:
        return Finding(target.name, data, f"a round trip does not hold: {error}")
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return Finding(target.name, data, f"{type(error).__name__}: {error} at {where.filename}:{where.lineno}")
    return None


def timed(target: Target, data: bytes) -> Finding | None:
    """Whether an input takes too long."""
    begun = time.process_time()
    check(target, data)
    took = time.process_time() - begun
    return Finding(target.name, data, f"takes {took:.1f} s") if took > SLOW else None


def mutate(chance: random.Random, corpus: Sequence[bytes], words: Sequence[bytes], longest: int) -> bytes:
    """A corpus entry, changed in a few places."""
    data = bytearray(chance.choice(corpus))
    for _ in range(chance.choice((1, 1, 1, 2, 3, 6))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(10)
        if kind == 0 and data:
            data[at % len(data)] ^= 1 << chance.randrange(8)
        elif kind == 1 and data:
            data[at % len(data)] = chance.choice(INTERESTING)
        elif kind == 2 and data:
            data[at % len(data)] = chance.randrange(256)
        elif kind == 3:
            data[at:at] = chance.randbytes(chance.randrange(1, 5))
        elif kind == 4:
            del data[at : at + chance.choice((1, 1, 2, 4, 32))]
        elif kind == 5 and words:
            data[at:at] = chance.choice(words)
        elif kind == 6:
            end = at + chance.choice((1, 2, 4, 8, 64))
            data[at:at] = data[at:end] * chance.choice((1, 1, 2, 20))
        elif kind == 7:
            other = chance.choice(corpus)
            start = chance.randrange(len(other) + 1)
            data[at:] = other[start:]
        elif kind == 8:
            data[at : at + 4] = chance.choice(SIZES)
        elif words:
            word = chance.choice(words)
            data[at : at + len(word)] = word
    return bytes(data[:longest])


def fuzz(
    target: Target, corpus: Iterable[bytes], *, runs: int, seed: int = 0, guided: bool = True, source: str = SOURCE
) -> list[Finding]:
    """The faults that `runs` inputs show, one for each place; empty when there are none."""
    chance = random.Random(f"{target.name} {seed}")
    coverage, known = Coverage(source), set[Edge]()
    kept = [bytes(data) for data in corpus] or [b""]
    found: dict[str, Finding] = {}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def try_one(data: bytes) -> bool:
        """Whether it reaches something new."""
        result: list[Finding | None] = []
        begun = time.process_time()
        edges = coverage.of(lambda: result.append(check(target, data))) if guided else set[Edge]()
        if not guided:
            result.append(check(target, data))
        if time.process_time() - begun > SLOW / 2:
            result.append(timed(target, data))
        for finding in filter(None, result):
            found.setdefault(finding.what, finding)
        new = not edges <= known
        known.update(edges)
        return new

    for data in list(kept):
        try_one(data)
    for _ in range(runs):
        data = mutate(chance, kept, target.words, target.longest)
        if try_one(data) and len(kept) < MAX_CORPUS:
            kept.append(data)
        if len(found) >= 20:
            break
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > MEMORY:
        found["memory"] = Finding(target.name, b"", f"the process grew by {grown // 2**20} MiB")
    return list(found.values())
