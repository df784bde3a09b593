"""NicSpec -> NetBackend: the far end of the cable, with what captures, shapes and watches it.

    device <-> capture <-> shaping <-> addresses <-> network

A capture thus shows what the guest sent and got. Modules are imported on demand: most VMs have one kind of network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from manor.backends.loop import Loop
from manor.backends.net.addresses import AddressWatch
from manor.backends.net.api import NetBackend
from manor.base.clock import Clock
from manor.base.errors import ConfigError
from manor.spec.net import NicSpec


@dataclass(frozen=True, slots=True)
class NetHost:
    """What a backend gets from its VM. mac: of the interface. vm_name: "" if nobody calls it."""

    loop: Loop
    clock: Clock
    mac: bytes
    vm_name: str = ""


def open_network(spec: NicSpec, host: NetHost) -> NetBackend:
    """Open what `spec` asks for. Raises ConfigError or HostError. Thread: the loop's, or any before it starts."""
    return AddressWatch(_KINDS[spec.kind](spec, host), host.mac)


def _open_none(spec: NicSpec, host: NetHost) -> NetBackend:
    from manor.backends.net.none import NoNet

    return NoNet(spec.mtu)


def _open_tap(spec: NicSpec, host: NetHost) -> NetBackend:
    from manor.backends.net.host_link import open_tap

    return open_tap(spec.name, host.loop, spec.mtu)


def _open_bridge(spec: NicSpec, host: NetHost) -> NetBackend:
    from manor.backends.net.host_link import open_bridge

    return open_bridge(spec.name, host.loop, spec.mtu)


def _open_macvtap(spec: NicSpec, host: NetHost) -> NetBackend:
    from manor.backends.net.host_link import open_macvtap

    return open_macvtap(spec.name, host.mac, host.loop, spec.mtu)


def _open_isolated(spec: NicSpec, host: NetHost) -> NetBackend:
    from manor.backends.net.isolated import IsolatedNet

    return IsolatedNet(spec.name, host.loop, spec.mtu)


def _open_user(spec: NicSpec, host: NetHost) -> NetBackend:
    raise ConfigError("net", "the user-mode network is not there yet")


_KINDS: dict[str, Callable[[NicSpec, NetHost], NetBackend]] = {
    "none": _open_none,
    "user": _open_user,
    "isolated": _open_isolated,
    "tap": _open_tap,
    "bridge": _open_bridge,
    "macvtap": _open_macvtap,
}
