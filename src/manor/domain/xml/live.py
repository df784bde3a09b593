"""The document of a running domain: what only exists while it runs, in the places where clients look."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from typing import TypeVar

from manor.domain.xml.character import AGENT_PORT, Character, CharacterSource
from manor.domain.xml.common import Address, Device
from manor.domain.xml.devices import Devices
from manor.domain.xml.domain import Domain
from manor.domain.xml.normal import GENERATED

D = TypeVar("D", bound=Device)


def live(
    domain: Domain, number: int, *, tty: str | None = None, taps: Mapping[str, str] | None = None,
    agent_connected: bool = False,
) -> Domain:  # fmt: skip
    """The document of `domain` (a normalised one) running as number `number`.

    tty: the pseudo terminal of its console. taps: MAC address -> interface of the host behind it.
    """
    devices = _named(domain.devices)
    devices = _placed(devices)
    with_tty = [_with_tty(one, tty) for one in devices.serials]
    consoles = [_with_tty(one, tty) if not index else one for index, one in enumerate(devices.consoles)]
    channels = [
        replace(one, state="connected" if agent_connected else "disconnected")
        if one.target_type == "virtio" and one.target_name == AGENT_PORT else one
        for one in devices.channels
    ]  # fmt: skip
    nics = [
        replace(nic, target=(taps or {}).get(nic.mac or "") or nic.target or f"{GENERATED}{index}")
        for index, nic in enumerate(devices.interfaces)
    ]
    return replace(
        domain,
        id=number,
        devices=replace(
            devices, serials=tuple(with_tty), consoles=tuple(consoles), channels=tuple(channels),
            interfaces=tuple(nics),
        ),
    )  # fmt: skip


def _with_tty(character: Character, tty: str | None) -> Character:
    if character.type != "pty" or tty is None:
        return character
    return replace(character, tty=tty, sources=(CharacterSource(path=tty),))


def named(domain: Domain) -> Domain:
    """The live document `domain` with names for devices that came without: each its own, also after others went."""
    return replace(domain, devices=_named(domain.devices))


def _named(devices: Devices) -> Devices:
    """Names by which the service and its clients call devices: `net0`. Those that are there stay."""

    def name(all_: tuple[D, ...], prefix: str) -> tuple[D, ...]:
        taken = {one.alias for one in all_}
        free = (alias for alias in map(f"{prefix}{{}}".format, count()) if alias not in taken)
        return tuple(one if one.alias else replace(one, alias=next(free)) for one in all_)

    serials = name(devices.serials, "serial")
    consoles = list(name(devices.consoles, "console"))
    if consoles and consoles[0].target_type == "serial" and serials:
        # It is the same device under its second name.
        consoles[0] = replace(consoles[0], alias=serials[0].alias)
    disks = list(devices.disks)
    for bus in dict.fromkeys(disk.bus for disk in disks):
        indices = [index for index, disk in enumerate(disks) if disk.bus == bus]
        for index, disk in zip(indices, name(tuple(disks[i] for i in indices), f"{bus}-disk"), strict=True):
            disks[index] = disk
    controllers = tuple(
        one if one.alias else replace(one, alias=f"pci.{one.index}" if one.type == "pci" else f"{one.type}{one.index}")
        for one in devices.controllers
    )
    return replace(
        devices,
        disks=tuple(disks),
        controllers=controllers,
        filesystems=name(devices.filesystems, "fs"),
        interfaces=name(devices.interfaces, "net"),
        serials=serials,
        consoles=tuple(consoles),
        channels=name(devices.channels, "channel"),
        balloon=devices.balloon and name((devices.balloon,), "balloon")[0],
        rngs=name(devices.rngs, "rng"),
        vsock=devices.vsock and name((devices.vsock,), "vsock")[0],
    )


def _slots(devices: Devices) -> Iterator[Address]:
    """Addresses in the order in which the machine takes them."""
    for slot in range(1, 32):
        yield Address(type="pci", domain=0, bus=0, slot=slot, function=0)


def _placed(devices: Devices) -> Devices:
    """Each device with its slot: console, rng, balloon, interfaces, agent, vsock, folders, disks. A machine has a
    virtio console and one generator whether or not the document names them."""
    slots = _slots(devices)

    def place(all_: tuple[D, ...]) -> tuple[D, ...]:
        return tuple(replace(one, address=next(slots, None)) for one in all_)  # type: ignore[call-arg]

    console = next(slots)
    generator = next(slots)
    balloon = devices.balloon
    if balloon is not None and balloon.model != "none":
        balloon = place((balloon,))[0]
    interfaces = place(devices.interfaces)
    has_agent = any(one.target_type == "virtio" and one.target_name == AGENT_PORT for one in devices.channels)
    agent = next(slots) if has_agent else None
    vsock = devices.vsock and place((devices.vsock,))[0]
    filesystems = place(devices.filesystems)
    placed = {index: next(slots, None) for index in machine_order(devices)}
    return replace(
        devices,
        disks=tuple(replace(disk, address=placed.get(index)) for index, disk in enumerate(devices.disks)),
        controllers=tuple(
            replace(one, address=agent or console) if one.type == "virtio-serial" else one
            for one in devices.controllers
        ),
        filesystems=filesystems,
        interfaces=interfaces,
        balloon=balloon,
        rngs=tuple(replace(one, address=generator if not index else None) for index, one in enumerate(devices.rngs)),
        vsock=vsock,
    )  # fmt: skip


def machine_order(devices: Devices) -> list[int]:
    """Indices of the disks that the machine has, in the order in which it has them: empty drives are left out."""
    return sorted(
        (index for index in range(len(devices.disks)) if has_medium(devices, index)),
        key=lambda index: boot_rank(devices, index),
    )


def has_medium(devices: Devices, index: int) -> bool:
    """Whether a disk is more than an empty drive."""
    disk = devices.disks[index]
    return bool(disk.file or disk.dev or disk.protocol or disk.volume)


def boot_rank(devices: Devices, index: int) -> tuple[int, int]:
    """Order of disks in the machine: those with a boot order first, else as the document has them."""
    return (devices.disks[index].boot_order or 1 << 16, index)
