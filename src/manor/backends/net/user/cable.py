"""What machines on one cable say to each other: ARP, neighbour discovery, and DHCP of both families."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from manor.backends.net.api import Frame
from manor.backends.net.user import arp, dhcp, dhcpv6, ethernet, ip, ndp, udp
from manor.backends.net.user.emitter import Emitter
from manor.backends.net.user.leases import Leases
from manor.backends.net.user.neighbours import Neighbours
from manor.backends.net.user.plan import Plan
from manor.base.clock import SECOND

RA_INTERVAL: Final = 450 * SECOND
"""Between router advertisements nobody asked for: MaxRtrAdvInterval is at most 1800 s, and the lifetime three times
it (RFC 4861, 6.2.1)."""


class Cable:
    """Messages come whole and checked as far as IP goes. Methods say whether a message was well-formed."""

    def __init__(self, plan: Plan, emitter: Emitter, leases: Leases, on_change: Callable[[], None]) -> None:
        """on_change: a machine has an address, or none any more."""
        self.neighbours = Neighbours(self._ask, on_change)
        self.next_ra: int | None = None
        """When the next router advertisement is due; None while no machine asked for one."""
        self._plan = plan
        self._emitter = emitter
        self._leases = leases
        self._on_change = on_change
        self._own = plan.own()
        self._dhcp = dhcp.DhcpServer(plan, leases)
        self._dhcpv6 = dhcpv6.Dhcpv6Server(plan, leases)

    def seen(self, address: bytes, mac: bytes) -> None:
        """A packet came from `address`."""
        if self.neighbours.get(address) == mac:
            return
        if self._plan.is_local(address) and address not in self._own:
            self.neighbours.learn(address, mac)

    def arp(self, data: bytes) -> bool:
        """A frame with an ARP message."""
        message = arp.parse(data)
        if message is None:
            return False
        plan = self._plan
        if message.sender != bytes(4):
            self.seen(message.sender, message.sender_mac)
        if message.operation == arp.REQUEST and message.target in (plan.gateway, plan.dns):
            reply = arp.Arp(arp.REPLY, plan.mac, message.target, message.sender_mac, message.sender)
            self._emitter.out.append(Frame(arp.build(data[6:12], reply)))
        return True

    def discovery(self, packet: ip.Packet, mac: bytes, now: int) -> bool:
        """An ICMPv6 message of neighbour discovery."""
        message = ndp.parse(packet)
        if message is None:
            return False
        if message.kind == ndp.ROUTER_SOLICITATION:
            self.advertise(now)
        elif message.kind == ndp.NEIGHBOUR_ADVERTISEMENT:
            self.seen(message.target, message.mac or mac)
        elif message.kind == ndp.NEIGHBOUR_SOLICITATION and message.target in self._own:
            # Duplicate address detection comes from nobody, and everybody shall hear the answer (RFC 4861, 7.2.4).
            is_probe = packet.source == bytes(16)
            target = message.target
            destination = ndp.ALL_NODES if is_probe else packet.source
            answer = ndp.advertisement(target, destination, target, self._plan.mac, is_solicited=not is_probe)
            to = ethernet.multicast_of(destination) if is_probe else mac
            self._emitter.on_link(target, destination, to, answer, ndp.HOPS)
        return True

    def advertise(self, now: int) -> None:
        """Tell all that here is a router."""
        self.next_ra = now + RA_INTERVAL
        message = ndp.router_advertisement(self._plan, ndp.ALL_NODES)
        to = ethernet.multicast_of(ndp.ALL_NODES)
        self._emitter.on_link(self._plan.link_local, ndp.ALL_NODES, to, message, ndp.HOPS)

    def expire(self, now: int) -> None:
        self.neighbours.expire(now)
        if self.next_ra is not None and self.next_ra <= now:
            self.advertise(now)

    def datagram(self, packet: ip.Packet, datagram: udp.Datagram, mac: bytes, now: int) -> bool:
        """Answer a UDP datagram if it is for DHCP; False if it is not."""
        ports = datagram.source_port, datagram.destination_port
        if ports == (dhcp.CLIENT_PORT, dhcp.SERVER_PORT) and len(packet.source) == 4:
            self._lease(datagram.payload, now)
            return True
        if ports == (dhcpv6.CLIENT_PORT, dhcpv6.SERVER_PORT) and len(packet.source) == 16:
            answer = self._dhcpv6.answer(datagram.payload, mac, now)
            if answer is not None:
                own = self._plan.link_local
                self._emitter.datagram(own, dhcpv6.SERVER_PORT, packet.source, dhcpv6.CLIENT_PORT, mac, answer)
            return True
        return False

    def _lease(self, payload: bytes, now: int) -> None:
        reply = self._dhcp.answer(payload, now)
        for lease in self._leases.all():
            if not lease.deadline:
                self.neighbours.gone(lease.address)  # given back
        self._on_change()
        if reply is not None:
            mac = reply.mac or ethernet.BROADCAST
            gateway = self._plan.gateway
            self._emitter.datagram(gateway, dhcp.SERVER_PORT, reply.destination, dhcp.CLIENT_PORT, mac, reply.payload)

    def _ask(self, address: bytes) -> None:
        """Who has `address`?"""
        plan = self._plan
        if len(address) == 4:
            question = arp.Arp(arp.REQUEST, plan.mac, plan.gateway, bytes(6), address)
            self._emitter.out.append(Frame(arp.build(ethernet.BROADCAST, question)))
        else:
            source = plan.link_local if address[:2] == b"\xfe\x80" else plan.gateway6
            destination, message = ndp.solicitation(source, address, plan.mac)
            self._emitter.on_link(source, destination, ethernet.multicast_of(destination), message, ndp.HOPS)

    def new_guest(self) -> None:
        """Another machine is on the cable."""
        self.neighbours.forget()
        self.next_ra = None
