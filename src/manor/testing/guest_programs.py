"""Guests in Python for FakeAccel: what each does on the machine `pc`."""

from __future__ import annotations

from collections.abc import Generator

from manor.base.exits import Exit, Fault, Halt, Shutdown
from manor.devices.misc.hotplug import CPU_DOWN, CPU_EJECT, CPU_KEPT, CPU_UP, PCI_DOWN, PCI_EJECT, PCI_UP
from manor.devices.misc.power import RESET_VALUE, SLP_TYP_S5
from manor.mem import layout
from manor.testing.fake_accel import FakeVcpu

Guest = Generator[Exit, None, None]


def off(cpu: FakeVcpu) -> None:
    cpu.out(layout.ACPI_SLEEP_CONTROL, SLP_TYP_S5 << 2 | 1 << 5)


def power_off(cpu: FakeVcpu) -> Guest:
    cpu.print("hello\n")
    off(cpu)
    yield Halt()


def reboot(cpu: FakeVcpu) -> Guest:
    cpu.print("hello\n")
    cpu.out(layout.ACPI_RESET, RESET_VALUE)
    yield Halt()


def panic(cpu: FakeVcpu) -> Guest:
    cpu.print("hello\nKernel panic - not syncing: no init\n")
    cpu.out(layout.ACPI_RESET, RESET_VALUE)
    yield Halt()


def triple_fault(cpu: FakeVcpu) -> Guest:
    cpu.print("hello\n")
    yield Shutdown("no handler for #DF")


def broken_accelerator(cpu: FakeVcpu) -> Guest:
    cpu.print("hello\n")
    yield Fault("an instruction nobody knows")


def chatter(cpu: FakeVcpu) -> Guest:
    while True:
        cpu.print("blah blah blah\n")
        cpu.kick()
        yield Halt()


def print_much(cpu: FakeVcpu) -> Guest:
    for number in range(20_000):
        cpu.print(f"{number:07}\n")
    off(cpu)
    yield Halt()


def echo(cpu: FakeVcpu, greeting: str = "ready\n") -> Guest:
    """Answer each line on the serial port with "<line>"; power off at "off"."""
    cpu.store(layout.LOCAL_APIC + 0xF0, 0x1FF)
    cpu.store(layout.IO_APIC, 0x10 + 2 * layout.COM1_IRQ)
    cpu.store(layout.IO_APIC + 0x10, 0x44)
    cpu.out(layout.COM1 + 4, 0x08)
    cpu.out(layout.COM1 + 1, 0x01)
    cpu.print(greeting)
    line = ""
    while True:
        yield Halt()
        assert cpu.controller is not None
        if cpu.controller.acknowledge() is None:
            continue
        while cpu.in_(layout.COM1 + 5) & 1:
            character = chr(cpu.in_(layout.COM1))
            if character != "\n":
                line += character
                continue
            if line == "off":
                off(cpu)
                yield Halt()
            cpu.print(f"<{line}>\n")
            line = ""
        cpu.store(layout.LOCAL_APIC + 0xB0, 0)


def login(cpu: FakeVcpu) -> Guest:
    """Print what a Linux with systemd prints on its way to the login, then answer as `echo`."""
    cpu.print("[    0.000000] Linux version 6.1.0 (someone)\n[    0.9] Run /init as init process\n")
    yield from echo(cpu, "[    1.0] systemd[1]: Hello.\n[  OK  ] Started something.\n\nbox login: ")


def tell_size(cpu: FakeVcpu) -> Guest:
    """Print the size of the virtio console whenever it changes, looking every millisecond."""
    config = layout.ECAM + (1 << 15)
    cpu.store(config + 4, 0x2, 2)
    bar = cpu.load(config + 0x10) & ~0xF | cpu.load(config + 0x14) << 32
    cpu.store(layout.LOCAL_APIC + 0xF0, 0x1FF)
    cpu.store(layout.LOCAL_APIC + 0x320, 0x50 | 1 << 17)  # periodic
    cpu.store(layout.LOCAL_APIC + 0x3E0, 0xB)
    cpu.store(layout.LOCAL_APIC + 0x380, 1_000_000)
    told = 0
    while True:
        size = cpu.load(bar + 0x2000)
        if size != told:
            told = size
            cpu.print(f"size {size & 0xFFFF}x{size >> 16}\n")
        yield Halt()
        assert cpu.controller is not None
        cpu.controller.acknowledge()
        cpu.store(layout.LOCAL_APIC + 0xB0, 0)


def hotplug(cpu: FakeVcpu) -> Guest:
    """Do what the DSDT's methods do: print what arrives and what shall go, and give it back.

    Lines on the serial port: "keep" gives nothing back from then on; "eject N" gives back slot N unasked; "reboot".
    """
    cpu.store(layout.LOCAL_APIC + 0xF0, 0x1FF)
    for pin, entry in ((layout.COM1_IRQ, 0x44), (layout.HOTPLUG_GSI, 0x45 | 1 << 15)):
        cpu.store(layout.IO_APIC, 0x10 + 2 * pin)
        cpu.store(layout.IO_APIC + 0x10, entry)
    cpu.out(layout.COM1 + 4, 0x08)
    cpu.out(layout.COM1 + 1, 0x01)
    cpu.print("ready\n")
    line, keeps = "", False
    while True:
        yield Halt()
        assert cpu.controller is not None
        if cpu.controller.acknowledge() is None:
            continue
        while cpu.in_(layout.COM1 + 5) & 1:
            character = chr(cpu.in_(layout.COM1))
            if character != "\n":
                line += character
                continue
            words, line = line.split(), ""
            if words == ["keep"]:
                keeps = True
            elif words == ["reboot"]:
                cpu.out(layout.ACPI_RESET, RESET_VALUE)
                yield Halt()
            else:
                cpu.out(layout.HOTPLUG + PCI_EJECT.offset, 1 << int(words[1]), 4)
            cpu.print(f"<{' '.join(words)}>\n")
        _take_events(cpu, keeps)
        cpu.store(layout.LOCAL_APIC + 0xB0, 0)


def _take_events(cpu: FakeVcpu, keeps: bool) -> None:
    for what, up, down, last in (
        ("slot", PCI_UP, PCI_DOWN, PCI_EJECT),
        ("cpu", CPU_UP, CPU_DOWN, CPU_KEPT if keeps else CPU_EJECT),
    ):
        for register, verb in ((up, "arrives"), (down, "shall go")):
            bits = cpu.in_(layout.HOTPLUG + register.offset, 4)
            cpu.out(layout.HOTPLUG + register.offset, bits, 4)
            for number in range(32):
                if bits >> number & 1:
                    cpu.print(f"{what} {number} {verb}\n")
                    if verb == "shall go" and not (keeps and what == "slot"):
                        cpu.out(layout.HOTPLUG + last.offset, 1 << number, 4)
