"""The host CPU as the judge: runs a few user-mode x86-64 instructions for real.

A forked child maps the pages of a case at their addresses, loads every register and jumps. Whatever
happens next ends in a signal: a fault in the code, or the int3 that surrounds it. The signal frame holds
the precise state. Sources: Linux x86-64 `struct ucontext` and `struct sigcontext` (uapi asm/sigcontext.h),
SDM volume 2 for the few instructions assembled by hand here.

Only for trusted, generated code: a wild store may crash the child, which is then reported as a failure.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
from collections.abc import Sequence
from pathlib import Path

from tests.oracle.state import MASK64, PAGE_SIZE, MachineState, Outcome, settle

AMD, INTEL = "AuthenticAMD", "GenuineIntel"


def _vendor() -> str:
    """CPUID's name of the host's vendor, as Linux repeats it (proc(5), cpuinfo)."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), INTEL)


VENDOR = _vendor()
"""Processors of other vendors are taken for what they say they are: no rule excuses them."""

PAGE_MASK = ~(PAGE_SIZE - 1)
RUNNER = 0x6FF0_0000
"""Where the child keeps its own machine code, the register block and the alternate stack."""

_ENTRY, _HANDLER, _BLOCK, _RESULT, _STACK = (
    RUNNER,
    RUNNER + 0x400,
    RUNNER + 0x1000,
    RUNNER + 0x2000,
    RUNNER + 0x4000,
)
_STACK_SIZE = 0x20000
_RUNNER_SIZE = 0x4000 + _STACK_SIZE
_CODE_PAGES = 2

# The register block: FXSAVE image, then quadwords.
_FX, _GPR, _RFLAGS, _RIP, _FS, _GS, _HOST_RSP, _HOST_FS, _HOST_MXCSR = (
    _BLOCK + offset for offset in (0, 512, 640, 648, 656, 664, 672, 680, 688)
)  # fmt: skip
_BLOCK_SIZE = 696

_GREGS_OFFSET, _GREGS_COUNT = 40, 23  # ucontext: flags, link, stack (24 bytes), then the sigcontext
_FPSTATE_OFFSET = _GREGS_OFFSET + 8 * _GREGS_COUNT
_RESULT_SIZE = 8 + 8 * _GREGS_COUNT + 512
# Order of the sigcontext: r8-r15, rdi, rsi, rbp, rbx, rdx, rax, rcx, rsp, rip, eflags, cs.., err, trapno, mask, cr2
_GREG_OF_GPR = (13, 14, 12, 11, 15, 10, 9, 8, 0, 1, 2, 3, 4, 5, 6, 7)
_GREG_RIP, _GREG_FLAGS, _GREG_ERR, _GREG_TRAPNO, _GREG_CR2 = 16, 17, 19, 20, 22

_SIGNALS = (signal.SIGSEGV, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGBUS)
_SECONDS_PER_BATCH = 5
"""A batch takes milliseconds; a case that loops for ever is cut here and reported as a failure."""

_MAP_FIXED_NOREPLACE = 0x100000
_SA_SIGINFO, _SA_ONSTACK, _SA_NODEFER = 4, 0x08000000, 0x40000000


def _abs32(address: int) -> bytes:
    return struct.pack("<I", address)


def _set_base(code: int, address: int) -> bytes:
    """arch_prctl(code, [address]): syscall 158; ARCH_SET_GS 0x1001, ARCH_SET_FS 0x1002."""
    return (
        b"\xb8" + _abs32(158)  # mov eax, 158
        + b"\xbf" + _abs32(code)  # mov edi, code
        + b"\x48\x8b\x34\x25" + _abs32(address)  # mov rsi, [address]
        + b"\x0f\x05"  # syscall
    )  # fmt: skip


def _entry_code() -> bytes:
    """void entry(void): saves the host's registers, loads the block, jumps."""
    out = b"\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57"  # push rbx, rbp, r12-r15
    out += b"\x48\x89\x24\x25" + _abs32(_HOST_RSP)  # mov [..], rsp
    # arch_prctl(ARCH_GET_FS 0x1003, &host_fs)
    out += b"\xb8" + _abs32(158) + b"\xbf" + _abs32(0x1003) + b"\xbe" + _abs32(_HOST_FS) + b"\x0f\x05"
    out += b"\x0f\xae\x1c\x25" + _abs32(_HOST_MXCSR)  # stmxcsr
    out += _set_base(0x1001, _GS) + _set_base(0x1002, _FS)
    out += b"\x48\x0f\xae\x0c\x25" + _abs32(_FX)  # fxrstor64
    out += b"\xff\x34\x25" + _abs32(_RFLAGS) + b"\x9d"  # push [rflags]; popfq
    for register in range(16):  # mov reg, [gpr + 8 * reg]; rsp among them, as nothing below uses the stack
        rex = 0x48 | (4 if register >= 8 else 0)
        out += bytes((rex, 0x8B, 0x04 | (register & 7) << 3, 0x25)) + _abs32(_GPR + 8 * register)
    return out + b"\xff\x24\x25" + _abs32(_RIP)  # jmp [rip slot]


def _handler_code() -> bytes:
    """void handler(int signo, siginfo_t *, ucontext_t *rdx): copies the frame to the result, returns from entry()."""
    out = b"\xfc"  # cld
    out += b"\x48\x63\xc7\x48\x89\x04\x25" + _abs32(_RESULT)  # movsxd rax, edi; mov [result], rax
    out += b"\x48\x8d\x72" + bytes((_GREGS_OFFSET,))  # lea rsi, [rdx+40]
    out += b"\xbf" + _abs32(_RESULT + 8) + b"\xb9" + _abs32(_GREGS_COUNT) + b"\xf3\x48\xa5"  # rep movsq
    out += b"\x48\x8b\xb2" + _abs32(_FPSTATE_OFFSET)  # mov rsi, [rdx+fpstate]
    out += b"\xb9" + _abs32(64) + b"\xf3\x48\xa5"  # rep movsq
    out += _set_base(0x1002, _HOST_FS)
    out += b"\x48\x8b\x24\x25" + _abs32(_HOST_RSP)  # mov rsp, [..]
    out += b"\xdb\xe3\x0f\xae\x14\x25" + _abs32(_HOST_MXCSR)  # fninit; ldmxcsr
    out += b"\x68" + _abs32(0x202) + b"\x9d"  # push 0x202; popfq: the kernel leaves AC as the code had it
    return out + b"\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3"  # pop r15-r12, rbp, rbx; ret


class _SigAction(ctypes.Structure):
    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _SigAltStack(ctypes.Structure):
    _fields_ = (("sp", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def _map(address: int, size: int, executable: bool = False) -> None:
    protection = mmap.PROT_READ | mmap.PROT_WRITE | (mmap.PROT_EXEC if executable else 0)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED_NOREPLACE
    if _libc.mmap(address, size, protection, flags, -1, 0) != address:
        raise OSError(ctypes.get_errno(), f"cannot map {size:#x} bytes at {address:#x} in the oracle's child")


def _install() -> None:
    """Child only: runner code, alternate stack, signal handlers."""
    _map(RUNNER, _RUNNER_SIZE, executable=True)
    ctypes.memmove(_ENTRY, _entry_code(), len(_entry_code()))
    ctypes.memmove(_HANDLER, _handler_code(), len(_handler_code()))
    stack = _SigAltStack(_STACK, 0, _STACK_SIZE)
    if _libc.sigaltstack(ctypes.byref(stack), None):
        raise OSError(ctypes.get_errno(), "sigaltstack")
    action = _SigAction(handler=_HANDLER, flags=_SA_SIGINFO | _SA_ONSTACK | _SA_NODEFER)
    for number in _SIGNALS:
        if _libc.sigaction(int(number), ctypes.byref(action), None):
            raise OSError(ctypes.get_errno(), "sigaction")


def _pack_block(state: MachineState) -> bytes:
    return state.fxsave_image() + struct.pack(
        "<20Q", *state.gpr, (state.rflags | 2) & ~0x100, state.rip, state.fs_base, state.gs_base
    )


class HostExecutor:
    """Runs cases on the host CPU in forked children. Not thread-safe; holds nothing between calls.

    rflags given with TF set lose it: the trap would end the run before the first instruction.
    """

    def __init__(self, seconds: int = _SECONDS_PER_BATCH) -> None:
        self._seconds = seconds

    def run(self, code: bytes, state: MachineState, max_insns: int = 0) -> MachineState:
        """The state after the code. max_insns is not enforced: the time limit of the child is."""
        return self.run_many([(code, state)])[0]

    def run_many(self, cases: Sequence[tuple[bytes, MachineState]]) -> list[MachineState]:
        """One result for each (code, state), in order; a few thousand a second."""
        results: list[MachineState] = []
        while len(results) < len(cases):
            results += self._run_batch(cases[len(results) :])
        return results

    def _run_batch(self, cases: Sequence[tuple[bytes, MachineState]]) -> list[MachineState]:
        pages = sorted({page for _, state in cases for page in state.memory})
        record = _RESULT_SIZE + PAGE_SIZE * len(pages)
        with mmap.mmap(-1, 8 + record * len(cases)) as shared:
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    _child(cases, pages, shared, record, self._seconds)
                    status = 0
                finally:
                    os._exit(status)
            _, status = os.waitpid(child, 0)
            done = int.from_bytes(shared[:8], "little")
            results = [
                self._unpack(code, state, shared[8 + record * i : 8 + record * (i + 1)], pages)
                for i, (code, state) in enumerate(cases[:done])
            ]
        if done < len(cases):
            how = os.waitstatus_to_exitcode(status)
            if how == 1 and done == 0:
                raise RuntimeError("the host oracle's child could not be set up (see its message above)")
            lost = cases[done][1].copy()
            lost.outcome = Outcome(failure="timeout" if how == -signal.SIGALRM else f"host child ended with {how}")
            results.append(lost)
        return results

    @staticmethod
    def _unpack(code: bytes, before: MachineState, record: bytes, pages: Sequence[int]) -> MachineState:
        gregs = struct.unpack_from(f"<{_GREGS_COUNT}Q", record, 8)
        after = before.copy()
        after.gpr = [gregs[index] for index in _GREG_OF_GPR]
        after.rip = gregs[_GREG_RIP]
        after.rflags = gregs[_GREG_FLAGS]
        after.load_fxsave(record[8 + 8 * _GREGS_COUNT : _RESULT_SIZE])
        for index, page in enumerate(pages):
            if page in before.memory:
                at = _RESULT_SIZE + PAGE_SIZE * index
                after.memory[page] = record[at : at + PAGE_SIZE]
        after.outcome = Outcome(gregs[_GREG_TRAPNO], gregs[_GREG_ERR] & 0xFFFF_FFFF, gregs[_GREG_CR2] & MASK64)
        return settle(after, before.rip, len(code))


def _child(
    cases: Sequence[tuple[bytes, MachineState]],
    pages: Sequence[int],
    shared: mmap.mmap,
    record: int,
    seconds: int,
) -> None:
    for page in pages:
        _map(page, PAGE_SIZE)
    code_pages = {state.rip & PAGE_MASK for _, state in cases}
    for page in {page + PAGE_SIZE * i for page in code_pages for i in range(_CODE_PAGES)}:
        _map(page, PAGE_SIZE, executable=True)
    _install()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a Python handler of the parent would only set a flag
    signal.alarm(seconds)
    entry = ctypes.CFUNCTYPE(None)(_ENTRY)
    filling = b"\xcc" * (_CODE_PAGES * PAGE_SIZE)
    base = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    protected: frozenset[int] = frozenset()
    for index, (code, state) in enumerate(cases):
        for page in protected - state.read_only:
            _libc.mprotect(page, PAGE_SIZE, mmap.PROT_READ | mmap.PROT_WRITE)
        writable_again = state.read_only - protected
        protected &= state.read_only
        for page, data in state.memory.items():
            if page not in protected:
                ctypes.memmove(page, bytes(data), PAGE_SIZE)
            elif ctypes.string_at(page, PAGE_SIZE) != data:
                _libc.mprotect(page, PAGE_SIZE, mmap.PROT_READ | mmap.PROT_WRITE)
                ctypes.memmove(page, bytes(data), PAGE_SIZE)
                _libc.mprotect(page, PAGE_SIZE, mmap.PROT_READ)
        for page in writable_again:
            _libc.mprotect(page, PAGE_SIZE, mmap.PROT_READ)
        protected = state.read_only
        ctypes.memmove(state.rip & PAGE_MASK, filling, len(filling))
        ctypes.memmove(state.rip, code, len(code))
        block = _pack_block(state)
        ctypes.memmove(_BLOCK, block, len(block))
        entry()
        out = base + 8 + record * index
        ctypes.memmove(out, _RESULT, _RESULT_SIZE)
        for position, page in enumerate(pages):
            ctypes.memmove(out + _RESULT_SIZE + PAGE_SIZE * position, page, PAGE_SIZE)
        ctypes.memmove(base, struct.pack("<Q", index + 1), 8)
