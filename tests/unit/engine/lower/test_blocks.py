"""The emitter on whole blocks: random uops against the slow definition, exits, links, helpers."""

from __future__ import annotations

import ctypes
import random
import threading
import time
from typing import Any

import pytest

from manor.engine.env import CC_DST, CC_OP, CC_SRC, CC_SRC2, EA, JUMP_CACHE_ENTRIES, OFFSETS, T0, VREG_COUNT
from manor.engine.lower.forms import op_infos
from manor.engine.uop.evaluate import evaluate
from manor.engine.uop.ops import INTEGER_OPS, SIDE_EXIT, Kind
from manor.engine.uop.table import NUMBER

WORD = (1 << 64) - 1
R13, R14, R15 = 13, 14, 15
Box = Any
INFOS = op_infos()
COMPUTE = [op for op in INTEGER_OPS if op.kind in (Kind.UNARY, Kind.BINARY, Kind.BINARY_IMM, Kind.UPDATE)]
BRANCHES = [op for op in INTEGER_OPS if op.kind in (Kind.BRANCH, Kind.BRANCH_IMM)]
OFTEN = {
    "add64", "sub64", "add32", "xor64", "and64i", "add64i", "zext32", "selnz", "sub64i", "shl64i", "shl64",
    "set_ult64_", "zext8", "insert8",
}  # fmt: skip
COMMON = [op for op in COMPUTE if op.name in OFTEN]
HELPER_FLAGS = {"plain": 0, "sees_all": 1, "pure": 2, "reads_rcx": 3}


class Model:
    """What a block should do, uop by uop."""

    def __init__(self, regs: list[int], memory: bytearray, base: int) -> None:
        self.regs = list(regs)
        self.memory = memory
        self.base = base
        self.exit = 0

    def step(self, uop: tuple[Any, ...]) -> None:
        name, d, a, b, imm = uop[:5]
        regs = self.regs
        op = next(o for o in INTEGER_OPS if o.name == name)
        if op.kind in (Kind.LOAD, Kind.STORE):
            offset = (regs[a] + imm & WORD) - self.base
            size = op.bits // 8
            if op.kind is Kind.STORE:
                self.memory[offset : offset + size] = (regs[b] & (1 << op.bits) - 1).to_bytes(size, "little")
            else:
                value = int.from_bytes(self.memory[offset : offset + size], "little", signed=bool(op.signed_to))
                regs[d] = value & (1 << (op.signed_to or 64)) - 1
        elif op.kind in (Kind.BRANCH, Kind.BRANCH_IMM):
            self.exit = 1 - evaluate(op, a=regs[a], b=regs[b], imm=imm)
        elif op.kind is Kind.HELPER:
            regs[d] = 0
        elif op.kind is not Kind.JUMP:
            regs[d] = evaluate(op, d=regs[d], a=regs[a], b=regs[b], imm=imm)


def random_block(rng: random.Random, base: int, pages: int) -> list[tuple[Any, ...]]:
    """Guest instructions: temporaries are written before they are read, and die with the instruction."""
    uops: list[tuple[Any, ...]] = []
    architectural = [*range(rng.choice((4, 16))), CC_OP, CC_DST, CC_SRC, CC_SRC2]
    for insn in range(rng.randrange(1, 10)):
        temps: list[int] = []
        for _ in range(rng.randrange(1, 7)):
            readable = architectural + 3 * temps

            def destination(temps: list[int] = temps) -> int:
                if rng.random() < 0.5:
                    return rng.choice(architectural)
                return rng.choice([*range(T0, T0 + 8), EA])

            choice = rng.random()
            d, a, b = destination(), rng.choice(readable), rng.choice(readable)
            imm = rng.choice((0, 1, 5, -1, 255, rng.getrandbits(31), rng.getrandbits(64)))
            if choice < 0.25:
                name = rng.choice(("mov", "mov", "movi"))
            elif choice < 0.45:
                address = rng.randrange(base, base + pages * 4096 - 8)
                name = rng.choice(("ld8", "ld16s32", "ld32", "ld64", "st8", "st16", "st32", "st64"))
                displacement = rng.choice((0, 16, -64))
                if rng.random() < 0.3:
                    a = 35  # ZERO
                    displacement = address
                else:
                    a = rng.choice([*range(T0, T0 + 8), EA])
                    uops.append(("movi", a, 0, 0, address - displacement & WORD, 0, insn))
                    temps.append(a)
                    if rng.random() < 0.5:
                        uops.append(("add64i", a, a, 0, 0, 0, insn))
                imm = displacement
            elif choice < 0.5:
                helper = rng.choice(list(HELPER_FLAGS))
                uops.append(("helper", d, a, b, imm, HELPER_FLAGS[helper], insn))
                if d not in architectural:
                    temps.append(d)
                continue
            else:
                op = rng.choice(COMMON if rng.random() < 0.7 else COMPUTE)
                name = op.name
                if op.kind is Kind.UPDATE and d not in architectural and d not in temps:
                    continue
            uops.append((name, d, a, b, imm, 0, insn))
            if d not in architectural and INFOS[NUMBER[name]].flags & 64:
                temps.append(d)
    op = rng.choice(BRANCHES)
    uops.append((op.name, 0, rng.choice(architectural), rng.choice(architectural), rng.getrandbits(64), 0, insn))
    return uops


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_random_blocks(box: Box, seed: int, optimized: bool) -> None:
    rng = random.Random(seed)
    buffer = ctypes.create_string_buffer(3 * 4096)
    host = ctypes.addressof(buffer) + 4095 & ~4095
    base = 0x40000
    for page in range(2):
        box.map_page(base + page * 4096, host + page * 4096)
    for _ in range(10):
        regs = [rng.choice((0, 1, WORD, rng.getrandbits(64))) for _ in range(VREG_COUNT)]
        regs[35] = 0
        content = bytearray(rng.randbytes(2 * 4096))
        ctypes.memmove(host, bytes(content), len(content))
        # accesses that would cross the page end go slow, where the Python slow path does nothing useful
        uops = random_block(rng, base, 1)
        model = Model(regs, content, base)
        for uop in uops:
            model.step(uop)
        for v, value in enumerate(regs):
            box.write("regs", value, v)
        left, exit_slot, _ = box.run(box.block(uops, optimized=optimized))
        after = [box.read("regs", v) for v in range(T0)]
        assert after == model.regs[:T0], uops
        assert left is not None
        assert exit_slot == model.exit
        assert ctypes.string_at(host, 8192) == bytes(content)
    for page in range(2):
        box.unmap_page(base + page * 4096)


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("seed", range(40))
def test_random_faults_are_precise(box: Box, seed: int, optimized: bool) -> None:
    """One access of a random block faults: the state is that before it, down to lazy flags and counts."""
    rng = random.Random(seed)
    buffer = ctypes.create_string_buffer(3 * 4096)
    host = ctypes.addressof(buffer) + 4095 & ~4095
    base, unmapped, zero = 0x40000, 0x60000, 35
    box.map_page(base, host)
    for _ in range(10):
        regs = [rng.getrandbits(64) for _ in range(VREG_COUNT)]
        regs[zero] = 0
        content = bytearray(rng.randbytes(8192))
        ctypes.memmove(host, bytes(content), len(content))
        uops = random_block(rng, base, 1)
        insns = uops[-1][6] + 1
        index = rng.randrange(len(uops))
        name = rng.choice(("ld8", "ld64", "st16", "st64"))
        insn = uops[index][6]
        fault = (name, T0 + 7 if name[0] == "l" else 0, zero, rng.randrange(4), unmapped, 0, insn)
        uops.insert(index, fault)
        model = Model(regs, content, base)
        for uop in uops[:index]:
            model.step(uop)
        for v, value in enumerate(regs):
            box.write("regs", value, v)
        box.write("insn_count", 50)
        box.slow_fault = 1
        left, _, rip = box.run(box.block(uops, pc=0x1700, optimized=optimized))
        box.slow_fault = 0
        box.write("fault", 0)
        assert [box.read("regs", v) for v in range(T0)] == model.regs[:T0], uops
        assert (left, rip, box.read("insn_count")) == (None, 0x1700 + insn, 50 + insn)
        assert insn < insns
        assert ctypes.string_at(host, 8192) == bytes(content)
    box.unmap_page(base)


def loop_block(rng: random.Random, base: int) -> list[tuple[Any, ...]]:
    """A random block with side exits that comes back to its start: r15 counts down, r14 walks through memory."""
    uops = [uop for uop in random_block(rng, base, 1)[:-1] if uop[1] not in (R14, R15) or uop[0].startswith("st")]
    insns = (uops[-1][6] if uops else 0) + 1
    result: list[tuple[Any, ...]] = []
    walk_at = rng.randrange(insns)
    number = exits = 0
    for insn in range(insns):
        own = [uop for uop in uops if uop[6] == insn]
        if insn == walk_at:
            own += [("ld8", R13, R14, 0, 0, 0), ("add64i", R14, R14, 0, rng.choice((1, 9, 512)), 0)]
        if own:
            result += [(*uop[:6], number) for uop in own]
            number += 1
        if exits < 3 and rng.random() < 0.3:
            name, imm = rng.choice((("br_eq32i", 5), ("br_slt64i", -(1 << 62)), ("br_ult8i", 3), ("br_ule64i", 2)))
            result.append((name, SIDE_EXIT, rng.randrange(16), 0, imm, exits, number))
            exits += 1
            number += 1
    result += [("add64i", R15, R15, 0, -1, 0, number), ("br_ne64i", 0, R15, 0, 0, exits, number)]
    return result


@pytest.mark.parametrize("optimized", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_random_loops(box: Box, seed: int, optimized: bool) -> None:
    """Loops that keep their registers: every iteration, side exit, fault and count is as the model has it."""
    rng = random.Random(seed)
    buffer = ctypes.create_string_buffer(3 * 4096)
    host = ctypes.addressof(buffer) + 4095 & ~4095
    base, zero, pc = 0x40000, 35, 0x1700
    box.map_page(base, host)
    for _ in range(10):
        uops = loop_block(rng, base)
        insns = uops[-1][6] + 1
        leaves = uops[-1][5] + 1
        regs = [rng.choice((0, 1, 7, WORD, rng.getrandbits(64))) for _ in range(VREG_COUNT)]
        regs[zero] = 0
        regs[R15] = rng.choice((1, 2, 3, 12))
        regs[R14] = base + rng.randrange(4096)  # some walk off the page
        content = bytearray(rng.randbytes(8192))
        ctypes.memmove(host, bytes(content), len(content))
        model = Model(regs, content, base)
        done = 0
        end: tuple[int | None, int] | None = None
        while end is None:
            for uop in uops:
                kind = next(o.kind for o in INTEGER_OPS if o.name == uop[0])
                if uop[:3] == ("ld8", R13, R14) and model.regs[R14] >= base + 4096:
                    end = None, pc + uop[6]
                    done += uop[6]
                    break
                model.step(uop)
                if kind in (Kind.BRANCH, Kind.BRANCH_IMM) and uop[1] == SIDE_EXIT and model.exit == 0:
                    end = uop[5], 0
                    done += uop[6] + 1
                    break
            else:
                done += insns
                if model.exit == 1:
                    end = leaves, 0
        for v, value in enumerate(regs):
            box.write("regs", value, v)
        box.write("insn_count", 50)
        box.slow_fault = 1
        exits = (*range(pc + 0x80, pc + 0x80 + leaves - 1), pc, pc + 0xF0)
        left, exit_slot, rip = box.run(box.block(uops, pc=pc, exits=exits, optimized=optimized, loops=True))
        box.slow_fault = 0
        box.write("fault", 0)
        assert [box.read("regs", v) for v in range(T0)] == model.regs[:T0], uops
        assert box.read("insn_count") == 50 + done
        if end[0] is None:
            assert (left, rip) == (None, end[1])
        else:
            assert (left is not None, exit_slot, rip) == (True, end[0], exits[end[0]])
        assert ctypes.string_at(host, 8192) == bytes(content)
    box.unmap_page(base)


def test_loop_leaves_at_an_interrupt(box: Box) -> None:
    uops = [("add64i", 0, 0, 0, 1, 0, 0), ("jump", 0, 0, 0, 0, 0, 1)]
    loop = box.block(uops, pc=0x1700, exits=(0x1700,), loops=True)
    box.write("regs", 0)
    box.write("insn_count", 0)
    timer = threading.Timer(0.02, lambda: box.write("interrupt", 1))
    timer.start()
    assert box.run(loop) == (None, 0, 0x1700)
    timer.join()
    box.write("interrupt", 0)
    assert box.read("regs") > 1000
    assert box.read("insn_count") == 2 * box.read("regs")


def test_side_exits_are_linked(box: Box) -> None:
    uops = [
        ("br_eq64i", SIDE_EXIT, 0, 0, 1, 0, 0), ("add64i", 1, 1, 0, 1, 0, 1), ("br_eq64i", SIDE_EXIT, 0, 0, 2, 1, 2),
        ("add64i", 1, 1, 0, 1, 0, 3), ("jump", 0, 0, 0, 0, 2, 3),
    ]  # fmt: skip
    block = box.block(uops, pc=0x1700, exits=(0x1710, 0x1720, 0x1730))
    target = box.block([("add64i", 1, 1, 0, 100), ("jump", 0, 0, 0, 0)], pc=0x1720, exits=(0x1740,))
    for value, exit_slot, insns, result in ((1, 0, 1, 0), (2, 1, 3, 1), (3, 2, 4, 2)):
        box.write("regs", value, 0)
        box.write("regs", 0, 1)
        box.write("insn_count", 0)
        assert box.run(block) == (block, exit_slot, 0x1710 + 16 * exit_slot)
        assert (box.read("insn_count"), box.read("regs", 1)) == (insns, result)
    box.link(block, 1, target)
    box.write("regs", 2, 0)
    box.write("regs", 0, 1)
    assert box.run(block) == (target, 0, 0x1740)
    assert box.read("regs", 1) == 101
    box.unlink(target)
    assert box.run(block) == (block, 1, 0x1720)


def test_head_counts_and_leaves(box: Box) -> None:
    number = box.block([("add64i", 0, 0, 0, 1), ("jump", 0, 0, 0, 0)], pc=0x1700, insns=3)
    box.write("insn_count", 10)
    box.write("regs", 0)
    assert box.run(number) == (number, 0, 0x1200)
    assert box.read("insn_count") == 13
    box.write("interrupt", 1)
    assert box.run(number) == (None, 0, 0x1700)
    assert (box.read("insn_count"), box.read("regs")) == (13, 1)


def test_link_and_unlink(box: Box) -> None:
    first = box.block([("add64i", 0, 0, 0, 1), ("br_ult64i", 0, 0, 0, 100)], pc=0x1000, exits=(0x1000, 0x1200))
    second = box.block([("add64i", 1, 1, 0, 7), ("jump", 0, 0, 0, 0)], pc=0x1200, exits=(0x1300, 0))
    box.write("regs", 0, 0)
    box.write("regs", 0, 1)
    assert box.run(first) == (first, 0, 0x1000)
    box.link(first, 0, first)
    assert box.run(first) == (first, 1, 0x1200)
    assert box.read("regs", 0) == 100
    box.link(first, 1, second)
    assert box.run(first) == (second, 0, 0x1300)
    assert box.read("regs", 1) == 7
    box.unlink(second)
    assert box.run(first) == (first, 1, 0x1200)
    box.unlink(first)
    box.write("regs", 0, 0)
    assert box.run(first) == (first, 0, 0x1000)
    box.link(first, 1, second)
    box.write("regs", 100, 0)
    assert box.run(first)[0] == second


def test_exit_displacements_are_aligned(box: Box) -> None:
    """Linking is one store that no vCPU may see half done."""
    for length in range(12):
        filler = [("add64i", v % 8, v % 8, 0, 3) for v in range(length)] + [("mov", 9, 1, 0, 0)] * (length % 3)
        terminals: tuple[tuple[str, int, int, int, int], ...] = (
            ("br_eq64", 0, 1, 2, 0), ("br_ne8i", 0, 1, 0, 3), ("jump", 0, 0, 0, 0),
        )  # fmt: skip
        for terminal in terminals:
            number = box.block([*filler, terminal])
            for slot in range(2 if terminal[0] != "jump" else 1):
                assert box.exit_place(number, slot) % 4 == 0


def test_jump_cache(box: Box) -> None:
    flags = 0x28
    source = box.block([("jump_indirect", 0, 3, 0, 0)], flags=flags)
    target = box.block([("jump", 0, 0, 0, 0)], pc=0xFFFF_FFFF_8100_0123, flags=flags, exits=(0xFFFF_FFFF_8100_0999, 0))
    box.write("regs", 0xFFFF_FFFF_8100_0123, 3)
    assert box.run(source) == (None, 0, 0xFFFF_FFFF_8100_0123)
    box.cache_jump(target)
    assert box.run(source) == (target, 0, 0xFFFF_FFFF_8100_0999)
    other_mode = box.block([("jump_indirect", 0, 3, 0, 0)], flags=flags | 3)
    assert box.run(other_mode) == (None, 0, 0xFFFF_FFFF_8100_0123)


def test_jump_cache_refuses_forged_addresses(box: Box) -> None:
    """A rip that is not canonical could carry the difference of the flags in its upper bits."""
    from manor.engine.env import FAULT_ONE_INSN, JUMP_KEY_SHIFT, RSP

    target = box.block([("jump", 0, 0, 0, 0)], pc=0x40_0010, flags=0x28, exits=(0x99, 0))
    box.cache_jump(target)
    source = box.block([("jump_indirect", 0, 3, 0, 8)], pc=0x1000, flags=0x2B | 1 << 6)
    forged = 0x40_0010 ^ ((0x2B | 1 << 6) ^ 0x28) << JUMP_KEY_SHIFT
    assert forged & JUMP_CACHE_ENTRIES - 1 == 0x40_0010 & JUMP_CACHE_ENTRIES - 1
    box.write("regs", forged, 3)
    box.write("regs", 0x7010, RSP)
    assert box.run(source) == (None, 0, 0x1000), "the branch itself is to fault"
    assert box.read("fault") == FAULT_ONE_INSN
    assert box.read("regs", RSP) == 0x7008


def test_helper_sees_what_it_reads(box: Box, world: Any) -> None:
    """Declared registers are in env before the call, and are read again afterwards."""
    seen: list[int] = []

    def act(env: int) -> int:
        cells = (ctypes.c_uint64 * VREG_COUNT).from_address(env + OFFSETS["regs"])
        seen[:] = [cells[1], cells[7]]
        cells[7] = 5000
        return 42

    world.on_helper = act
    for v in range(VREG_COUNT):
        box.write("regs", v, v)
    uops = [
        ("add64i", 1, 1, 0, 100), ("mov", 7, 1, 0, 0), ("helper", T0, 2, 3, 1 << 50, HELPER_FLAGS["sees_all"]),
        ("add64", 4, T0, 7, 0), ("jump", 0, 0, 0, 0),
    ]  # fmt: skip
    box.run(box.block(uops, pc=0x1234))
    assert world.helper_calls == [("sees_all", 2, 3, 1 << 50)]
    assert seen == [101, 101]
    assert [box.read("regs", v) for v in (1, 4, 7)] == [101, 5042, 5000]
    assert box.read("rip") == 0x1200


def test_helper_that_faults(box: Box, world: Any) -> None:
    def act(env: int) -> int:
        ctypes.c_uint32.from_address(env + OFFSETS["fault"]).value = 1
        return 42

    world.on_helper = act
    box.write("insn_count", 0)
    box.write("regs", 9, 4)
    uops = [
        ("movi", 1, 0, 0, 1 << 60, 0, 0), ("helper", 4, 2, 3, 7, HELPER_FLAGS["sees_all"], 1),
        ("jump", 0, 0, 0, 0, 0, 2),
    ]  # fmt: skip
    assert box.run(box.block(uops, pc=0x1234)) == (None, 0, 0x1235)
    assert (box.read("insn_count"), box.read("regs", 1), box.read("regs", 4)) == (1, 1 << 60, 9)


def test_optimize_drops_dead_flags_but_not_before_a_fault(box: Box) -> None:
    def flags(value: int, insn: int) -> list[tuple[Any, ...]]:
        return [("mov", CC_DST, 0, 0, 0, 0, insn), ("movi", CC_OP, 0, 0, value, 0, insn)]

    jump = ("jump", 0, 0, 0, 0, 0, 9)
    assert len(box.optimized([*flags(1, 0), *flags(2, 1), jump])) == 3
    load = ("ld64", 2, 3, 0, 0, 0, 1)
    assert len(box.optimized([*flags(1, 0), load, *flags(2, 2), jump])) == 6
    pure = ("helper", T0, 2, 3, 0, HELPER_FLAGS["pure"], 1)
    assert box.optimized([pure, jump]) == ["jump"]
    assert box.optimized([("helper", T0, 2, 3, 0, HELPER_FLAGS["plain"], 1), jump]) == ["helper", "jump"]


def test_optimize_follows_copies(box: Box) -> None:
    uops = [("mov", T0, 3, 0, 0, 0, 0), ("add64", T0 + 1, T0, T0, 0, 0, 0), ("mov", 5, T0 + 1, 0, 0, 0, 0),
            ("jump", 0, 0, 0, 0, 0, 0)]  # fmt: skip
    assert box.optimized(uops) == ["add64", "jump"]
    # not past a new value of the origin
    uops = [("mov", 6, 3, 0, 0, 0, 0), ("movi", 3, 0, 0, 1, 0, 0), ("add64i", 7, 6, 0, 0, 0, 0),
            ("jump", 0, 0, 0, 0, 0, 0)]  # fmt: skip
    box.write("regs", 55, 3)
    box.run(box.block(uops, optimized=True))
    assert box.read("regs", 7) == 55


def test_refuses_what_does_not_fit(box: Box) -> None:
    with pytest.raises(RuntimeError, match="2"):
        box.block([("add64i", 0, 0, 0, 1)] * 1025)


def test_arena_full_then_reset(world: Any, shared_box: Box) -> None:
    small = type(shared_box)(1 << 17)
    uops = [("add64i", 0, 0, 0, 1), ("jump", 0, 0, 0, 0)]
    refused = None
    for _ in range(10000):
        try:
            small.block(uops)
        except RuntimeError as error:
            refused = str(error)
            break
    assert refused == "1"
    small.reset()
    number = small.block(uops)
    assert small.run(number) == (number, 0, 0x1200)


@pytest.mark.parametrize("how", ["unlink", "interrupt"])
def test_stop_a_running_loop(box: Box, how: str) -> None:
    """Another thread takes the link away, or raises the interrupt flag; the loop leaves with exact state."""
    first = box.block([("add64i", 0, 0, 0, 1), ("jump", 0, 0, 0, 0)], pc=0x1000, exits=(0x1200, 0))
    second = box.block([("add64i", 1, 1, 0, 1), ("jump", 0, 0, 0, 0)], pc=0x1200, exits=(0x1000, 0))
    box.write("regs", 0, 0)
    box.write("regs", 0, 1)
    box.write("insn_count", 0)
    box.link(first, 0, second)
    box.link(second, 0, first)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(box.run(first)))
    thread.start()
    while box.read("regs", 0) < 500:  # instructions are counted when generated code leaves
        time.sleep(0.001)
    if how == "unlink":
        box.unlink(second)
    else:
        box.write("interrupt", 1)
    thread.join(10)
    assert not thread.is_alive()
    done, partner = box.read("regs", 0), box.read("regs", 1)
    assert box.read("insn_count") == done + partner
    if how == "unlink":
        assert results == [(first, 0, 0x1200)]
    else:
        assert results in ([(None, 0, 0x1000)], [(None, 0, 0x1200)])
        assert done - partner == (results[0][2] == 0x1200)


def test_exit_to_another_page_is_never_linked(box: Box) -> None:
    """The page may be mapped elsewhere when the block runs again: the exit goes through the jump cache."""
    target = box.block([("jump", 0, 0, 0, 0)], pc=0x5000, exits=(0x5100, 0))
    source = box.block([("add64i", 0, 0, 0, 1), ("jump", 0, 0, 0, 0)], pc=0x1000, exits=(0x5000, 0))
    assert box.exit_place(source, 0) == 0
    assert box.run(source) == (None, 0, 0x5000)
    box.cache_jump(target)
    assert box.run(source) == (target, 0, 0x5100)
