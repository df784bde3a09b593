"""This host, and what a domain that QEMU runs can have."""

from __future__ import annotations

from xml.sax.saxutils import escape

from manor.drivers.errors import Origin, invalid_argument
from manor.drivers.node import HostNode
from manor.drivers.qemu.block import FORMATS
from manor.spec.machine import MAX_CPUS

MACHINES = ("pc", "q35")


def _enum(name: str, *values: str) -> str:
    inner = "".join(f"<value>{value}</value>" for value in values)
    return f"<enum name='{name}'>{inner}</enum>" if values else f"<enum name='{name}'/>"


class QemuNode(HostNode):
    """This host (api.Node), with QEMU's devices."""

    def __init__(self, emulator: str) -> None:
        super().__init__(("kvm", "qemu"), emulator, MACHINES)

    def domain_capabilities(self, arch: str | None, machine: str | None, virt_type: str | None) -> str:
        if arch not in (None, "x86_64", "i686"):
            raise invalid_argument(f"unknown architecture: {arch}; there is x86_64", Origin.CAPABILITIES)
        if virt_type is not None and virt_type not in self._kinds:
            raise invalid_argument(
                f"unknown virttype: {virt_type}; there are {', '.join(self._kinds)}", Origin.CAPABILITIES
            )
        no = "".join(f"\n    <{name} supported='no'/>" for name in ("hostdev", "tpm", "redirdev"))
        passed = "yes" if (virt_type or "kvm") == "kvm" else "no"
        return f"""<domainCapabilities>
  <path>{escape(self._emulator)}</path>
  <domain>{virt_type or self._kinds[0]}</domain>
  <machine>{escape(machine or MACHINES[0])}</machine>
  <arch>x86_64</arch>
  <vcpu max='{MAX_CPUS}'/>
  <iothreads supported='no'/>
  <os supported='yes'>
    {_enum("firmware")}
    <loader supported='yes'>
      {_enum("type", "rom", "pflash")}
      {_enum("readonly", "yes", "no")}
    </loader>
  </os>
  <cpu>
    <mode name='host-passthrough' supported='{passed}'/>
    <mode name='maximum' supported='yes'/>
    <mode name='host-model' supported='{passed}'/>
    <mode name='custom' supported='yes'>
      <model usable='yes'>qemu64</model>
      <model usable='yes'>Nehalem</model>
      <model usable='yes'>Haswell-noTSX</model>
    </mode>
  </cpu>
  <memoryBacking supported='no'/>
  <devices>
    <disk supported='yes'>
      {_enum("diskDevice", "disk", "cdrom")}
      {_enum("bus", "ide", "scsi", "virtio", "sata", "nvme")}
      {_enum("driverType", *sorted(FORMATS))}
    </disk>
    <graphics supported='yes'>
      {_enum("type", "vnc")}
    </graphics>
    <video supported='yes'>
      {_enum("modelType", "vga", "cirrus", "qxl", "virtio", "none", "bochs", "ramfb")}
    </video>
    <rng supported='yes'>
      {_enum("model", "virtio")}
      {_enum("backendModel", "random", "builtin")}
    </rng>
    <filesystem supported='yes'>
      {_enum("driverType", "path")}
    </filesystem>
    <channel supported='yes'>
      {_enum("type", "unix")}
    </channel>{no}
  </devices>
  <features>
    <gic supported='no'/>
    <vmcoreinfo supported='no'/>
    <genid supported='no'/>
    <sev supported='no'/>
  </features>
</domainCapabilities>
"""
