"""What a user-mode network knows of its guest, for a guest that goes on in another process.

Leases and neighbours stay. Connections cannot: their other ends were sockets of the old process, which the host closed
with it. So each is reset on the guest's side too, rather than left to wait for what never comes. Which sequence number
the guest waits for is known but for what was under way; a guest that waits for another one answers with the right
number, and gets its reset then (RFC 5961, 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass

from manor.backends.net.user.core import UserNetwork
from manor.backends.net.user.leases import MAX_LEASES
from manor.backends.net.user.neighbours import MAX_NEIGHBOURS
from manor.backends.net.user.tcp_segment import M32, RST, Path
from manor.backends.net.user.tcp_state import State
from manor.backends.net.user.tcp_table import MAX_CONNECTIONS
from manor.base.errors import ProtocolError

_GONE = (State.CONNECTING, State.SYN_SENT, State.TIME_WAIT, State.CLOSED)
"""What the guest does not have, will try again, or has closed."""


@dataclass(frozen=True, slots=True)
class LeaseMemory:
    """left_ns: for how long it holds; 0: given back, but kept for its machine."""

    address: bytes
    mac: bytes
    hostname: str
    left_ns: int


@dataclass(frozen=True, slots=True)
class FlowMemory:
    """A connection. key: as in TcpTable. mac: of the guest's interface. sequence: what the guest waits for."""

    key: bytes
    mac: bytes
    sequence: int


@dataclass(frozen=True, slots=True)
class NetMemory:
    """neighbours: IP and MAC addresses. is_router: whether a machine asked for a router."""

    leases: tuple[LeaseMemory, ...]
    neighbours: tuple[tuple[bytes, bytes], ...]
    flows: tuple[FlowMemory, ...]
    is_router: bool


def remember(core: UserNetwork, now: int) -> NetMemory:
    """What `core` knows. Changes nothing."""
    leases = tuple(
        LeaseMemory(lease.address, lease.mac, lease.hostname, max(0, lease.deadline - now))
        for lease in core.leases.all()
    )
    table = core.cable.neighbours
    neighbours = tuple((address, mac) for address in table.addresses() if (mac := table.get(address)) is not None)
    flows = tuple(
        FlowMemory(endpoint.key, endpoint.path.mac, endpoint.send.nxt & M32)
        for endpoint in core.tcp.endpoints()
        if endpoint.path is not None and endpoint.state not in _GONE
    )
    return NetMemory(leases, neighbours, flows, core.cable.next_ra is not None)


def check(memory: NetMemory) -> None:
    """Raise ProtocolError if no network can have known this."""
    if (
        len(memory.leases) > MAX_LEASES
        or len(memory.neighbours) > MAX_NEIGHBOURS
        or len(memory.flows) > 8 * MAX_CONNECTIONS
        or any(len(lease.address) != 4 or len(lease.mac) != 6 for lease in memory.leases)
        or any(len(address) not in (4, 16) or len(mac) != 6 for address, mac in memory.neighbours)
        or any(len(flow.key) not in (12, 36) or len(flow.mac) != 6 for flow in memory.flows)
        or any(not 0 <= flow.sequence <= M32 for flow in memory.flows)
    ):
        raise ProtocolError("what a user-mode network knew of its guest is impossible")


def recall(core: UserNetwork, memory: NetMemory, now: int) -> None:
    """Know it again, and reset the connections. As an entry into the core, which has a receiver."""
    for saved in memory.leases:
        lease = core.leases.offer(saved.mac, now, saved.address)
        if lease is not None:
            lease.hostname = saved.hostname
            lease.deadline = now + saved.left_ns if saved.left_ns else 0
    for address, mac in memory.neighbours:
        core.cable.seen(address, mac)
    for flow in memory.flows:
        size = len(flow.key) // 2 - 2
        guest, world, ports = flow.key[:size], flow.key[size : 2 * size], flow.key[-2:] + flow.key[-4:-2]
        path = Path(flow.mac, core.plan.mac, world, guest, ports)
        path.frames(core.out, core.tcp.offloads, flow.sequence, 0, RST, 0)
    if memory.is_router:
        core.cable.advertise(now)
    core.addresses_changed()
