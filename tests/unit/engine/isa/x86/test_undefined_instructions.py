"""#UD for what x86-64-v2 lacks, for LOCK where it is not allowed; #GP for more than 15 bytes; the limits of segments.

Sources: SDM volume 2, the pages of the instructions ("Exceptions") and LOCK; volume 3, 6.15 (#GP: over 15 bytes).
"""

from __future__ import annotations

import pytest

from manor.engine.testing import MicroVm

CODE, DATA = 0x40_0000, 0x50_0000
UD, GP, PF = 6, 13, 14

LACKING = {
    "vaddps ymm": "c5 fc 58 c1", "vaddps xmm": "c5 f8 58 c1", "vex3": "c4 e2 7d 18 00", "evex": "62 f1 7c 48 58 c1",
    "vzeroupper": "c5 f8 77", "andn": "c4 e2 70 f2 c0", "bextr": "c4 e2 70 f7 c0", "pdep": "c4 e2 73 f5 c0",
    "rorx": "c4 e3 7b f0 c0 01", "xop": "8f e8 78 c0 c0 01",
    "aesenc": "66 0f 38 dc c1", "aesdec": "66 0f 38 de c1", "aesimc": "66 0f 38 db c1",
    "aeskeygenassist": "66 0f 3a df c1 01", "pclmulqdq": "66 0f 3a 44 c1 00",
    "movbe load": "0f 38 f0 06", "movbe store": "0f 38 f1 06",
    "rdrand": "0f c7 f0", "rdrand 64": "48 0f c7 f0", "rdseed": "0f c7 f8", "rdpid": "f3 0f c7 f8",
    "adcx": "66 0f 38 f6 c1", "adox": "f3 0f 38 f6 c1",
    "sha1rnds4": "0f 3a cc c1 00", "sha256msg1": "0f 38 cc c1", "gf2p8mulb": "66 0f 38 cf c1",
    "xsaveopt": "0f ae 36", "xsavec": "0f c7 26", "xsaves": "0f c7 2e", "xrstors": "0f c7 1e",
    "monitor": "0f 01 c8", "mwait": "0f 01 c9", "rsm": "0f aa", "getsec": "0f 37",
    "vmcall": "0f 01 c1", "vmlaunch": "0f 01 c2", "vmxoff": "0f 01 c4", "vmread": "0f 78 c0", "vmwrite": "0f 79 c0",
    "vmptrld": "0f c7 36", "invept": "66 0f 38 80 06", "invpcid": "66 0f 38 82 06",
    "vmrun": "0f 01 d8", "vmmcall": "0f 01 d9", "stgi": "0f 01 dc", "clgi": "0f 01 dd", "invlpga": "0f 01 df",
    "xbegin": "c7 f8 00 00 00 00", "xabort": "c6 f8 00", "xend": "0f 01 d5", "xtest": "0f 01 d6",
    "clwb": "66 0f ae 36", "clflushopt": "66 0f ae 3e", "enqcmd": "f2 0f 38 f8 06", "movdir64b": "66 0f 38 f8 06",
    "movdiri": "0f 38 f9 06", "femms": "0f 0e", "3dnow": "0f 0f c1 9e", "extrq": "66 0f 79 c1",
    "movntss": "f3 0f 2b 06",
    "insertq": "f2 0f 79 c1", "ptwrite": "f3 0f ae e0", "umonitor": "f3 0f ae f0", "wrpkru": "0f 01 ef",
    "rdpkru": "0f 01 ee", "encls": "0f 01 cf", "enclu": "0f 01 d7", "serialize": "0f 01 e8", "clzero": "0f 01 fc",
    "monitorx": "0f 01 fa", "mwaitx": "0f 01 fb", "rdpru": "0f 01 fd",
    "ud0": "0f ff c0", "ud1": "0f b9 c0", "ud2": "0f 0b",
    "0f04": "0f 04", "0f0a": "0f 0a", "0f24": "0f 24 c0", "0f26": "0f 26 c0", "0f36": "0f 36", "0f39": "0f 39",
    "0fa6": "0f a6 c0", "0fa7": "0f a7 c0", "jmpe": "0f b8 c0",
    "push es": "06", "push cs": "0e", "push ss": "16", "push ds": "1e", "daa": "27", "das": "2f", "aaa": "37",
    "aas": "3f", "pusha": "60", "popa": "61", "group1 82": "82 c0 01", "lcall": "9a 00 00 00 00 00 00", "aam": "d4 0a",
    "aad": "d5 0a", "salc": "d6", "ljmp": "ea 00 00 00 00 00 00", "into": "ce",
    "mov cs": "8e c8", "mov seg 6": "8e f0", "mov from seg 6": "8c f0", "lea register": "8d c0", "c6 /1": "c6 c8 00",
    "c7 /1": "c7 c8 00 00 00 00", "fe /2": "fe d0", "ff /7": "ff f8", "ff /3 register": "ff d8",
    "ff /5 register": "ff e8",
    "8f /1": "8f c8", "0f c7 /0": "0f c7 06", "cmpxchg8b register": "0f c7 c8", "0f ba /0": "0f ba c0 01",
    "cr1": "0f 20 c8", "cr5": "0f 20 e8", "cr9": "44 0f 20 c8", "dr8": "44 0f 21 c0", "movnti register": "0f c3 c0",
    "lddqu register": "f2 0f f0 c0", "lfs register": "0f b4 c0", "sgdt register form": "0f 01 c5",
}  # fmt: skip

LOCKED = {
    "add register": "01 c8", "add load": "03 06", "mov": "89 06", "cmp": "39 06", "test": "85 06", "nop": "90",
    "lea": "8d 06", "jmp": "eb 00", "push": "ff 36", "imul": "0f af 06", "shl": "d1 26", "bt": "0f a3 06",
    "movss": "f3 0f 10 06", "fadd": "d8 06", "xchg register": "87 c1", "movs": "a5", "cmps": "a7", "div": "f7 36",
    "mul": "f7 26", "bsf": "0f bc 06", "setz": "0f 94 06", "ret": "c3", "cpuid": "0f a2",
    "cmpxchg register": "0f b1 c1",
    "bts register": "0f ab c1", "inc register": "ff c0", "not register": "f7 d0", "popcnt": "f3 0f b8 06",
}  # fmt: skip


@pytest.fixture(scope="module")
def vm() -> MicroVm:
    vm = MicroVm()
    vm.map(CODE)
    vm.map(DATA)
    return vm


def outcome(vm: MicroVm, code: bytes, cpl: int = 3, at: int = CODE) -> int | None:
    vm.enter_long_mode(cpl)
    vm.write(at, code + b"\xeb\x00")
    for register in range(16):
        vm.set("regs", DATA + 0x100, register)
    vm.set("rip", at)
    result = vm.run_until(at + len(code) + 2, 3)
    assert result.vector is None or vm.get("rip") == at
    return result.vector


@pytest.mark.parametrize("name", LACKING)
def test_not_in_x86_64_v2(vm: MicroVm, name: str) -> None:
    for cpl in (0, 3):
        assert outcome(vm, bytes.fromhex(LACKING[name]), cpl) == UD


@pytest.mark.parametrize("name", LOCKED)
def test_lock_refused(vm: MicroVm, name: str) -> None:
    assert outcome(vm, b"\xf0" + bytes.fromhex(LOCKED[name])) == UD


@pytest.mark.parametrize("prefixes", [11, 12, 13])
def test_fifteen_bytes(vm: MicroVm, prefixes: int) -> None:
    """66 prefixes before the three bytes of ADD [rsi+1], al: 15 at most."""
    code = b"\x66" * prefixes + b"\x00\x46\x01"
    assert outcome(vm, code) == (None if len(code) <= 15 else GP)
    if len(code) > 15:
        assert outcome(vm, b"\x66" * 40) == GP


def test_fifteen_bytes_at_the_end_of_a_page(vm: MicroVm) -> None:
    """The limit counts before the page that would have to be fetched, if all 15 bytes are there."""
    at = CODE + 0x1000 - 15
    vm.enter_long_mode()
    vm.write(at, b"\x66" * 15)
    vm.set("rip", at)
    assert vm.run_until(0, 3).vector == GP
    at = CODE + 0x1000 - 14
    vm.set("rip", at)
    vm.write(at, b"\x66" * 14)
    assert vm.run_until(0, 3).vector == PF
    assert vm.get("cr", 2) == CODE + 0x1000


def test_mov_control_register_ignores_mod(vm: MicroVm) -> None:
    """0F 20 with mod 00: still the register form, and no displacement follows."""
    assert outcome(vm, b"\x0f\x20\x05", cpl=0) is None
    assert vm.get("regs", 5) == vm.get("cr", 0)


class TestLimits:
    """32-bit code of ring 3 in compatibility mode, code segment limit 0xFFF; the base is CODE."""

    @pytest.fixture
    def low(self, vm: MicroVm) -> MicroVm:
        vm.enter_long_mode()
        vm.set("seg_attributes", 0x40FB, 1, "I")
        vm.set("seg_base", CODE, 1)
        vm.set("seg_limit", 0xFFF, 1, "I")
        vm.cpu.changed()
        vm.map(CODE + 0x1000)
        return vm

    def vector(self, vm: MicroVm, at: int, code: bytes) -> tuple[int | None, int]:
        vm.write(CODE + at, code)
        vm.set("rip", at)
        result = vm.run_until(0x2000, 4)
        return result.vector, vm.get("rip")

    def test_running_past_the_end(self, low: MicroVm) -> None:
        assert self.vector(low, 0xFFD, b"\x90\x90\x90\x90") == (GP, 0x1000)

    def test_instruction_across_the_end(self, low: MicroVm) -> None:
        assert self.vector(low, 0xFFC, b"\x90\xb8\x01\x02\x03\x04") == (GP, 0xFFD)

    @pytest.mark.parametrize("code", [b"\xe9\xfb\x0f\0\0", b"\xe8\xfb\x0f\0\0", b"\x0f\x84\xfa\x0f\0\0"])
    def test_near_jump_beyond_is_refused_where_it_stands(self, low: MicroVm, code: bytes) -> None:
        low.cpu.set_flags(0x42)
        low.set("regs", DATA + 0x100, 4)
        assert self.vector(low, 0, code) == (GP, 0)
        assert low.get("regs", 4) == DATA + 0x100

    def test_translation_of_a_larger_segment_is_not_reused(self, low: MicroVm) -> None:
        low.set("seg_limit", 0x1FFF, 1, "I")
        low.cpu.changed()
        low.set("regs", 0, 0)
        assert self.vector(low, 0xFFC, b"\x40\x40\x40\x40\x40\x40\xf4") == (GP, 0x1002)  # HLT of ring 3
        assert low.get("regs", 0) == 6
        low.set("seg_limit", 0xFFF, 1, "I")
        low.cpu.changed()
        low.set("regs", 0, 0)
        low.set("rip", 0xFFC)
        assert low.run_until(0x2000, 4).vector == GP
        assert (low.get("rip"), low.get("regs", 0)) == (0x1000, 4)
