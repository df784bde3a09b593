"""From a domain to QEMU's command line. Our own mapping, after QEMU's documentation.

Devices are named by the aliases of the live document, so that events and hot-plug speak of the same names. The machine
starts stopped (-S): it goes on when everything around it is ready. A guest that shuts down or panics leaves QEMU
paused, so that the end is seen even by a daemon that was away at the time.

Source: QEMU 7.2, qemu(1); "QMP Reference Manual"; docs/system/devices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from manor.base.errors import ConfigError
from manor.domain.xml.character import AGENT_PORT, Character
from manor.domain.xml.cpu import Cpu
from manor.domain.xml.devices import Devices
from manor.domain.xml.domain import Domain
from manor.domain.xml.to_spec import Resolvers
from manor.domain.xml.tree import Node
from manor.domain.xml.values import Support
from manor.drivers.qemu.block import Buses, ResolveVolume, disk_parts
from manor.drivers.qemu.layout import Files
from manor.drivers.qemu.network import ResolveNetwork, netdev_text, nic_parts
from manor.drivers.qemu.words import Part, as_json, as_text, escape, socket_chardev

HOTPLUG_PORTS: Final = 8
"""Root ports of a q35 that are left empty for devices that come later: its root bus takes none while it runs."""
_MADE: Final = frozenset({"graphics", "video", "input", "panic", "watchdog", "sound", "audio"})
"""Devices that Manor's own machine lacks, and QEMU has, or that are left out without harm."""
_REFUSED: Final = {
    each.path: each.verdict for each in Devices.NOTES if each.verdict.support is Support.REFUSED
}  # fmt: skip
_VIDEO: Final = {
    "vga": "VGA", "virtio": "virtio-vga", "qxl": "qxl-vga", "cirrus": "cirrus-vga", "bochs": "bochs-display",
    "vmvga": "vmware-svga", "ramfb": "ramfb",
}  # fmt: skip
_INPUT: Final = {"tablet": "tablet", "mouse": "mouse", "keyboard": "kbd"}
_WORD: Final = re.compile(r"[\w.+-]+", re.ASCII)
_CPU_LEVELS: Final = {"x86-64-v2": "Nehalem", "x86-64-v3": "Haswell-noTSX"}
"""Models of QEMU that have just what the psABI's levels ask for."""


@dataclass(slots=True)
class Plan:
    """All that starting QEMU takes. consoles: aliases of ports that can be opened as consoles. down: interfaces whose
    cable is out at first. vnc_password: None without one."""

    arguments: list[str] = field(default_factory=list)
    consoles: list[str] = field(default_factory=list)
    down: list[str] = field(default_factory=list)
    has_agent: bool = False
    needs_helper: bool = False
    vnc_password: str | None = None


def plan(domain: Domain, accel: str, files: Files, resolvers: Resolvers) -> Plan:
    """How to run `domain`, a live document. accel: `kvm` or `tcg`. Raises ConfigError with path and fix, ApiError."""
    _refuse(domain)
    made = Plan()
    made.arguments += _machine(domain, accel)
    made.arguments += [
        "-S", "-no-user-config", "-nodefaults", "-display", "none", "-msg", "timestamp=on",
        "-chardev", socket_chardev("monitor", files.monitor), "-mon", "chardev=monitor,mode=control",
        "-action", f"shutdown=pause,panic=pause,reboot={'shutdown' if domain.on_reboot == 'destroy' else 'reset'}",
    ]  # fmt: skip
    made.arguments += _boot(domain)
    if _is_q35(domain):
        for number in range(HOTPLUG_PORTS):
            port: Part = {"driver": "pcie-root-port", "id": f"hotplug{number}", "chassis": number + 1}
            made.arguments += ["-device", as_json(port)]
    _disks(domain, made, resolvers.volume)
    _nics(domain, made, resolvers.network)
    _characters(domain, made, files)
    _others(domain.devices, made)
    _display(domain.devices, made, files)
    # What QEMU will never need again, a guest that has taken it over shall not have either.
    spawn = "allow" if made.needs_helper else "deny"
    made.arguments += ["-sandbox", f"on,obsolete=deny,elevateprivileges={spawn},spawn={spawn},resourcecontrol=deny"]
    return made


def _refuse(domain: Domain) -> None:
    for extra in domain.devices.extras:
        name = extra.node.name
        verdict = None if name in _MADE else _REFUSED.get(name)
        if verdict is not None:
            raise ConfigError(f"domain/devices/{name}", f"it is not made with QEMU here; remove <{name}>")
    for extra in domain.extras:
        if extra.node.name in ("launchSecurity", "bootloader", "qemu:commandline", "qemu:override"):
            raise ConfigError(f"domain/{extra.node.name}", f"it is not supported; remove <{extra.node.name}>")
    if domain.arch not in ("x86_64", "i686"):
        raise ConfigError("domain/os/type/@arch", f"{domain.arch!r} guests are not run here; write arch='x86_64'")
    if not _WORD.fullmatch(domain.machine):
        raise ConfigError("domain/os/type/@machine", f"{domain.machine!r} is no machine of QEMU; write pc or q35")


def _is_q35(domain: Domain) -> bool:
    return "q35" in domain.machine


def _machine(domain: Domain, accel: str) -> Iterator[str]:
    memory = (domain.memory + 1023) >> 10
    count = domain.current_vcpus or domain.vcpus
    smp: dict[str, object] = {"cpus": count, "maxcpus": domain.vcpus}
    topology = None if domain.cpu is None else domain.cpu.topology
    if topology is not None:
        smp |= {"sockets": topology.sockets, "cores": topology.cores, "threads": topology.threads}
        if topology.dies and topology.dies > 1:
            smp["dies"] = topology.dies
    yield from ("-name", as_text("", guest=domain.name, **{"debug-threads": True}))
    yield from ("-machine", as_text(domain.machine, usb=False, **{"dump-guest-core": False}, **_flash(domain)))
    yield from ("-accel", accel, "-cpu", _cpu(domain.cpu, accel))
    yield from ("-m", f"size={memory}k", "-smp", as_text("", **smp))
    yield from ("-rtc", f"base={'localtime' if domain.clock == 'localtime' else 'utc'},driftfix=slew")
    if domain.uuid:
        yield from ("-uuid", domain.uuid)
    shown = [one for one in domain.sysinfo if one.type == "smbios" and domain.smbios_mode == "sysinfo"]
    for info in shown:
        values = {entry.name: entry.value for entry in info.system if _WORD.fullmatch(entry.name)}
        if values:
            yield from ("-smbios", as_text("", type=1, **values))
        strings = [entry.value for entry in info.oem_strings if entry.value]
        if strings:
            yield from ("-smbios", as_text("", type=11, value=strings))


def _cpu(cpu: Cpu | None, accel: str) -> str:
    if cpu is None or cpu.mode == "maximum":
        return "max"
    if cpu.mode in ("host-passthrough", "host-model") or cpu.model == "host":
        model = "host" if accel == "kvm" else "max"
    else:
        model = _CPU_LEVELS.get(cpu.model or "max", cpu.model or "max")
    words = [model]
    for feature in cpu.features:
        if feature.policy in (None, "force", "require"):
            words.append(f"+{feature.name}")
        elif feature.policy in ("disable", "forbid"):
            words.append(f"-{feature.name}")
    for word in words:
        if not _WORD.fullmatch(word):
            raise ConfigError("domain/cpu", f"{word!r} is no model or feature of QEMU")
    return ",".join(words)


# ---------------------------------------------------------------------- what is booted
def _extra(domain: Domain, where: tuple[str, ...], name: str) -> Node | None:
    return next((one.node for one in domain.extras if one.where == where and one.node.name == name), None)


def _flash(domain: Domain) -> dict[str, object]:
    """Properties of the machine for firmware in flash memory."""
    loader = _extra(domain, ("os",), "loader")
    if loader is None or loader.get("type") != "pflash":
        return {}
    names: dict[str, object] = {"pflash0": "flash0-format"}
    if _extra(domain, ("os",), "nvram") is not None:
        names["pflash1"] = "flash1-format"
    return names


def _boot(domain: Domain) -> Iterator[str]:
    if domain.firmware is not None and _extra(domain, ("os",), "loader") is None:
        raise ConfigError("domain/os/@firmware", "firmware is not chosen here; name its file: <loader type='pflash'>")
    loader, nvram = _extra(domain, ("os",), "loader"), _extra(domain, ("os",), "nvram")
    if loader is not None and loader.get("type") == "pflash":
        for index, node in enumerate((loader, nvram)):
            if node is not None:
                read_only = node is loader and loader.get("readonly") != "no"
                storage: Part = {"driver": "file", "filename": node.text.strip(), "node-name": f"flash{index}-storage",
                                 "auto-read-only": True}  # fmt: skip
                shown: Part = {"driver": "raw", "file": f"flash{index}-storage", "node-name": f"flash{index}-format",
                               "read-only": read_only}  # fmt: skip
                yield from ("-blockdev", as_json(storage), "-blockdev", as_json(shown))
    elif loader is not None:
        yield from ("-bios", loader.text.strip())
    if domain.kernel:
        yield from ("-kernel", domain.kernel)
        if domain.initrd:
            yield from ("-initrd", domain.initrd)
        if domain.cmdline:
            yield from ("-append", domain.cmdline)
    yield from ("-boot", "strict=on")


def _boot_index(domain: Domain, kind: str, order: int | None, seen: dict[str, int]) -> int | None:
    """Position of a device among what is booted from. kind: as in <boot dev=...>. Only the first of a kind is."""
    if any(disk.boot_order for disk in domain.devices.disks):
        return order
    wanted = [one.dev for one in domain.boot]
    seen[kind] = seen.get(kind, 0) + 1
    return wanted.index(kind) + 1 if kind in wanted and seen[kind] == 1 else None


# ---------------------------------------------------------------------- devices
def _path(name: str, index: int, count: int) -> str:
    return f"domain/devices/{name}[{index + 1}]" if count > 1 else f"domain/devices/{name}"


def _device(made: Plan, device: Part) -> None:
    made.arguments += ["-device", as_json(device)]


def _disks(domain: Domain, made: Plan, volume: ResolveVolume) -> None:
    buses = Buses(_is_q35(domain))
    disks = domain.devices.disks
    seen: dict[str, int] = {}
    parts = []
    for index, disk in enumerate(disks):
        where = _path("disk", index, len(disks))
        if disk.transient:
            raise ConfigError(f"{where}/transient", "writes are kept; make an overlay with `manor image create -b`")
        boot = _boot_index(domain, "cdrom" if disk.device == "cdrom" else "hd", disk.boot_order, seen)
        parts.append(disk_parts(disk, where, buses.place(disk, where), boot, volume))
    for controller in buses.controllers:
        _device(made, controller)
    for one in parts:
        for each in one.objects:
            made.arguments += ["-object", as_json(each)]
        for node in one.nodes:
            made.arguments += ["-blockdev", as_json(node)]
        _device(made, one.device)


def _nics(domain: Domain, made: Plan, network: ResolveNetwork) -> None:
    nics = domain.devices.interfaces
    seen: dict[str, int] = {}
    for index, nic in enumerate(nics):
        boot = _boot_index(domain, "network", None, seen)
        one = nic_parts(nic, index, _path("interface", index, len(nics)), boot, network)
        made.arguments += ["-netdev", netdev_text(one.netdev)]
        _device(made, one.device)
        made.needs_helper |= one.needs_helper
        if one.is_down:
            made.down.append(one.device["id"])


def _characters(domain: Domain, made: Plan, files: Files) -> None:
    devices = domain.devices
    for index, one in enumerate(devices.serials):
        alias = one.alias or f"serial{index}"
        _port(one, alias, made, files)
        _device(made, {"driver": "isa-serial", "chardev": f"char{alias}", "id": alias, "index": index})
    ports = [one for one in devices.consoles if one.target_type == "virtio"]
    channels = [one for one in devices.channels if one.target_type == "virtio"]
    if not ports and not channels:
        return
    _device(made, {"driver": "virtio-serial-pci", "id": "virtio-serial0"})
    for index, one in enumerate(ports):
        alias = one.alias or f"console{index}"
        _port(one, alias, made, files)
        _device(made, {"driver": "virtconsole", "chardev": f"char{alias}", "id": alias})
    for index, one in enumerate(channels):
        alias = one.alias or f"channel{index}"
        if one.target_name == AGENT_PORT and not made.has_agent:
            made.has_agent = True
            made.arguments += ["-chardev", socket_chardev(f"char{alias}", files.agent)]
        else:
            _port(one, alias, made, files, is_console=False)
        port: Part = {"driver": "virtserialport", "chardev": f"char{alias}", "id": alias}
        _device(made, {**port, "name": one.target_name or ""})


def _port(one: Character, alias: str, made: Plan, files: Files, is_console: bool = True) -> None:
    """The host's end of a port: a socket of ours, unless the document has one of its own."""
    source = one.sources[0] if one.sources else None
    if one.type == "null":
        made.arguments += ["-chardev", f"null,id=char{escape(alias)}"]
    elif one.type == "unix" and source is not None and source.path:
        is_server = source.mode != "connect"
        made.arguments += [
            "-chardev",
            as_text("socket", id=f"char{alias}", path=source.path, server=is_server, wait=False if is_server else None),
        ]
    elif one.type == "file" and source is not None and source.path:
        made.arguments += ["-chardev", as_text("file", id=f"char{alias}", path=source.path, append=bool(source.append))]
    else:
        made.arguments += ["-chardev", socket_chardev(f"char{alias}", files.port(alias))]
        if is_console:
            made.consoles.append(alias)


def _others(devices: Devices, made: Plan) -> None:
    balloon = devices.balloon
    if balloon is not None and balloon.model != "none":
        _device(made, {
            "driver": "virtio-balloon-pci", "id": balloon.alias or "balloon0", "deflate-on-oom": True,
            "free-page-reporting": bool(balloon.free_page_reporting),
        })  # fmt: skip
    for index, rng in enumerate(devices.rngs):
        alias = rng.alias or f"rng{index}"
        source: Part = {"qom-type": "rng-builtin", "id": f"obj{alias}"}
        if rng.backend != "builtin":
            source = {"qom-type": "rng-random", "id": f"obj{alias}", "filename": rng.file or "/dev/urandom"}
        made.arguments += ["-object", as_json(source)]
        device: Part = {"driver": "virtio-rng-pci", "rng": f"obj{alias}", "id": alias}
        if rng.rate_bytes:
            device |= {"max-bytes": rng.rate_bytes, "period": rng.rate_period or 1000}
        _device(made, device)
    for index, share in enumerate(devices.filesystems):
        where = _path("filesystem", index, len(devices.filesystems))
        if share.driver == "virtiofs":
            raise ConfigError(f"{where}/driver/@type", "virtio-fs needs a server of its own; write type='path' (9p)")
        alias = share.alias or f"fs{index}"
        model = {"passthrough": "passthrough", "squash": "none"}.get(share.accessmode or "", "mapped-xattr")
        made.arguments += [
            "-fsdev", as_text("local", id=f"fsdev-{alias}", path=share.dir, security_model=model,
                              readonly=True if share.readonly else None),
        ]  # fmt: skip
        _device(made, {"driver": "virtio-9p-pci", "fsdev": f"fsdev-{alias}", "mount_tag": share.target, "id": alias})
    if devices.vsock is not None:
        if devices.vsock.cid is None:
            raise ConfigError("domain/devices/vsock/cid/@address", "give the guest's context ID, from 3")
        _device(made, {"driver": "vhost-vsock-pci", "guest-cid": devices.vsock.cid, "id": "vsock0"})
    for extra in devices.extras:
        if extra.node.name == "panic":
            _device(made, {"driver": "pvpanic"})
        elif extra.node.name == "watchdog":
            model = extra.node.get("model") or "i6300esb"
            if model not in ("i6300esb", "ib700"):
                raise ConfigError("domain/devices/watchdog/@model", f"{model!r} is not made; write i6300esb")
            action = extra.node.get("action") or "reset"
            if action not in ("reset", "shutdown", "poweroff", "pause", "none", "inject-nmi"):
                raise ConfigError("domain/devices/watchdog/@action", f"{action!r} is unknown; write reset")
            _device(made, {"driver": model})
            made.arguments += ["-action", f"watchdog={action}"]


def _display(devices: Devices, made: Plan, files: Files) -> None:
    nodes = [extra.node for extra in devices.extras]
    graphics = [node for node in nodes if node.name == "graphics"]
    for node in graphics:
        if node.get("type") != "vnc":
            raise ConfigError("domain/devices/graphics/@type", f"{node.get('type')!r} is not served; write type='vnc'")
    if len(graphics) > 1:
        raise ConfigError("domain/devices/graphics", "there is one display; keep one")
    for node in graphics:
        made.arguments += ["-vnc", _vnc(node, made, files)]
    videos = [node for node in nodes if node.name == "video"]
    models = [(model.get("type") if (model := node.find("model")) else None) or "vga" for node in videos]
    if graphics and not videos:
        models = ["vga"]
    for index, name in enumerate(models):
        if name == "none":
            continue
        driver = _VIDEO.get(name)
        if driver is None:
            raise ConfigError("domain/devices/video/model/@type", f"{name!r} is not made; use {', '.join(_VIDEO)}")
        _device(made, {"driver": driver, "id": f"video{index}"})
    usb = False
    for index, node in enumerate(each for each in nodes if each.name == "input"):
        kind, bus = _INPUT.get(node.get("type") or ""), node.get("bus") or "usb"
        if bus == "ps2":
            continue  # keyboard and mouse are the machine's own
        if kind is None or bus not in ("usb", "virtio"):
            raise ConfigError("domain/devices/input", "there are tablet, mouse and keyboard, on usb, virtio or ps2")
        if bus == "usb" and not usb:
            usb = True
            _device(made, {"driver": "qemu-xhci", "id": "usb"})
        name = f"usb-{kind}" if bus == "usb" else f"virtio-{'keyboard' if kind == 'kbd' else kind}-pci"
        _device(made, {"driver": name, "id": f"input{index}"})


def is_at_socket(graphics: Node) -> bool:
    """Whether a display is served at a unix socket: unless it names its port."""
    return graphics.get("autoport") == "yes" or (graphics.get("port") or "-1") == "-1"


def _vnc(node: Node, made: Plan, files: Files) -> str:
    """A unix socket in the directory, or the address and port that the document insists on."""
    options: dict[str, object] = {}
    if node.get("passwd"):
        made.vnc_password = node.get("passwd")
        made.arguments += ["-object", as_json({"qom-type": "secret", "id": "vnc", "file": str(files.vnc_password)})]
        options["password-secret"] = "vnc"
    if is_at_socket(node):
        return as_text(f"unix:{files.vnc.name}", **options)
    port = node.get("port") or ""
    if not port.isdecimal() or not 5900 <= int(port) <= 65535:
        raise ConfigError("domain/devices/graphics/@port", f"{port!r} is no port from 5900 to 65535")
    listen = node.get("listen") or "127.0.0.1"
    if not re.fullmatch(r"[0-9a-fA-F.:]+", listen):
        raise ConfigError("domain/devices/graphics/@listen", f"{listen!r} is no address")
    return as_text(f"[{listen}]:{int(port) - 5900}" if ":" in listen else f"{listen}:{int(port) - 5900}", **options)
