"""Network interfaces of a machine: the device of each, and its port to the host's side."""

from __future__ import annotations

from manor.base.errors import InternalError
from manor.devices.virtio.net import DEFAULT_SPEED, VirtioNet
from manor.devices.virtio.net_port import NetPort
from manor.machine.host_side import HostNic, HostSide
from manor.mem.guest_memory import GuestMemory
from manor.spec.check_net import MAX_QUEUE_PAIRS
from manor.spec.net import NicSpec


def make_nic(
    spec: NicSpec, name: str, far: HostNic, memory: GuestMemory, host: HostSide, cpus: int
) -> tuple[VirtioNet, NetPort]:
    """The device of one interface, and its port. name: of the interface, such as net0."""
    if host.post is None:
        raise InternalError("a network interface needs the I/O loop")
    device_name = f"virtio-{name}"
    port = NetPort(device_name, far.backend, host.lock, far.lock, host.post, host.work)
    rate = spec.shaping.bits_per_second
    device = VirtioNet(
        device_name,
        memory,
        host.defer,
        port,
        mac=far.mac,
        mtu=spec.mtu,
        pairs=spec.queues or min(cpus, MAX_QUEUE_PAIRS),
        speed=max(1, rate // 10**6) if rate else DEFAULT_SPEED,
        link_up=spec.link_up and spec.kind != "none",
        clock=host.clock,
        timers=host.timers,
    )
    port.device = device
    return device, port
