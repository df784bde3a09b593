"""What a user asks for when asking for a machine: a plain description, checked by `spec.check`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from manor.base.units import MiB
from manor.spec.block import DiskSpec
from manor.spec.firmware import SmbiosSpec
from manor.spec.net import NicSpec
from manor.spec.share import ShareSpec
from manor.spec.vsock import VsockSpec

CRYSTAL_FREQUENCY_HZ: Final = 1_000_000_000
"""The core crystal clock that CPUID leaf 0x15 reports; local APIC timers count at this rate before division.
A guest that is told the frequency has nothing to calibrate. Source: Intel SDM volume 3, 11.5.4; volume 2, CPUID."""
TSC_RATIO: Final = 1
"""TSC ticks per crystal tick, as CPUID leaf 0x15 reports it."""
TSC_FREQUENCY_HZ: Final = CRYSTAL_FREQUENCY_HZ * TSC_RATIO
"""1 GHz: the TSC counts the host's monotonic nanoseconds, so no conversion is needed anywhere."""

MAX_CPUS: Final = 64
"""An 8-bit APIC id allows 255; more vCPU threads than this help on no host that was tried."""
MIN_MEMORY: Final = 2 * MiB
"""Below this there is not even room for a kernel's decompressed first page tables."""
AccelName = Literal["auto", "dbt", "kvm"]
ConsoleName = Literal["serial", "virtio"]
CpuModel = Literal["max", "host", "x86-64-v2", "x86-64-v3"]
"""What the guest sees of a processor. max: all that the accelerator has. host: the host's own, under kvm. The levels
are those of the x86-64 psABI 1.0, table 3.1, and keep a guest movable between unequal hosts."""

CPU_MODELS: Final[tuple[str, ...]] = get_args(CpuModel)
ACCEL_NAMES: Final[tuple[str, ...]] = get_args(AccelName)
CONSOLE_NAMES: Final[tuple[str, ...]] = get_args(ConsoleName)


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One virtual machine of type `pc`.

    kernel: None boots what the first disk that has a kernel says.
    memory: bytes of RAM. append: the kernel command line. console: which device gets the terminal's input and
    window size; the output of both is shown. name: what others call the VM, "" for nobody. Paths are opened when the
    machine is built, not here. balloon: a memory balloon, through which the guest also gives back what it does not use.
    agent: a port through which the guest's agent can be asked. max_cpus: how many vCPUs there may be while it runs; 0:
    as many as at its start.
    """

    kernel: Path | None
    initrd: Path | None = None
    append: str = ""
    memory: int = 256 * MiB
    cpus: int = 1
    console: ConsoleName = "serial"
    cpu: CpuModel = "max"
    name: str = ""
    disks: tuple[DiskSpec, ...] = ()
    nics: tuple[NicSpec, ...] = ()
    smbios: SmbiosSpec = field(default_factory=SmbiosSpec)
    balloon: bool = True
    vsock: VsockSpec | None = None
    agent: bool = False
    shares: tuple[ShareSpec, ...] = ()
    max_cpus: int = 0

    @property
    def possible_cpus(self) -> int:
        """vCPUs that there are or may come."""
        return max(self.cpus, self.max_cpus)
