"""The structures and numbers of the KVM interface agree with this machine's header, where there is one."""

from __future__ import annotations

import shutil
import subprocess
from ctypes import sizeof
from pathlib import Path

import pytest

from manor.accel.kvm import abi, ioctl

STRUCTS = {
    abi.MemoryRegion: "kvm_userspace_memory_region", abi.DirtyLog: "kvm_dirty_log", abi.ClockData: "kvm_clock_data",
    abi.IrqLevel: "kvm_irq_level", abi.IoApicState: "kvm_ioapic_state", abi.IrqChip: "kvm_irqchip",
    abi.PitConfig: "kvm_pit_config", abi.PitState: "kvm_pit_state2", abi.RoutingEntry: "kvm_irq_routing_entry",
    abi.Msi: "kvm_msi", abi.IrqFd: "kvm_irqfd", abi.IoEventFd: "kvm_ioeventfd", abi.Regs: "kvm_regs",
    abi.SegmentReg: "kvm_segment", abi.TableReg: "kvm_dtable", abi.Sregs: "kvm_sregs", abi.Xcrs: "kvm_xcrs",
    abi.DebugRegs: "kvm_debugregs", abi.MpState: "kvm_mp_state", abi.VcpuEvents: "kvm_vcpu_events",
    abi.LapicRegs: "kvm_lapic_state", abi.GuestDebug: "kvm_guest_debug", abi.Translation: "kvm_translation",
    abi.CpuidEntry: "kvm_cpuid_entry2", abi.MsrEntry: "kvm_msr_entry",
}  # fmt: skip
PLAIN = (abi.Regs, abi.Sregs, abi.SegmentReg, abi.IoEventFd, abi.IrqFd, abi.Msi, abi.DebugRegs, abi.ClockData)
"""Structures whose fields all have the header's names."""


def test_header_agrees(tmp_path: Path) -> None:
    if shutil.which("gcc") is None or not Path("/usr/include/linux/kvm.h").exists():
        pytest.skip("needs gcc and linux/kvm.h")
    lines = [f'printf("{name} %lu\\n", (unsigned long) {name});' for name in ioctl.REQUESTS]
    lines += [f'printf("{struct} %lu\\n", (unsigned long) sizeof(struct {struct}));' for struct in STRUCTS.values()]
    expected = {name: request.number for name, request in ioctl.REQUESTS.items()}
    expected |= {struct: sizeof(ours) for ours, struct in STRUCTS.items()}
    for ours in PLAIN:
        for field in ours._fields_:
            key = f"{STRUCTS[ours]}.{field[0]}"
            lines.append(f'printf("{key} %lu\\n", (unsigned long) offsetof(struct {STRUCTS[ours]}, {field[0]}));')
            expected[key] = getattr(ours, field[0]).offset
    source = tmp_path / "header.c"
    head = "#include <linux/kvm.h>\n#include <stddef.h>\n#include <stdio.h>\n#include <sys/ioctl.h>\n"
    source.write_text(head + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0; }\n")
    program = tmp_path / "header"
    subprocess.run(["gcc", "-o", str(program), str(source)], check=True, timeout=60)
    output = subprocess.run([str(program)], check=True, capture_output=True, text=True, timeout=60).stdout
    assert {line.split()[0]: int(line.split()[1]) for line in output.splitlines()} == expected


def test_numbers_are_distinct_for_each_kind_of_descriptor() -> None:
    assert len({request.number for request in ioctl.REQUESTS.values()}) == len(ioctl.REQUESTS)
