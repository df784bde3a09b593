"""A halted vCPU waits a little for its next event, if the last ones came soon."""

from __future__ import annotations

import ctypes
import mmap
import struct
import threading
import time

from manor.engine.cpu_native import Cpu
from manor.engine.env import OFFSETS
from manor.engine.load import create_engine
from manor.engine.testing import NullCallbacks

KICKED, HALTED = 1, 2
CODE = b"\xf4\xeb\xfd"
"""1: hlt; jmp 1b, in real mode."""
MILLISECOND = 1_000_000


def halting_cpu() -> Cpu:
    memory = mmap.mmap(-1, 1 << 20)
    memory[0x1000 : 0x1000 + len(CODE)] = CODE
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    engine = create_engine([(0, 1 << 20, address, False)], [NullCallbacks()], memory)
    cpu = engine.cpus[0]
    struct.pack_into("<Q", cpu.state, OFFSETS["seg_base"] + 8, 0)
    struct.pack_into("<H", cpu.state, OFFSETS["seg_selector"] + 2, 0)
    struct.pack_into("<Q", cpu.state, OFFSETS["rip"], 0x1000)
    cpu.changed()
    return cpu


def wake(cpu: Cpu) -> None:
    """The HLT is over, as after an interrupt."""
    struct.pack_into("<I", cpu.state, OFFSETS["halted"], 0)


def time_to_halt(cpu: Cpu) -> int:
    started = time.monotonic_ns()
    assert cpu.run() == HALTED
    return time.monotonic_ns() - started


def waits(cpu: Cpu, count: int = 20) -> list[int]:
    """How long it waits in halts that end as soon as it gives up."""
    found = []
    for _ in range(count):
        found.append(time_to_halt(cpu))
        wake(cpu)
    return found


def test_without_a_limit_it_never_waits() -> None:
    assert sorted(waits(halting_cpu()))[10] < MILLISECOND // 10


def test_after_short_halts_it_waits_longer_up_to_the_limit() -> None:
    def grows() -> bool:
        cpu = halting_cpu()
        cpu.poll(5 * MILLISECOND)
        found = waits(cpu, 12)  # 10 us, doubled each time
        return max(found) >= 5 * MILLISECOND and sum(time >= 2 * MILLISECOND for time in found) >= 2

    assert any(grows() for _ in range(8))  # where this thread loses its processor, a halt becomes a long one


def test_after_a_long_halt_it_does_not_wait() -> None:
    cpu = halting_cpu()
    cpu.poll(200 * MILLISECOND)
    waits(cpu, 14)  # it would wait about 80 ms now
    time_to_halt(cpu)
    time.sleep(0.2)
    wake(cpu)
    assert time_to_halt(cpu) < 40 * MILLISECOND


def test_an_event_ends_the_wait() -> None:
    cpu = halting_cpu()
    cpu.poll(2_000 * MILLISECOND)
    for _ in range(18):  # 10 us, doubled each time: about a second
        if time_to_halt(cpu) > 100 * MILLISECOND:
            break
        wake(cpu)
    wake(cpu)
    timer = threading.Timer(0.02, cpu.kick)
    started = time.monotonic_ns()
    timer.start()
    assert cpu.run() == KICKED
    assert time.monotonic_ns() - started < 150 * MILLISECOND
    timer.join()
