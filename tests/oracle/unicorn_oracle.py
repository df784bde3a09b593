"""Unicorn as a second judge: user-mode cases through the same interface as the host CPU, and system state.

Unicorn is a test-only dependency (its core is GPL); nothing of it is imported by the package. Its CPU model is
Nehalem, the x86-64-v2 baseline. Where it is known to be wrong or imprecise, EXCLUSIONS says so.
"""

from __future__ import annotations

import fnmatch
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import unicorn as untyped_unicorn
from unicorn import x86_const as x86

from tests.oracle.generate import Case
from tests.oracle.state import (
    AF,
    GP,
    MASK64,
    OF,
    PAGE_FAULT,
    PAGE_SIZE,
    SF,
    UD,
    MachineState,
    Outcome,
    Undefined,
    settle,
)  # fmt: skip

unicorn: Any = untyped_unicorn

_GPR = tuple(
    getattr(x86, f"UC_X86_REG_{name}")
    for name in (
        "RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI", "R8", "R9", "R10", "R11", "R12", "R13", "R14", "R15",
    )
)  # fmt: skip
_SCRATCH = 0x6E00_0000
"""A page of fxrstor64/fxsave64 stubs and their image, outside every case."""
_RESTORE, _SAVE, _IMAGE = _SCRATCH, _SCRATCH + 0x10, _SCRATCH + 0x200
_CODE_PAGES = 2
_CR4_OSFXSR, _CR4_OSXMMEXCPT = 1 << 9, 1 << 10


class UnicornExecutor:
    """Runs cases in one emulator, reused. Not thread-safe."""

    def __init__(self) -> None:
        self._uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        uc = self._uc
        uc.ctl_set_cpu_model(x86.UC_CPU_X86_NEHALEM)
        uc.reg_write(x86.UC_X86_REG_CR4, uc.reg_read(x86.UC_X86_REG_CR4) | _CR4_OSFXSR | _CR4_OSXMMEXCPT)
        self._outcome = Outcome()
        self._mapped: dict[int, int] = {}
        uc.mem_map(_SCRATCH, PAGE_SIZE)
        uc.mem_write(_RESTORE, b"\x48\x0f\xae\x0c\x25" + struct.pack("<I", _IMAGE) + b"\x90")
        uc.mem_write(_SAVE, b"\x48\x0f\xae\x04\x25" + struct.pack("<I", _IMAGE) + b"\x90")
        uc.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        uc.hook_add(unicorn.UC_HOOK_MEM_INVALID, self._on_bad_memory)
        uc.hook_add(unicorn.UC_HOOK_INSN_INVALID, self._on_undefined)

    def run(self, code: bytes, state: MachineState, max_insns: int = 0) -> MachineState:
        """The state after the code; error codes of #PF are made up from the kind of access."""
        uc = self._uc
        self._load(code, state)
        self._outcome = Outcome()
        try:
            uc.emu_start(state.rip, state.rip + len(code), count=max_insns)
        except unicorn.UcError as error:
            if self._outcome.vector is None:
                self._outcome = _outcome_of_error(error)
        after = state.copy()
        after.outcome = self._outcome
        self._store(after)
        return settle(after, state.rip, len(code))

    def run_many(self, cases: Sequence[tuple[bytes, MachineState]]) -> list[MachineState]:
        return [self.run(code, state) for code, state in cases]

    def _load(self, code: bytes, state: MachineState) -> None:
        uc = self._uc
        wanted = {page: 3 if page not in state.read_only else 1 for page in state.memory}
        for page, protection in wanted.items():
            if page not in self._mapped:
                uc.mem_map(page, PAGE_SIZE, protection)
            elif self._mapped[page] != protection:
                uc.mem_protect(page, PAGE_SIZE, protection)
            self._mapped[page] = protection
            uc.mem_write(page, bytes(state.memory[page]))
        for page in [page for page in self._mapped if page not in wanted and self._mapped[page] != 7]:
            uc.mem_unmap(page, PAGE_SIZE)
            del self._mapped[page]
        start = state.rip & -PAGE_SIZE
        for page in range(start, start + _CODE_PAGES * PAGE_SIZE, PAGE_SIZE):
            if page not in self._mapped:
                uc.mem_map(page, PAGE_SIZE, 7)
                self._mapped[page] = 7
        filling = b"\xcc" * (_CODE_PAGES * PAGE_SIZE)
        uc.mem_write(start, filling)
        uc.mem_write(state.rip, code)
        uc.ctl_remove_cache(start, start + _CODE_PAGES * PAGE_SIZE)
        uc.mem_write(_IMAGE, state.fxsave_image())
        uc.emu_start(_RESTORE, _RESTORE + 9, count=1)
        uc.reg_write_batch(list(zip(_GPR, state.gpr, strict=True)))
        uc.reg_write(x86.UC_X86_REG_RFLAGS, state.rflags)
        uc.reg_write(x86.UC_X86_REG_FS_BASE, state.fs_base)
        uc.reg_write(x86.UC_X86_REG_GS_BASE, state.gs_base)

    def _store(self, after: MachineState) -> None:
        uc = self._uc
        after.gpr = [value & MASK64 for value in uc.reg_read_batch(_GPR)]
        after.rip = uc.reg_read(x86.UC_X86_REG_RIP) & MASK64
        after.rflags = uc.reg_read(x86.UC_X86_REG_RFLAGS)
        for page in after.memory:
            after.memory[page] = bytes(uc.mem_read(page, PAGE_SIZE))
        uc.reg_write(x86.UC_X86_REG_RFLAGS, 2)
        uc.emu_start(_SAVE, _SAVE + 9, count=1)
        after.load_fxsave(bytes(uc.mem_read(_IMAGE, 512)))

    def _on_interrupt(self, uc: Any, number: int, user_data: object) -> None:
        if self._outcome.vector is None:  # later ones come from delivering the first without an IDT
            self._outcome = Outcome(number)
        uc.emu_stop()

    def _on_bad_memory(self, uc: Any, access: int, address: int, size: int, value: int, user_data: object) -> bool:
        writes = (unicorn.UC_MEM_WRITE_UNMAPPED, unicorn.UC_MEM_WRITE_PROT)
        fetches = (unicorn.UC_MEM_FETCH_UNMAPPED, unicorn.UC_MEM_FETCH_PROT)
        protection = (unicorn.UC_MEM_WRITE_PROT, unicorn.UC_MEM_READ_PROT, unicorn.UC_MEM_FETCH_PROT)
        code = 4 | (2 if access in writes else 0) | (0x10 if access in fetches else 0)
        code |= 1 if access in protection else 0
        self._outcome = Outcome(PAGE_FAULT, code, address & MASK64)
        return False

    def _on_undefined(self, uc: Any, user_data: object) -> bool:
        self._outcome = Outcome(UD)
        return False


def _outcome_of_error(error: Any) -> Outcome:
    if error.errno == unicorn.UC_ERR_INSN_INVALID:
        return Outcome(UD)
    if error.errno == unicorn.UC_ERR_EXCEPTION:
        return Outcome(GP)
    return Outcome(failure=str(error))


# --- Known divergences -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Cases in which unicorn is no judge. mnemonic and group are globs; vectors: outcomes of the host,
    None for any."""

    reason: str
    mnemonic: str = "*"
    group: str = "*"
    vectors: frozenset[int] | None = None


_FAULTS = frozenset((12, 13, 14, 16, 17, 19))

EXCLUSIONS: tuple[Exclusion, ...] = (
    Exclusion(
        "no canonical check, made-up error codes, no #MF/#XM/#AC; flags and memory not rolled back",
        vectors=_FAULTS,
    ),
    Exclusion("runs at CPL 0: nothing is privileged", group="fault"),
    Exclusion("F6 /1 and F7 /1 (test) raise #UD", mnemonic="test"),
    Exclusion("far returns need a GDT", mnemonic="iretq"),
    Exclusion("far returns need a GDT", mnemonic="retfq"),
    Exclusion("the immediate of RET imm16 is sign-extended", mnemonic="ret"),
    Exclusion("66 F2 0F 38 F1 (16-bit source) raises #UD", mnemonic="crc32"),
    Exclusion("LOCK NEG computes flags from the value written by another step", mnemonic="neg"),
    Exclusion(
        "with source, destination and accumulator overlapping, rax is written before it is read",
        mnemonic="cmpxchg",
    ),
    Exclusion("#DE inside a block without IDT is reported as #DF or not at all", vectors=frozenset((0,))),
    Exclusion("the MMX side effects on TOP, tags and bits 64-79 are missing", mnemonic="cvt*pi"),
    Exclusion("the MMX side effects on TOP, tags and bits 64-79 are missing", mnemonic="cvtpi2*"),
    Exclusion("RIP-relative operands ignore the immediate byte that follows", mnemonic="sh[lr]d"),
    Exclusion("the 16-bit form writes all of rbp", mnemonic="enter"),
    Exclusion("wrong when source and destination are the same register", mnemonic="phadd*"),
    Exclusion("wrong when source and destination are the same register", mnemonic="phsub*"),
    Exclusion("approximations are the CPU's own", mnemonic="rcp*"),
    Exclusion("approximations are the CPU's own", mnemonic="rsqrt*"),
    Exclusion("FST to an empty register does not tag it valid", mnemonic="fst*", group="x87"),
    Exclusion("special operands (infinities, huge scales) differ", mnemonic="fprem*"),
    Exclusion("special operands (infinities, huge scales) differ", mnemonic="fscale"),
    Exclusion("the sign of minus zero is lost", mnemonic="fbstp"),
    Exclusion("constants do not follow the rounding control", mnemonic="fldl*"),
    Exclusion("constants do not follow the rounding control", mnemonic="fldpi"),
    Exclusion("reserved words of the environment are zero, MXCSR_MASK too", group="x87_env"),
    Exclusion("bits 64-79 of the x87 register are not set to ones, TOP and tags stay on some forms", group="mmx"),
)


_FSW_TOP = 0x3800
_RELAXED: tuple[tuple[str, str, Undefined], ...] = (
    ("sse_*", "*", Undefined(mxcsr=0x3F)),  # exception flags of SSE operations are not recorded
    ("x87", "f*com*i", Undefined(flags=AF | SF | OF)),  # left alone instead of cleared
    ("x87*", "*", Undefined(fsw=0xFFFF & ~_FSW_TOP)),  # C1 is not computed, masked exceptions partly
)


def relaxed(case: Case) -> Undefined:
    """What is not compared with unicorn, beyond what the SDM leaves undefined."""
    result = case.undefined
    for group, mnemonic, extra in _RELAXED:
        if any(fnmatch.fnmatch(row.group, group) and fnmatch.fnmatch(row.mnemonic, mnemonic) for row in case.rows):
            result = replace(
                result,
                flags=result.flags | extra.flags,
                mxcsr=result.mxcsr | extra.mxcsr,
                fsw=result.fsw | extra.fsw,
            )
    return result


def excluded(case: Case, expected: MachineState) -> str | None:
    """Why this case is not compared with unicorn, or None."""
    for rule in EXCLUSIONS:
        if rule.vectors is not None and expected.outcome.vector not in rule.vectors:
            continue
        if any(
            fnmatch.fnmatch(row.mnemonic, rule.mnemonic) and fnmatch.fnmatch(row.group, rule.group) for row in case.rows
        ):
            return rule.reason
    return _excluded_by_values(case, expected)


_X87_INVALID = 0x41  # IE and SF of the status word
_MXCSR_FLUSH = 0x8040  # FTZ and DAZ


def _has_nan(value: int) -> bool:
    lanes = [value >> shift & 0xFFFF_FFFF for shift in (0, 32, 64, 96)]
    return any(lane & 0x7F80_0000 == 0x7F80_0000 and lane & 0x7F_FFFF for lane in lanes) or any(
        value >> shift & 0x7FF << 52 == 0x7FF << 52 for shift in (0, 64)
    )


def _excluded_by_values(case: Case, expected: MachineState) -> str | None:
    groups = {row.group for row in case.rows}
    if "sse_str" in groups and case.code[-1] & 0x0C == 0x0C:
        return "equal ordered: the needle may run past the end of the other string"
    x87 = bool(groups & {"x87", "x87_env"})
    if x87 and (case.state.x87[2] | expected.x87[2]) & _X87_INVALID:
        return "x87 stack faults and unsupported encodings are not detected"
    if x87 and expected.x87[2] & 2 & ~case.state.x87[2]:
        return "x87 denormal operands: pseudo-denormals differ"
    if x87 and case.state.x87[0] & 0x3F != 0x3F:
        return "unmasked overflow and underflow do not scale the exponent"
    if len(case.rows) > 1 and x87:
        return "FCOMI and the status word, wrong above, spread through a block"
    if len(case.rows) > 1 and any(row.mnemonic in ("stmxcsr", "fxsave") for row in case.rows):
        return "stores exception flags that were not recorded"
    if x87 and any(row.approx for row in case.rows):
        return "approximations are the CPU's own"
    changed = [b for a, b in zip(case.state.xmm, expected.xmm, strict=True) if a != b]
    if groups & {"sse_fp", "sse_cvt"} and any(_has_nan(value) for value in changed):
        return "which NaN operand wins follows the x87 rule"
    if groups & {"sse_fp", "sse_cvt"} and case.state.mxcsr & _MXCSR_FLUSH:
        return "FTZ and DAZ are applied incompletely"
    return None
