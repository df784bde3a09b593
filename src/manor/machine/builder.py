"""MachineSpec -> Machine: the only place where parts meet.

Order: memory, then what may be wrong with the user's files, then buses, the accelerator's VM, interrupt
controllers, devices, and last the state in which the first vCPU starts.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from manor.accel.api import Accel, VmHandle
from manor.backends.agent.protocol import PORT_NAME as AGENT_PORT
from manor.backends.block.api import BlockBackend
from manor.boot.linux_x86 import BootedKernel, load_linux
from manor.boot.open_disk import boot_of_disks
from manor.bus.bus import Bus
from manor.bus.irq import IrqLine, IrqSink
from manor.devices.intc.lapic import LocalApic
from manor.devices.misc.power import ACPI_TABLE, I8042_TABLE, ByteOverlay, PowerControl
from manor.devices.pci.host import PciHost, Window
from manor.devices.rtc.mc146818 import Mc146818
from manor.devices.serial.ns16550 import Ns16550
from manor.devices.virtio.balloon import VirtioBalloon
from manor.devices.virtio.console import VirtioConsole
from manor.devices.virtio.device import VirtioDevice
from manor.devices.virtio.fs import VirtioFs
from manor.devices.virtio.pci import VirtioPci
from manor.devices.virtio.rng import VirtioRng
from manor.devices.virtio.vsock import VirtioVsock
from manor.machine.disks import disk_function, make_disks
from manor.machine.doorbells import DirectDoorbells, DoorbellWiring
from manor.machine.firmware import FIRMWARE_MSRS, write_tables
from manor.machine.host_side import HostSide
from manor.machine.hotplug import Hotplug
from manor.machine.interrupts import Interrupts, connect_interrupts
from manor.machine.interval_timer import connect_timer
from manor.machine.nics import make_nic
from manor.machine.pc import Machine, PcExits
from manor.mem import layout
from manor.mem.guest_memory import GuestMemory, Region
from manor.spec.cpu_state import CpuState
from manor.spec.machine import MachineSpec
from manor.spec.names import nic_name

_SEED_SIZE = 32
"""Bytes of entropy handed to the kernel: what its random generator takes as one seed."""


def build(spec: MachineSpec, accel: Accel, host: HostSide, places: Mapping[str, int] | None = None) -> Machine:
    """The machine, ready to run. Raises ConfigError, naming the field of `spec`, or HostError.

    places: in which slots PCI functions are, for a saved state (machine.saved); memory and processors then stay as
    after power-on.
    """
    memory = GuestMemory([Region(start, size, "ram") for start, size in layout.ram_ranges(spec.memory)])
    booted = _load_guest(spec, memory, host.disks) if places is None else None
    pio = Bus("pio", host.lock)
    mmio = Bus("mmio", host.lock)
    lapics: list[LocalApic] = []
    exits = PcExits(pio, mmio, lapics, [host.serial, host.console], host.work)
    vm = accel.create_vm(memory, exits, spec.possible_cpus, spec.cpu)
    doorbells = _watch_doorbells(vm, pio, mmio, host, exits)
    interrupts = connect_interrupts(vm, mmio, host.clock, host.timers, host.wake)
    lapics += interrupts.lapics
    timer = connect_timer(vm, pio, interrupts.lines, host.clock, host.timers)
    serial, rtc, power = _add_legacy(pio, interrupts.lines, host)
    pci = _add_pci_host(pio, mmio, interrupts, power)
    console = VirtioConsole("virtio-console", memory, host.defer, [host.console])
    rng = VirtioRng("virtio-rng", memory, host.defer, os.urandom)
    balloon = VirtioBalloon("virtio-balloon", memory, host.defer) if spec.balloon else None
    nics = [
        make_nic(nic, nic_name(nic, index), far, memory, host, spec.cpus)
        for index, (nic, far) in enumerate(zip(spec.nics, host.nics, strict=True))
    ]
    disks = make_disks(spec, host.disks, host.lock, host.work)
    agent = _agent_port(memory, host)
    # In an order that keeps the slots of the first ones, by which Linux names network interfaces.
    hotplug = Hotplug(pci, interrupts.lines, pio, memory, host, spec, places or {})
    hotplug.fix([VirtioPci(device) for device in (console, rng, *([balloon] if balloon else []))])
    for nic, (device, port) in zip(spec.nics, nics, strict=True):
        hotplug.fill(device.name.removeprefix("virtio-"), VirtioPci(device), nic.slot, port=port)
    hotplug.fix([VirtioPci(device) for device in (*([agent] if agent else []), *_services(memory, host))])
    for disk, described in zip(disks, spec.disks, strict=True):
        function = disk_function(disk, described, memory, host.defer, spec.cpus)
        hotplug.fill(disk.name, function, described.slot, disk=disk)
    pci.reset()
    if booted is not None:
        write_tables(memory, spec.possible_cpus, spec.smbios, hotplug.tables(), spec.cpus)
    for vcpu in vm.vcpus if booted is not None else ():
        assert booted is not None
        state = booted.state if vcpu.index == 0 else CpuState(runnable=False)
        vcpu.set_state(replace(state, msrs=state.msrs | FIRMWARE_MSRS))
    return Machine(
        memory=memory,
        pio=pio,
        mmio=mmio,
        lock=host.lock,
        exits=exits,
        vm=vm,
        lapics=lapics,
        interrupts=interrupts,
        timer=timer,
        serial=serial,
        console=console,
        balloon=balloon,
        agent=None if agent is None else agent.ports[0],
        doorbells=doorbells,
        nics=[nic for nic, _ in nics],
        net_ports=[port for _, port in nics],
        disks=disks,
        hotplug=hotplug,
        devices=[
            *interrupts.devices, timer, serial, rtc, power, pci, hotplug.controller, *pci.functions.values()
        ],
    )  # fmt: skip


def _load_guest(spec: MachineSpec, memory: GuestMemory, disks: Sequence[BlockBackend]) -> BootedKernel:
    """Kernel and initrd into memory."""
    kernel: Path | bytes | None = spec.kernel
    initrd: Path | bytes | None = spec.initrd
    append = spec.append
    if kernel is None:
        # Looked for at each build: since the last one the guest may have installed another kernel.
        boot = boot_of_disks(disks)
        kernel, initrd, append = boot.kernel, boot.initrd, f"{boot.cmdline} {append}".strip()
    # The tables are written when it is known what is in which slot.
    return load_linux(memory, kernel, initrd, append, layout.ACPI_TABLES, rng_seed=os.urandom(_SEED_SIZE))


def _agent_port(memory: GuestMemory, host: HostSide) -> VirtioConsole | None:
    """A device of its own: port 0 of the other is the console, and one without more ports is what drivers know best."""
    if host.agent is None:
        return None
    return VirtioConsole(
        "virtio-serial", memory, host.defer, [host.agent], multiport=True, names=[AGENT_PORT], has_console=False
    )


def _services(memory: GuestMemory, host: HostSide) -> list[VirtioDevice]:
    """Devices whose other end is a program or a folder of the host."""
    devices: list[VirtioDevice] = []
    if host.vsock is not None:
        devices.append(VirtioVsock("virtio-vsock", memory, host.defer, host.vsock))
    devices += [VirtioFs(f"virtio-fs-{share.tag}", memory, host.defer, share) for share in host.shares]
    return devices


def _watch_doorbells(vm: VmHandle, pio: Bus, mmio: Bus, host: HostSide, exits: PcExits) -> list[DoorbellWiring]:
    """Let the accelerator serve the doorbells of what will be mapped, if it can."""
    if vm.doorbells is None or host.readers is None:
        direct = DirectDoorbells()
        mmio.watcher, exits.doorbells = direct, direct.ring_of
        return []
    wirings = []
    for bus, is_port in ((pio, True), (mmio, False)):
        wiring = DoorbellWiring(vm.doorbells, host.readers, host.lock, is_port)
        bus.watcher = wiring
        wirings.append(wiring)
    return wirings


def _add_legacy(pio: Bus, lines: IrqSink, host: HostSide) -> tuple[Ns16550, Mc146818, PowerControl]:
    """What sits at fixed ports: serial port, clock, power control."""
    serial = Ns16550("serial", IrqLine(lines, layout.COM1_IRQ), host.serial, host.clock, host.timers)
    rtc = Mc146818("rtc", IrqLine(lines, layout.RTC_IRQ), host.clock, host.timers)
    power = PowerControl("power", host.power_off, host.reset)
    pio.map(layout.COM1, layout.COM1_SIZE, serial, serial.name)
    pio.map(layout.RTC, layout.RTC_SIZE, rtc, rtc.name)
    pio.map(layout.ACPI_SLEEP_CONTROL, ACPI_TABLE.size, power.acpi, power.name)
    pio.map(layout.I8042_COMMAND, I8042_TABLE.size, power.i8042, power.name)
    return serial, rtc, power


def _add_pci_host(pio: Bus, mmio: Bus, interrupts: Interrupts, power: PowerControl) -> PciHost:
    """The host bridge with its windows; the reset control register shares its ports."""
    host = PciHost(
        mmio,
        pio,
        interrupts.lines,
        interrupts.messages,
        (
            Window("io", layout.PCI_IO, layout.PCI_IO_SIZE),
            Window("memory", layout.MMIO32, layout.MMIO32_SIZE),
            Window("memory", layout.MMIO64, layout.MMIO64_SIZE),
        ),
    )
    mmio.map(layout.ECAM, layout.ECAM_SIZE, host.ecam, f"{host.name}-config")
    reset_offset = layout.RESET_CONTROL - layout.PCI_CONFIG
    ports = ByteOverlay(host.ports, reset_offset, power.reset_control)
    pio.map(layout.PCI_CONFIG, layout.PCI_CONFIG_SIZE, ports, f"{host.name}-config")
    return host
