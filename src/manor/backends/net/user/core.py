"""The protocol core: a network with a gateway, a DNS, DHCP and a guest, without sockets or threads.

Every entry takes the time in ns and leaves what is for the guest in `out`. Thread: the loop's, for everything but
`known_addresses`.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Final

from manor.backends.net.api import Frame, Offloads
from manor.backends.net.user import arp, ethernet, icmp, ip, ndp, udp
from manor.backends.net.user import dns as dns_service
from manor.backends.net.user.checksum import fold, is_valid, ones_sum, pseudo_sum
from manor.backends.net.user.dhcp import CLIENT_PORT, SERVER_PORT, DhcpServer
from manor.backends.net.user.dhcpv6 import CLIENT_PORT as CLIENT_PORT6
from manor.backends.net.user.dhcpv6 import SERVER_PORT as SERVER_PORT6
from manor.backends.net.user.dhcpv6 import Dhcpv6Server
from manor.backends.net.user.dns import DnsForwarder, DnsSession
from manor.backends.net.user.icmp import Reason
from manor.backends.net.user.leases import Leases
from manor.backends.net.user.mappings import EchoMapping, UdpMapping
from manor.backends.net.user.neighbours import Neighbours
from manor.backends.net.user.outside import Outside
from manor.backends.net.user.plan import Plan, host_address
from manor.backends.net.user.reassembly import Reassembly
from manor.backends.net.user.tcp import TcpApplication, TcpEndpoint
from manor.backends.net.user.tcp_table import TcpTable
from manor.base.clock import SECOND
from manor.trace.event import declare, guest_error

RA_INTERVAL: Final = 450 * SECOND
"""Between router advertisements nobody asked for: MaxRtrAdvInterval is at most 1800 s, and the lifetime three times
it (RFC 4861, 6.2.1)."""
MAX_ERRORS: Final = 200
"""ICMP errors a second at most (RFC 4443, 2.4 (f); RFC 1812, 4.3.2.8)."""
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_EPHEMERAL: Final = range(49152, 65536)

usernet_drop = declare("usernet_drop", reason=str, size=int)
usernet_unreachable = declare("usernet_unreachable", protocol=int, destination=bytes, reason=str)


class UserNetwork:
    """out: frames for the guest, taken away by the adapter after each entry."""

    def __init__(
        self,
        plan: Plan,
        outside: Outside,
        *,
        other_names: Callable[[str], Sequence[bytes] | None] = lambda name: None,
        random32: Callable[[], int] = lambda: secrets.randbits(32),
    ) -> None:
        """other_names: addresses of other machines by name, without the domain."""
        self.plan = plan
        self.out: list[Frame] = []
        self.now = 0
        self.known_addresses: tuple[str, ...] = ()
        """Addresses of machines on the cable, as text, the leased ones first. Thread: any."""
        self.dropped = 0
        self._outside = outside
        self._other_names = other_names
        self._random32 = random32
        self._own = plan.own()
        self._offloads = Offloads()
        self.tcp = TcpTable(self.out, plan.mac, plan.mtu, self._open_tcp, random32)
        self.udp = udp.UdpTables(outside)
        self.leases = Leases(plan)
        self.dns = DnsForwarder(plan, self, outside, lambda: random32() & 0xFFFF)
        self.neighbours = Neighbours(self._ask_neighbour, self._addresses_changed)
        self._dhcp = DhcpServer(plan, self.leases)
        self._dhcpv6 = Dhcpv6Server(plan, self.leases)
        self._fragments = Reassembly()
        self._identification = random32() & 0xFFFF
        self._errors = 0
        self._errors_since = 0
        self._next_ra: int | None = None
        self._macs = (plan.mac, ethernet.BROADCAST)

    # --- entries --------------------------------------------------------------------------------------------

    def receive(self, frames: Sequence[Frame], offloads: Offloads, now: int) -> None:
        """Frames of the guest. offloads: what it takes undone now."""
        self._enter(offloads, now)
        for frame in frames:
            self._frame(frame)
        self.tcp.settle()

    def expire(self, offloads: Offloads, now: int) -> None:
        """Do what is due. To be called at `deadline`; earlier and later do no harm."""
        self._enter(offloads, now)
        self.tcp.expire()
        self.udp.expire(now)
        self.dns.expire(now)
        self.neighbours.expire(now)
        if self._next_ra is not None and self._next_ra <= now:
            self._advertise(ndp.ALL_NODES)
        self.tcp.settle()

    def enter(self, offloads: Offloads, now: int) -> None:
        """Before calls of endpoints' methods from outside; `leave` comes after them."""
        self._enter(offloads, now)

    def leave(self) -> None:
        self.tcp.settle()

    @property
    def deadline(self) -> int | None:
        """When `expire` is to be called next."""
        times = (self.tcp.deadline, self.udp.deadline, self.dns.deadline, self.neighbours.deadline, self._next_ra)
        return min((time for time in times if time is not None), default=None)

    def new_guest(self) -> None:
        """Another machine is on the cable, or the same one after a reboot: nothing that the old one had open is
        left. Leases are."""
        self.tcp.close()
        self.udp.clear()
        self.dns.clear()
        self.neighbours.forget()
        self._next_ra = None
        self.out.clear()

    def close(self) -> None:
        self.new_guest()

    def give_up_one(self) -> bool:
        """The host is out of descriptors: close what was idle longest. False: nothing is idle."""
        return self.udp.give_up_one(self.now) or self.tcp.give_up_one()

    def _enter(self, offloads: Offloads, now: int) -> None:
        self.now = self.tcp.now = now
        self._offloads = self.tcp.offloads = offloads

    # --- frames ---------------------------------------------------------------------------------------------

    def _frame(self, frame: Frame) -> None:
        data = frame.data
        if len(data) < ethernet.HEADER + ip.HEADER4:
            self._drop("short", data)
            return
        if data[:6] not in self._macs and not data[0] & 1:
            return  # for another machine behind the same cable
        kind = data[12:14]
        is_done = frame.is_checked or frame.checksum_start > 0
        if kind == ethernet.IPV4:
            if data[23] == ip.TCP and data[14] == 0x45 and not (data[20] & 0x3F or data[21]):
                self._tcp4(data, is_done)
                return
            packet = ip.parse4(data)
        elif kind == ethernet.IPV6:
            if len(data) >= 74 and data[20] == ip.TCP and data[14] >> 4 == 6:
                self._tcp6(data, is_done)
                return
            packet = ip.parse6(data)
        else:
            if kind == ethernet.ARP:
                self._arp(data)
            return
        if packet is None:
            self._drop("malformed IP", data)
            return
        if packet.is_fragment:
            packet = self._fragments.add(packet, self.now)
            is_done = False
            if packet is None:
                return
        self._packet(packet, data[6:12], is_done)

    def _tcp4(self, data: bytes, is_done: bool) -> None:
        """A TCP segment in an IPv4 packet without options, not a fragment: nearly all there is."""
        end = 14 + (data[16] << 8 | data[17])
        if end > len(data) or end < 54 or not is_valid(data[14:34]):
            self._drop("malformed IP", data)
            return
        if not is_done:
            start = ones_sum(data[26:34]) + ip.TCP + end - 34
            if fold(ones_sum(memoryview(data)[34:end]) + start) != 0xFFFF:
                self._drop("TCP checksum", data)
                return
        self.tcp.segment(data[26:38], data, 34, end)

    def _tcp6(self, data: bytes, is_done: bool) -> None:
        end = 54 + (data[18] << 8 | data[19])
        if end > len(data) or end < 74:
            self._drop("malformed IP", data)
            return
        if not is_done:
            start = ones_sum(data[22:54]) + ip.TCP + end - 54
            if fold(ones_sum(memoryview(data)[54:end]) + start) != 0xFFFF:
                self._drop("TCP checksum", data)
                return
        self.tcp.segment(data[22:58], data, 54, end)

    def _packet(self, packet: ip.Packet, mac: bytes, is_done: bool) -> None:
        """A whole IP packet."""
        if self._is_nonsense(packet):
            self._drop("addresses", packet.raw)
            return
        if self.plan.is_local(packet.source) and packet.source not in self._own:
            self.neighbours.learn(packet.source, mac)
        protocol = packet.protocol
        is_v4 = len(packet.source) == 4
        if protocol == ip.UDP:
            self._udp(packet, mac, is_done)
        elif protocol == (ip.ICMP if is_v4 else ip.ICMPV6):
            self._icmp(packet, mac)
        elif protocol == ip.TCP:
            self._tcp_slow(packet, mac, is_done)
        elif packet.destination in self._own:
            self._complain(Reason.PROTOCOL, packet, mac)
        else:
            self._complain(Reason.PROHIBITED, packet, mac)

    def _is_nonsense(self, packet: ip.Packet) -> bool:
        """Sources that nobody can have: several machines at once, or ours."""
        source = packet.source
        if len(source) == 4:
            return source[0] >= 224 or source[0] == 127 or source in self._own
        return source[0] == 0xFF or source in self._own

    def _tcp_slow(self, packet: ip.Packet, mac: bytes, is_done: bool) -> None:
        """TCP behind IP options, extension headers, or put together from fragments."""
        payload = packet.payload
        if len(payload) < 20:
            return
        if not is_done and not is_valid(payload, pseudo_sum(packet.source, packet.destination, ip.TCP, len(payload))):
            self._drop("TCP checksum", packet.raw)
            return
        # The table wants the frame's source address before the segment.
        data = bytes(6) + mac + payload
        self.tcp.segment(packet.source + packet.destination + payload[:4], data, 12, len(data))

    # --- the cable ------------------------------------------------------------------------------------------

    def _arp(self, data: bytes) -> None:
        message = arp.parse(data)
        if message is None:
            self._drop("malformed ARP", data)
            return
        plan = self.plan
        if message.sender != bytes(4) and message.sender not in self._own and plan.is_local(message.sender):
            self.neighbours.learn(message.sender, message.sender_mac)
        if message.operation == arp.REQUEST and message.target in (plan.gateway, plan.dns):
            reply = arp.Arp(arp.REPLY, plan.mac, message.target, message.sender_mac, message.sender)
            self.out.append(Frame(arp.build(data[6:12], reply)))

    def _ask_neighbour(self, address: bytes) -> None:
        plan = self.plan
        if len(address) == 4:
            question = arp.Arp(arp.REQUEST, plan.mac, plan.gateway, bytes(6), address)
            self.out.append(Frame(arp.build(ethernet.BROADCAST, question)))
        else:
            source = plan.link_local if address[:2] == b"\xfe\x80" else plan.gateway6
            destination, message = ndp.solicitation(source, address, plan.mac)
            self._emit6(source, destination, ethernet.multicast_of(destination), ip.ICMPV6, message, hops=ndp.HOPS)

    def _neighbour_discovery(self, packet: ip.Packet, mac: bytes) -> None:
        message = ndp.parse(packet)
        if message is None:
            self._drop("malformed ND", packet.raw)
            return
        plan = self.plan
        if message.kind == ndp.ROUTER_SOLICITATION:
            self._advertise(ndp.ALL_NODES)
        elif message.kind == ndp.NEIGHBOUR_ADVERTISEMENT:
            if plan.is_local(message.target) and message.target not in self._own:
                self.neighbours.learn(message.target, message.mac or mac)
        elif message.kind == ndp.NEIGHBOUR_SOLICITATION and message.target in self._own:
            is_probe = packet.source == bytes(16)  # duplicate address detection: everybody shall hear (RFC 4861, 7.2.4)
            destination = ndp.ALL_NODES if is_probe else packet.source
            answer = ndp.advertisement(message.target, destination, message.target, plan.mac, is_solicited=not is_probe)
            to = ethernet.multicast_of(destination) if is_probe else mac
            self._emit6(message.target, destination, to, ip.ICMPV6, answer, hops=ndp.HOPS)

    def _advertise(self, destination: bytes) -> None:
        self._next_ra = self.now + RA_INTERVAL
        message = ndp.router_advertisement(self.plan, destination)
        to = ethernet.multicast_of(destination)
        self._emit6(self.plan.link_local, destination, to, ip.ICMPV6, message, hops=ndp.HOPS)

    # --- ICMP -----------------------------------------------------------------------------------------------

    def _icmp(self, packet: ip.Packet, mac: bytes) -> None:
        is_v4 = len(packet.source) == 4
        if not packet.payload:
            return
        if not is_v4 and packet.payload[0] in ndp.MESSAGES:
            self._neighbour_discovery(packet, mac)
            return
        echo = icmp.parse_echo(packet)
        if echo is None or not echo.is_request:
            return  # an error about something we sent, or a report of multicast groups
        destination = packet.destination
        if destination in self._own:
            reply = icmp.echo_reply(destination, packet.source, echo.identifier, echo.sequence, echo.data)
            self._emit(destination, packet.source, mac, ip.ICMP if is_v4 else ip.ICMPV6, reply)
            return
        target = host_address(self.plan, destination)
        if target is None:
            self._refuse(packet, mac)
            return
        if packet.ttl <= 1:
            self._complain(Reason.HOP_LIMIT, packet, mac)
            return
        mapping = self.udp.echo_mapping(packet.source, echo.identifier, mac, self.now)
        reason = self._outside.send_echo(mapping, target, echo.sequence, echo.data, packet.ttl - 1)
        if reason is not None:
            self._complain(reason, packet, mac)

    def echo_received(self, mapping: EchoMapping, source: bytes, sequence: int, data: bytes) -> None:
        """A reply from the world. source: as the host saw it."""
        self.udp.echo.get((mapping.address, mapping.identifier), self.now)
        reply = icmp.echo_reply(source, mapping.address, mapping.identifier, sequence, data)
        self._emit(source, mapping.address, mapping.mac, ip.ICMP if len(source) == 4 else ip.ICMPV6, reply)

    def echo_failed(
        self, mapping: EchoMapping, reason: Reason, reporter: bytes, destination: bytes, sequence: int, mtu: int = 0
    ) -> None:
        """The world says that an echo request did not arrive. reporter: who says it, empty for ourselves."""
        kind = icmp.ECHO_REQUEST4 if len(destination) == 4 else icmp.ECHO_REQUEST6
        head = bytes((kind, 0, 0, 0)) + mapping.identifier.to_bytes(2, "big") + sequence.to_bytes(2, "big")
        self._report(
            mapping.address,
            mapping.mac,
            destination,
            ip.ICMP if len(destination) == 4 else ip.ICMPV6,
            head,
            reason,
            reporter,
            mtu,
        )

    # --- UDP ------------------------------------------------------------------------------------------------

    def _udp(self, packet: ip.Packet, mac: bytes, is_done: bool) -> None:
        datagram = udp.parse(packet, is_done)
        if datagram is None:
            self._drop("malformed UDP", packet.raw)
            return
        port, destination = datagram.destination_port, packet.destination
        plan = self.plan
        if port == SERVER_PORT and datagram.source_port == CLIENT_PORT and len(destination) == 4:
            self._dhcp_request(datagram.payload)
            return
        if port == SERVER_PORT6 and datagram.source_port == CLIENT_PORT6 and len(destination) == 16:
            answer = self._dhcpv6.answer(datagram.payload, mac, self.now)
            if answer is not None:
                self._emit_udp(plan.link_local, SERVER_PORT6, packet.source, CLIENT_PORT6, mac, answer)
            return
        peer = self.udp.forwarded_peer(packet.source, datagram.source_port, destination, port, self.now)
        if peer is not None:
            self._outside.answer_forwarded(peer, datagram.payload)
            return
        if port == dns_service.PORT and destination in self._own:
            back = packet.source, datagram.source_port

            def reply(message: bytes) -> None:
                self._emit_udp(destination, dns_service.PORT, *back, mac, message)

            self.dns.ask(datagram.payload, reply, self.now, over_tcp=False)
            return
        if destination[0] >= 224 if len(destination) == 4 else destination[0] == 0xFF:
            return  # multicast and the limited broadcast stay on the cable
        if len(destination) == 4 and destination == plan.network.broadcast_address.packed:
            return
        target = host_address(plan, destination)
        if target is None:
            if destination in self._own:
                self._complain(Reason.PORT, packet, mac)
            else:
                self._refuse(packet, mac)
            return
        if packet.ttl <= 1:
            self._complain(Reason.HOP_LIMIT, packet, mac)
            return
        mapping = self.udp.mapping(packet.source, datagram.source_port, mac, self.now)
        mapping.sent_to(destination)
        reason = self._outside.send_udp(mapping, target, port, datagram.payload, packet.ttl - 1)
        if reason is not None:
            self._complain(reason, packet, mac)

    def _dhcp_request(self, payload: bytes) -> None:
        reply = self._dhcp.answer(payload, self.now)
        for lease in self.leases.all():
            if not lease.deadline:
                self.neighbours.gone(lease.address)  # given back
        self._addresses_changed()
        if reply is not None:
            mac = reply.mac or ethernet.BROADCAST
            self._emit_udp(self.plan.gateway, SERVER_PORT, reply.destination, CLIENT_PORT, mac, reply.payload)

    def udp_received(self, mapping: UdpMapping, source: bytes, port: int, payload: bytes) -> None:
        """A datagram from the world. source: as the guest knows it (`guest_view`)."""
        if source not in mapping.peers:
            return
        self.udp.udp.get((mapping.address, mapping.port), self.now)
        self._emit_udp(source, port, mapping.address, mapping.port, mapping.mac, payload)

    def udp_failed(
        self, mapping: UdpMapping, reason: Reason, reporter: bytes, destination: bytes, port: int, mtu: int = 0
    ) -> None:
        """The world says that a datagram did not arrive."""
        head = udp.header(mapping.port, port, 0)
        self._report(mapping.address, mapping.mac, destination, ip.UDP, head, reason, reporter, mtu)

    def forward_udp(
        self, forward: Hashable, peer: Hashable, peer_port: int, guest: bytes, guest_port: int, payload: bytes
    ) -> None:
        """A datagram came to a forwarded port. forward, peer: what `answer_forwarded` gets back. guest: empty for
        the leased address."""
        guest = guest or self.guest_address(is_v6=False)
        own = self.plan.gateway if len(guest) == 4 else self.plan.gateway6
        session = self.udp.forward_session(forward, peer, peer_port, guest, guest_port, own, self.now)
        if session is None:
            self.dropped += 1
            return
        mac = self.neighbours.get(guest)
        if mac is None:
            self.neighbours.seek(
                guest, lambda mac: self._emit_udp(own, session.own_port, guest, guest_port, mac, payload), self.now
            )
        else:
            self._emit_udp(own, session.own_port, guest, guest_port, mac, payload)

    # --- TCP ------------------------------------------------------------------------------------------------

    def _open_tcp(self, endpoint: TcpEndpoint, address: bytes, port: int) -> None:
        """The guest begins a connection."""
        guest = endpoint.key[: len(address)]
        if endpoint.path is not None and self.plan.is_local(guest) and self.neighbours.get(guest) is None:
            self.neighbours.learn(guest, endpoint.path.mac)
        if port == dns_service.PORT and address in self._own:
            endpoint.application = DnsSession(endpoint, self._ask_over_tcp)
            endpoint.accept()
            return
        target = host_address(self.plan, address)
        if target is not None:
            self._outside.open_tcp(endpoint, target, port)
        elif address in self._own:
            endpoint.refuse()
        else:
            self.tcp_failed(endpoint, Reason.PROHIBITED)

    def _ask_over_tcp(self, message: bytes, reply: dns_service.Reply) -> None:
        self.dns.ask(message, reply, self.now, over_tcp=True)

    def tcp_failed(self, endpoint: TcpEndpoint, reason: Reason) -> None:
        """The other end of a connection that the guest began cannot be reached: say why, and refuse."""
        key = endpoint.key
        size = len(key) // 2 - 2
        if endpoint.path is not None and reason is not Reason.PORT:
            head = key[-4:] + ((endpoint.receive.nxt - 1) & 0xFFFFFFFF).to_bytes(4, "big")
            self._report(key[:size], endpoint.path.mac, key[size : 2 * size], ip.TCP, head, reason, b"", 0)
        endpoint.refuse()

    def connect(self, application: TcpApplication, guest: bytes, port: int, peer_port: int) -> TcpEndpoint | None:
        """A connection came to a forwarded port: begin one to the guest, from the gateway. None if there are too many.

        guest: empty for the leased address. peer_port: which port the guest shall see, if it is free.
        """
        guest = guest or self.guest_address(is_v6=False)
        own = self.plan.gateway if len(guest) == 4 else self.plan.gateway6
        mac = self.neighbours.get(guest)
        for attempt in range(16):
            own_port = (
                peer_port if attempt == 0 and peer_port >= 1024 else _EPHEMERAL[self._random32() % len(_EPHEMERAL)]
            )
            endpoint = self.tcp.open(application, own, guest, own_port, port, mac)
            if endpoint is not None:
                if mac is None:
                    self.neighbours.seek(guest, partial(self.tcp.learned, endpoint), self.now)
                return endpoint
        return None

    # --- names and addresses --------------------------------------------------------------------------------

    def guest_address(self, *, is_v6: bool) -> bytes:
        """The address of the (first) guest: its lease, or what it would get."""
        leases = self.leases.all()
        active = [lease for lease in leases if lease.deadline > self.now] or leases
        if is_v6:
            return self.plan.guest6
        return active[0].address if active else self.plan.guest

    def guest_view(self, address: bytes) -> bytes:
        """An address of the host's side as the guest knows it: the host's loopback is the gateway."""
        if len(address) == 4:
            return self.plan.gateway if address[0] == 127 else address
        return self.plan.gateway6 if address == bytes(15) + b"\x01" else address

    def addresses_of(self, name: str) -> Sequence[bytes] | None:
        plan = self.plan
        if name == "gateway" or (name == "host" and plan.host_at_gateway and plan.reach != "none"):
            return [plan.gateway, plan.gateway6]
        if name == "dns":
            return [plan.dns, plan.dns6]
        leases = self.leases.all()
        for index, lease in enumerate(leases):
            hostname = plan.hostname if index == 0 and plan.hostname else lease.hostname
            if hostname.lower().split(".")[0] == name and _NAME.fullmatch(name):
                return [lease.address, *self._v6_of(lease.mac)]
        return self._other_names(name)

    def _v6_of(self, mac: bytes) -> list[bytes]:
        neighbours = self.neighbours
        return [
            address
            for address in neighbours.addresses()
            if len(address) == 16 and address[:8] == self.plan.prefix6 and neighbours.get(address) == mac
        ]

    def name_of(self, address: bytes) -> str | None:
        plan = self.plan
        if address in (plan.gateway, plan.gateway6):
            return "gateway"
        if address in (plan.dns, plan.dns6):
            return "dns"
        for index, lease in enumerate(self.leases.all()):
            hostname = plan.hostname if index == 0 and plan.hostname else lease.hostname
            name = hostname.lower().split(".")[0]
            if _NAME.fullmatch(name) and (lease.address == address or address in self._v6_of(lease.mac)):
                return name
        return None

    def _addresses_changed(self) -> None:
        found = [lease.address for lease in self.leases.all() if lease.deadline > self.now]
        found += [address for address in self.neighbours.addresses() if address[:2] != b"\xfe\x80"]
        self.known_addresses = tuple(str(ipaddress.ip_address(address)) for address in dict.fromkeys(found))

    # --- to the guest ---------------------------------------------------------------------------------------

    def _emit(self, source: bytes, destination: bytes, mac: bytes, protocol: int, payload: bytes) -> None:
        """An IP packet, in fragments if it has to be."""
        self._identification = (self._identification + 1) & 0xFFFF
        head = mac + self.plan.mac + (ethernet.IPV4 if len(source) == 4 else ethernet.IPV6)
        for packet in ip.packets(source, destination, protocol, payload, self.plan.mtu, self._identification):
            self.out.append(Frame(head + packet))

    def _emit6(self, source: bytes, destination: bytes, mac: bytes, protocol: int, payload: bytes, hops: int) -> None:
        head = mac + self.plan.mac + ethernet.IPV6
        self.out.append(Frame(head + ip.header6(source, destination, protocol, len(payload), hops=hops) + payload))

    def _emit_udp(
        self, source: bytes, source_port: int, destination: bytes, port: int, mac: bytes, payload: bytes
    ) -> None:
        message = udp.build(source, source_port, destination, port, payload)
        if message is None:
            self.dropped += 1
        else:
            self._emit(source, destination, mac, ip.UDP, message)

    def _refuse(self, packet: ip.Packet, mac: bytes) -> None:
        self._complain(Reason.PROHIBITED, packet, mac)

    def _complain(self, reason: Reason, packet: ip.Packet, mac: bytes) -> None:
        """An ICMP error about a packet of the guest, if one may be sent."""
        if usernet_unreachable.on:
            usernet_unreachable(packet.protocol, packet.destination, reason.name)
        if not icmp.may_complain(packet) or not self._may_send_error():
            return
        source = self._error_source(packet.destination)
        message = icmp.error(source, packet.source, reason, packet.raw, self.plan.mtu)
        self._emit(source, packet.source, mac, ip.ICMP if len(source) == 4 else ip.ICMPV6, message)

    def _report(
        self,
        guest: bytes,
        mac: bytes,
        destination: bytes,
        protocol: int,
        head: bytes,
        reason: Reason,
        reporter: bytes,
        mtu: int,
    ) -> None:
        """An ICMP error about a packet of the guest that is gone: its headers are written anew."""
        if not self._may_send_error():
            return
        if usernet_unreachable.on:
            usernet_unreachable(protocol, destination, reason.name)
        write = ip.header4 if len(guest) == 4 else ip.header6
        original = write(guest, destination, protocol, len(head)) + head
        source = reporter if len(reporter) == len(guest) else self._error_source(destination)
        message = icmp.error(source, guest, reason, original, mtu or self.plan.mtu)
        self._emit(source, guest, mac, ip.ICMP if len(source) == 4 else ip.ICMPV6, message)

    def _error_source(self, destination: bytes) -> bytes:
        if destination in self._own:
            return destination
        return self.plan.gateway if len(destination) == 4 else self.plan.gateway6

    def _may_send_error(self) -> bool:
        if self.now - self._errors_since >= SECOND:
            self._errors_since, self._errors = self.now, 0
        self._errors += 1
        return self._errors <= MAX_ERRORS

    def _drop(self, reason: str, data: bytes) -> None:
        self.dropped += 1
        if usernet_drop.on:
            usernet_drop(reason, len(data))
        if guest_error.on:
            guest_error("user-mode network", f"{reason}, {len(data)} bytes")
