"""x87 helpers against the host's own instructions: random states, every instruction, the whole FXSAVE image."""

from __future__ import annotations

import ctypes
import importlib
import mmap
import platform
import random
import struct
from dataclasses import dataclass, field
from typing import Any

import pytest

from manor.engine.env import ENV_SIZE, OFFSETS, TLB_ENTRY_SIZE
from manor.engine.isa.x86 import template, x87  # noqa: F401  (x87 declares the instructions)
from manor.engine.isa.x86.declare import INSNS, Insn
from manor.engine.isa.x86.helper_catalog import HELPERS
from manor.engine.uop.table import NUMBER

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the oracle is the host's x87")
native = pytest.importorskip(
    "manor.engine.isa.x86.fpu_native", reason="native modules are not built", exc_type=ImportError
)

GVA = 0x10000
FORMATS = {"I": 4, "Q": 8, "H": 2}


class Machine:
    """An env with one page of memory, and the host executing the same bytes on the same state."""

    def __init__(self) -> None:
        self._env = ctypes.create_string_buffer(ENV_SIZE + 64)
        self.env = (ctypes.addressof(self._env) + 63) & ~63
        self._pages = mmap.mmap(-1, 8192)
        self.page = ctypes.addressof(ctypes.c_char.from_buffer(self._pages))
        tlb = self.env + OFFSETS["tlb"] + (GVA >> 12) * TLB_ENTRY_SIZE
        cells = (ctypes.c_uint64 * 4).from_address(tlb)
        cells[0] = cells[1] = GVA
        cells[2] = (self.page - GVA) & (1 << 64) - 1
        self._code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        self._code_at = ctypes.addressof(ctypes.c_char.from_buffer(self._code))
        self._images = mmap.mmap(-1, 4096)
        self._image_at = ctypes.addressof(ctypes.c_char.from_buffer(self._images))
        self.set("efer", 1 << 10, "Q")
        self.set("cr", 1, "Q")
        self.set("seg_attributes", 0x209B, index=1)
        self.set("mxcsr", 0x1F80)
        self.set("xcr0", 3, "Q")
        self.helpers = {
            name: ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_void_p, *[ctypes.c_uint64] * 3)(address)
            for name, address in native.addresses().items()
        }
        self.call("ldmxcsr", 0x1F80)  # composes the block's flags

    def get(self, name: str, kind: str = "I", index: int = 0) -> int:
        data = ctypes.string_at(self.env + OFFSETS[name] + index * FORMATS[kind], FORMATS[kind])
        return int(struct.unpack("<" + kind, data)[0])

    def set(self, name: str, value: int, kind: str = "I", index: int = 0) -> None:
        ctypes.memmove(self.env + OFFSETS[name] + index * FORMATS[kind], struct.pack("<" + kind, value), FORMATS[kind])

    def memory(self, data: bytes | None = None) -> bytes:
        if data is not None:
            ctypes.memmove(self.page, data, len(data))
        return ctypes.string_at(self.page, 512)

    def call(self, name: str, a: int = 0, b: int = 0, imm: int = 0) -> int:
        self.set("fault", 0)
        return int(self.helpers[name](self.env, a, b, imm))

    def load(self, image: bytes) -> None:
        """FXRSTOR through our own helper."""
        self.memory(image)
        self.call("fxrstor", GVA, 0, 1)
        assert self.get("fault") == 0

    def save(self) -> bytes:
        kept = self.memory()
        self.memory(bytes(512))
        self.call("fxsave", GVA, 0, 1)
        image = self.memory()
        self.memory(kept)
        return image

    def host(self, image: bytes, instruction: bytes, memory: bytes, flags: int) -> tuple[bytes, bytes, int]:
        """(FXSAVE image, memory, RFLAGS) after one instruction whose memory operand is [rsi]."""
        code = (
            b"\x51\x9d\x48\x0f\xae\x0f"  # push rcx; popfq; fxrstor64 [rdi]
            + instruction
            + b"\x9c\x58\x48\x0f\xae\x07\x48\x0f\xae\x0a\xc3"  # pushfq; pop rax; fxsave64 [rdi]; fxrstor64 [rdx]; ret
        )
        self._code[: len(code)] = code
        pristine = bytearray(512)
        pristine[0:2], pristine[24:28] = struct.pack("<H", 0x37F), struct.pack("<I", 0x1F80)
        self._images[:1536] = image + memory.ljust(512, b"\0") + bytes(pristine)
        function = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 4)(self._code_at)
        result = function(self._image_at, self._image_at + 512, self._image_at + 1024, flags)
        return self._images[:512], self._images[512:1024], result


@pytest.fixture(scope="module")
def machine() -> Machine:
    return Machine()


VALUES = (
    (0, 0), (0, 0x8000), (1 << 63, 0x3FFF), (1 << 63, 0xBFFF), (1 << 63, 0x7FFF), (1 << 63, 0xFFFF), (3 << 62, 0xFFFF),
    (3 << 62 | 5, 0x7FFF), (1 << 63 | 7, 0x7FFF), (1, 0), (1 << 62, 0), (1 << 63, 0), (1 << 63, 0x0001),
    ((1 << 64) - 1, 0x7FFE), (0xC90FDAA22168C235, 0x4000), (1 << 63, 0x403E), (1 << 63, 0x403D), (0xFFFF << 48, 0x400E),
    (5 << 60, 0x4000), (1 << 62, 0x4000), (1 << 63, 0x3FFE), (1 << 63, 0xBFFD), (9 << 60, 0x4005), (0, 0x7FFF),
)  # fmt: skip
"""Zeros, ones, infinities, NaNs, denormals, limits, pi, large angles, unnormals and pseudo-infinity."""


def state(rng: random.Random, masked: bool = True) -> bytes:
    image = bytearray(512)
    control = 0x40 | rng.choice((0x000, 0x200, 0x300)) | rng.choice((0, 0x400, 0x800, 0xC00))
    control |= 0x3F if masked else rng.getrandbits(6)
    status = rng.getrandbits(16) & 0x7800 | rng.getrandbits(16) & 0x700
    if masked and rng.randrange(3) == 0:
        status |= rng.getrandbits(7)
    tags = rng.choice((0xFF, rng.getrandbits(8), 0x7F, 0xFE))
    struct.pack_into("<HHB", image, 0, control, status, tags)
    struct.pack_into("<II", image, 24, 0x1F80, 0xFFFF)
    for i in range(8):
        if rng.randrange(2):
            low, high = rng.choice(VALUES)
        else:
            low, high = rng.getrandbits(64) | 1 << 63, rng.choice((0x3FFF, 0xBFFF)) + rng.randrange(-40, 70)
        struct.pack_into("<QH", image, 32 + 16 * i, low, high)
    image[160:416] = rng.randbytes(256)
    return bytes(image)


def comparable(image: bytes) -> bytes:
    """Without the instruction and operand pointers and the opcode, and without MXCSR's neighbourhood."""
    return image[:6] + image[32:416]


@dataclass
class Form:
    """One instruction form: its bytes for a given ST(i), and how its template calls the helpers."""

    insn: Insn
    code: bytes
    rm: int
    memory: bool
    items: tuple[Any, ...] = field(repr=False)


def forms() -> list[Form]:
    result = []
    for insn in INSNS:
        e = insn.encoding
        if insn.gate != "x87" or e.map or insn.name in ("fnstsw", "fneni", "fndisi", "fnsetpm"):
            continue
        memory = bool(e.operands)
        items = template.build(insn, template.Variant(True, 32, memory, False))
        assert e.reg is not None
        for rm in (6,) if memory else (e.rm,) if e.rm is not None else range(8):
            modrm = (0 if memory else 0xC0) | e.reg << 3 | rm
            result.append(Form(insn, bytes((e.opcode, modrm)), rm, memory, items))
    return result


def run(machine: Machine, form: Form, flags: int) -> int | None:
    """Interpret the few uops of an x87 template; returns the helper's result."""
    registers: dict[int, int] = {}
    result = None
    conditions = {2: flags & 1, 4: flags >> 6 & 1, 6: flags & 1 | flags >> 6 & 1, 10: flags >> 2 & 1}
    conditions |= {n + 1: 1 - v for n, v in conditions.items()}
    for item in form.items:
        if item.op == NUMBER["helper"]:
            opcode, modrm = form.code
            imm = item.constant + ((opcode & 7) << 8 | modrm if item.imm_code == template.IMM_FOP else 0)
            result = machine.call(HELPERS[item.x].name, registers.get(item.a, 0), registers.get(item.b, 0), imm)
            registers[item.d] = result
        elif item.op == template.P["SETCOND"]:
            registers[item.d] = conditions[item.constant]
        elif item.op == NUMBER["add64i"] and item.a == template.EABASE:
            registers[item.d] = GVA
        elif item.op in (NUMBER["ld16"], NUMBER["ld32"], NUMBER["ld64"]):
            size = {NUMBER["ld16"]: 2, NUMBER["ld32"]: 4, NUMBER["ld64"]: 8}[item.op]
            registers[item.d] = int.from_bytes(machine.memory()[:size], "little")
        elif item.op == NUMBER["st16"]:
            machine.memory(registers[item.b].to_bytes(8, "little")[:2])
    return result


FLAG_BITS = 0x45
POINTERS = {"fnstenv": (12, 28), "fnsave": (12, 28)}


@pytest.mark.parametrize("masked", [True, False])
def test_instructions_equal_the_host(machine: Machine, masked: bool) -> None:
    rng = random.Random(11)
    for form in forms():
        name = form.insn.name
        for _ in range(30 if form.memory else 12):
            image = state(rng, masked)
            memory = rng.choice(
                (
                    rng.randbytes(16), struct.pack("<d", rng.uniform(-9, 9)), struct.pack("<f", rng.uniform(-9, 9)),
                    struct.pack("<QH", *rng.choice(VALUES)), struct.pack("<I", rng.choice((0x7F800001, 0x7FC00000, 1))),
                    struct.pack("<Q", rng.choice((0x7FF0000000000001, 1, 0xFFF8000000000000))),
                    bytes.fromhex("99" * 9 + "80"), bytes.fromhex("12345678901234567800"),
                )
            ).ljust(512, b"\0")  # fmt: skip
            if name == "fbld" and any(b >> 4 > 9 or b & 15 > 9 for b in memory[:9]):
                continue  # invalid digits: undefined
            if name == "frstor" or name == "fldenv":
                environment = bytearray(rng.randbytes(28))
                environment[0:8] = struct.pack("<II", 0x37F, rng.getrandbits(16) & 0x7F00)
                environment[18:20] = b"\0\0"
                memory = bytes(environment) + image[32:112] + bytes(512 - 108)
            if name == "fldcw":
                memory = struct.pack("<H", 0x37F).ljust(512, b"\0")
            flags = rng.choice((0, 1, 4, 0x40, 0x45)) | 2
            want_image, want_memory, want_flags = machine.host(image, form.code, memory, flags)
            machine.load(image)
            machine.memory(memory)
            result = run(machine, form, flags)
            got_memory = machine.memory()
            got_image = machine.save()
            assert machine.get("fault") == 0
            context = (name, form.code.hex(), masked, image[:160].hex(" ", 16), memory[:16].hex(), flags)
            if name in POINTERS:
                start, end = POINTERS[name]
                got_memory = got_memory[:start] + got_memory[end:]
                want_memory = want_memory[:start] + want_memory[end:]
            assert got_memory == want_memory, (context, "memory", got_memory[:16].hex(), want_memory[:16].hex())
            assert comparable(got_image).hex(" ", 16) == comparable(want_image).hex(" ", 16), context
            if name.startswith(("fcomi", "fucomi")) and result is not None and masked:
                assert result == want_flags & FLAG_BITS, context


def test_pending_exception_raises_mf(machine: Machine) -> None:
    image = bytearray(state(random.Random(1)))
    struct.pack_into("<HHB", image, 0, 0x37F & ~4, 0x0004, 0)
    machine.load(bytes(image))
    fld1 = next(f for f in forms() if f.insn.name == "fld1")
    run(machine, fld1, 0)
    assert machine.get("fault") != 0
    assert machine.get("exc_vector") == 16
    machine.call("fnclex")
    run(machine, fld1, 0)
    assert machine.get("fault") == 0


def test_store_fault_changes_nothing(machine: Machine) -> None:
    """An address that is not canonical: the stack keeps its top."""
    image = bytearray(state(random.Random(2)))
    image[4] = 0xFF
    machine.load(bytes(image))
    before = machine.save()
    store = next(f for f in forms() if f.code[:1] == b"\xdd" and f.insn.name == "fstp" and f.memory)
    machine.call("x87_memory", 1 << 63, 0, store.items[-1].constant)
    assert machine.get("fault") != 0
    assert machine.get("exc_vector") == 13
    # Bytes 24 to 27 are MXCSR, here the host's own, in which Python's arithmetic leaves its flags.
    after = machine.save()
    assert after[:24] + after[28:] == before[:24] + before[28:]


def test_mmx_aliases_x87(machine: Machine) -> None:
    machine.load(state(random.Random(4)))
    machine.call("mmx_enter")
    machine.call("mmx_put", 0x1122334455667788, 0, 3)
    assert machine.call("mmx_get", 0, 0, 3) == 0x1122334455667788
    image = machine.save()
    assert image[2:5] == b"\0" + bytes((image[3] & 0xC7,)) + b"\xff"
    assert struct.unpack_from("<QH", image, 32 + 48) == (0x1122334455667788, 0xFFFF)
    machine.call("emms")
    assert machine.save()[4] == 0


def test_ldmxcsr_refuses_reserved_bits(machine: Machine) -> None:
    machine.set("mxcsr", 0x1F80)
    machine.call("ldmxcsr", 0x10000)
    assert (machine.get("fault"), machine.get("exc_vector"), machine.get("mxcsr")) == (1, 13, 0x1F80)
    machine.call("ldmxcsr", 0x5F80)
    assert machine.call("stmxcsr") == 0x5F80
    machine.call("ldmxcsr", 0x1F80)


def test_xsave_and_xrstor(machine: Machine) -> None:
    rng = random.Random(6)
    image = state(rng)
    machine.load(image)
    machine.set("cr", 1 << 18, "Q", 4)
    machine.set("regs", 3, "Q", 0)
    ctypes.memset(machine.page, 0, 1024)
    machine.call("xsave", GVA, 0, 1)
    assert machine.get("fault") == 0
    saved = ctypes.string_at(machine.page, 576)
    assert comparable(saved) == comparable(image)
    assert saved[512:576] == struct.pack("<Q", 3) + bytes(56)
    # Neither component present: both get their initial state.
    ctypes.memset(machine.page + 512, 0, 8)
    machine.call("xrstor", GVA, 0, 1)
    fresh = machine.save()
    assert fresh[:5] == struct.pack("<HHB", 0x37F, 0, 0)
    assert fresh[160:416] == bytes(256)
    machine.memory(saved[:512])
    ctypes.memset(machine.page + 512, 3, 1)
    machine.call("xrstor", GVA, 0, 1)
    assert comparable(machine.save()) == comparable(image)
    for bad in (520, 512):  # XCOMP_BV, and a component that XCR0 does not have
        ctypes.memset(machine.page + bad, 0xFF, 1)
        machine.call("xrstor", GVA, 0, 1)
        assert machine.get("exc_vector") == 13
        ctypes.memset(machine.page + bad, 0, 1)
    machine.call("xsave", GVA + 16, 0, 1)
    assert (machine.get("fault"), machine.get("exc_vector")) == (1, 13)


def test_unmasked_sse_exception_restores_the_destination(machine: Machine) -> None:
    """sse_trap_begin, an operation that raises, sse_trap_check."""
    machine.set("cr", 1 << 10, "Q", 4)
    machine.call("ldmxcsr", 0x1F80 & ~0x200)  # division by zero unmasked
    machine.set("xmm", 77, "Q", 4)
    machine.call("sse_trap_begin", 0, 0, 2)
    machine.set("xmm", 99, "Q", 4)
    divide = importlib.import_module("operator").truediv
    ctypes.CDLL("libm.so.6").feraiseexcept(4)  # FE_DIVBYZERO, in MXCSR too
    assert divide(1.0, 2.0) == 0.5
    machine.call("sse_trap_check", 0, 0, 2)
    assert (machine.get("fault"), machine.get("exc_vector")) == (1, 19)
    assert machine.get("xmm", "Q", 4) == 77
    assert machine.call("stmxcsr") & 4
    machine.call("ldmxcsr", 0x1F80)
