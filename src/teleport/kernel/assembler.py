"""Assembles programs for the kernel's virtual machine (eBPF), and nothing else: values in, bytes out.

Encoding: Documentation/bpf/standardization/instruction-set.rst of Linux (RFC 9669): 64-bit instructions of opcode, two
registers, a signed 16-bit offset and a signed 32-bit immediate. The few instructions that our programs need have a
method each; jumps name labels, which `assemble` resolves. The kernel verifies every program before it runs it: a
mistake here is a program that is refused, not a host that is harmed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

R0, R1, R2, R3, R4, R5, R6, R7, R8, R9, FP = range(11)


class Size(IntEnum):
    """Width of a memory access, as the instruction's size bits."""

    W = 0x00  # 4 bytes
    H = 0x08  # 2
    B = 0x10  # 1
    D = 0x18  # 8


class Jump(IntEnum):
    """Conditions of jumps; comparisons are unsigned unless named signed."""

    EQ = 0x10
    GT = 0x20
    SET = 0x40
    NE = 0x50
    SGT = 0x60
    LE = 0xB0
    SLT = 0xC0


class Operation(IntEnum):
    """Arithmetic on 64 bits."""

    ADD = 0x00
    SUB = 0x10
    OR = 0x40
    AND = 0x50
    LSH = 0x60
    RSH = 0x70


_MOV = 0xB0
_PSEUDO_MAP = 1  # BPF_PSEUDO_MAP_FD: the immediate of a 64-bit load is the descriptor of a map


@dataclass(slots=True)
class Assembler:
    """A program being written, top to bottom."""

    _code: list[tuple[int, int, int, int, int]] = field(default_factory=list)  # opcode, target, source, offset, value
    _labels: dict[str, int] = field(default_factory=dict)
    _jumps: dict[int, str] = field(default_factory=dict)

    def _put(self, opcode: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> None:
        self._code.append((opcode, target, source, offset, value))

    def label(self, name: str) -> None:
        """The next instruction is called `name`."""
        assert name not in self._labels, f"label {name!r} twice"
        self._labels[name] = len(self._code)

    def move(self, target: int, source: int) -> None:
        self._put(0x07 | 0x08 | _MOV, target, source)

    def set(self, target: int, value: int) -> None:
        self._put(0x07 | _MOV, target, value=value)

    def do(self, operation: Operation, target: int, value: int) -> None:
        """target = target OPERATION value"""
        self._put(0x07 | operation, target, value=value)

    def do_register(self, operation: Operation, target: int, source: int) -> None:
        """target = target OPERATION source"""
        self._put(0x07 | 0x08 | operation, target, source)

    def load(self, size: Size, target: int, source: int, offset: int) -> None:
        """target = *(source + offset)"""
        self._put(0x61 | size, target, source, offset)

    def store(self, size: Size, target: int, offset: int, source: int) -> None:
        """*(target + offset) = source"""
        self._put(0x63 | size, target, source, offset)

    def store_value(self, size: Size, target: int, offset: int, value: int) -> None:
        """*(target + offset) = value"""
        self._put(0x62 | size, target, 0, offset, value)

    def add_atomic(self, target: int, offset: int, source: int) -> None:
        """*(u64 *)(target + offset) += source, whole for all processors"""
        self._put(0xDB, target, source, offset, 0)

    def load_map(self, target: int, descriptor: int) -> None:
        self._put(0x18, target, _PSEUDO_MAP, value=descriptor)
        self._put(0)

    def call(self, helper: int) -> None:
        self._put(0x85, value=helper)

    def jump(self, condition: Jump, target: int, value: int, label: str) -> None:
        self._jumps[len(self._code)] = label
        self._put(0x05 | condition, target, value=value)

    def jump_register(self, condition: Jump, target: int, source: int, label: str) -> None:
        self._jumps[len(self._code)] = label
        self._put(0x05 | 0x08 | condition, target, source)

    def go(self, label: str) -> None:
        self._jumps[len(self._code)] = label
        self._put(0x05)

    def leave(self) -> None:
        """Returns 0."""
        self.set(R0, 0)
        self._put(0x95)

    def assemble(self) -> bytes:
        """The program; `KeyError` for a jump to a label that is not there."""
        words = []
        for at, (opcode, target, source, offset, value) in enumerate(self._code):
            if at in self._jumps:
                offset = self._labels[self._jumps[at]] - at - 1
            words.append(struct.pack("=BBhi", opcode, target | source << 4, offset, value))
        return b"".join(words)
