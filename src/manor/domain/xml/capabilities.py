"""What the host and Manor's hypervisor can do, as libvirt's clients ask: capabilities and domain capabilities.

Lists of what is supported come from the declarations of the documents, so that the two cannot disagree.
Source: libvirt, "Driver capabilities XML format" and "Domain capabilities XML format".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from manor.base.errors import ConfigError
from manor.base.units import KiB
from manor.domain.xml import tree
from manor.domain.xml.devices import Devices
from manor.domain.xml.property import Element, schema
from manor.domain.xml.tree import Node
from manor.domain.xml.values import Choice, Support
from manor.spec.machine import MAX_CPUS

MACHINE: Final = "pc"
ARCH: Final = "x86_64"
_LEVELS: Final = ("x86-64-v2", "x86-64-v3")


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the service found out about its host. memory: bytes. emulator: path of the program that makes machines.

    cpus: all processors that are online; sockets, cores (of a socket) and threads (of a core) as far as they are known.
    """

    uuid: str
    memory: int
    cpus: int
    sockets: int
    cores: int
    threads: int
    cpu_model: str
    cpu_vendor: str
    emulator: str
    kvm: bool
    max_vcpus: int = MAX_CPUS


def capabilities(host: HostFacts) -> str:
    """The capabilities document."""
    topology = {"sockets": host.sockets, "dies": 1, "cores": host.cores, "threads": host.threads}
    memory = str(host.memory // KiB)
    cell = _node(
        "cell",
        _node("memory", memory, unit="KiB"),
        _node("cpus", *(_cpu(host, number) for number in range(host.cpus)), num=host.cpus),
        id=0,
    )
    guest = _node(
        "guest",
        _node("os_type", "hvm"),
        _node(
            "arch",
            _node("wordsize", "64"),
            _node("emulator", host.emulator),
            _node("machine", MACHINE, maxCpus=host.max_vcpus),
            *(_node("domain", type=kind) for kind in domain_types(host)),
            name=ARCH,
        ),
        _node("features", _node("acpi", default="on", toggle="no"), _node("apic", default="on", toggle="no")),
    )
    cpu = _node(
        "cpu", _node("arch", ARCH), _node("model", host.cpu_model), _node("vendor", host.cpu_vendor),
        _node("topology", **topology),
    )  # fmt: skip
    document = _node(
        "capabilities",
        _node("host", _node("uuid", host.uuid), cpu, _node("power_management"), _node("iommu", support="no"),
              _node("topology", _node("cells", cell, num=1))),
        guest,
    )  # fmt: skip
    return tree.write(document)


def domain_types(host: HostFacts) -> tuple[str, ...]:
    """Types of domains that can be started, in libvirt's order."""
    return ("qemu", "kvm") if host.kvm else ("qemu",)


def domain_capabilities(
    host: HostFacts, domain_type: str = "", arch: str = "", machine: str = "", emulator: str = ""
) -> str:
    """The domain capabilities document. "" chooses. Raises ConfigError for what this hypervisor is not."""
    kind = domain_type or domain_types(host)[-1]
    if kind not in domain_types(host):
        have = " or ".join(domain_types(host))
        raise ConfigError("type", f"domains of type {kind!r} cannot be started on this host; use {have}")
    if arch not in ("", ARCH):
        raise ConfigError("arch", f"machines of architecture {arch!r} are not made; use {ARCH}")
    if machine not in ("", MACHINE):
        raise ConfigError("machine", f"there is no machine {machine!r}; use {MACHINE}")
    if emulator not in ("", host.emulator):
        raise ConfigError("emulator", f"{emulator} is not the program that makes machines; use {host.emulator}")
    document = _node(
        "domainCapabilities",
        _node("path", host.emulator), _node("domain", kind), _node("machine", MACHINE), _node("arch", ARCH),
        _node("vcpu", max=host.max_vcpus),
        _node("iothreads", supported="no"),
        _node("os", _enum("firmware"), _node("loader", supported="no"), supported="yes"),
        _cpu_modes(host, kind),
        _node("memoryBacking", supported="no"),
        _devices(),
        _node("features", *(_node(name, supported="no") for name in
                            ("gic", "vmcoreinfo", "genid", "backingStoreInput", "backup", "sev"))),
    )  # fmt: skip
    return tree.write(document)


def _cpu(host: HostFacts, number: int) -> Node:
    core, thread = divmod(number, max(host.threads, 1))
    socket, core = divmod(core, max(host.cores, 1))
    first = number - thread
    siblings = f"{first}-{first + host.threads - 1}" if host.threads > 1 else str(number)
    return _node("cpu", id=number, socket_id=socket, die_id=0, core_id=core, siblings=siblings)


def _cpu_modes(host: HostFacts, kind: str) -> Node:
    is_host = "yes" if kind == "kvm" else "no"
    passed = _enum("hostPassthroughMigratable", "off")
    model = _node("model", host.cpu_model, fallback="allow")
    vendor = _node("vendor", host.cpu_vendor)
    return _node(
        "cpu",
        _node("mode", *([passed] if is_host == "yes" else []), name="host-passthrough", supported=is_host),
        _node("mode", _enum("maximumMigratable", "on", "off"), name="maximum", supported="yes"),
        _node("mode", *([model, vendor] if is_host == "yes" else []), name="host-model", supported=is_host),
        _node("mode", *(_node("model", level, usable="yes", vendor="unknown") for level in _LEVELS), name="custom",
              supported="yes"),
    )  # fmt: skip


def _devices() -> Node:
    disk, filesystem = _declared("disks"), _declared("filesystems")
    rng, channel = _declared("rngs"), _declared("channels")
    return _node(
        "devices",
        _node(
            "disk", _enum("diskDevice", "disk", "cdrom"), _enum("bus", *_words(disk, "bus")),
            _enum("model", "virtio", "virtio-non-transitional"), supported="yes",
        ),
        _node("graphics", _enum("type"), supported="no"),
        _node("video", _enum("modelType", "none"), supported="yes"),
        _node("hostdev", _enum("mode"), _enum("startupPolicy"), _enum("subsysType"), _enum("capsType"),
              _enum("pciBackend"), supported="no"),
        _node("rng", _enum("model", *_words(rng, "model")), _enum("backendModel", *_words(rng, "backend")),
              supported="yes"),
        _node("filesystem", _enum("driverType", *_words(filesystem, "driver")), supported="yes"),
        _node("tpm", _enum("model"), _enum("backendModel"), supported="no"),
        _node("redirdev", _enum("bus"), supported="no"),
        _node("channel", _enum("type", *_words(channel, "type")), supported="yes"),
    )  # fmt: skip


def _declared(field: str) -> type[Element]:
    cls = next(one.cls for one in schema(Devices).properties if one.name == field)
    assert cls is not None
    return cls


def _words(cls: type[Element], field: str) -> tuple[str, ...]:
    """What is supported of the choices of a property."""
    kind = next(one.kind for one in schema(cls).properties if one.name == field)
    assert isinstance(kind, Choice)
    return tuple(word for word, verdict in kind.words.items() if verdict.support is Support.YES)


def _enum(name: str, *words: str) -> Node:
    return _node("enum", *(_node("value", word) for word in words), name=name)


def _node(name: str, /, *children: Node | str, **attributes: object) -> Node:
    return Node(name, tuple((key, str(value)) for key, value in attributes.items()), children)
