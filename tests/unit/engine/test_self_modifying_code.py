"""Code that changes while it runs: by its own stores, through another mapping, by a device, by another vCPU."""

from __future__ import annotations

import ctypes
import mmap
import struct
import threading

import pytest

from manor.engine.env import OFFSETS
from manor.engine.load import create_engine
from manor.engine.testing import MicroVm, NullCallbacks

CODE, DATA, ALIAS = 0x40_0000, 0x50_0000, 0x60_0000
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
HALTED, KICKED = 2, 1


@pytest.fixture
def vm() -> MicroVm:
    vm = MicroVm()
    vm.map(CODE)
    vm.map(CODE + 0x1000)
    vm.map(DATA)
    return vm


def run(vm: MicroVm, code: bytes, at: int = CODE, end: int | None = None, blocks: int = 100, **regs: int) -> None:
    vm.write(at, code)
    go(vm, at, at + len(code) - 1 if end is None else end, blocks, **regs)


def go(vm: MicroVm, at: int, end: int, blocks: int = 100, **regs: int) -> None:
    for name, value in regs.items():
        vm.set("regs", value, ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi").index(name))
    vm.set("rip", at)
    outcome = vm.run_until(0, blocks)
    assert (outcome.vector, vm.get("rip")) == (13, end), outcome


END = b"\xf4"  # HLT of ring 3 is #GP: the end, whatever was chained


def test_store_to_the_next_instruction(vm: MicroVm) -> None:
    # mov byte [rip], 2 (the immediate of the next); mov eax, 1
    run(vm, bytes.fromhex("c6 05 01 00 00 00 02 b8 01 00 00 00") + END)
    assert vm.get("regs", RAX) == 2


def test_store_to_the_same_block_later_and_earlier(vm: MicroVm) -> None:
    # inc edx; mov byte [code+20], 7; nop; mov eax, 1; loop back once
    code = bytes.fromhex("ff c2 c6 05 03 00 00 00 07 90 90 b8 01 00 00 00 ff c9 75 ec") + END
    run(vm, code, rcx=3, rdx=0)
    assert vm.get("regs", RAX) == 7
    assert vm.get("regs", RDX) == 3
    # the store hits an instruction before it in its own block: seen in the next round
    # add al, 1; mov byte [code+1], 5; dec ecx; jnz code
    code = bytes.fromhex("04 01 c6 05 f8 ff ff ff 05 ff c9 75 f3") + END
    run(vm, code, rcx=3, rax=0)
    assert vm.get("regs", RAX) == 1 + 5 + 5


def test_store_to_another_page_and_back(vm: MicroVm) -> None:
    vm.write(CODE + 0x1000, b"\xb8\x01\x00\x00\x00\xc3")  # mov eax, 1; ret
    # call there; add edx, eax; inc byte [there+1]; dec ecx; jnz code
    code = bytes.fromhex("e8 fb 0f 00 00 01 c2 fe 05 f4 0f 00 00 ff c9 75 ef") + END
    run(vm, code, rcx=4, rdx=0, rsp=DATA + 0x800)
    assert vm.get("regs", RDX) == 1 + 2 + 3 + 4


def test_store_across_two_code_pages(vm: MicroVm) -> None:
    # The instruction at CODE+0xffd crosses the page; an 8-byte store over the border changes its immediate.
    at = CODE + 0xFFD
    vm.write(at, b"\xb8\x01\x02\x03\x04" + END)  # mov eax, 0x04030201
    go(vm, at, at + 5)
    assert vm.get("regs", RAX) == 0x04030201
    run(vm, b"\x48\x89\x07" + END, CODE, rdi=at, rax=0xF4_4433_2211_B8)  # mov [rdi], rax
    go(vm, at, at + 5)
    assert vm.get("regs", RAX) == 0x44332211
    # only the second page is written
    run(vm, b"\xc6\x07\x99" + END, CODE, rdi=CODE + 0x1001)
    go(vm, at, at + 5)
    assert vm.get("regs", RAX) == 0x99332211


def alias(vm: MicroVm, gva: int, of: int) -> None:
    """Map gva to the physical page of another address."""
    vm.map(gva)
    struct.pack_into("<Q", vm.memory, vm._leaf(gva), vm.pages[of] | 7)
    vm.cpu.changed()


def test_store_through_another_mapping(vm: MicroVm) -> None:
    alias(vm, ALIAS, CODE)
    run(vm, bytes.fromhex("c6 06 02 b8 01 00 00 00") + END, rsi=ALIAS + 4)  # own next instruction
    assert vm.get("regs", RAX) == 2
    vm.write(CODE + 0x100, b"\xb8\x01\x00\x00\x00" + END)
    go(vm, CODE + 0x100, CODE + 0x105)
    go(vm, ALIAS + 0x100, ALIAS + 0x105)
    run(vm, b"\xc6\x06\x05" + END, CODE + 0x200, rsi=ALIAS + 0x101)
    for start in (CODE, ALIAS):
        go(vm, start + 0x100, start + 0x105, rax=0)
        assert vm.get("regs", RAX) == 5


@pytest.mark.parametrize("direction", [1, -1])
def test_string_stores_over_code(vm: MicroVm, direction: int) -> None:
    new = b"\xb8\x2a\x00\x00\x00" + END
    vm.write(DATA, new)
    vm.write(CODE + 0x100, b"\xb8\x01\x00\x00\x00" + END)
    go(vm, CODE + 0x100, CODE + 0x105)
    last = 0 if direction == 1 else len(new) - 1
    code = (b"\xfc" if direction == 1 else b"\xfd") + b"\xf3\xa4" + END
    run(vm, code, rsi=DATA + last, rdi=CODE + 0x100 + last, rcx=len(new))
    go(vm, CODE + 0x100, CODE + 0x105)
    assert vm.get("regs", RAX) == 42


def test_repeated_store_over_its_own_block(vm: MicroVm) -> None:
    # rep stosb writes NOPs over what follows it in its block
    code = b"\xf3\xaa" + b"\xb8\x01\x00\x00\x00" + b"\x90" * 8 + END
    run(vm, code, rdi=CODE + 2, rcx=5, rax=0x90)
    assert vm.get("regs", RAX) == 0x90
    assert vm.read(CODE + 2, 5) == b"\x90" * 5


def test_atomic_store_over_its_own_block(vm: MicroVm) -> None:
    run(vm, bytes.fromhex("f0 00 07 b8 01 00 00 00") + END, rdi=CODE + 4, rax=6)  # lock add [rdi], al
    assert vm.get("regs", RAX) == 7
    assert vm.read(CODE + 4, 1) == b"\x07"


def test_vector_store_over_its_own_block(vm: MicroVm) -> None:
    code = bytes.fromhex("0f 11 07 b8 01 00 00 00 90 90 90 90 90 90 90 90 90 90 90") + END
    image = bytearray(512)
    image[0:2], image[24:28] = b"\x7f\x03", b"\x80\x1f\x00\x00"
    image[160:176] = b"\xb8\x2a" + bytes(3) + b"\x90" * 11
    vm.cpu.load_fpu_image(bytes(image))
    run(vm, code, rdi=CODE + 3)
    assert vm.get("regs", RAX) == 42


def test_push_and_call_over_code(vm: MicroVm) -> None:
    # push rax onto the next instruction
    code = b"\x50" + b"\xb8\x01\x00\x00\x00\x90\x90\x90" + END
    run(vm, code, rsp=CODE + 9, rax=0x9090_9000_0000_2AB8)
    assert vm.get("regs", RAX) == 42


def test_device_write(vm: MicroVm) -> None:
    run(vm, b"\xb8\x01\x00\x00\x00" + END)
    gpa = vm.pages[CODE]
    vm.memory[gpa + 1] = 9
    vm.engine.code_written(gpa + 1, 1)
    go(vm, CODE, CODE + 5)
    assert vm.get("regs", RAX) == 9
    invalidated = vm.get("stats", 5)
    vm.engine.code_written(gpa + 0x800, 4)  # same page, no code there
    go(vm, CODE, CODE + 5)
    assert vm.get("regs", RAX) == 9
    assert vm.get("stats", 5) >= invalidated


def test_device_writes_many_places(vm: MicroVm) -> None:
    run(vm, b"\xb8\x01\x00\x00\x00" + END)
    code, data = vm.pages[CODE], vm.pages[DATA]
    for value, places in ((9, (data, 8, code + 1, 1)), (10, (code, 0x1000, data, 0)), (11, (data, 0, code - 1, 3))):
        vm.memory[code + 1] = value
        vm.engine.code_written_ranges(struct.pack("<4Q", *places))
        go(vm, CODE, CODE + 5)
        assert vm.get("regs", RAX) == value
    vm.engine.code_written_ranges(b"")


def test_two_cpus_patch_each_others_code() -> None:
    """One vCPU increments the immediate of a function; the other calls it until it sees the last value."""
    memory = mmap.mmap(-1, 4 << 20)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    engine = create_engine([(0, 4 << 20, address, False)], [NullCallbacks(), NullCallbacks()], memory)
    rounds = 300
    # Real mode, 16 bits. 0x1000: mov ax, 0; ret. The immediate is an aligned word at 0x1002 (a NOP before).
    memory[0x1001:0x1005] = b"\xb8\x00\x00\xc3"
    # writer: for each value, wait until the reader has answered at 0x3000, then store the next to both places
    writer = (
        b"\x31\xdb"  # xor bx, bx
        b"\x39\x1e\x00\x30\x75\xfa"  # 1: cmp [0x3000], bx; jne 1b
        b"\x43\x89\x1e\x02\x10"  # inc bx; mov [0x1002], bx
        b"\x81\xfb" + struct.pack("<H", rounds) + b"\x75\xef"  # cmp bx, rounds; jne 1b
        b"\xf4"
    )
    reader = (
        b"\xe8\xfe\xef"  # 1: call 0x1001 (from 0x2003)
        b"\xa3\x00\x30"  # mov [0x3000], ax
        b"\x3d" + struct.pack("<H", rounds) + b"\x75\xf5"  # cmp ax, rounds; jne 1b
        b"\xf4"
    )
    memory[0x2000 : 0x2000 + len(reader)] = reader
    memory[0x2800 : 0x2800 + len(writer)] = writer
    for cpu, start in zip(engine.cpus, (0x2000, 0x2800), strict=True):
        state = cpu.state
        struct.pack_into("<Q", state, OFFSETS["seg_base"] + 8, 0)
        struct.pack_into("<H", state, OFFSETS["seg_selector"] + 2, 0)
        struct.pack_into("<Q", state, OFFSETS["rip"], start)
        struct.pack_into("<Q", state, OFFSETS["regs"] + 8 * RSP, 0x8000 + start)
        cpu.changed()
    reasons = [0, 0]

    def work(index: int) -> None:
        reasons[index] = engine.cpus[index].run()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
    timers = [threading.Timer(20, cpu.kick) for cpu in engine.cpus]
    for thread in (*threads, *timers):
        thread.start()
    for thread in threads:
        thread.join()
    for timer in timers:
        timer.cancel()
    assert reasons == [HALTED, HALTED]
    assert struct.unpack_from("<H", memory, 0x3000) == (rounds,)
