"""Every integer stencil in every combination of slots, against the slow definition of its uop."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Iterator
from typing import Any

import pytest

from manor.engine.env import RAX, T0, VREG_COUNT, vreg_offset
from manor.engine.lower.forms import SLOTS
from manor.engine.uop.evaluate import evaluate
from manor.engine.uop.ops import INTEGER_OPS, Kind, Op

WORD = (1 << 64) - 1
EDGES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
         1 << 32, (1 << 63) - 1, 1 << 63, WORD, WORD - 1)  # fmt: skip
Box = Any


def values(rng: random.Random) -> int:
    return rng.choice(EDGES) if rng.random() < 0.5 else rng.getrandbits(64)


def registers(rng: random.Random) -> list[int]:
    result = [values(rng) for _ in range(VREG_COUNT)]
    result[35] = 0
    return result


def fill_slots(count: int) -> list[tuple[str, int, int, int, int]]:
    """Uops that put registers 0, 1, ... into slots 0, 1, ...: an addition of 0 to each."""
    return [("add64i", v, v, 0, 0) for v in range(count)]


@pytest.fixture
def rng() -> random.Random:
    return random.Random(7)


def of_kind(*kinds: Kind) -> list[Any]:
    return [pytest.param(op, id=op.name) for op in INTEGER_OPS if op.kind in kinds]


def expect(box: Box, uops: list[Any], regs: list[int], changed: dict[int, int]) -> None:
    from manor.engine.lower.sandbox_native import run_uops

    after = run_uops(box, uops, regs)
    wanted = list(regs)
    for v, value in changed.items():
        wanted[v] = value
    assert after[:T0] == wanted[:T0], uops


@pytest.mark.parametrize("op", of_kind(Kind.UNARY))
def test_unary(box: Box, rng: random.Random, op: Op) -> None:
    for d in range(SLOTS):
        for a in range(SLOTS):
            regs = registers(rng)
            expect(box, [*fill_slots(SLOTS), (op.name, d, a, 0, 0)], regs, {d: evaluate(op, a=regs[a])})


@pytest.mark.parametrize("op", of_kind(Kind.BINARY))
def test_binary(box: Box, rng: random.Random, op: Op) -> None:
    for d in range(SLOTS):
        for b in range(SLOTS):
            for a in (d, (d + 3) % SLOTS):
                regs = registers(rng)
                result = evaluate(op, a=regs[a], b=regs[b])
                expect(box, [*fill_slots(SLOTS), (op.name, d, a, b, 0)], regs, {d: result})


@pytest.mark.parametrize("op", of_kind(Kind.BINARY_IMM))
def test_binary_imm(box: Box, rng: random.Random, op: Op) -> None:
    for d in range(SLOTS):
        for imm in (*EDGES, 3, 31, 32, 33, 63, 64, rng.getrandbits(64)):
            regs = registers(rng)
            result = evaluate(op, a=regs[d], imm=imm)
            expect(box, [*fill_slots(SLOTS), (op.name, d, d, 0, imm)], regs, {d: result})


@pytest.mark.parametrize("op", of_kind(Kind.BINARY))
def test_binary_with_constant(box: Box, rng: random.Random, op: Op) -> None:
    """The emitter turns these into immediate forms, or puts the constant into a slot."""
    for imm in EDGES:
        regs = registers(rng)
        expect(box, [("movi", T0, 0, 0, imm), (op.name, 1, 2, T0, 0)], regs, {1: evaluate(op, a=regs[2], b=imm)})
        expect(box, [("movi", T0, 0, 0, imm), (op.name, 1, T0, 2, 0)], regs, {1: evaluate(op, a=imm, b=regs[2])})
        expect(box, [("movi", T0, 0, 0, imm), (op.name, 1, T0, T0, 0)], regs, {1: evaluate(op, a=imm, b=imm)})


@pytest.mark.parametrize("op", of_kind(Kind.UPDATE))
def test_update(box: Box, rng: random.Random, op: Op) -> None:
    for d in range(SLOTS):
        for b in range(SLOTS):
            for a in (d, b, (d + 3) % SLOTS, 12):
                regs = registers(rng)
                result = evaluate(op, d=regs[d], a=regs[a], b=regs[b])
                expect(box, [*fill_slots(SLOTS), (op.name, d, a, b, 0)], regs, {d: result})


def test_moves_and_constants(box: Box, rng: random.Random) -> None:
    for d in range(SLOTS):
        for imm in EDGES:
            regs = registers(rng)
            expect(box, [*fill_slots(SLOTS), ("movi", d, 0, 0, imm), ("add64i", d, d, 0, 1)], regs,
                   {d: imm + 1 & WORD})  # fmt: skip
            expect(box, [("movi", d, 0, 0, imm)], regs, {d: imm})
        for a in range(SLOTS):
            regs = registers(rng)
            moved = [*fill_slots(SLOTS), ("mov", d, a, 0, 0), ("add64i", a, a, 0, 1)]
            expect(box, moved, regs, {d: regs[a], a: regs[a] + 1 & WORD})


@pytest.mark.parametrize("op", of_kind(Kind.BRANCH, Kind.BRANCH_IMM))
def test_branch(box: Box, rng: random.Random, op: Op) -> None:
    for a in range(SLOTS):
        for b in range(SLOTS):
            regs = registers(rng)
            if rng.random() < 0.4:
                regs[b] = regs[a]
            imm = rng.choice(EDGES) if rng.random() < 0.7 else regs[a]
            for v, value in enumerate(regs):
                box.write("regs", value, v)
            number = box.block([*fill_slots(SLOTS), (op.name, 0, a, b, imm)])
            taken = evaluate(op, a=regs[a], b=regs[b], imm=imm)
            left, exit_slot, rip = box.run(number)
            assert (left, exit_slot) == (number, 0 if taken else 1)
            assert rip == (0x1200 if taken else 0x1300)
            assert [box.read("regs", v) for v in range(16)] == regs[:16]


@pytest.mark.parametrize("op", of_kind(Kind.BRANCH))
def test_branch_on_constant(box: Box, rng: random.Random, op: Op) -> None:
    for imm in EDGES:
        for a in (imm, rng.choice(EDGES)):
            box.write("regs", a, 3)
            number = box.block([("movi", T0, 0, 0, imm), (op.name, 0, 3, T0, 0)])
            assert box.run(number)[1] == 1 - evaluate(op, a=a, b=imm)
            number = box.block([("movi", T0, 0, 0, imm), (op.name, 0, T0, 3, 0)])
            assert box.run(number)[1] == 1 - evaluate(op, a=imm, b=a)


# ---------------------------------------------------------------- memory
class Memory:
    """Two host pages at guest addresses 0x40000 and 0x41000; slow paths that record what they are asked."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.data = ctypes.create_string_buffer(3 * 4096)
        self.host = ctypes.addressof(self.data) + 4095 & ~4095
        self.base = 0x40000

    def map(self, writable: bool = True) -> None:
        for page in range(2):
            self.box.map_page(self.base + page * 4096, self.host + page * 4096, 0, writable)

    def unmap(self) -> None:
        for page in range(2):
            self.box.unmap_page(self.base + page * 4096)

    def write(self, offset: int, data: bytes) -> None:
        ctypes.memmove(self.host + offset, data, len(data))

    def read(self, offset: int, size: int) -> bytes:
        return ctypes.string_at(self.host + offset, size)


@pytest.fixture
def memory(box: Box, slow_calls: list[tuple[str, int, int, int]]) -> Iterator[Memory]:
    m = Memory(box)
    slow_calls.clear()
    yield m
    m.unmap()
    box.write("fault", 0)


def loaded(op: Op, raw: bytes) -> int:
    value = int.from_bytes(raw[: op.bits // 8], "little", signed=bool(op.signed_to))
    return value & (1 << (op.signed_to or 64)) - 1


@pytest.mark.parametrize("op", of_kind(Kind.LOAD))
def test_load(box: Box, rng: random.Random, memory: Memory, slow_calls: list[Any], op: Op) -> None:
    memory.map()
    for d in range(SLOTS):
        for a in range(SLOTS):
            regs = registers(rng)
            offset = rng.choice((0, 1, 7, 0x801, 4096 - op.bits // 8))
            displacement = rng.choice((0, 8, -16, 0x12345678, -(1 << 31), 0x5_0000_0000))
            raw = rng.randbytes(8)
            memory.write(offset, raw)
            regs[a] = memory.base + offset - displacement & WORD
            uops = [*fill_slots(SLOTS), (op.name, d, a, 0, displacement)]
            expect(box, uops, regs, {d: loaded(op, raw)})
    assert not slow_calls


@pytest.mark.parametrize("op", of_kind(Kind.LOAD))
def test_load_slow(box: Box, rng: random.Random, memory: Memory, slow_calls: list[Any], op: Op) -> None:
    for d in range(SLOTS):
        for a in range(SLOTS):
            regs = registers(rng)
            raw = rng.randbytes(8)
            box.slow_result = int.from_bytes(raw, "little")
            regs[a] = 0x77000
            slow_calls.clear()
            uops = [*fill_slots(SLOTS), ("add64i", 9, 9, 0, 1), (op.name, d, a, 0, 0x10)]
            expect(box, uops, regs, {d: loaded(op, raw), 9: regs[9] + 1 & WORD})
            assert slow_calls == [("load_slow", 0x77010, 0, op.bits // 8)]


@pytest.mark.parametrize("name", ["ld64", "st32"])
def test_crossing_the_page_is_slow(box: Box, rng: random.Random, memory: Memory, slow_calls: list[Any],
                                   name: str) -> None:  # fmt: skip
    memory.map()
    regs = registers(rng)
    size = 8 if name == "ld64" else 4
    for before in range(1, size):
        slow_calls.clear()
        regs[3] = memory.base + 4096 - before
        expect(box, [(name, T0, 3, 4, 0)], regs, {})
        assert len(slow_calls) == 1


@pytest.mark.parametrize("op", of_kind(Kind.STORE))
def test_store(box: Box, rng: random.Random, memory: Memory, slow_calls: list[Any], op: Op) -> None:
    memory.map()
    size = op.bits // 8
    for b in range(SLOTS):
        for a in range(SLOTS):
            regs = registers(rng)
            offset = rng.choice((8, 9, 15, 0x801, 4096 - size))
            displacement = rng.choice((0, 8, -16, 0x12345678))
            regs[a] = memory.base + offset - displacement & WORD
            memory.write(offset - 1, b"\xee" * 12)
            expect(box, [*fill_slots(SLOTS), (op.name, 0, a, b, displacement)], regs, {})
            wanted = b"\xee" + (regs[b] & (1 << op.bits) - 1).to_bytes(size, "little") + b"\xee"
            assert memory.read(offset - 1, size + 2) == wanted
    for a in range(SLOTS):
        for value in EDGES:
            regs = registers(rng)
            regs[a] = memory.base
            memory.write(0, b"\xee" * 12)
            expect(box, [*fill_slots(SLOTS), ("movi", T0, 0, 0, value), (op.name, 0, a, T0, 3)], regs, {})
            assert memory.read(3, size) == (value & (1 << op.bits) - 1).to_bytes(size, "little")
    assert not slow_calls


@pytest.mark.parametrize("op", of_kind(Kind.STORE))
def test_store_slow(box: Box, rng: random.Random, memory: Memory, slow_calls: list[Any], op: Op) -> None:
    memory.map(writable=False)
    for b in range(SLOTS):
        for a in range(SLOTS):
            regs = registers(rng)
            regs[a] = memory.base + 64
            slow_calls.clear()
            expect(box, [*fill_slots(SLOTS), (op.name, 0, a, b, 4)], regs, {})
            ((name, gva, value, meta),) = slow_calls
            assert (name, gva, meta) == ("store_slow", memory.base + 68, op.bits // 8)
            assert (value ^ regs[b]) & (1 << op.bits) - 1 == 0
    regs = registers(rng)
    for value in EDGES:
        slow_calls.clear()
        regs[2] = memory.base
        expect(box, [("movi", T0, 0, 0, value), (op.name, 0, 2, T0, 4)], regs, {})
        assert (slow_calls[0][2] ^ value) & (1 << op.bits) - 1 == 0


@pytest.mark.parametrize("op", of_kind(Kind.RMW, Kind.CMPXCHG))
def test_locked(box: Box, rng: random.Random, memory: Memory, slow_calls: list[Any], op: Op) -> None:
    memory.map()
    mask = (1 << op.bits) - 1
    size = op.bits // 8
    for equal in (False, True, False, True):
        regs = registers(rng)
        old = rng.getrandbits(op.bits)
        memory.write(16, old.to_bytes(size, "little"))
        regs[1] = memory.base + 16
        if equal:
            regs[3] = regs[3] & ~mask | old
        expect(box, [*fill_slots(4), (op.name, 3, 1, 2, 0)], regs, {3: old})
        if op.kind is Kind.RMW:
            new = evaluate(op, d=old, b=regs[2] & mask) & mask
        else:
            new = regs[2] & mask if equal else old
        assert int.from_bytes(memory.read(16, size), "little") == new
    assert not slow_calls


@pytest.mark.parametrize("op", of_kind(Kind.RMW, Kind.CMPXCHG))
def test_locked_slow(box: Box, rng: random.Random, memory: Memory, slow_calls: list[Any], op: Op) -> None:
    from manor.engine.lower.forms import RMW_OPERATIONS

    regs = registers(rng)
    regs[1] = memory.base + 16
    box.slow_result = regs[5]
    expect(box, [*fill_slots(4), (op.name, 3, 1, 2, 0)], regs, {3: regs[5] & (1 << op.bits) - 1})
    operation = RMW_OPERATIONS.get(op.name.removeprefix("rmw_").rstrip("0123456789"), 0)
    name = "rmw_slow" if op.kind is Kind.RMW else "cmpxchg_slow"
    assert slow_calls == [(name, memory.base + 16, regs[2], op.bits // 8 | operation << 16)]
    if op.kind is Kind.CMPXCHG:
        assert box.read("scratch") == regs[3]


def test_vector_memory(box: Box, rng: random.Random, memory: Memory, slow_calls: list[Any]) -> None:
    from manor.engine.env import OFFSETS

    memory.map()
    raw = rng.randbytes(16)
    for a in range(SLOTS):
        regs = registers(rng)
        memory.write(33, raw)
        memory.write(64, bytes(16))
        regs[a] = memory.base + 33
        expect(box, [*fill_slots(SLOTS), ("ldx", 5, a, 0, 0), ("stx", 0, a, 5, 31)], regs, {})
        assert memory.read(64, 16) == raw
        assert box.read("xmm", 10) == int.from_bytes(raw[:8], "little")
    assert not slow_calls
    memory.unmap()
    expect(box, [("ldx", 5, 7, 0, 0), ("stx", 0, 7, 17, 16)], regs, {})
    assert slow_calls == [
        ("loadx_slow", regs[7], OFFSETS["xmm"] + 80, 16),
        ("storex_slow", regs[7] + 16, OFFSETS["xmm"] + 16 * 17, 16),
    ]


def test_fault_leaves_with_exact_state(box: Box, rng: random.Random, memory: Memory) -> None:
    """A slow path that faults: registers as before the instruction, rip on it, the rest not counted."""
    regs = registers(rng)
    regs[3] = 0x99000
    for v, value in enumerate(regs):
        box.write("regs", value, v)
    box.write("insn_count", 100)
    box.slow_fault = 1
    uops = [
        ("add64i", 1, 1, 0, 5, 0, 0), ("movi", 16, 0, 0, 77, 0, 0), ("mov", 17, 1, 0, 0, 0, 0),
        ("movi", 2, 0, 0, 1 << 40, 0, 1), ("ld64", 1, 3, 0, 0, 0, 2), ("add64i", 4, 4, 0, 1, 0, 3),
        ("jump", 0, 0, 0, 0, 0, 3),
    ]  # fmt: skip
    left, _, rip = box.run(box.block(uops, pc=0x1500))
    box.slow_fault = 0
    box.write("fault", 0)
    assert left is None
    assert rip == 0x1502
    assert box.read("insn_count") == 102
    assert box.read("regs", 1) == regs[1] + 5 & WORD
    assert [box.read("regs", v) for v in (2, 3, 4, 16, 17)] == [1 << 40, 0x99000, regs[4], 77, regs[1] + 5 & WORD]


def test_env_offsets(box: Box) -> None:
    box.write("regs", 0x1234, RAX)
    assert ctypes.c_uint64.from_address(box.address() + vreg_offset(RAX)).value == 0x1234
