"""A network interface of a virtual machine, as a user asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

NicKind = Literal["user", "isolated", "tap", "bridge", "macvtap", "none"]
Reach = Literal["all", "host", "none"]

NIC_KINDS: Final[tuple[str, ...]] = get_args(NicKind)
REACHES: Final[tuple[str, ...]] = get_args(Reach)


@dataclass(frozen=True, slots=True)
class PortForward:
    """A port of the host that leads into the guest. host_address: "" listens on loopback only.

    host_port: 0 lets the host choose. guest_address: "" is the address that the guest's lease has.
    """

    protocol: Literal["tcp", "udp"]
    host_port: int
    guest_port: int
    host_address: str = ""
    guest_address: str = ""


@dataclass(frozen=True, slots=True)
class Shaping:
    """A worse line, each way: bits a second (0: no limit), delay and jitter in ns, share of frames lost (0 to 1)."""

    bits_per_second: int = 0
    delay: int = 0
    jitter: int = 0
    loss: float = 0.0


@dataclass(frozen=True, slots=True)
class NicSpec:
    """One network interface.

    kind: where its frames go; "user" is the NAT that needs no rights, "none" an unplugged cable. name: the isolated
    network, or the host's bridge, tap or lower interface. mac: "" derives a stable one from the VM's name and the
    interface's position. reach, for "user": "all" the world and the host, "host" the host alone (at the gateway's
    address), "none" neither, which leaves DHCP, names of VMs and forwarded ports. hostname: what DHCP and DNS call the
    guest. queues: pairs; 0 for one a vCPU. capture: a pcapng file of all frames.
    id: its name in the VM, "" for the next net0, net1, ... slot: of the PCI bus, 0 for the next that is free.
    """

    kind: NicKind = "user"
    name: str = ""
    mac: str = ""
    mtu: int = 1500
    queues: int = 1
    reach: Reach = "all"
    host_at_gateway: bool = True
    forwards: tuple[PortForward, ...] = ()
    hostname: str = ""
    capture: Path | None = None
    shaping: Shaping = Shaping()
    link_up: bool = True
    id: str = ""
    slot: int = 0
