"""Vector uops as LLVM IR for x86-64 hosts: load the cells, one host instruction, store the cell.

The instruction is inline assembly, not LLVM's own operations: the guest's MXCSR is in force, NaN
payloads and sticky flags must be the guest's, and LLVM may commute or fold what it knows. It
also keeps constant pools out of the stencils.

Cells are used by exactly the width that the operation touches (a scalar double is loaded and stored as 64
bits), so that a store forwards to the next load of the same kind in the host's pipeline.
"""

from __future__ import annotations

from typing import Any, Final

from llvmlite import ir

from manor.engine.uop.vector_ops import VectorOp

I8: Final = ir.IntType(8)
I32: Final = ir.IntType(32)
I64: Final = ir.IntType(64)
X128: Final = ir.VectorType(I64, 2)
_FLOAT: Final[dict[int, Any]] = {32: ir.FloatType(), 64: ir.DoubleType(), 128: X128}


def _cell(builder: Any, pointer: Any, type: Any, offset: int = 0) -> Any:
    """`pointer` as a pointer to `type`, `offset` bytes on."""
    bytes_at = builder.bitcast(pointer, I8.as_pointer())
    if offset:
        bytes_at = builder.gep(bytes_at, [ir.Constant(I64, offset)], source_etype=I8)
    return builder.bitcast(bytes_at, type.as_pointer())


def _load(builder: Any, pointer: Any, type: Any, offset: int = 0) -> Any:
    return builder.load(_cell(builder, pointer, type, offset), typ=type, align=4)


def _store(builder: Any, value: Any, pointer: Any, offset: int = 0) -> None:
    builder.store(value, _cell(builder, pointer, value.type, offset), align=4)


def _copy(builder: Any, d: Any, a: Any) -> None:
    """Copy a cell as two loads and one store.

    A 16-byte load behind an 8-byte store (of a scalar result) would stall the host; two 8-byte loads
    forward from stores of either size, and the 16-byte store serves loads of either size.
    """
    low, high = _cell(builder, a, I64), _cell(builder, a, I64, 8)
    type = ir.FunctionType(X128, [low.type, high.type])
    value = builder.asm(type, "movq ($1), $0; movhps ($2), $0", "=x,r,r,~{memory}", [low, high], side_effect=True)
    _store(builder, value, d)


def _move(op: VectorOp, builder: Any, d: Any, a: Any, b: Any) -> Any:
    """Uops without a host instruction: cells are memory."""
    name = op.name
    if name == "xmove":
        _copy(builder, d, a)
    elif name in ("xmove32", "xmove64"):
        _store(builder, _load(builder, a, I32 if op.d_bits == 32 else I64), d)
    elif name in ("xset", "xset64"):
        # One 16-byte store: the next load may be of the whole cell.
        if name == "xset":
            type = ir.FunctionType(X128, [I64, I64])
            text, constraint, arguments = "movq $1, $0; pinsrq $$1, $2, $0", "=x,r,r", [a, b]
        else:
            type = ir.FunctionType(X128, [I64])
            text, constraint, arguments = "movq $1, $0", "=x,r", [a]
        _store(builder, builder.asm(type, text, constraint, arguments, side_effect=False), d)
    elif name == "xzero":
        value = builder.asm(ir.FunctionType(X128, []), "pxor $0, $0", "=x", [], side_effect=False)
        _store(builder, value, d)
    else:
        kind, bits, index = name[:4], *map(int, name[4:].split("_"))
        lane, offset = ir.IntType(bits), index * bits // 8
        if kind == "xget":
            value = _load(builder, a, lane, offset)
            return value if bits == 64 else builder.zext(value, I64)
        _store(builder, a if bits == 64 else builder.trunc(a, lane), d, offset)
    return None


def _operand(op: VectorOp, builder: Any, kind: str, value: Any, bits: int) -> tuple[Any, str]:
    """Value and constraint of a source operand as the host instruction wants it."""
    if kind == "x":
        return _load(builder, value, _FLOAT[bits]), "x"
    if op.name.endswith("_m"):  # a register that stands for a memory operand: into an xmm register
        value = value if bits == 64 else builder.trunc(value, I32)
        return builder.bitcast(value, _FLOAT[bits]), "x"
    return (value if bits == 64 else builder.trunc(value, I32)), "r"


def emit_vector(op: VectorOp, builder: Any, d: Any, a: Any, b: Any, imm: Any) -> Any:
    """Emit one vector uop.

    builder: llvmlite IRBuilder. d, a, b: for an "x" operand a pointer to its 16-byte cell (they may be
    equal), for an "r" operand an i64 (d: ignored). imm: i64 value. Returns the i64 result of an "r"
    destination, else None. Call `imm_is_used(op)` to learn whether imm matters.
    """
    if not op.host:
        return _move(op, builder, d, a, b)
    arguments: list[Any] = []
    constraints: list[str] = []
    names: dict[str, str] = {"d": "$0"}

    if op.d == "x":
        result, output = _FLOAT[op.d_bits], "=x"
    elif op.flags:
        result, output = I64, "={ax}"
    else:
        result, output = ir.IntType(op.d_bits), "=r"
    if op.tie:
        source = a if op.tie == "a" else d
        arguments.append(_load(builder, source, _FLOAT[op.d_bits]))
        constraints.append("0")
    for letter, kind, value, bits in (("a", op.a, a, op.a_bits), ("b", op.b, b, op.b_bits)):
        if kind and op.tie != letter:
            operand, constraint = _operand(op, builder, kind, value, bits)
            if "%xmm0" in op.host and letter == "b":
                constraint = "{xmm0}"
            arguments.append(operand)
            names[letter] = f"${len(arguments)}"
            constraints.append(constraint)
    if op.uses_imm:
        count = builder.asm(ir.FunctionType(X128, [I64]), "movq $1, $0", "=x,r", [imm], side_effect=False)
        arguments.append(count)
        names["imm"] = f"${len(arguments)}"
        constraints.append("x")
    text = op.host.format(**names)
    if op.flags:
        text += f"; lahf; movzbl %ah, %eax; andl $${op.flags}, %eax"
        constraints.append("~{flags}")
    elif op.name == "ptest":
        constraints.append("~{flags}")
    type = ir.FunctionType(result, [v.type for v in arguments])
    constraint_text = ",".join([output, *constraints])
    # side_effect: the sticky flags of MXCSR are an effect; order among themselves is kept.
    value = builder.asm(type, text, constraint_text, arguments, side_effect=True)
    if op.d == "x":
        _store(builder, value, d)
        return None
    return value if value.type == I64 else builder.zext(value, I64)


def emit_in_slots(op: VectorOp, builder: Any, d: Any, a: Any, b: Any, imm: Any) -> Any:
    """Like `emit_vector`, with the values themselves: <2 x i64> for "x" operands, i64 for "r". Returns the result.

    d: the old value, which the host's instruction changes in part if the operation does.
    """
    arguments: list[Any] = []
    constraints: list[str] = []
    names = {"d": "$0"}

    def argument(letter: str, value: Any, constraint: str) -> None:
        arguments.append(value)
        names.setdefault(letter, f"${len(arguments)}")
        constraints.append(constraint)

    def integer(value: Any, bits: int) -> Any:
        return value if bits >= 64 else builder.trunc(value, ir.IntType(bits))

    text = op.host or _host_move(op)
    kept = op.d == "x" and (op.tie or op.d_bits < 128 or op.name.startswith("xput"))
    if op.d == "x":
        result, output = X128, "=x"
    elif op.flags:
        result, output = I64, "={ax}"
    else:
        bits = int(op.name[4:].split("_")[0]) if op.name.startswith("xget") else op.d_bits
        result, output = ir.IntType(bits), "=r"
    if kept:
        argument("d", a if op.tie == "a" else d, "0")
    for letter, kind, value, bits in (("a", op.a, a, op.a_bits), ("b", op.b, b, op.b_bits)):
        if not kind or op.tie == letter:
            continue
        if kind == "x":
            argument(letter, value, "x")
        elif op.name.endswith("_m"):
            type = ir.FunctionType(X128, [ir.IntType(bits)])
            move = "movq $1, $0" if bits == 64 else "movd $1, $0"
            argument(letter, builder.asm(type, move, "=x,r", [integer(value, bits)], side_effect=False), "x")
        else:
            argument(letter, integer(value, bits), "r")
    if op.uses_imm:
        type = ir.FunctionType(X128, [I64])
        argument("imm", builder.asm(type, "movq $1, $0", "=x,r", [imm], side_effect=False), "x")
    text = text.format(**names)
    if op.flags:
        text += f"; lahf; movzbl %ah, %eax; andl $${op.flags}, %eax"
        constraints.append("~{flags}")
    type = ir.FunctionType(result, [v.type for v in arguments])
    value = builder.asm(type, text, ",".join([output, *constraints]), arguments, side_effect=True)
    return value if value.type in (X128, I64) else builder.zext(value, I64)


def _host_move(op: VectorOp) -> str:
    """Host instruction of the uops that are mere moves where operands are in registers."""
    moves = {
        "xmove": "movaps {a}, {d}", "xmove32": "movss {a}, {d}", "xmove64": "movsd {a}, {d}", "xzero": "pxor {d}, {d}",
        "xset64": "movq {a}, {d}", "xget32_0": "movd {a}, {d}", "xget64_0": "movq {a}, {d}",
        "xget64_1": "pextrq $$1, {a}, {d}", "xput64_0": "pinsrq $$0, {a}, {d}", "xput64_1": "pinsrq $$1, {a}, {d}",
    }  # fmt: skip
    return moves[op.name]


def imm_is_used(op: VectorOp) -> bool:
    """Whether the uop takes the immediate (else a stencil needs no hole for it)."""
    return op.uses_imm
