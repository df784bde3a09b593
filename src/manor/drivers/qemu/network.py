"""Network interfaces for QEMU: the far end (netdev), and the device that the guest sees.

Source: QEMU 7.2, "QMP Reference Manual", netdev_add.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from manor.base.errors import ConfigError
from manor.domain.xml.interface import Interface, PortForward
from manor.domain.xml.network import Network
from manor.drivers.qemu.words import Part, as_text

ResolveNetwork = Callable[[str], Network]
"""Name of a network -> its description. Raises ApiError or ConfigError if the network cannot be used."""
_MODELS: Final[dict[str | None, str]] = {
    None: "virtio-net-pci", "virtio": "virtio-net-pci", "virtio-non-transitional": "virtio-net-pci-non-transitional",
    "virtio-transitional": "virtio-net-pci-transitional",
    **{name: name for name in ("e1000", "e1000e", "rtl8139", "ne2k_pci", "pcnet", "vmxnet3", "igb", "i82551")},
}  # fmt: skip
MAX_FORWARDS: Final = 1024
"""Ports of one interface: each is a socket of the host."""
_SAFE: Final = re.compile(r"[\w.:-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class NicParts:
    """One interface. is_down: the cable is out at first."""

    netdev: Part
    device: Part
    is_down: bool
    needs_helper: bool


def nic_parts(nic: Interface, index: int, where: str, boot: int | None, resolve: ResolveNetwork) -> NicParts:
    """Raises ConfigError naming what cannot be had, ApiError for a network that is not there."""
    alias = nic.alias or f"net{index}"
    driver = _MODELS.get(nic.model)
    if driver is None:
        raise ConfigError(f"{where}/model/@type", f"{nic.model!r} is not made; there are virtio, e1000, rtl8139 ...")
    netdev = {**_far_end(nic, where, resolve), "id": f"host{alias}"}
    if netdev["type"] == "hubport":
        netdev["hubid"] = index  # a hub of its own, with nobody else at it
    device: Part = {"driver": driver, "netdev": netdev["id"], "id": alias}
    if nic.mac:
        device["mac"] = nic.mac
    if nic.mtu and driver.startswith("virtio"):
        device["host_mtu"] = nic.mtu
    if boot is not None:
        device["bootindex"] = boot
    return NicParts(netdev, device, nic.link == "down", netdev["type"] == "bridge")


def netdev_text(netdev: Part) -> str:
    """For the command line, which takes JSON since 7.2 only."""
    values = {name: value for name, value in netdev.items() if name not in ("type", "hostfwd")}
    values["hostfwd"] = [each["str"] for each in netdev.get("hostfwd", ())]
    return as_text(netdev["type"], **values)


def _far_end(nic: Interface, where: str, resolve: ResolveNetwork) -> Part:
    kind, name = nic.type, nic.bridge or ""
    if kind == "network":
        network = resolve(nic.network or "")
        if network.forward is None:
            raise ConfigError(
                f"{where}/source/@network",
                f"the network {network.name!r} joins VMs of Manor alone; with QEMU use a bridge, or type='user'",
            )
        kind, name = ("bridge", network.bridge or "") if network.forward == "bridge" else ("user", "")
    if nic.forwards and kind != "user":
        raise ConfigError(f"{where}/portForward", "ports are forwarded by type='user' only")
    if kind == "user":
        netdev: Part = {"type": "user"}
        forwards = _forwards(nic.forwards, where)
        if forwards:
            netdev["hostfwd"] = [{"str": each} for each in forwards]
        return netdev
    if kind == "bridge":
        return {"type": "bridge", "br": name}
    if kind == "ethernet":
        if not nic.target:
            raise ConfigError(f"{where}/target/@dev", "name the tap of the host that is to be used")
        return {"type": "tap", "ifname": nic.target, "script": "no", "downscript": "no"}
    if kind == "null":
        return {"type": "hubport"}
    raise ConfigError(
        f"{where}/@type", f"a network of kind {kind} is not made with QEMU here; use user, bridge or ethernet (tap)"
    )


def _forwards(forwards: tuple[PortForward, ...], where: str) -> list[str]:
    found: list[str] = []
    for forward in forwards:
        left_out = {
            port for one in forward.ranges if one.exclude for port in range(one.start, (one.end or one.start) + 1)
        }
        address = forward.address or "127.0.0.1"
        if not _SAFE.fullmatch(address) or ":" in address:
            raise ConfigError(f"{where}/portForward/@address", f"{address!r} is no IPv4 address")
        for one in forward.ranges:
            if one.exclude:
                continue
            for port in range(one.start, (one.end or one.start) + 1):
                if port not in left_out:
                    found.append(f"{forward.protocol}:{address}:{port}-:{(one.to or one.start) + port - one.start}")
            if len(found) > MAX_FORWARDS:
                raise ConfigError(f"{where}/portForward", f"more than {MAX_FORWARDS} ports; forward fewer")
    return found
