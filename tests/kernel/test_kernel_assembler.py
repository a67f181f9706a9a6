"""Instructions as the kernel reads them: vectors from RFC 9669, section by section."""

from __future__ import annotations

import pytest

from teleport.kernel.assembler import FP, R0, R1, R2, R3, R6, R9, Assembler, Jump, Operation, Size


def test_each_instruction_has_the_bytes_of_the_standard() -> None:
    a = Assembler()
    a.move(R6, R1)
    a.set(R0, -2)
    a.do(Operation.RSH, R0, 32)
    a.do_register(Operation.ADD, R3, R6)
    a.load(Size.D, R1, R6, 24)
    a.load(Size.W, R2, FP, -4)
    a.store(Size.D, FP, -16, R1)
    a.store_value(Size.W, R9, 8, 5)
    a.add_atomic(R9, 16, R1)
    a.load_map(R1, 7)
    a.call(130)
    expected = (
        "bf16000000000000 b7000000feffffff 7700000020000000 0f63000000000000 7961180000000000 61a2fcff00000000"
        " 7b1af0ff00000000 6209080005000000 db19100000000000 1811000007000000 0000000000000000 8500000082000000"
    )
    assert a.assemble().hex() == expected.replace(" ", "")


def test_jumps_count_instructions_from_the_next_one() -> None:
    a = Assembler()
    a.jump(Jump.EQ, R0, 0, "out")
    a.jump_register(Jump.NE, R1, R2, "out")
    a.go("out")
    a.label("out")
    a.leave()
    expected = "1500020000000000 5d21010000000000 0500000000000000 b700000000000000 9500000000000000"
    assert a.assemble().hex() == expected.replace(" ", "")


def test_a_jump_to_nowhere_is_a_mistake() -> None:
    a = Assembler()
    a.go("nowhere")
    with pytest.raises(KeyError):
        a.assemble()
