"""From a domain to the description of a machine that Manor makes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, cast
from urllib.parse import quote

from manor.base.errors import ConfigError
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.character import AGENT_PORT
from manor.domain.xml.disk import Disk
from manor.domain.xml.domain import Domain
from manor.domain.xml.interface import Interface, Limits, PortForward
from manor.domain.xml.live import machine_order
from manor.domain.xml.network import Network
from manor.domain.xml.property import Finding
from manor.domain.xml.values import Support
from manor.spec.block import CacheMode, DiskBus, DiskSpec, Throttle
from manor.spec.firmware import SmbiosSpec
from manor.spec.machine import CPU_MODELS, MAX_CPUS, AccelName, CpuModel, MachineSpec
from manor.spec.net import NicSpec, Shaping
from manor.spec.net import PortForward as ForwardSpec
from manor.spec.share import ShareSpec
from manor.spec.vsock import FIRST_CID, VsockSpec

After = Literal["destroy", "restart", "preserve", "rename-restart"]
_ACCELS: Final[dict[str, AccelName]] = {"kvm": "kvm", "qemu": "dbt"}
_FORMATS: Final = {"vhd": "vpc"}
MAX_FORWARDS: Final = 1024
"""Ports of one interface: each is a socket of the host."""
_HOSTNAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True)
class Resolvers:
    """What a domain only names, looked up by the driver. Each raises ConfigError for names that it does not know.

    network: the definition of a network. volume: (pool, volume) to a path.
    """

    network: Callable[[str], Network]
    volume: Callable[[str, str], Path]


@dataclass(frozen=True, slots=True)
class Launch:
    """All that starting a domain takes.

    accel: what runs the guest's code. current_memory: bytes that the balloon leaves the guest. warnings: what will not
    be as the document asks, without harm.
    """

    spec: MachineSpec
    accel: AccelName
    current_memory: int
    on_poweroff: After
    on_reboot: After
    on_crash: After
    warnings: tuple[Finding, ...]


def to_spec(domain: Domain, resolvers: Resolvers, accel: AccelName | None = None) -> Launch:
    """The machine of `domain` (a normalised one). Raises ConfigError, with path and fix, for what is refused.

    accel: what runs the guest's code, whatever the document says.
    """
    found = domain_xml.check(domain)
    refuse(found)
    warnings = [one for one in found if one.verdict is Support.IGNORED]
    devices = domain.devices
    accel = accel or _ACCELS.get(domain.type, "auto")
    nics = []
    for index, nic in enumerate(devices.interfaces):
        where = f"domain/devices/interface[{index + 1}]" if len(devices.interfaces) > 1 else "domain/devices/interface"
        nics.append(nic_spec(nic, where, domain.name, resolvers, warnings))
    first_console = devices.consoles[0] if devices.consoles else None
    vsock = devices.vsock
    spec = MachineSpec(
        kernel=Path(domain.kernel) if domain.kernel else None,
        initrd=Path(domain.initrd) if domain.initrd else None,
        append=(domain.cmdline or "") if domain.kernel else "",
        memory=domain.memory,
        cpus=domain.current_vcpus or domain.vcpus,
        max_cpus=min(domain.vcpus, MAX_CPUS) if domain.current_vcpus else 0,
        console="virtio" if first_console and first_console.target_type == "virtio" else "serial",
        cpu=_cpu(domain, accel),
        name=domain.name,
        disks=tuple(disk_spec(devices.disks[n], resolvers) for n in machine_order(devices)),
        nics=tuple(nics),
        smbios=_smbios(domain),
        balloon=devices.balloon is None or devices.balloon.model != "none",
        vsock=VsockSpec(cid=vsock.cid or FIRST_CID) if vsock else None,
        agent=any(one.target_name == AGENT_PORT for one in devices.channels),
        shares=tuple(
            ShareSpec(Path(one.dir or ""), one.target or "", read_only=one.readonly) for one in devices.filesystems
        ),
    )
    current = min(domain.current_memory or domain.memory, domain.memory)
    crash = {"coredump-destroy": "destroy", "coredump-restart": "restart"}.get(domain.on_crash, domain.on_crash)
    return Launch(
        spec, accel, current, cast(After, domain.on_poweroff), cast(After, domain.on_reboot), cast(After, crash),
        tuple(warnings),
    )  # fmt: skip


def refuse(found: list[Finding]) -> None:
    """Raise ConfigError if something in `found` is refused: all of it at once, so that one edit mends it."""
    refused = [one for one in found if one.verdict is Support.REFUSED]
    if refused:
        first, *more = refused
        text = first.text + (f"; {first.fix}" if first.fix else "")
        raise ConfigError(first.path, "\n".join([text, *map(str, more)]))


def disk_source(disk: Disk, resolvers: Resolvers) -> str:
    """File, device or nbd: URI of `disk`. Raises ConfigError."""
    if disk.type == "file":
        return disk.file or ""
    if disk.type == "block":
        return disk.dev or ""
    if disk.type == "volume":
        return str(resolvers.volume(disk.pool or "", disk.volume or ""))
    host = disk.hosts[0]
    export = quote(disk.export or "", safe="/")
    if host.transport == "unix":
        return f"nbd+unix:///{export}?socket={quote(host.socket or '', safe='/')}"
    name = f"[{host.name}]" if ":" in (host.name or "") else host.name
    return f"nbd://{name}:{host.port or 10809}/{export}"


def disk_spec(disk: Disk, resolvers: Resolvers) -> DiskSpec:
    """The disk of a machine that `disk`, which has a medium, describes. Raises ConfigError."""
    cache: CacheMode = "direct" if disk.cache in ("none", "directsync") else "writeback"
    tune = disk.iotune
    bus: DiskBus = "nvme" if disk.bus == "nvme" else "virtio"
    return DiskSpec(
        source=disk_source(disk, resolvers),
        format=_FORMATS.get(disk.format or "", disk.format or "raw"),
        bus=bus,
        read_only=disk.readonly or disk.device == "cdrom",
        snapshot=disk.transient,
        serial=disk.serial or "",
        cache=cache,
        discard=disk.discard != "ignore",
        queues=disk.queues or 0,
        throttle=Throttle() if tune is None else Throttle(
            tune.total_bytes or 0, tune.total_iops or 0, tune.total_bytes_max or 0, tune.total_iops_max or 0
        ),
    )  # fmt: skip


# ---------------------------------------------------------------------- interfaces
def nic_spec(nic: Interface, where: str, name: str, resolvers: Resolvers, warnings: list[Finding]) -> NicSpec:
    """The interface of a machine that `nic` describes. where: for errors. name: of the domain. Raises ConfigError."""
    kind, target = _far_end(nic, where, resolvers, warnings)
    if nic.forwards and kind != "user":
        raise ConfigError(
            f"{where}/portForward", "ports are forwarded by the user-mode network only; write type='user'"
        )
    return NicSpec(
        kind=kind,  # type: ignore[arg-type]
        name=target,
        mac=nic.mac or "",
        mtu=nic.mtu or 1500,
        queues=nic.queues or 1,
        forwards=_forwards(nic.forwards, where),
        hostname=name if kind == "user" and _HOSTNAME.fullmatch(name) else "",
        shaping=_shaping(nic.inbound, nic.outbound),
        link_up=nic.link != "down",
    )


def _far_end(nic: Interface, where: str, resolvers: Resolvers, warnings: list[Finding]) -> tuple[str, str]:
    """Kind and name of what the frames go to."""
    if nic.type == "user":
        return "user", ""
    if nic.type == "bridge":
        return "bridge", nic.bridge or ""
    if nic.type == "direct":
        return "macvtap", nic.dev or ""
    if nic.type == "ethernet":
        return "tap", nic.target or ""
    if nic.type == "null":
        return "none", ""
    network = resolvers.network(nic.network or "")
    if network.forward is None:
        return "isolated", network.name
    if network.forward == "nat":
        text = "guests of this network reach the world and the host, not each other"
        warnings.append(Finding(f"{where}/source/@network", Support.IGNORED, text, "add an isolated network for that"))
        return "user", ""
    if network.bridge:
        return "bridge", network.bridge
    device = next((one.dev for one in network.interfaces if one.dev), network.forward_dev)
    if not device:
        raise ConfigError(
            f"{where}/source/@network",
            f"network {network.name!r} names no bridge of the host; give it <bridge name='...'/>",
        )
    return "macvtap", device


def _forwards(forwards: tuple[PortForward, ...], where: str) -> tuple[ForwardSpec, ...]:
    found: list[ForwardSpec] = []
    for forward in forwards:
        excluded = {
            port for one in forward.ranges if one.exclude for port in range(one.start, (one.end or one.start) + 1)
        }
        for one in forward.ranges:
            if one.exclude:
                continue
            end = one.end or one.start
            if end < one.start:
                raise ConfigError(f"{where}/portForward/range/@end", f"{end} is before the start, {one.start}")
            if len(found) + end - one.start >= MAX_FORWARDS:
                raise ConfigError(f"{where}/portForward", f"more than {MAX_FORWARDS} ports; forward fewer")
            for port in range(one.start, end + 1):
                guest = (one.to or one.start) + port - one.start
                if guest > 65535:
                    raise ConfigError(f"{where}/portForward/range/@to", f"the guest would need port {guest}")
                if port not in excluded:
                    protocol = cast(Literal["tcp", "udp"], forward.protocol)
                    found.append(ForwardSpec(protocol, port, guest, forward.address or ""))
    return tuple(found)


def _shaping(inbound: Limits | None, outbound: Limits | None) -> Shaping:
    averages = [one.average for one in (inbound, outbound) if one and one.average]
    return Shaping(bits_per_second=min(averages) * 1024 * 8 if averages else 0)


# ---------------------------------------------------------------------- the rest
def _cpu(domain: Domain, accel: AccelName) -> CpuModel:
    cpu = domain.cpu
    if cpu is None:
        return "max"
    if cpu.mode in ("host-passthrough", "host-model") or (cpu.model == "host"):
        return "host" if accel == "kvm" else "max"
    if cpu.mode in (None, "custom") and cpu.model in CPU_MODELS:
        return cast(CpuModel, cpu.model)
    return "max"


def _smbios(domain: Domain) -> SmbiosSpec:
    shown = [one for one in domain.sysinfo if one.type == "smbios" and domain.smbios_mode == "sysinfo"]
    serial = next((entry.value for info in shown for entry in info.system if entry.name == "serial"), "")
    strings = tuple(entry.value for info in shown for entry in info.oem_strings if entry.value)
    return SmbiosSpec(uuid=domain.uuid or "", serial=serial, strings=strings)
