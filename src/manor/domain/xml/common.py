"""Elements that many devices share."""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

from dataclasses import dataclass

from manor.domain.xml.property import Element, note, prop
from manor.domain.xml.values import Choice, Flag, Integer, Text, ignored

ONOFF = Flag("on", "off")
NAME = Text(255)
PATH = Text(4096)
PLACED = ignored("the machine gives slots and ports in its own order", "leave the address out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address(Element):
    """Where on a bus a device is. Written for running domains; what a definition asks for has no effect."""

    type: str | None = prop("@type", Text(32), "kind of bus")
    domain: int | None = prop("@domain", Integer(0, 0xFFFF, 4), "PCI segment")
    controller: int | None = prop("@controller", Integer(0, 0xFFFF), "number of the controller")
    bus: int | None = prop("@bus", Integer(0, 0xFF, 2), "PCI bus, or number of the bus")
    target: int | None = prop("@target", Integer(0, 0xFFFF), "drive: target")
    unit: int | None = prop("@unit", Integer(0, 0xFFFF), "drive: unit")
    slot: int | None = prop("@slot", Integer(0, 0x1F, 2), "PCI device")
    function: int | None = prop("@function", Integer(0, 7, 1), "PCI function")
    port: str | None = prop("@port", Text(64), "port of a USB or serial bus")
    multifunction: bool | None = prop("@multifunction", ONOFF, "whether other functions share the slot")

    NOTES = (note("zpci", "addresses of s390", ignored("it means nothing on x86")),)


VIRTIO_OPTIONS = tuple(
    note(f"driver/@{name}", doc, ignored("virtio devices here are modern ones whose offers the guest chooses from"))
    for name, doc in {
        "iommu": "IOMMU platform feature", "ats": "address translation services", "packed": "packed virtqueues",
        "page_per_vq": "layout of notification addresses",
    }.items()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Device(Element):
    """What each device may have."""

    alias: str | None = prop("alias/@name", Text(255, r"[\w.-]+", "a name of letters, digits, `_`, `-` and `.`"),
                             "name of the device; in definitions only names that start with `ua-` are kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceHost(Element):
    """A server of a network disk."""

    name: str | None = prop("@name", NAME, "host name or address")
    port: int | None = prop("@port", Integer(1, 65535), "TCP port")
    transport: str | None = prop("@transport", Choice("tcp", "unix"), "how the server is reached")
    socket: str | None = prop("@socket", PATH, "path of its unix socket")
