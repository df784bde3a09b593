"""Vector stencils against the interpreter's functions for the same uops, and 16-byte accesses that must align."""

from __future__ import annotations

import ctypes
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from manor.engine.env import OFFSETS, T0
from manor.engine.lower.forms import META_ALIGNED
from manor.engine.uop.interp_vector import render_c, vector_ops

Box = Any
FLOATING = (
    "add", "sub", "mul", "div", "min", "max", "sqrt", "cmp", "round", "cvt", "rcp", "rsqrt", "comi", "ucomi", "h",
)  # fmt: skip


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Any:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    directory: Path = tmp_path_factory.mktemp("vector")
    source = directory / "vector.c"
    source.write_text(render_c().replace("static uint64_t manor_v_", "uint64_t manor_v_"))
    library = directory / "vector.so"
    subprocess.run([compiler, "-O1", "-fwrapv", "-w", "-shared", "-fPIC", "-o", library, source], check=True)
    return ctypes.CDLL(str(library))


def test_vector_uops(box: Box, interpreter: Any) -> None:
    rng = random.Random(5)
    for op in vector_ops():
        function = getattr(interpreter, f"manor_v_{op.name}")
        function.argtypes, function.restype = [ctypes.c_void_p] * 3 + [ctypes.c_uint64] * 3, ctypes.c_uint64
        box.reset()
        d, a, b = rng.sample(range(16), 3)  # scratch registers die at the end of the instruction
        if rng.random() < 0.3:
            a = d
        cells = [bytearray(rng.randbytes(16)) for _ in range(20)]
        if op.name.startswith(FLOATING):
            # finite values near one: NaN and flags are compared elsewhere
            cells = [bytearray(b"".join(rng.randbytes(3) + b"\x3f" for _ in range(4))) for _ in range(20)]
        base = box.address() + OFFSETS["xmm"]
        ctypes.memmove(base, b"".join(cells), 320)
        regs = [rng.getrandbits(64) for _ in range(40)]
        for v in range(16):
            box.write("regs", regs[v], v)
        imm = rng.choice((0, 1, 7, 15, 31, 63, 64, 200))
        ra, rb = a % 16 if op.a == "r" else 0, b % 16 if op.b == "r" else 0
        uop = (op.name, T0 if op.d == "r" else d, ra if op.a == "r" else a, rb if op.b == "r" else b, imm)
        # operands and result pass through slots
        uops = [("add64i", ra, ra, 0, 5), ("add64i", rb, rb, 0, 6), uop, ("mov", 15, T0, 0, 0), ("exit", 0, 0, 0, 0)]
        box.run(box.block(uops))
        regs[ra] += 5
        regs[rb] += 6
        buffers = [ctypes.create_string_buffer(bytes(c), 16) for c in cells]
        result = function(buffers[d], buffers[a], buffers[b], regs[ra] % (1 << 64), regs[rb] % (1 << 64), imm)
        after = ctypes.string_at(base, 320)
        assert after == b"".join(x.raw for x in buffers), op.name
        if op.d == "r":
            assert box.read("regs", 15) == result, op.name


def test_xmm_registers_move_between_slots_and_cells(box: Box) -> None:
    """More registers than slots, results read again, a helper that wants the cells."""
    rng = random.Random(3)
    base = box.address() + OFFSETS["xmm"]
    for _ in range(100):
        box.reset()
        cells = [rng.getrandbits(128) for _ in range(16)]
        ctypes.memmove(base, b"".join(value.to_bytes(16, "little") for value in cells), 256)
        uops: list[tuple[Any, ...]] = []
        for _ in range(30):
            d, a = rng.randrange(16), rng.randrange(16)
            match rng.randrange(5):
                case 0:
                    uops.append(("pxor", d, d, a, 0))
                    cells[d] ^= cells[a]
                case 1:
                    uops.append(("xmove", d, a, 0, 0))
                    cells[d] = cells[a]
                case 2:
                    uops.append(("xmove64", d, a, 0, 0))
                    cells[d] = cells[d] >> 64 << 64 | cells[a] & (1 << 64) - 1
                case 3:
                    uops.append(("pshufd_27", d, a, 0, 0))  # has no form in slots
                    words = [cells[a] >> 32 * i & 0xFFFFFFFF for i in (3, 2, 1, 0)]
                    cells[d] = sum(word << 32 * i for i, word in enumerate(words))
                case _:
                    uops += [("xget64_0", T0, a, 0, 0), ("xset64", d, T0, 0, 0)]
                    cells[d] = cells[a] & (1 << 64) - 1
        box.run(box.block([*uops, ("exit", 0, 0, 0, 0)]))
        assert ctypes.string_at(base, 256) == b"".join(value.to_bytes(16, "little") for value in cells)


def test_aligned_accesses(box: Box, slow_calls: list[Any]) -> None:
    memory = ctypes.create_string_buffer(2 * 4096)
    host = ctypes.addressof(memory) + 4095 & ~4095
    box.map_page(0x50000, host)
    slow_calls.clear()
    box.write("regs", 0x50000, 1)
    ctypes.memmove(box.address() + OFFSETS["xmm"], bytes(range(16)), 16)
    box.run(box.block([("stxa", 0, 1, 0, 0x20), ("ldxa", 3, 1, 0, 0x20), ("exit", 0, 0, 0, 0)]))
    assert ctypes.string_at(host + 0x20, 16) == bytes(range(16))
    assert ctypes.string_at(box.address() + OFFSETS["xmm"] + 48, 16) == bytes(range(16))
    assert not slow_calls
    box.run(box.block([("stxa", 0, 1, 0, 0x28), ("exit", 0, 0, 0, 0)]))
    assert slow_calls == [("storex_slow", 0x50028, OFFSETS["xmm"], 16 | META_ALIGNED)]
    box.unmap_page(0x50000)


def test_mmx_registers_are_the_x87_mantissas(box: Box) -> None:
    for index in range(8):
        box.write("fpr", 0x0101_0101_0101_0101 * index, 2 * index)
    name = next(op.name for op in vector_ops() if op.name == "paddb")
    box.run(box.block([(name, 16, 32 + 3, 32 + 4, 0), ("exit", 0, 0, 0, 0)]))
    assert box.read("xmm", 32) == 0x0707_0707_0707_0707
