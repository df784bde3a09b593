"""Packets of ours on their way to the guest, and the errors it is told."""

from __future__ import annotations

from typing import Final

from manor.backends.net.api import Frame
from manor.backends.net.user import ethernet, icmp, ip, udp
from manor.backends.net.user.icmp import Reason
from manor.backends.net.user.plan import Plan
from manor.base.clock import SECOND
from manor.trace.event import declare

MAX_ERRORS: Final = 200
"""ICMP errors a second at most (RFC 4443, 2.4 (f); RFC 1812, 4.3.2.8)."""

usernet_unreachable = declare("usernet_unreachable", protocol=int, destination=bytes, reason=str)


def icmp_of(address: bytes) -> int:
    """The protocol number of ICMP in this address's family."""
    return ip.ICMP if len(address) == 4 else ip.ICMPV6


class Emitter:
    """Appends frames to `out`. now: set by the core at each entry; only the rate of errors depends on it."""

    def __init__(self, plan: Plan, out: list[Frame], identification: int) -> None:
        self.out = out
        self.now = 0
        self.refused = 0
        """Datagrams that IP cannot carry."""
        self._plan = plan
        self._own = plan.own()
        self._identification = identification
        self._errors = 0
        self._errors_since = 0

    def packet(self, source: bytes, destination: bytes, mac: bytes, protocol: int, payload: bytes) -> None:
        """An IP packet, in fragments if it has to be."""
        self._identification = (self._identification + 1) & 0xFFFF
        head = mac + self._plan.mac + (ethernet.IPV4 if len(source) == 4 else ethernet.IPV6)
        for packet in ip.packets(source, destination, protocol, payload, self._plan.mtu, self._identification):
            self.out.append(Frame(head + packet))

    def whole(self, source: bytes, destination: bytes, mac: bytes, protocol: int, payload: bytes) -> None:
        """An IPv4 packet that is known to fit the MTU."""
        header = ip.header4(source, destination, protocol, len(payload))
        self.out.append(Frame(mac + self._plan.mac + ethernet.IPV4 + header + payload))

    def on_link(self, source: bytes, destination: bytes, mac: bytes, payload: bytes, hops: int) -> None:
        """A message of neighbour discovery."""
        head = mac + self._plan.mac + ethernet.IPV6
        packet = ip.header6(source, destination, ip.ICMPV6, len(payload), hops=hops) + payload
        self.out.append(Frame(head + packet))

    def datagram(
        self, source: bytes, source_port: int, destination: bytes, port: int, mac: bytes, payload: bytes
    ) -> None:
        """A UDP datagram."""
        message = udp.build(source, source_port, destination, port, payload)
        if message is None:
            self.refused += 1
        else:
            self.packet(source, destination, mac, ip.UDP, message)

    def complain(self, reason: Reason, packet: ip.Packet, mac: bytes) -> None:
        """An ICMP error about a packet of the guest, if one may be sent."""
        if usernet_unreachable.on:
            usernet_unreachable(packet.protocol, packet.destination, reason.name)
        if icmp.may_complain(packet) and self._may_send_error():
            source = self._reporter(packet.destination)
            message = icmp.error(source, packet.source, reason, packet.raw, self._plan.mtu)
            self.packet(source, packet.source, mac, icmp_of(source), message)

    def report(
        self,
        reason: Reason,
        guest: bytes,
        mac: bytes,
        destination: bytes,
        protocol: int,
        head: bytes,
        reporter: bytes = b"",
        mtu: int = 0,
    ) -> None:
        """An ICMP error about a packet of the guest that is gone: its headers are written anew.

        head: what followed the IP header. reporter: who says it; empty for ourselves.
        """
        if usernet_unreachable.on:
            usernet_unreachable(protocol, destination, reason.name)
        if not self._may_send_error():
            return
        write = ip.header4 if len(guest) == 4 else ip.header6
        original = write(guest, destination, protocol, len(head)) + head
        source = reporter if len(reporter) == len(guest) else self._reporter(destination)
        message = icmp.error(source, guest, reason, original, mtu or self._plan.mtu)
        self.packet(source, guest, mac, icmp_of(source), message)

    def _reporter(self, destination: bytes) -> bytes:
        if destination in self._own:
            return destination
        return self._plan.gateway if len(destination) == 4 else self._plan.gateway6

    def _may_send_error(self) -> bool:
        if self.now - self._errors_since >= SECOND:
            self._errors_since, self._errors = self.now, 0
        self._errors += 1
        return self._errors <= MAX_ERRORS
