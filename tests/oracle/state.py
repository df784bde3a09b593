"""What an x86-64 program can see of the CPU, as a plain record that can be compared.

Shared by every executor: the host CPU, unicorn and the engine under test.
Names follow the Intel 64 and IA-32 Architectures Software Developer's Manual (SDM), volume 1.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

PAGE_SIZE = 4096
MASK64 = (1 << 64) - 1

GPR_NAMES = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)

CF, PF, AF, ZF, SF, TF, IF, DF, OF = (1 << n for n in (0, 2, 4, 6, 7, 8, 9, 10, 11))
AC, ID = 1 << 18, 1 << 21
STATUS_FLAGS = CF | PF | AF | ZF | SF | OF
FLAG_NAMES = {CF: "cf", PF: "pf", AF: "af", ZF: "zf", SF: "sf", TF: "tf", IF: "if", DF: "df", OF: "of"}
COMPARED_FLAGS = STATUS_FLAGS | DF | AC | ID
"""Flags a user program can change. IF, IOPL and the rest belong to the system around it."""

FSW_C0, FSW_C1, FSW_C2, FSW_C3 = 1 << 8, 1 << 9, 1 << 10, 1 << 14
MXCSR_DEFAULT = 0x1F80

DE, DB, BP, UD, NM, SS, GP, PAGE_FAULT, MF, AC_CHECK, XM = 0, 1, 3, 6, 7, 12, 13, 14, 16, 17, 19
VECTOR_NAMES = {
    0: "#DE", 1: "#DB", 2: "NMI", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS",
    11: "#NP", 12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 19: "#XM",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the run ended.

    vector None: reached the end of the code, or stopped on the int3 filling around it.
    error_code counts for vectors that push one; address is CR2 for #PF.
    failure: the executor could not run it (timeout, crash of the child); nothing else is meaningful.
    """

    vector: int | None = None
    error_code: int = 0
    address: int = 0
    failure: str = ""

    def __str__(self) -> str:
        if self.failure:
            return f"failure: {self.failure}"
        if self.vector is None:
            return "ok"
        name = VECTOR_NAMES.get(self.vector, f"vector {self.vector}")
        at = f" at {self.address:#x}" if self.vector == PAGE_FAULT else ""
        return f"{name}({self.error_code:#x}){at}"


OK = Outcome()


def empty_x87() -> bytes:
    """FXSAVE image of the x87 after FNINIT with MXCSR at its default; XMM zero."""
    image = bytearray(512)
    struct.pack_into("<H", image, 0, 0x037F)
    struct.pack_into("<II", image, 24, MXCSR_DEFAULT, 0xFFFF)
    return bytes(image)


@dataclass(slots=True)
class MachineState:
    """One user-visible CPU state with the memory around it.

    gpr: rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8 to r15.
    xmm: 128-bit integers. x87: FXSAVE64 image of which only bytes 0-23 and 32-159 (x87) count; XMM and
    MXCSR are taken from their own fields. memory: 4 KiB pages by address; read_only names those that are
    not writable. The code page is not listed: executors fill the page(s) around rip with int3 (0xCC) and
    put the code at rip. All of memory is accessible at CPL 3.
    """

    gpr: list[int] = field(default_factory=lambda: [0] * 16)
    rip: int = 0
    rflags: int = 0x202
    xmm: list[int] = field(default_factory=lambda: [0] * 16)
    mxcsr: int = MXCSR_DEFAULT
    x87: bytes = field(default_factory=empty_x87)
    fs_base: int = 0
    gs_base: int = 0
    memory: dict[int, bytes] = field(default_factory=dict)
    read_only: frozenset[int] = frozenset()
    outcome: Outcome = OK

    def copy(self) -> MachineState:
        return replace(self, gpr=list(self.gpr), xmm=list(self.xmm), memory=dict(self.memory))

    def fxsave_image(self) -> bytes:
        """The 512 bytes FXRSTOR64 needs to load x87, MXCSR and XMM."""
        image = bytearray(self.x87)
        struct.pack_into("<II", image, 24, self.mxcsr, 0xFFFF)
        for index, value in enumerate(self.xmm):
            image[160 + 16 * index : 176 + 16 * index] = value.to_bytes(16, "little")
        return bytes(image)

    def load_fxsave(self, image: bytes) -> None:
        """Take x87, MXCSR and XMM from an FXSAVE64 image."""
        self.x87 = image[:24] + bytes(8) + image[32:160] + bytes(352)
        self.mxcsr = int.from_bytes(image[24:28], "little")
        self.xmm = [int.from_bytes(image[i : i + 16], "little") for i in range(160, 416, 16)]


class Executor(Protocol):
    """Runs code from a state. `code` is placed at state.rip, int3 around it; the run stops at the first
    fault, when it reaches the end of `code`, or on the filling. See `settle` for what is reported."""

    def run(self, code: bytes, state: MachineState, max_insns: int) -> MachineState: ...


def settle(state: MachineState, code_start: int, code_size: int) -> MachineState:
    """Turn a #BP raised by the filling into "ok" with rip on the int3 that was hit.

    A #BP by an int3 inside the code itself stays an exception (a trap: rip is after it).
    """
    if state.outcome.vector == BP and not code_start <= state.rip - 1 < code_start + code_size:
        state.rip = (state.rip - 1) & MASK64
        state.outcome = OK
    return state


@dataclass(frozen=True, slots=True)
class Undefined:
    """What the SDM leaves undefined after a piece of code, so must not be compared.

    flags, fsw, mxcsr: bit masks; fault_flags counts, besides flags, if the code faults.
    gpr: register index -> mask of undefined bits. memory: (address, size).
    x87_tolerance: ulps by which ST registers may differ (transcendentals against another implementation).
    """

    flags: int = 0
    fault_flags: int = 0
    fsw: int = 0
    mxcsr: int = 0
    gpr: tuple[tuple[int, int], ...] = ()
    memory: tuple[tuple[int, int], ...] = ()
    x87_tolerance: int = 0

    @property
    def gpr_masks(self) -> dict[int, int]:
        return dict(self.gpr)


NOTHING = Undefined()


def compare(expected: MachineState, actual: MachineState, undefined: Undefined = NOTHING) -> list[str]:
    """Differences, one readable line each; empty if the states agree where they are defined."""
    if expected.outcome.failure or actual.outcome.failure:
        if expected.outcome == actual.outcome:
            return []
        return [f"outcome: expected {expected.outcome}, got {actual.outcome}"]
    faulted = expected.outcome.vector is not None
    lines: list[str] = []
    lines += _compare_outcome(expected.outcome, actual.outcome)
    if expected.rip != actual.rip:
        lines.append(_number("rip", expected.rip, actual.rip, 16))
    masks = undefined.gpr_masks
    for index, name in enumerate(GPR_NAMES):
        defined = MASK64 & ~masks.get(index, 0)
        if (expected.gpr[index] ^ actual.gpr[index]) & defined:
            lines.append(_number(name, expected.gpr[index], actual.gpr[index], 16))
    ignored_flags = undefined.flags | (undefined.fault_flags if faulted else 0)
    flags = (expected.rflags ^ actual.rflags) & COMPARED_FLAGS & ~ignored_flags
    if flags:
        lines.append(f"rflags: expected {show_flags(expected.rflags, flags)}, got {show_flags(actual.rflags, flags)}")
    for index in range(16):
        if expected.xmm[index] != actual.xmm[index]:
            lines.append(_number(f"xmm{index}", expected.xmm[index], actual.xmm[index], 32))
    if (expected.mxcsr ^ actual.mxcsr) & ~undefined.mxcsr:
        lines.append(_number("mxcsr", expected.mxcsr, actual.mxcsr, 4))
    lines += _compare_x87(expected.x87, actual.x87, undefined)
    lines += _compare_memory(expected, actual, undefined.memory)
    return lines


def show_flags(value: int, mask: int = COMPARED_FLAGS) -> str:
    """`cf=1 zf=0` for the flags in mask."""
    names = [f"{name}={int(bool(value & bit))}" for bit, name in FLAG_NAMES.items() if mask & bit]
    names += [f"{name}={int(bool(value & bit))}" for bit, name in ((AC, "ac"), (ID, "id")) if mask & bit]
    return " ".join(names)


def _number(name: str, expected: int, actual: int, digits: int) -> str:
    return f"{name}: expected {expected:#0{digits + 2}x}, got {actual:#0{digits + 2}x}"


_WITH_ERROR_CODE = frozenset((8, 10, 11, 12, 13, 14, 17))


def _compare_outcome(expected: Outcome, actual: Outcome) -> list[str]:
    same = expected.vector == actual.vector
    if same and expected.vector in _WITH_ERROR_CODE:
        same = expected.error_code == actual.error_code
    if same and expected.vector == PAGE_FAULT:
        same = expected.address == actual.address
    return [] if same else [f"outcome: expected {expected}, got {actual}"]


def _compare_x87(expected: bytes, actual: bytes, undefined: Undefined) -> list[str]:
    if expected[:6] == actual[:6] and expected[32:160] == actual[32:160]:
        return []  # FOP, FIP and FDP (bytes 6-23) depend on the processor generation: not compared
    lines = []
    want = struct.unpack_from("<HHB", expected)
    got = struct.unpack_from("<HHB", actual)
    if want[0] != got[0]:
        lines.append(_number("fcw", want[0], got[0], 4))
    if (want[1] ^ got[1]) & ~undefined.fsw:
        lines.append(_number("fsw", want[1], got[1], 4))
    if want[2] != got[2]:
        lines.append(_number("ftw (abridged)", want[2], got[2], 2))
    for index in range(8):
        at = 32 + 16 * index
        a = int.from_bytes(expected[at : at + 10], "little")
        b = int.from_bytes(actual[at : at + 10], "little")
        if a != b and abs(a - b) > undefined.x87_tolerance:
            lines.append(_number(f"st{index}", a, b, 20))
    return lines


def _compare_memory(expected: MachineState, actual: MachineState, undefined: Iterable[tuple[int, int]]) -> list[str]:
    lines = []
    for address in sorted(expected.memory.keys() | actual.memory.keys()):
        a, b = expected.memory.get(address), actual.memory.get(address)
        if a == b:
            continue
        if a is None or b is None:
            lines.append(f"memory page {address:#x}: only on one side")
            continue
        a, b = _blank(address, a, undefined), _blank(address, b, undefined)
        differing = [i for i in range(len(a)) if a[i] != b[i]]
        if differing:
            first, last = differing[0], min(differing[-1], differing[0] + 31)
            lines.append(
                f"memory at {address + first:#x}: expected {bytes(a[first : last + 1]).hex(' ')}, "
                f"got {bytes(b[first : last + 1]).hex(' ')} ({len(differing)} bytes differ)"
            )
    return lines


def _blank(address: int, page: bytes, undefined: Iterable[tuple[int, int]]) -> bytes:
    result = bytearray(page)
    for start, size in undefined:
        for position in range(max(start, address), min(start + size, address + PAGE_SIZE)):
            result[position - address] = 0
    return bytes(result)
