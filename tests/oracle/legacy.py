"""16-bit and 32-bit protected mode against the host CPU: code in segments of a local descriptor table.

Linux lets a program make such segments (modify_ldt), with limits, expand-down and read-only ones, so the
judge of segmentation is a processor. Instructions are made from the opcode maps, not from a list of forms:
whatever a byte sequence means, or that it means nothing, must agree. What runs is one instruction; all other
code bytes are INT3. Sources: SDM volume 2, appendix A (opcode maps); volume 3, 3.4.5 (descriptors), 5.3
(limits); Linux x86-64 `struct user_desc` (uapi asm/ldt.h).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import capstone

from tests.oracle import host, values
from tests.oracle.cases import ROWS
from tests.oracle.generate import shift_undefined
from tests.oracle.state import AF, BP, CF, DF, OF, PF, SF, STATUS_FLAGS, ZF

ARENA = 0x7000_0000
ARENA_SIZE = 0x40000
"""All segments begin in it; what lies around it is not mapped."""
ES, CS, SS, DS, FS, GS = range(6)
SYS_MODIFY_LDT = 154
COMPARED = STATUS_FLAGS | DF
_BP_VECTOR = BP


@dataclass(frozen=True, slots=True)
class Segment:
    """A descriptor: byte limit (page-granular above 1 MiB), expand-down, writable, D/B."""

    base: int
    limit: int
    big: bool = True
    writable: bool = True
    down: bool = False
    code: bool = False

    @property
    def granular(self) -> bool:
        return self.limit > 0xF_FFFF

    def descriptor(self) -> int:
        """The eight bytes, DPL 3, present, accessed."""
        limit = self.limit >> 12 if self.granular else self.limit
        access = 0xF1 | (8 if self.code else 0) | (4 if self.down else 0) | (2 if self.writable or self.code else 0)
        flags = (4 if self.big else 0) | (8 if self.granular else 0)
        return (
            limit & 0xFFFF | (self.base & 0xFFFFFF) << 16 | access << 40 | (limit >> 16) << 48 | flags << 52
            | (self.base >> 24) << 56
        )  # fmt: skip

    def user_desc(self, entry: int) -> bytes:
        """struct user_desc."""
        limit = self.limit >> 12 if self.granular else self.limit
        contents = 2 if self.code else 1 if self.down else 0
        bits = int(self.big) | contents << 1 | int(not self.writable and not self.code) << 3 | int(self.granular) << 4
        return struct.pack("<IIII", entry, self.base, limit, bits | 1 << 6)


@dataclass(slots=True)
class LegacyState:
    """What 32-bit code sees. segments: by register number; selectors 4 * (2 * number + 1) + 3 of the LDT."""

    gpr: list[int]
    eip: int
    flags: int
    segments: tuple[Segment, ...]
    memory: bytes
    selectors: list[int] = field(default_factory=lambda: [number * 8 + 7 for number in range(6)])
    vector: int | None = None
    error: int = 0
    failure: str = ""


@dataclass(slots=True)
class LegacyCase:
    """One instruction and where it starts."""

    name: str
    code: bytes
    state: LegacyState
    mnemonic: str
    undefined: int


def available() -> bool:
    """Whether this kernel lets programs make segments."""
    desc = ctypes.create_string_buffer(Segment(0, 0xFFFF).user_desc(60))
    return int(ctypes.CDLL(None).syscall(SYS_MODIFY_LDT, 0x11, desc, 16)) == 0


# --- The host -------------------------------------------------------------------------------------------------------

_R = host.RUNNER
_ENTRY, _HANDLER, _BLOCK, _RESULT, _STACK = _R, _R + 0x400, _R + 0x1000, _R + 0x2000, _R + 0x4000
_B_GPR, _B_FLAGS, _B_SEGMENTS, _B_FAR, _B_HOST_RSP, _B_HOST_FS = (_BLOCK + n for n in (0, 64, 72, 88, 96, 104))
_RESULT_SIZE = 8 + 8 * 23 + 8


def _abs(address: int) -> bytes:
    return struct.pack("<I", address)


def _mov_segment(number: int, address: int, store: bool) -> bytes:
    return bytes((0x8C if store else 0x8E, 0x04 | number << 3, 0x25)) + _abs(address)


def _entry_code() -> bytes:
    out = b"\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57\x48\x89\x24\x25" + _abs(_B_HOST_RSP)
    out += b"\xb8" + _abs(158) + b"\xbf" + _abs(0x1003) + b"\xbe" + _abs(_B_HOST_FS) + b"\x0f\x05"
    out += b"\xff\x34\x25" + _abs(_B_FLAGS) + b"\x9d"
    for number in (ES, DS, FS, GS, SS):
        out += _mov_segment(number, _B_SEGMENTS + 2 * number, store=False)
    for register in range(8):
        out += bytes((0x48, 0x8B, 0x04 | register << 3, 0x25)) + _abs(_B_GPR + 8 * register)
    return out + b"\xff\x2c\x25" + _abs(_B_FAR)


def _handler_code() -> bytes:
    out = b"\xfc\x48\x63\xc7\x48\x89\x04\x25" + _abs(_RESULT)
    out += b"\x48\x8d\x72\x28\xbf" + _abs(_RESULT + 8) + b"\xb9" + _abs(23) + b"\xf3\x48\xa5"
    for position, number in enumerate((ES, DS, FS, GS)):
        out += _mov_segment(number, _RESULT + 8 + 8 * 23 + 2 * position, store=True)
    out += b"\x31\xc0\x8e\xd8\x8e\xc0\x8e\xe0\x8e\xe8"  # null DS, ES, FS and GS
    out += b"\xb8" + _abs(158) + b"\xbf" + _abs(0x1002) + b"\x48\x8b\x34\x25" + _abs(_B_HOST_FS) + b"\x0f\x05"
    out += b"\x48\x8b\x24\x25" + _abs(_B_HOST_RSP) + b"\x68" + _abs(0x202) + b"\x9d"
    return out + b"\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3"


class LegacyHost:
    """Runs cases on the host CPU, in forked children."""

    def run_many(self, cases: Sequence[LegacyCase]) -> list[LegacyState]:
        results: list[LegacyState] = []
        while len(results) < len(cases):
            results += self._batch(cases[len(results) :])
        return results

    def _batch(self, cases: Sequence[LegacyCase]) -> list[LegacyState]:
        record = _RESULT_SIZE + ARENA_SIZE
        with mmap.mmap(-1, 8 + record * len(cases)) as shared:
            child = os.fork()
            if child == 0:
                try:
                    _child(cases, shared, record)
                finally:
                    os._exit(0)
            _, status = os.waitpid(child, 0)
            done = int.from_bytes(shared[:8], "little")
            results = [
                self._unpack(case.state, shared[8 + record * i : 8 + record * (i + 1)])
                for i, case in enumerate(cases[:done])
            ]
        if done < len(cases):
            results.append(replace(cases[done].state, failure=f"host child ended with status {status}"))
        return results

    @staticmethod
    def _unpack(before: LegacyState, record: bytes) -> LegacyState:
        gregs = struct.unpack_from("<23Q", record, 8)
        es, ds, fs, gs = struct.unpack_from("<4H", record, 8 + 8 * 23)
        # Order of the sigcontext: r8-r15, di, si, bp, bx, dx, ax, cx, sp, ip, flags, cs gs fs ss, err, trapno
        gpr = [gregs[index] & 0xFFFF_FFFF for index in (13, 14, 12, 11, 15, 10, 9, 8)]
        return settled(
            replace(
                before,
                gpr=gpr, eip=gregs[16] & 0xFFFF_FFFF, flags=gregs[17], memory=record[_RESULT_SIZE:],
                selectors=[es, gregs[18] & 0xFFFF, gregs[18] >> 48, ds, fs, gs],
                vector=gregs[20], error=gregs[19] & 0xFFFF_FFFF,
            )
        )  # fmt: skip


def settled(state: LegacyState) -> LegacyState:
    """INT3 is what all bytes around the instruction hold: reaching one is the normal end."""
    if state.vector == _BP_VECTOR:
        state.vector, state.eip = None, state.eip - 1 & 0xFFFF_FFFF
    return state


def _child(cases: Sequence[LegacyCase], shared: mmap.mmap, record: int) -> None:
    host._map(ARENA, ARENA_SIZE, executable=True)
    host._map(_R, 0x24000, executable=True)
    for address, code in ((_ENTRY, _entry_code()), (_HANDLER, _handler_code())):
        ctypes.memmove(address, code, len(code))
    libc = host._libc
    libc.sigaltstack(ctypes.byref(host._SigAltStack(_STACK, 0, 0x20000)), None)
    action = host._SigAction(handler=_HANDLER, flags=4 | 0x08000000 | 0x40000000)
    for number in (signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGBUS):
        libc.sigaction(int(number), ctypes.byref(action), None)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(10)
    entry = ctypes.CFUNCTYPE(None)(_ENTRY)
    base = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    for index, case in enumerate(cases):
        state = case.state
        for slot, segment in enumerate(state.segments):
            libc.syscall(SYS_MODIFY_LDT, 0x11, ctypes.create_string_buffer(segment.user_desc(slot)), 16)
        ctypes.memmove(ARENA, state.memory, ARENA_SIZE)
        block = struct.pack("<8QQ", *state.gpr, (state.flags | 2) & ~0x100)
        block += struct.pack("<6HI", *state.selectors, 0)[:16]
        block += struct.pack("<IHH", state.eip, state.selectors[CS], 0)
        ctypes.memmove(_BLOCK, block, len(block))
        entry()
        out = base + 8 + record * index
        ctypes.memmove(out, _RESULT, _RESULT_SIZE)
        ctypes.memmove(out + _RESULT_SIZE, ARENA, ARENA_SIZE)
        ctypes.memmove(base, struct.pack("<Q", index + 1), 8)


# --- Making cases ---------------------------------------------------------------------------------------------------

_ONE_BYTE = (
    [op for op in range(0x100)
     if op not in (0x0F, 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3, 0xEA, 0x9A, 0xCB, 0xCA, 0xCF,
                   0x9B, 0xD8, 0xD9, 0xDA, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xF1, 0xCC, 0xCD)]
)  # fmt: skip
"""All but prefixes, x87, far transfers (their selectors are the system's), and what traps into the host's kernel."""
_TWO_BYTE = [
    *range(0x18, 0x20), 0x0B, 0x0D, 0xB9, 0xFF, 0x06, 0x08, 0x09, *range(0x40, 0x50), *range(0x80, 0xA2), 0xA3, 0xA4,
    0xA5, *range(0xA8, 0xAA), 0xAB, 0xAC, 0xAD, 0xAF, *range(0xB0, 0xC2), 0xC3, 0xC7, *range(0xC8, 0xD0), 0x20, 0x22,
    0x21, 0x23, 0x30, 0x32, 0x04, 0x0A, 0x24, 0x26, 0x36, 0x39, 0x3B, 0xA6, 0xA7,
]  # fmt: skip
_CAPSTONE = {
    False: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_16),
    True: capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_32),
}
_UNDEFINED: dict[str, int] = {}
for _row in ROWS:
    _UNDEFINED[_row.mnemonic] = _UNDEFINED.get(_row.mnemonic, 0) | _row.undefined
_UNDEFINED |= {
    "daa": OF, "das": OF, "aaa": OF | SF | ZF | PF, "aas": OF | SF | ZF | PF, "aam": OF | AF | CF, "aad": OF | AF | CF,
}  # fmt: skip
_SHIFTS = {"rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar", "shld", "shrd"}
_GRANULAR_DOWN = 0xFFFF_DFFF


def _segment(rng: Random, stack: bool) -> Segment:
    base = ARENA + rng.randrange(0x2000, 0x1F000) & -16
    kind = rng.random()
    if kind < 0.55:
        return Segment(base, 0xFFFF, big=rng.random() < 0.6)
    if kind < 0.75:
        return Segment(base, rng.randrange(0x10, 0xFFFF), big=rng.random() < 0.6)
    if kind < 0.85:
        return Segment(base, rng.randrange(0x100, 0x8000), big=False, down=True)
    if kind < 0.90:
        return Segment(ARENA + 0x8000, _GRANULAR_DOWN, big=True, down=True)
    if kind < 0.97 and not stack:
        return Segment(base, 0xFFFF, writable=False)
    return Segment(base, 0x1FFFF, big=True)


def _offset(rng: Random, segment: Segment) -> int:
    kind = rng.random()
    if kind < 0.12:
        return values.integer(rng, 32)
    if kind < 0.3:
        return segment.limit + rng.randrange(-9, 4) & 0xFFFF_FFFF
    if segment.down:
        top = 0xFFFF_FFFF if segment.big else 0xFFFF
        return rng.randrange(segment.limit + 1, top) if kind < 0.9 else top - rng.randrange(8)
    return rng.randrange(segment.limit)


def _state(rng: Random, big: bool) -> LegacyState:
    segments = [_segment(rng, number == SS) for number in range(6)]
    segments[CS] = Segment(ARENA + 0x30000, rng.choice((0xFFFF, 0xFFFF, 0x7FFF)), big=big, code=True)
    gpr = [_offset(rng, segments[rng.choice((DS, DS, ES))]) for _ in range(8)]
    for register, number in ((4, SS), (5, SS), (6, DS), (7, ES)):
        if rng.random() < 0.9:
            gpr[register] = _offset(rng, segments[number])
    if rng.random() < 0.3:
        for register in rng.sample((0, 3, 5, 6, 7), 3):
            gpr[register] = rng.randrange(0x100)
    for register in range(8):
        if rng.random() < 0.04:
            gpr[register] = gpr[register] & ~0xFFFF | rng.choice((0, 3, *(n * 8 + 7 for n in range(6)), 0x37))
    if rng.random() < 0.2:
        gpr[1] = rng.choice((0, 1, 2, rng.randrange(40)))
    eip = rng.randrange(0x100, 0x7F00)
    if rng.random() < 0.05:
        eip = segments[CS].limit - rng.randrange(8)
    flags = 0x202 | rng.getrandbits(12) & STATUS_FLAGS | (DF if rng.random() < 0.3 else 0)
    memory = bytearray(rng.randbytes(0x1000) * (0x30000 // 0x1000)) + b"\xcc" * (ARENA_SIZE - 0x30000)
    return LegacyState(gpr, eip, flags, tuple(segments), bytes(memory))


def _instruction(rng: Random) -> bytes:
    out = bytearray()
    for prefix, chance in ((0x66, 0.25), (0x67, 0.3), (0xF2, 0.05), (0xF3, 0.08), (0xF0, 0.03)):
        if rng.random() < chance:
            out.append(prefix)
    if rng.random() < 0.3:
        out.append(rng.choice((0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65)))
    if rng.random() < 0.25:
        op = rng.choice(_TWO_BYTE)
        out += bytes((0x0F, op))
    else:
        op = rng.choice(_ONE_BYTE)
        out.append(op)
    out.append(
        rng.choice(
            (rng.getrandbits(8), rng.getrandbits(8) & 0x3F, rng.getrandbits(8) & 0x7F, rng.getrandbits(8) | 0xC0)
        )
    )
    if rng.random() < 0.5:
        out += rng.randbytes(10)
    else:  # small displacements and immediates
        out += struct.pack(
            "<BhHIB", rng.getrandbits(8), rng.randrange(-300, 300), 0, rng.getrandbits(32), rng.getrandbits(8)
        )
    return bytes(out[:15])


def _refused(insn: capstone.CsInsn | None, code: bytes) -> bool:
    """What a newer host does differently, what depends on the host's system, and endless loops."""
    body = code.lstrip(b"\x66\x67\xf2\xf3\xf0\x26\x2e\x36\x3e\x64\x65")
    prefixes = code[: len(code) - len(body)]
    if body[:1] in (b"\xc4", b"\xc5", b"\x62") and body[1] >= 0xC0:
        return True  # VEX, EVEX
    if body[0] == 0x0F:
        if body[1] in (0xBC, 0xBD, 0x09) and 0xF3 in prefixes:
            return True  # TZCNT, LZCNT, WBNOINVD
        if body[1] in (0x1A, 0x1B, 0x1C, 0x1E):
            return True  # MPX, CLDEMOTE, CET
        if body[1] == 0xC7 and (body[2] >> 3 & 7 != 1 or body[2] >= 0xC0):
            return True
        if body[1] == 0x0D and body[2] >= 0xC0:
            return True
        if body[1] in (0xB8, 0xA6, 0xA7, 0x24, 0x26, 0x36, 0x39, 0x3B, 0x04, 0x0A) and prefixes.strip(
            b"\x26\x2e\x36\x3e\x64\x65"
        ):
            return True
    if body[0] == 0xFF and body[1] >> 3 & 7 in (3, 5):
        return True  # far transfers
    if body[0] in (0xC6, 0xC7) and body[1] == 0xF8:
        return True  # XABORT, XBEGIN
    if (
        insn is not None
        and insn.group(capstone.CS_GRP_BRANCH_RELATIVE)
        and insn.operands[0].type == capstone.x86.X86_OP_IMM
    ):
        target = insn.operands[0].imm - insn.address
        return -0x20 < target < insn.size
    return False


def _undefined(insn: capstone.CsInsn | None, state: LegacyState) -> int:
    if insn is None:
        return 0
    name = insn.mnemonic.split()[-1]
    if name in _SHIFTS:
        count: int | None = 1
        if len(insn.operands) > 1:
            last = insn.operands[-1]
            count = last.imm & 0xFF if last.type == capstone.x86.X86_OP_IMM else state.gpr[1] & 0xFF
        undefined, _ = shift_undefined(name, count, insn.operands[0].size)
        return undefined
    return _UNDEFINED.get(name, 0)


def cases(count: int, seed: int, big: bool) -> Iterator[LegacyCase]:
    """Random instructions for 32-bit (big) or 16-bit code."""
    decoder = _CAPSTONE[big]
    decoder.detail = True
    number = 0
    while count:
        number += 1
        rng = Random(f"{seed}/{number}/{big}")
        code = _instruction(rng)
        state = _state(rng, big)
        insn = next(decoder.disasm(code, state.eip), None)
        if _refused(insn, code):
            continue
        if insn is not None:
            code = code[: insn.size]
            if insn.mnemonic == "bswap" and insn.operands[0].size == 2:
                continue
            if insn.mnemonic in ("shld", "shrd") and 2 in (insn.operands[0].size, insn.operands[1].size):
                continue  # a count above 16 leaves everything undefined
        memory = bytearray(state.memory)
        at = state.segments[CS].base - ARENA + state.eip
        memory[at : at + len(code)] = code
        state.memory = bytes(memory[:ARENA_SIZE])
        mnemonic = insn.mnemonic if insn is not None else f"({code[:4].hex()})"
        text = f"{mnemonic} {insn.op_str}" if insn is not None else mnemonic
        count -= 1
        yield LegacyCase(f"{seed}/{number}/{big}: {text}", code, state, mnemonic, _undefined(insn, state))


# --- Judging --------------------------------------------------------------------------------------------------------

_WITH_ERROR = frozenset((8, 10, 11, 12, 13, 14, 17))


def system_dependent(case: LegacyCase, want: LegacyState) -> bool:
    """Selectors of the host's global table: its descriptors are not ours."""
    if want.vector in (11, 12, 13) and want.error & 0xFFFC and not want.error & 4 and not want.error & 2:
        return True
    if any(selector & 0xFFFC and not selector & 4 for selector in want.selectors):
        return True
    if case.mnemonic.startswith("(") and want.eip != case.state.eip:
        return True  # the disassembler does not know it, the processor does: where it ends, and what follows, is open
    return case.mnemonic in ("lar", "lsl", "verr", "verw", "sldt", "str", "smsw", "sgdt", "sidt", "int")


_REPEAT = frozenset((0xF2, 0xF3))


def _vendors_differ(case: LegacyCase, want: LegacyState, got: LegacyState) -> bool:
    """Where AMD's processors do other than Intel's, which the engine follows."""
    name = case.mnemonic.split()[-1]
    prefixes = case.code[: len(case.code) - len(case.code.lstrip(b"\x66\x67\xf2\xf3\xf0\x26\x2e\x36\x3e\x64\x65"))]
    if name == "push":  # of a segment register, 32 bits: Intel's store 16 and leave the rest (SDM volume 2, PUSH)
        return got.vector is None and (want.vector == 12 or replace(want, memory=got.memory) == got)
    if name == "pop" or name == "call":  # which of two faults is found first (SDM volume 3, 6.9)
        return want.vector in (12, 13) and got.vector in (12, 13)
    if name == "ud0":  # Intel's has a ModRM byte, which may lie beyond the limit
        return want.vector == 6 and got.vector == 13
    if name in ("loope", "loopne"):  # with a repeat prefix, which is reserved (SDM volume 2, 2.1.1)
        return not _REPEAT.isdisjoint(prefixes)
    if name in ("cmpsb", "cmpsw", "cmpsd", "scasb", "scasw", "scasd"):  # flags, and which operand faults first
        return want.vector is not None and got.vector is not None and not _REPEAT.isdisjoint(prefixes)
    return False


def differences(case: LegacyCase, want: LegacyState, got: LegacyState) -> list[str]:
    """What does not agree, one line each."""
    if want.failure or got.failure:
        return [] if want.failure == got.failure else [f"failure: {want.failure!r} {got.failure!r}"]
    lines: list[str] = []
    if host.VENDOR == host.AMD and _vendors_differ(case, want, got):
        return []
    if {want.vector, got.vector} == {6, 13} and case.state.eip + 15 > case.state.segments[CS].limit:
        return []  # an undefined instruction across the limit: which comes first is the processor's business
    error = want.error if want.vector in _WITH_ERROR else 0
    if (want.vector, error) != (got.vector, got.error if got.vector in _WITH_ERROR else 0):
        lines.append(f"vector {want.vector} error {error:#x}, got {got.vector} error {got.error:#x}")
    if want.eip != got.eip:
        lines.append(f"eip {want.eip:#x}, got {got.eip:#x}")
    registers = zip(["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"], want.gpr, got.gpr, strict=True)
    for name, a, b in registers:
        if a != b and not (want.vector is not None and case.mnemonic.startswith("popa")):  # partly loaded
            lines.append(f"{name} {a:#x}, got {b:#x}")
    mask = COMPARED & ~case.undefined
    if (want.flags ^ got.flags) & mask:
        lines.append(f"flags {want.flags & mask:#x}, got {got.flags & mask:#x}")
    # the way back from the host's kernel turns the null selectors 1 to 3 into 0
    if [s if s & 0xFFFC else 0 for s in want.selectors] != [s if s & 0xFFFC else 0 for s in got.selectors]:
        lines.append(f"selectors {[hex(s) for s in want.selectors]}, got {[hex(s) for s in got.selectors]}")
    if want.memory != got.memory:
        where = [i for i in range(ARENA_SIZE) if want.memory[i] != got.memory[i]]
        at = where[0]
        lines.append(
            f"memory {len(where)} bytes from {ARENA + at:#x}: "
            f"{want.memory[at : at + 8].hex()}, got {got.memory[at : at + 8].hex()}"
        )
    return lines


# --- The engine -----------------------------------------------------------------------------------------------------

_LDT = 0x600
"""Offset of the descriptor table in the page of tables of the MicroVm."""


class LegacyEngine:
    """The same cases in compatibility mode, ring 3, on the engine."""

    def __init__(self) -> None:
        from manor.engine.testing import TABLES, MicroVm

        self._vm = vm = MicroVm()
        self._tables = TABLES
        self._first = vm.map(ARENA)
        for page in range(0x1000, ARENA_SIZE, 0x1000):
            vm.map(ARENA + page)
        assert vm.pages[ARENA + ARENA_SIZE - 0x1000] == self._first + ARENA_SIZE - 0x1000

    def run(self, case: LegacyCase) -> LegacyState:
        vm, state = self._vm, case.state
        vm.enter_long_mode()
        vm.memory[self._first : self._first + ARENA_SIZE] = state.memory
        vm.engine.empty_cache()
        table = vm.pages[self._tables] + _LDT
        for number, segment in enumerate(state.segments):
            struct.pack_into("<Q", vm.memory, table + 8 * number, segment.descriptor())
            vm.set("seg_base", segment.base, number)
            vm.set("seg_limit", segment.limit, number, "I")
            vm.set("seg_attributes", segment.descriptor() >> 40 & 0xF0FF, number, "I")
            vm.set("seg_selector", state.selectors[number], number, "H")
        vm.set("seg_base", self._tables + _LDT, 6)
        vm.set("seg_limit", 47, 6, "I")
        vm.set("seg_attributes", 0x82, 6, "I")
        vm.set("seg_selector", 0x48, 6, "H")
        for register in range(16):
            vm.set("regs", state.gpr[register] if register < 8 else 0, register)
        vm.set("rip", state.eip)
        vm.set("fault", 0, code="I")
        vm.set("exc_has_error", 0, code="I")
        vm.cpu.set_flags(state.flags)
        vm.cpu.changed()
        reason = vm.cpu.run_blocks(0xFFFF_FFFF_FFFF_FFFF, 3_000)
        return self._result(state, reason)

    def _result(self, state: LegacyState, reason: int) -> LegacyState:
        from manor.engine.env import FAULT_EXCEPTION, FAULT_HALT
        from manor.engine.testing import HANDLER

        vm = self._vm
        after = replace(
            state,
            gpr=[vm.get("regs", register) for register in range(8)], eip=vm.get("rip"), flags=vm.cpu.flags(),
            memory=bytes(vm.memory[self._first : self._first + ARENA_SIZE]),
            selectors=[vm.get("seg_selector", number, "H") for number in range(6)],
        )  # fmt: skip
        vm.set("fault", 0, code="I")
        if reason == FAULT_EXCEPTION:
            after.vector = vm.get("exc_vector", code="I")
            after.error = vm.get("exc_error", code="I") if vm.get("exc_has_error", code="I") else 0
        elif reason == FAULT_HALT and vm.get("cpl", code="I") == 0:  # INT3 or INTO was delivered
            after.vector = after.eip - 1 - self._tables - HANDLER
            frame = vm.pages[self._tables] + (after.gpr[4] & 0xFFF)
            after.eip, cs, after.flags, after.gpr[4], ss = struct.unpack_from("<5Q", vm.memory, frame)
            after.selectors[CS], after.selectors[SS] = cs, ss
        else:
            after.failure = f"the engine stopped with {reason} at {after.eip:#x}"
        return settled(after)


def main() -> None:
    """python -m tests.oracle.legacy COUNT SEED [16]: a report by mnemonic."""
    import sys

    count, seed, big = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] != ["16"]
    engine, oracle = LegacyEngine(), LegacyHost()
    done = failed = 0
    worst: dict[str, int] = {}
    vectors: dict[int | None, int] = {}
    shown = 0
    source = cases(count, seed, big)
    while batch := [case for _, case in zip(range(200), source, strict=False)]:
        for case, want in zip(batch, oracle.run_many(batch), strict=True):
            if system_dependent(case, want):
                continue
            done += 1
            vectors[want.vector] = vectors.get(want.vector, 0) + 1
            lines = differences(case, want, engine.run(case))
            if lines:
                failed += 1
                worst[case.mnemonic] = worst.get(case.mnemonic, 0) + 1
                if worst[case.mnemonic] <= 2 and shown < 40:
                    shown += 1
                    print(
                        case.name,
                        case.code.hex(" "),
                        "eip",
                        hex(case.state.eip),
                        "gpr",
                        [hex(g) for g in case.state.gpr],
                        "flags",
                        hex(case.state.flags),
                    )
                    for number, s in enumerate(case.state.segments):
                        print(
                            "   ",
                            ("es", "cs", "ss", "ds", "fs", "gs")[number],
                            hex(s.base),
                            hex(s.limit),
                            "big" * s.big,
                            "down" * s.down,
                            "ro" * (not s.writable),
                        )
                    print("    " + "\n    ".join(lines))
    print(done, "cases", failed, "failed", dict(sorted(worst.items(), key=lambda i: -i[1])))
    print(vectors)


if __name__ == "__main__":
    main()
