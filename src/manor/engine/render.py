"""A translated block as text: guest code beside uops beside host code, for `--trace blocks`."""

from __future__ import annotations

import importlib
from itertools import zip_longest
from typing import Any, Final

from manor.engine import env
from manor.engine.disassemble import Line, disassemble
from manor.engine.uop.show import Uop, show, unpack

_HEX_BYTES: Final = 16
"""Bytes of host code in a line when nothing can disassemble them."""
_FLAG_NAMES: Final = (
    (env.FLAG_FPU_OFF, "fpu off"), (env.FLAG_SSE_OFF, "sse off"), (env.FLAG_ONE_INSN, "one instruction"),
    (env.FLAG_FPU_TRAP, "sse traps"), (env.FLAG_LIMITS, "limits"), (env.FLAG_VM86, "vm86"),
    (env.FLAG_AC, "alignment"),
)  # fmt: skip
_MMU_NAMES: Final = {
    env.MMU_SUPERVISOR: "supervisor", env.MMU_USER: "user", env.MMU_SUPERVISOR_NO_SMAP: "supervisor, no smap",
}  # fmt: skip


def render_block(
    pc: int,
    gpa: int,
    guest_bytes: bytes,
    uops_bytes: bytes,
    host_bytes: bytes,
    flags: int,
    exits: tuple[int, ...] | None = None,
) -> str:
    """The block in columns, several lines, no line break at the end.

    pc: RIP of the first instruction, gpa: where it lies. uops_bytes: struct Uop each. host_bytes: empty for a block
    that only the interpreter runs. flags: of the block key. exits: where the exits lead, if known.
    Host code is not aligned with the rows: the emitter moves and merges what uops do.
    """
    uops = list(unpack(uops_bytes))
    lines = list(disassemble(guest_bytes, pc, flags))
    rows = _rows(lines, uops, exits)
    host = host_lines(host_bytes)
    guest_width = max([len(guest) for guest, _ in rows] + [5])
    uop_width = max([len(uop) for _, uop in rows] + [4])
    parts = [describe_flags(flags), f"{len(lines)} instructions", f"{len(uops)} uops"]
    if host_bytes:
        parts.append(f"{len(host_bytes)} bytes of host code")
    text = [f"block {pc:#x}, gpa {gpa:#x}: {', '.join(parts)}"]
    head = f"  {'guest':<{guest_width}} | {'uops':<{uop_width}}" + (" | host" if host else "")
    text.append(head.rstrip())
    for row, code in zip_longest(rows, host):
        guest, uop = row or ("", "")
        line = f"  {guest:<{guest_width}} | {uop:<{uop_width}}" + (f" | {code}" if code else "")
        text.append(line.rstrip())
    return "\n".join(text)


def _rows(lines: list[Line], uops: list[Uop], exits: tuple[int, ...] | None) -> list[tuple[str, str]]:
    """(guest, uop) cells: each instruction beside the first of its uops."""
    width = max((line.size for line in lines), default=0) * 3
    texts = [f"{line.address:x}  {line.code.hex(' '):<{width}}{line.text}" for line in lines]
    grouped: list[list[str]] = [[] for _ in lines]
    rest: list[str] = []
    for uop in uops:
        # The jump that ends a block without a branch carries the number behind the last instruction.
        (grouped[uop.insn] if uop.insn < len(grouped) else rest).append(show(uop, exits))
    rows: list[tuple[str, str]] = []
    for text, group in zip(texts, grouped, strict=True):
        rows += zip_longest([text], group, fillvalue="")
    return rows + [("", text) for text in rest]


def describe_flags(flags: int) -> str:
    """The mode bits of a block key in words, such as `64-bit, ring 3, user`."""
    bits = 64 if flags & env.FLAG_CODE64 else 32 if flags & env.FLAG_CODE32 else 16
    words = [f"{bits}-bit", f"ring {flags >> env.FLAG_CPL_SHIFT & 3}"]
    words.append(_MMU_NAMES.get(flags >> env.FLAG_MMU_SHIFT & 3, "?"))
    return ", ".join(words + [name for bit, name in _FLAG_NAMES if flags & bit])


def host_lines(code: bytes) -> list[str]:
    """x86-64 host code by offset, disassembled if capstone is installed, else as bytes."""
    try:
        capstone: Any = importlib.import_module("capstone")
    except ImportError:
        starts = range(0, len(code), _HEX_BYTES)
        return [f"{start:4x}  {code[start : start + _HEX_BYTES].hex(' ')}" for start in starts]
    lines: list[str] = []
    offset = 0
    disassembler = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    while offset < len(code):
        for insn in disassembler.disasm(code[offset:], offset):
            lines.append(f"{offset:4x}  {insn.mnemonic} {insn.op_str}".rstrip())
            offset += insn.size
        if offset < len(code):
            lines.append(f"{offset:4x}  .byte {code[offset]:#04x}")
            offset += 1
    return lines
