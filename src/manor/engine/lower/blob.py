"""The files of the stencil back end: written when the engine is built, used as they lie in memory at run time.

Both are little-endian. ops.bin: magic, how many uops, the number of
add64, their properties (`forms.OpInfo`). stencils.bin:
magic, fingerprint of env's layout, fingerprint of everything, sizes; then the tables
  first     uint32[(uops + specials) * forms]  index of the first stencil of a (uop, form), or NONE
  stencils  {uint32 code, uint32 relocation, uint16 size, uint16 relocations, uint8 fall, uint8[3]}
  relocations {uint16 offset, uint8 patch, uint8 hole, int32 addend}
  code      bytes
Special stencils follow the uops in `first`, in column 0.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from manor.engine.lower.forms import FORMS, Hole, Patch, Special, fingerprint, op_infos
from manor.engine.lower.layout import OPS_MAGIC, STENCILS_MAGIC, layout_fingerprint
from manor.engine.uop.table import NUMBER, OPS

if TYPE_CHECKING:
    from manor.engine.lower.elf_object import Function
    from manor.engine.lower.stencil import Job

HEADER: Final = struct.Struct("<8s32s32s6I")
"""magic, layout, fingerprint, uops, stencils, relocations, code bytes, largest stencil, 0."""
OP_INFO: Final = struct.Struct("<BBBBHHhH")
"""kind, bits (0 for more than 64), modulus, rmw, flags, stencils, imm_op, zero_shift."""
STENCIL: Final = struct.Struct("<IIHHB3x")
RELOCATION: Final = struct.Struct("<HBBi")
NONE: Final = 0xFFFFFFFF
NO_FALL: Final = 255

_PATCHES: Final = {1: Patch.ABS64, 2: Patch.REL32, 4: Patch.REL32, 10: Patch.ABS32, 11: Patch.ABS32,
                   12: Patch.ABS16, 14: Patch.ABS8}  # fmt: skip
"""x86-64 relocation type -> how to write it (AMD64 supplement, table 4.10)."""
_HOLE_OF: Final = {f"IMM{bits}": Hole.IMM for bits in (8, 16, 32, 64)} | {
    f"VALUE{bits}": Hole.VALUE for bits in (8, 16, 32)
}
_CONTROL: Final = {Hole.COLD, Hole.NEXT, Hole.EXIT0, Hole.EXIT1}
_JUMP: Final = 0xE9
_JUMP_SIZE: Final = 5


class StencilError(Exception):
    """A stencil came out of LLVM in a shape that cannot be copied; names it."""


class _Record:
    """One finished stencil."""

    def __init__(self, name: str, code: bytes, relocations: list[tuple[int, Patch, Hole, int]]) -> None:
        self.name = name
        self.code = code
        self.relocations = relocations
        self.fall = NO_FALL

    def drop_last_jump(self) -> Hole:
        """Remove the jump that ends the code; returns where it went."""
        offset, patch, hole, addend = self.relocations[-1] if self.relocations else (0, Patch.ABS8, Hole.IMM, 0)
        last = offset == len(self.code) - 4 and self.code[-_JUMP_SIZE] == _JUMP
        if not last or hole not in _CONTROL or patch is not Patch.REL32 or addend != -4:
            raise StencilError(f"{self.name}: does not end in a jump out")
        self.relocations.pop()
        self.code = self.code[:-_JUMP_SIZE]
        return hole


def _relocations(name: str, function: Function) -> list[tuple[int, Patch, Hole, int]]:
    result = []
    for relocation in function.relocations:
        patch = _PATCHES.get(relocation.type)
        if patch is None:
            raise StencilError(f"{name}: relocation of unknown type {relocation.type}")
        hole = _HOLE_OF.get(relocation.symbol, Hole.__members__.get(relocation.symbol))
        if hole is None:
            raise StencilError(f"{name}: unknown symbol {relocation.symbol}")
        if (hole in _CONTROL) != (patch is Patch.REL32):
            raise StencilError(f"{name}: {relocation.symbol} by relocation type {relocation.type}")
        result.append((relocation.offset, patch, hole, relocation.addend))
    return result


def _shift_hole(name: str, code: bytes, other: bytes, bits: int) -> tuple[int, Patch, Hole, int]:
    """Find the shift amount by comparing the code for two amounts."""
    from manor.engine.lower.stencil import SHIFT_PROBES

    first, second = SHIFT_PROBES[bits]
    different = [i for i, pair in enumerate(zip(code, other, strict=True)) if pair[0] != pair[1]]
    if len(different) != 1:
        raise StencilError(f"{name}: shift amounts change {len(different)} bytes")
    place = different[0]
    pair = (code[place], other[place])
    if pair == (first, second):
        return place, Patch.ABS8, Hole.SHIFT, 0
    if pair == (bits - first, bits - second):
        return place, Patch.ABS8, Hole.SHIFT_NEGATED, bits
    raise StencilError(f"{name}: shift amounts {first}, {second} became {pair}")


def _immediate_hole(name: str, code: bytes, other: bytes) -> tuple[int, Patch, Hole, int]:
    """Find a 32-bit immediate by comparing the code for two."""
    from manor.engine.lower.stencil import IMMEDIATE_PROBES

    different = [i for i, pair in enumerate(zip(code, other, strict=True)) if pair[0] != pair[1]]
    place = different[0] if different else 0
    if different != list(range(place, place + 4)):
        raise StencilError(f"{name}: immediates change the bytes {different}")
    found = tuple(int.from_bytes(text[place : place + 4], "little") for text in (code, other))
    for hole, sign in ((Hole.IMM, 1), (Hole.NEGATED, -1)):
        if found == tuple(sign * low & 0xFFFFFFFF for low in IMMEDIATE_PROBES):
            return place, Patch.ABS32, hole, 0
    raise StencilError(f"{name}: immediates {IMMEDIATE_PROBES} became {found}")


def finish(job: Job, functions: dict[str, Function]) -> _Record:
    """Check one stencil and bring it into the form that the emitter copies."""
    function = functions[job.name]
    record = _Record(job.name, function.code, _relocations(job.name, function))
    if job.shift_bits:
        record.relocations.append(
            _shift_hole(job.name, function.code, functions[job.name + "~"].code, job.shift_bits)
        )
        record.relocations.sort()
    if job.probed:
        record.relocations.append(_immediate_hole(job.name, function.code, functions[job.name + "~"].code))
        record.relocations.sort()
    targets = [hole for _, _, hole, _ in record.relocations if hole in _CONTROL]
    if Hole.EXIT0 in targets or Hole.EXIT1 in targets:
        if sorted(targets) != [Hole.EXIT0, Hole.EXIT1]:
            raise StencilError(f"{job.name}: a branch must have each exit once, has {targets}")
        record.fall = record.drop_last_jump() - Hole.EXIT0
    elif job.hot and Hole.NEXT in targets:
        if record.drop_last_jump() is not Hole.NEXT or Hole.NEXT in targets[:-1]:
            raise StencilError(f"{job.name}: NEXT must be its last jump and its only one")
    elif targets.count(Hole.NEXT) > 1 or (not job.hot and Hole.COLD in targets):
        raise StencilError(f"{job.name}: a cold stencil has one NEXT and no COLD, has {targets}")
    if targets.count(Hole.COLD) > 1:
        raise StencilError(f"{job.name}: more than one way to its cold twin")
    return record


def pack(records: list[_Record], first: dict[tuple[str, int], int]) -> bytes:
    """The file's bytes."""
    directory = [NONE] * ((len(OPS) + len(Special)) * FORMS)
    for number, op in enumerate(OPS):
        for form in range(FORMS):
            directory[number * FORMS + form] = first.get((op.name, form), NONE)
    for special in Special:
        directory[(len(OPS) + special) * FORMS] = first[special.name, -1]
    code = bytearray()
    relocations = bytearray()
    table = bytearray()
    places: dict[bytes, int] = {}
    for record in records:
        place = places.setdefault(record.code, len(code))
        if place == len(code):
            code += record.code
        table += STENCIL.pack(
            place, len(relocations) // RELOCATION.size, len(record.code), len(record.relocations), record.fall
        )
        for relocation in record.relocations:
            relocations += RELOCATION.pack(*relocation)
    header = HEADER.pack(
        STENCILS_MAGIC, layout_fingerprint(), fingerprint(), len(OPS), len(records),
        len(relocations) // RELOCATION.size, len(code), max(len(record.code) for record in records), 0,
    )  # fmt: skip
    return header + struct.pack(f"<{len(directory)}I", *directory) + bytes(table) + bytes(relocations) + bytes(code)


def pack_ops() -> bytes:
    """The contents of ops.bin."""
    records = b"".join(
        OP_INFO.pack(
            info.kind, info.bits if info.bits <= 64 else 0, info.modulus, info.rmw, info.flags, info.stencils,
            info.imm_op, info.zero_shift,
        )
        for info in op_infos()
    )  # fmt: skip
    return OPS_MAGIC + struct.pack("<II", len(OPS), NUMBER["add64"]) + records


def is_current(path: str | Path) -> bool:
    """Whether a stencils.bin was made from these sources, so that it need not be made again."""
    try:
        with Path(path).open("rb") as file:
            header = file.read(HEADER.size)
    except FileNotFoundError:
        return False
    if len(header) != HEADER.size:
        return False
    magic, _, made_for, *_ = HEADER.unpack(header)
    return bool(magic == STENCILS_MAGIC and made_for == fingerprint())


def build_stencils(out_path: str | Path) -> int:
    """Generate all stencils and write the file; returns their number. About ten seconds.

    Run it in a process of its own: LLVM ends the process on an internal error. StencilError if one
    stencil is not of the shape that the emitter copies.
    """
    from manor.engine.lower.stencil import all_jobs, compile_jobs

    jobs, first = all_jobs()
    functions = compile_jobs(jobs)
    Path(out_path).write_bytes(pack([finish(job, functions) for job in jobs], first))
    return len(jobs)


def build_all(directory: str | Path) -> None:
    """Write ops.bin and stencils.bin into a folder."""
    Path(directory, "ops.bin").write_bytes(pack_ops())
    build_stencils(Path(directory, "stencils.bin"))


if __name__ == "__main__":
    build_all(sys.argv[1])
