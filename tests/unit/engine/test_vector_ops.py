"""Each vector uop: the interpreter's rendering and the stencils' rendering agree, results and MXCSR flags.

The stencil rendering is the real host instruction, so this compares the bodies with the host CPU.
"""

from __future__ import annotations

import ctypes
import random
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from manor.engine.lower.llvm_vector import emit_vector
from manor.engine.uop.interp_vector import render_c, render_vector, vector_ops
from manor.engine.uop.ops import Kind
from manor.engine.uop.vector_ops import VECTOR_OPS, VectorOp

Run = Callable[[VectorOp, bytes, bytes, bytes, int, int, int], tuple[bytes, int]]
ARGUMENTS = [ctypes.c_void_p] * 3 + [ctypes.c_uint64] * 3
FUNCTION = ctypes.CFUNCTYPE(ctypes.c_uint64, *ARGUMENTS)

INTERESTING_32 = (
    0, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00001, 0xFFC00002, 0x7F800003, 0xFF812345,
    1, 0x80000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF, 0x4F000000, 0xCF000000, 0x5F000000, 0x3F000000, 0x40200000,
)  # fmt: skip
INTERESTING_64 = (
    0, 1 << 63, 0x3FF0000000000000, 0xBFF8000000000000, 0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000001,
    0xFFF8000000000002, 0x7FF0000000000003, 0xFFF0123456789ABC, 1, 0x000FFFFFFFFFFFFF, 0x0010000000000000,
    0x7FEFFFFFFFFFFFFF, 0x41E0000000000000, 0xC1E0000000000000, 0x43E0000000000000, 0x36A0000000000001, 5,
)  # fmt: skip
MXCSR = (0x1F80, 0x3F80, 0x5F80, 0x7F80, 0x9FC0, 0x1FC0, 0x9F80)
"""Rounding modes, then flush to zero and denormals are zero."""


def _cell(rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(16)
    if kind == 1:
        return struct.pack("<4I", *(rng.choice(INTERESTING_32) for _ in range(4)))
    if kind == 2:
        return struct.pack("<2Q", *(rng.choice(INTERESTING_64) for _ in range(2)))
    return bytes(rng.choice((0, 1, 0x7F, 0x80, 0x81, 0xFF, 15, 16)) for _ in range(16))


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    directory: Path = tmp_path_factory.mktemp("vector")
    source = directory / "vector.c"
    source.write_text(
        render_c().replace("static uint64_t manor_v_", "uint64_t manor_v_")
        + "\nvoid set_mxcsr(uint32_t v) { __builtin_ia32_ldmxcsr(v); }\n"
        "uint32_t get_mxcsr(void) { return __builtin_ia32_stmxcsr(); }\n"
    )
    library = directory / "vector.so"
    options = ["-O2", "-fwrapv", "-fno-strict-aliasing", "-w", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, "-o", library, source], check=True)
    loaded = ctypes.CDLL(str(library))
    functions: dict[str, Any] = {"set_mxcsr": loaded.set_mxcsr, "get_mxcsr": loaded.get_mxcsr}
    for op in vector_ops():
        function = getattr(loaded, f"manor_v_{op.name}")
        function.argtypes, function.restype = ARGUMENTS, ctypes.c_uint64
        functions[op.name] = function
    return functions


@pytest.fixture(scope="module")
def stencils() -> Iterator[dict[str, Any]]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    module = ir.Module("vector")
    module.triple = llvm.get_process_triple()
    pointer, word = ir.IntType(8).as_pointer(), ir.IntType(64)
    for op in vector_ops():
        function = ir.Function(module, ir.FunctionType(word, [pointer] * 3 + [word] * 3), "v_" + op.name)
        builder = ir.IRBuilder(function.append_basic_block())
        d, xa, xb, ra, rb, imm = function.args
        result = emit_vector(op, builder, d, xa if op.a == "x" else ra, xb if op.b == "x" else rb, imm)
        builder.ret(ir.Constant(word, 0) if result is None else result)
    machine = llvm.Target.from_default_triple().create_target_machine(cpu="x86-64-v2", opt=2)
    parsed = llvm.parse_assembly(str(module))
    assert "rodata" not in machine.emit_assembly(parsed)
    engine = llvm.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    yield {op.name: FUNCTION(engine.get_function_address("v_" + op.name)) for op in vector_ops()}
    engine.close()


def _run(
    function: Any, mxcsr: int, control: dict[str, Any], cells: tuple[bytes, bytes, bytes],
    numbers: tuple[int, ...], same: bool,
) -> tuple[bytes, int, int]:  # fmt: skip
    d, a, b = (ctypes.create_string_buffer(cell, 16) for cell in cells)
    control["set_mxcsr"](mxcsr)
    result = function(d, d if same else a, b, *numbers)
    flags = control["get_mxcsr"]() & 0x3F
    control["set_mxcsr"](0x1F80)
    return d.raw, result, flags


IS_FLOAT = (
    "add", "sub", "mul", "div", "min", "max", "sqrt", "cmp", "round", "cvt", "rcp", "rsqrt", "comi", "ucomi", "h",
)  # fmt: skip


def test_interpreter_equals_host(interpreter: dict[str, Any], stencils: dict[str, Any]) -> None:
    rng = random.Random(3)
    for op in vector_ops():
        is_float = op.name.startswith(IS_FLOAT)
        for round_number in range(24 if is_float or "_" not in op.name else 3):
            cells = (_cell(rng), _cell(rng), _cell(rng))
            choices = (rng.getrandbits(64), rng.choice(INTERESTING_64), rng.choice(INTERESTING_32))
            numbers: tuple[int, ...] = (rng.choice(choices), rng.choice(choices))
            numbers += (rng.choice((0, 1, 7, 15, 16, 31, 32, 63, 64, 200, (1 << 64) - 1)),)
            mxcsr = MXCSR[round_number % len(MXCSR)] if is_float else 0x1F80
            same = rng.randrange(3) == 0
            got = _run(interpreter[op.name], mxcsr, interpreter, cells, numbers, same)
            want = _run(stencils[op.name], mxcsr, interpreter, cells, numbers, same)
            context = (op.name, hex(mxcsr), [c.hex() for c in cells], [hex(n) for n in numbers], same)
            assert got == want, context


def test_every_table_entry_is_rendered() -> None:
    assert {op.kind for op in VECTOR_OPS} == {Kind.VECTOR, Kind.VECTOR_LOAD, Kind.VECTOR_STORE}
    assert len({op.name for op in VECTOR_OPS}) == len(VECTOR_OPS)
    for op in vector_ops():
        (statement,) = render_vector(op)
        assert statement.startswith("rd = ") == (op.d == "r")
        assert ("imm" in statement) == op.uses_imm


def test_uops_by_immediate_stand_in_a_row() -> None:
    names = [op.name for op in VECTOR_OPS]
    for first, count in (
        ("pshufd_0", 256), ("shufps_0", 256), ("shufpd_0", 4), ("palignr_0", 33), ("psrldq_0", 17), ("roundsd_0", 16),
        ("cmpps_0", 8), ("blendps_0", 16), ("xput16_0", 8), ("xget8_0", 16),
    ):  # fmt: skip
        start, stem = names.index(first), first[:-1]
        assert names[start : start + count] == [f"{stem}{n}" for n in range(count)]
    for first, count in (("cmpsd_0_m", 8), ("roundss_0_m", 16)):
        start = names.index(first)
        assert names[start + count - 1] == first.replace("_0_m", f"_{count - 1}_m")


def test_first_source_nan_wins(stencils: dict[str, Any], interpreter: dict[str, Any]) -> None:
    first, second = 0x7FF0_0000_0000_0001, 0x7FF8_0000_0000_0002
    for functions in (stencils, interpreter):
        d = ctypes.create_string_buffer(struct.pack("<2Q", first, 7), 16)
        a = ctypes.create_string_buffer(struct.pack("<2Q", second, 9), 16)
        functions["mulsd"](d, a, None, 0, 0, 0)
        assert struct.unpack("<2Q", d.raw) == (first | 1 << 51, 7)
