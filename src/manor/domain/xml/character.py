"""<serial>, <console>, <channel>, <parallel>: devices that carry characters."""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

from dataclasses import dataclass

from manor.domain.xml.common import NAME, ONOFF, PATH, PLACED, Address, Device
from manor.domain.xml.property import Element, note, part, parts, prop
from manor.domain.xml.values import Choice, Integer, Text, ignored, refused

AGENT_PORT = "org.qemu.guest_agent.0"
"""Name of the port by which a guest's agent is met."""
UNSERVED = ("spicevmc", "spiceport", "qemu-vdagent")
"""Types of channels whose other end is a display server, which there is not: they are kept, and not made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CharacterSource(Element):
    """The host's end."""

    mode: str | None = prop("@mode", Choice("bind", "connect"), "whether this side listens")
    path: str | None = prop("@path", PATH, "file, device, pipe or socket")
    host: str | None = prop("@host", NAME, "address of a TCP or UDP end")
    service: str | None = prop("@service", Text(32), "port of a TCP or UDP end")
    append: bool | None = prop("@append", ONOFF, "keep what a file has")
    channel: str | None = prop("@channel", NAME, "name of a Spice port")
    tls: str | None = prop("@tls", Choice("yes", "no"), "encrypted connection")

    NOTES = (note("reconnect", "try again", ignored("a lost peer is waited for")),)


@dataclass(frozen=True, slots=True, kw_only=True)
class Character(Device):
    """A device that carries characters. Consoles are kept by the machine's process, with what they showed."""

    type: str = prop("@type", Choice("pty", "unix", "null", judged={
        **dict.fromkeys(("stdio", "file", "pipe", "dev", "tcp", "udp", "vc", "qemu-vdagent", "dbus", "nmdm"),
                        ignored("the console is served by the machine's process, like type pty")),
        "spicevmc": ignored("there is no Spice server"), "spiceport": ignored("there is no Spice server")}),
        "the host's end", required=True)
    tty: str | None = prop("@tty", PATH, "pseudo terminal; written for running domains")
    sources: tuple[CharacterSource, ...] = parts("source", CharacterSource, "the host's end")
    protocol: str | None = prop("protocol/@type", Choice("raw", "telnet"), "what a TCP peer talks")
    target_type: str | None = prop("target/@type", Choice(
        "serial", "virtio", "isa-serial", judged={
            "guestfwd": refused("ports of the network are not devices", "use <portForward> or vsock"),
            **dict.fromkeys(("usb-serial", "pci-serial", "isa-debug", "xen", "sclp", "sclplm", "uml", "lxc", "openvz"),
                            refused("serial ports are 16550A on the ISA bus, or virtio", "write isa-serial"))}),
        "the guest's end")
    target_port: int | None = prop("target/@port", Integer(0, 255), "number of the port")
    target_name: str | None = prop("target/@name", NAME, "name of a virtio port")
    state: str | None = prop("target/@state", Choice("connected", "disconnected"),
                             "whether the guest has the port open; written for running domains")
    target_model: str | None = prop("target/model/@name", Text(64), "chip; written as isa-serial")
    log_file: str | None = prop("log/@file", PATH, "file of all output",
                                verdict=ignored("the machine's own log of the console is kept"))
    log_append: bool | None = prop("log/@append", ONOFF, "keep what the file has", verdict=ignored("see the file"))
    address: Address | None = part("address", Address, "place on the bus", verdict=PLACED)

    NOTES = (
        note("target/@address", "address of a forwarded port", ignored("see the type")),
        note("source/seclabel", "label of the socket", ignored("labels are left alone")),
        note("acpi", "index for names in the guest", ignored("the guest names its ports")),
    )
