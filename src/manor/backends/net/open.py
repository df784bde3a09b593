"""NicSpec -> NetBackend: the far end of the cable, with what captures, shapes and watches it.

    device <-> capture <-> shaping <-> addresses <-> network

A capture thus shows what the guest sent and got. Modules are imported on demand: most VMs have one kind of network.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manor.backends.loop import Loop
from manor.backends.net.addresses import AddressWatch
from manor.backends.net.api import NetBackend
from manor.backends.net.capture import CaptureNet
from manor.base.clock import Clock
from manor.spec.net import NicSpec, Shaping

OtherNames = Callable[[str], Sequence[bytes] | None]
"""Addresses of a machine by its name in small letters; None for a name that nobody has."""


@dataclass(frozen=True, slots=True)
class NetHost:
    """What a backend gets from its VM. mac: of the interface. position: among those of its VM. vm_name: "" if nobody
    calls it. other_names: addresses of machines on the VM's other networks."""

    loop: Loop
    clock: Clock
    mac: bytes
    position: int = 0
    vm_name: str = ""
    other_names: OtherNames = lambda name: None


def open_network(spec: NicSpec, host: NetHost) -> CaptureNet:
    """Open what `spec` asks for. Raises ConfigError or HostError. Thread: the owner's, or any before it starts."""
    backend: NetBackend = AddressWatch(_KINDS[spec.kind](spec, host), host.mac)
    try:
        if spec.shaping != Shaping():
            from manor.backends.net.shaping import ShapedNet

            seed = f"{host.vm_name} {host.position}"
            backend = ShapedNet(backend, spec.shaping, host.clock, host.loop, seed)
        capture = CaptureNet(backend, host.clock, f"net{host.position}", host.mac)
        if spec.capture is not None:
            capture.start(spec.capture)
    except BaseException:
        backend.close()
        raise
    return capture


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

    return IsolatedNet(spec.name, host.loop, spec.mtu, member=_hostname(host.vm_name))


def _open_user(spec: NicSpec, host: NetHost) -> NetBackend:
    from manor.backends.net.user.backend import UserBackend
    from manor.backends.net.user.plan import make_plan

    # Each interface has a network of its own: a guest with two would not know which way to send.
    plan = make_plan(
        f"10.0.{2 + host.position}.0/24",
        f"fd00:0:0:{host.position:x}::/64",
        mtu=spec.mtu,
        reach=spec.reach,
        host_at_gateway=spec.host_at_gateway,
        hostname=spec.hostname or _hostname(host.vm_name),
    )
    return UserBackend(plan, host.loop, host.clock, spec.forwards, other_names=host.other_names)


def _hostname(vm_name: str) -> str:
    """A VM's name as one that DHCP and DNS can carry; "" if nothing of it can be."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", vm_name).strip("-")[:63]


_KINDS: dict[str, Callable[[NicSpec, NetHost], NetBackend]] = {
    "none": _open_none,
    "user": _open_user,
    "isolated": _open_isolated,
    "tap": _open_tap,
    "bridge": _open_bridge,
    "macvtap": _open_macvtap,
}
