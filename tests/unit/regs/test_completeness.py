"""Every register of every device is reachable, and every hook belongs to a register."""

from __future__ import annotations

import threading

import pytest

from manor.backends.char.api import NullBackend
from manor.base.address import Gpa
from manor.devices.block.disk import Disk
from manor.devices.intc import ioapic, lapic, lapic_regs
from manor.devices.misc import power
from manor.devices.nvme import regs as nvme_regs
from manor.devices.nvme.controller import NvmeController
from manor.devices.pci.config import HEADER_TABLE
from manor.devices.rtc import mc146818
from manor.devices.serial import ns16550
from manor.devices.virtio import blk
from manor.mem.guest_memory import GuestMemory, Region
from manor.regs.block import RegisterBlock
from manor.regs.field import Reg, RegisterTable
from manor.testing.fakes import FakeClock, FakeIrq, FakeTimers, FakeWork
from manor.testing.memory_disk import MemoryDisk


class Cpu:
    def interrupt_pending(self, pending: bool) -> None: ...
    def nmi(self) -> None: ...
    def init(self) -> None: ...
    def sipi(self, vector: int) -> None: ...


def make_devices() -> list[tuple[object, tuple[RegisterTable, ...]]]:
    clock = FakeClock()
    timers = FakeTimers(clock)
    irq = FakeIrq()
    bus = lapic.ApicBus()
    memory = GuestMemory([Region(Gpa(0), 0x1000)])
    disk = Disk("disk0", MemoryDisk(512), threading.RLock(), FakeWork())
    return [
        (blk.VirtioBlk("disk0", memory, lambda callback: None, disk), (blk.CONFIG_TABLE,)),
        (NvmeController("disk0", memory, disk), (nvme_regs.TABLE, HEADER_TABLE)),
        (ns16550.Ns16550("serial", irq.line(), NullBackend(), clock, timers), (ns16550.TABLE,)),
        (mc146818.Mc146818("rtc", irq.line(), clock, timers), (mc146818.PORTS, mc146818.CMOS)),
        (
            power.PowerControl("power", lambda: None, lambda: None),
            (power.ACPI_TABLE, power.I8042_TABLE, power.RST_CNT_TABLE),
        ),
        (ioapic.IoApic("ioapic", bus), (ioapic.TABLE, ioapic.INDIRECT)),
        (lapic.LocalApic(0, clock, timers, 1_000_000_000, Cpu(), bus), (lapic_regs.XAPIC, lapic_regs.X2APIC)),
    ]


TABLES = [table for _, tables in make_devices() for table in tables]


class Recorder:
    """A device whose hooks, one for every register of a table, remember that they were called."""

    def __init__(self, table: RegisterTable) -> None:
        self.hit: set[tuple[str, str, int]] = set()
        for reg in table.regs:
            setattr(self, f"on_read_{reg.name.lower()}", self._reader(reg))
            setattr(self, f"on_write_{reg.name.lower()}", self._writer(reg))

    def _reader(self, reg: Reg) -> object:
        def read(index: int = 0) -> int:
            self.hit.add(("read", reg.name, index))
            return 0

        return read

    def _writer(self, reg: Reg) -> object:
        def write(*values: int) -> None:
            self.hit.add(("write", reg.name, values[0] if len(values) == 2 else 0))

        return write


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_register_is_reachable(table: RegisterTable) -> None:
    device = Recorder(table)
    block = RegisterBlock(table, device)
    sizes = {reg.size for reg in table.regs}
    for bank in table.banks:
        block.bank = bank
        for offset in range(table.size):
            for size in sizes:
                if size == 1 or offset % 4 == 0:
                    block.read(offset, size)
                    block.write(offset, size, 0)
                    block.bank = bank
    expected = set()
    for reg in table.regs:
        for index in range(reg.count):
            if reg.is_readable:
                expected.add(("read", reg.name, index))
            if reg.is_writable:
                expected.add(("write", reg.name, index))
    assert expected - device.hit == set()


@pytest.mark.parametrize("entry", make_devices(), ids=lambda entry: type(entry[0]).__name__)
def test_every_hook_belongs_to_a_register(entry: tuple[object, tuple[RegisterTable, ...]]) -> None:
    device, tables = entry
    registers = {reg.name.lower(): reg for table in tables for reg in table.regs}
    for name in dir(device):
        for prefix in ("on_read_", "on_write_"):
            if name.startswith(prefix):
                assert name.removeprefix(prefix) in registers, f"{type(device).__name__}.{name} is never called"
