"""The host: its size and load, and what guests can have here (capabilities)."""

from __future__ import annotations

import functools
import os
import platform
import re
import socket
import uuid as uuid_module
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final
from xml.sax.saxutils import escape

from manor.drivers.api import HostDevice, HostInfo
from manor.drivers.errors import Origin, failed, invalid_argument
from manor.drivers.host_devices import host_devices
from manor.drivers.host_firmware import host_firmware
from manor.spec.machine import MAX_CPUS

MACHINE: Final = "pc"
EMULATOR: Final = "/usr/bin/manor"
"""What clients are shown as the program that makes machines."""
_KSM_PATH: Final = Path("/sys/kernel/mm/ksm")
_KSM: Final = (
    "pages_to_scan", "sleep_millisecs", "pages_shared", "pages_sharing", "pages_unshared", "pages_volatile",
    "full_scans", "merge_across_nodes",
)  # fmt: skip
"""Source: Linux, Documentation/admin-guide/mm/ksm.rst; libvirt API reference, virNodeGetMemoryParameters."""
_KIB: Final = re.compile(r"(\w+):\s+(\d+) kB")


class HostNode:
    """This host (api.Node). kinds: values of a domain's type that are taken. emulator, machines: what clients are
    shown; the first machine is the usual one."""

    def __init__(self, kinds: tuple[str, ...], emulator: str, machines: tuple[str, ...] = (MACHINE,)) -> None:
        self._kinds = kinds
        self._emulator = emulator
        self._machines = machines

    def info(self) -> HostInfo:
        return _host_info()

    def hostname(self) -> str:
        return socket.gethostname()

    def free_memory(self) -> int:
        """Bytes."""
        return _memory().get("MemFree", 0) << 10

    def memory_statistics(self) -> Sequence[tuple[str, int]]:
        """KiB. Source of the names: libvirt API reference, virNodeGetMemoryStats."""
        found = _memory()
        names = (("total", "MemTotal"), ("free", "MemFree"), ("buffers", "Buffers"), ("cached", "Cached"))
        return [(name, found.get(key, 0)) for name, key in names]

    def cpu_statistics(self, cpu: int) -> Sequence[tuple[str, int]]:
        """Times in ns; cpu: -1 for all. Source of the names: libvirt API reference, virNodeGetCPUStats."""
        label = "cpu" if cpu < 0 else f"cpu{cpu}"
        tick = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        for line in Path("/proc/stat").read_text().splitlines():
            words = line.split()
            if words[0] == label:
                user, nice, system, idle, wait, irq, soft = (int(word) * tick for word in words[1:8])
                return [("kernel", system + irq + soft), ("user", user + nice), ("idle", idle), ("iowait", wait)]
        raise invalid_argument(f"cpuNum in virNodeGetCPUStats: there is no processor {cpu}", Origin.NONE)

    def devices(self) -> Sequence[HostDevice]:
        return host_devices()

    def firmware(self) -> str:
        return host_firmware()

    def free_pages(self, size: int) -> int:
        if size == os.sysconf("SC_PAGE_SIZE") >> 10:
            return _memory().get("MemFree", 0) // size
        try:
            return int(Path(f"/sys/kernel/mm/hugepages/hugepages-{size}kB/free_hugepages").read_text())
        except (OSError, ValueError):
            raise failed(f"page size {size} is not available on the host", Origin.NONE) from None

    def merging(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for name in _KSM:
            with suppress(OSError, ValueError):
                found[f"shm_{name}"] = int((_KSM_PATH / name).read_text())
        return found

    def capabilities(self) -> str:
        """What clients look at before they offer anything."""
        info = self.info()
        domains = "".join(f"\n      <domain type='{kind}'/>" for kind in self._kinds)
        machines = "".join(f"\n      <machine maxCpus='{MAX_CPUS}'>{machine}</machine>" for machine in self._machines)
        cpus = "".join(
            f"\n            <cpu id='{i}' socket_id='0' die_id='0' core_id='{i}' siblings='{i}'/>"
            for i in range(info.cpus)
        )
        return f"""<capabilities>

  <host>
    <uuid>{_host_uuid()}</uuid>
    <cpu>
      <arch>x86_64</arch>
      <model>{_cpu_level()}</model>
      <topology sockets='{info.sockets}' dies='1' cores='{info.cores}' threads='{info.threads}'/>
      <pages unit='KiB' size='4'/>
    </cpu>
    <power_management/>
    <iommu support='no'/>
    <topology>
      <cells num='1'>
        <cell id='0'>
          <memory unit='KiB'>{info.memory}</memory>
          <cpus num='{info.cpus}'>{cpus}
          </cpus>
        </cell>
      </cells>
    </topology>
    <secmodel>
      <model>none</model>
      <doi>0</doi>
    </secmodel>
  </host>

  <guest>
    <os_type>hvm</os_type>
    <arch name='x86_64'>
      <wordsize>64</wordsize>
      <emulator>{escape(self._emulator)}</emulator>{machines}{domains}
    </arch>
    <features>
      <acpi default='on' toggle='no'/>
      <apic default='on' toggle='no'/>
    </features>
  </guest>

</capabilities>
"""

    def domain_capabilities(self, arch: str | None, machine: str | None, virt_type: str | None) -> str:
        if arch not in (None, "x86_64"):
            raise invalid_argument(f"unknown architecture: {arch}; there is x86_64", Origin.CAPABILITIES)
        if virt_type is not None and virt_type not in self._kinds:
            raise invalid_argument(
                f"unknown virttype: {virt_type}; there are {', '.join(self._kinds)}", Origin.CAPABILITIES
            )
        no = "".join(f"\n    <{name} supported='no'/>" for name in ("graphics", "video", "hostdev", "tpm", "redirdev"))
        return f"""<domainCapabilities>
  <path>{escape(self._emulator)}</path>
  <domain>{virt_type or self._kinds[0]}</domain>
  <machine>{machine or MACHINE}</machine>
  <arch>x86_64</arch>
  <vcpu max='{MAX_CPUS}'/>
  <iothreads supported='no'/>
  <os supported='yes'>
    <enum name='firmware'/>
    <loader supported='no'/>
  </os>
  <cpu>
    <mode name='host-passthrough' supported='yes'>
      <enum name='hostPassthroughMigratable'>
        <value>off</value>
      </enum>
    </mode>
    <mode name='maximum' supported='yes'>
      <enum name='maximumMigratable'>
        <value>off</value>
      </enum>
    </mode>
    <mode name='host-model' supported='no'/>
    <mode name='custom' supported='no'/>
  </cpu>
  <memoryBacking supported='no'/>
  <devices>
    <disk supported='yes'>
      <enum name='diskDevice'>
        <value>disk</value>
        <value>cdrom</value>
      </enum>
      <enum name='bus'>
        <value>virtio</value>
      </enum>
      <enum name='model'>
        <value>virtio</value>
        <value>virtio-non-transitional</value>
      </enum>
    </disk>{no}
    <rng supported='yes'>
      <enum name='model'>
        <value>virtio</value>
      </enum>
      <enum name='backendModel'>
        <value>random</value>
      </enum>
    </rng>
    <filesystem supported='yes'>
      <enum name='driverType'>
        <value>virtiofs</value>
      </enum>
    </filesystem>
  </devices>
  <features>
    <gic supported='no'/>
    <vmcoreinfo supported='no'/>
    <genid supported='no'/>
    <sev supported='no'/>
  </features>
</domainCapabilities>
"""


@functools.cache
def _host_info() -> HostInfo:
    cpus = os.cpu_count() or 1
    model, mhz = platform.machine(), 0
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("cpu MHz"):
                mhz = int(float(line.partition(":")[2]))
                break
    except (OSError, ValueError):
        mhz = 0
    # Cores as the guests see them: whether two share a core changes nothing here.
    return HostInfo(model, _memory().get("MemTotal", 0), cpus, mhz, 1, 1, cpus, 1)


def _memory() -> dict[str, int]:
    try:
        return {name: int(value) for name, value in _KIB.findall(Path("/proc/meminfo").read_text())}
    except OSError:
        return {}


def _host_uuid() -> str:
    try:
        machine = Path("/etc/machine-id").read_text().strip()
    except OSError:
        machine = ""
    return str(uuid_module.uuid5(uuid_module.NAMESPACE_DNS, f"{machine}.{socket.gethostname()}"))


def _cpu_level() -> str:
    return "qemu64"
