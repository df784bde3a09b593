"""All processor modes: generated code against the host CPU, a firmware image against its golden text and QEMU.

`tests/guest/system/rom.S` goes from the reset vector through real, protected, virtual-8086 and 32-bit paged mode to
64-bit mode and compatibility mode, with exceptions, gates, breakpoints and single steps in each, and ends in a
triple fault. QEMU is asked only where it is installed; where it is known to differ, DIVERGENCES says so.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from manor.engine.env import OFFSETS
from manor.engine.load import create_engine
from manor.engine.testing import NullCallbacks
from tests.oracle import legacy

SEED = int(os.environ.get("MANOR_TEST_SEED", "1"))
COUNT = int(os.environ.get("MANOR_TEST_COUNT", "8"))
SYSTEM = Path(__file__).parent.parent / "guest" / "system"
ROM_BASE, MEMORY = 0xF0000, 16 << 20
SHUTDOWN = 4
RF = 0x10000


@pytest.mark.skipif(not legacy.available(), reason="this kernel has no modify_ldt")
@pytest.mark.parametrize("big", [True, False], ids=["32", "16"])
def test_protected_mode_instructions(big: bool) -> None:
    engine = legacy.LegacyEngine()
    batch = list(legacy.cases(60 * COUNT, SEED, big))
    failures = []
    for case, want in zip(batch, legacy.LegacyHost().run_many(batch), strict=True):
        if not legacy.system_dependent(case, want):
            lines = legacy.differences(case, want, engine.run(case))
            if lines:
                failures.append("\n  ".join((f"{case.name} [{case.code.hex(' ')}]", *lines)))
    assert not failures, "\n".join(failures[:8])


class _Port(NullCallbacks):
    """Collects what goes to the debug port."""

    def __init__(self) -> None:
        self.text = bytearray()

    def pio_write(self, port: int, size: int, value: int) -> None:
        if port == 0xE9:
            self.text.append(value & 0xFF)


def _assemble(directory: Path) -> Path:
    if shutil.which("as") is None or shutil.which("ld") is None:
        pytest.skip("binutils are not installed")
    rom, object_file = directory / "rom.bin", directory / "rom.o"
    subprocess.run(["as", "-o", object_file, SYSTEM / "rom.S"], check=True)
    flat = ["-m", "elf_x86_64", f"-Ttext={ROM_BASE:#x}", "--oformat", "binary", "-e", "start"]
    subprocess.run(["ld", *flat, "-o", rom, object_file], check=True)
    return rom


def test_firmware_on_the_engine(tmp_path: Path) -> None:
    memory = mmap.mmap(-1, MEMORY)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    port = _Port()
    engine = create_engine([(0, MEMORY, address, False)], [port], memory)
    cpu = engine.cpus[0]
    memory[ROM_BASE:0x100000] = _assemble(tmp_path).read_bytes()
    struct.pack_into("<Q", cpu.state, OFFSETS["seg_base"] + 8, ROM_BASE)
    struct.pack_into("<Q", cpu.state, OFFSETS["rip"], 0xFFF0)
    cpu.changed()
    timer = threading.Timer(20, cpu.kick)
    timer.start()
    reason = cpu.run()
    timer.cancel()
    assert port.text.decode().split("\n") == (SYSTEM / "rom.txt").read_text().split("\n")
    assert reason == SHUTDOWN


DIVERGENCES = {
    # QEMU counts IDT entries of 16 bytes, and leaves out the EXT bit; a bad stack address is #GP
    "000000000000000B 000000000000017A": "000000000000000B 00000000000002F2",
    "000000000000000D 0000000000000033": "000000000000000D 0000000000000062",
    "000000000000000C 0000000000000000 00000000000F0C34": "000000000000000D 0000000000000000 00000000000F0C34",
}


def _without_rf(line: str) -> str:
    """QEMU does not set RF in the flags that faults push (SDM volume 3, 18.3.1.1)."""
    words = line.split()
    for index, word in enumerate(words):
        if (
            len(word) in (8, 16)
            and int(word, 16) & RF
            and index
            and words[index - 1].endswith(("08", "1B", "70", "9B", "C3", "2000"))
        ):
            words[index] = f"{int(word, 16) & ~RF:0{len(word)}X}"
    return " ".join(words)


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="QEMU is not installed")
def test_golden_text_is_what_qemu_says(tmp_path: Path) -> None:
    out = tmp_path / "qemu.txt"
    subprocess.run(
        ["qemu-system-x86_64", "-M", "pc,accel=tcg", "-cpu", "Nehalem", "-bios", _assemble(tmp_path), "-m", "64",
         "-debugcon", f"file:{out}", "-display", "none", "-no-reboot", "-net", "none", "-serial", "none", "-monitor",
         "none"],
        check=True, timeout=60,
    )  # fmt: skip
    golden = (SYSTEM / "rom.txt").read_text()
    for ours, theirs in DIVERGENCES.items():
        assert golden.count(ours) == 1
        golden = golden.replace(ours, theirs)
    assert [_without_rf(line) for line in golden.split("\n")] == [
        _without_rf(line) for line in out.read_text().split("\n")
    ]
