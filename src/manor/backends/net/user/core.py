"""The protocol core: a network with a gateway, a DNS, DHCP and a guest, without sockets or threads.

Every entry takes the time in ns and leaves what is for the guest in `out`. Thread: the owner's, for everything but
`known_addresses`.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Final

from manor.backends.net.api import Frame, Offloads
from manor.backends.net.user import dns as dns_service
from manor.backends.net.user import ethernet, icmp, ip, ndp, udp
from manor.backends.net.user.cable import Cable
from manor.backends.net.user.checksum import fold, is_valid, ones_sum, pseudo_sum
from manor.backends.net.user.dns import DnsForwarder, DnsSession
from manor.backends.net.user.emitter import Emitter, icmp_of
from manor.backends.net.user.icmp import Reason
from manor.backends.net.user.leases import Leases
from manor.backends.net.user.mappings import EchoMapping, UdpMapping
from manor.backends.net.user.names import GuestNames, OtherNames
from manor.backends.net.user.outside import Outside
from manor.backends.net.user.plan import LOOPBACK6, Plan, host_address
from manor.backends.net.user.reassembly import Reassembly
from manor.backends.net.user.tcp import TcpEndpoint
from manor.backends.net.user.tcp_state import TcpApplication
from manor.backends.net.user.tcp_table import TcpTable
from manor.trace.event import declare, guest_error

_EPHEMERAL: Final = range(49152, 65536)  # RFC 6335, 6
_PORTS_TRIED: Final = 16

usernet_drop = declare("usernet_drop", reason=str, size=int)


class UserNetwork:
    """out: frames for the guest, taken away by the adapter after each entry."""

    def __init__(
        self,
        plan: Plan,
        outside: Outside,
        *,
        other_names: OtherNames = lambda name: None,
        random32: Callable[[], int] = lambda: secrets.randbits(32),
    ) -> None:
        self.plan = plan
        self.out: list[Frame] = []
        self.now = 0
        self.known_addresses: tuple[str, ...] = ()
        """Addresses of machines on the cable, as text, the leased ones first. Thread: any."""
        self.dropped = 0
        self._outside = outside
        self._random32 = random32
        self._own = plan.own()
        self._macs = (plan.mac, ethernet.BROADCAST)
        self.leases = Leases(plan)
        self._emitter = Emitter(plan, self.out, random32() & 0xFFFF)
        self.cable = Cable(plan, self._emitter, self.leases, self.addresses_changed)
        self.names = GuestNames(plan, self.leases, self.cable.neighbours, other_names)
        self.tcp = TcpTable(self.out, plan.mac, plan.mtu, self._open_tcp, random32)
        self.udp = udp.UdpTables(outside)
        self.dns = DnsForwarder(plan, self.names, outside, lambda: random32() & 0xFFFF)
        self._fragments = Reassembly()

    # --- entries --------------------------------------------------------------------------------------------

    def receive(self, frames: Sequence[Frame], offloads: Offloads, now: int) -> None:
        """Frames of the guest. offloads: what it takes undone now."""
        self.enter(offloads, now)
        for frame in frames:
            self._frame(frame)
        self.leave()

    def expire(self, offloads: Offloads, now: int) -> None:
        """Do what is due. To be called at `deadline`; earlier and later do no harm."""
        self.enter(offloads, now)
        self.tcp.expire()
        self.udp.expire(now)
        self.dns.expire(now)
        self.cable.expire(now)
        self.leave()

    def enter(self, offloads: Offloads, now: int) -> None:
        """Before calls from the host's side; `leave` comes after them."""
        self.now = self.tcp.now = self._emitter.now = now
        self.tcp.offloads = offloads

    def leave(self) -> None:
        self.tcp.settle()

    @property
    def deadline(self) -> int | None:
        """When `expire` is to be called next."""
        # Asked for at the end of every turn.
        cable = self.cable
        first = self.tcp.deadline
        for time in (self.udp.deadline, self.dns.deadline, cable.neighbours.deadline, cable.next_ra):
            if time is not None and (first is None or time < first):
                first = time
        return first

    def new_guest(self) -> None:
        """Another machine is on the cable, or the same one after a reboot: nothing that the old one had open is left.
        Leases are."""
        self.tcp.close()
        self.udp.clear()
        self.dns.clear()
        self.cable.new_guest()
        self.out.clear()

    def give_up_one(self) -> bool:
        """The host is out of descriptors: close what was idle longest. False: nothing is idle."""
        return self.udp.give_up_one(self.now) or self.tcp.give_up_one()

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
            if data[23] == ip.ICMP and data[14] == 0x45 and not (data[20] & 0x3F or data[21]) and self._echo4(data):
                return
            packet = ip.parse4(data)
        elif kind == ethernet.IPV6:
            if len(data) >= 74 and data[20] == ip.TCP and data[14] >> 4 == 6:
                self._tcp6(data, is_done)
                return
            packet = ip.parse6(data)
        else:
            if kind == ethernet.ARP and not self.cable.arp(data):
                self._drop("malformed ARP", data)
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

    def _echo4(self, data: bytes) -> bool:
        """Answer an echo request to us in an IPv4 packet without options, not a fragment: what pings come as. False for
        everything else, which goes the long way."""
        end = 14 + (data[16] << 8 | data[17])
        if not 42 <= end <= min(len(data), 14 + self.plan.mtu) or data[34] != icmp.ECHO_REQUEST4 or data[35]:
            return False
        source, own = data[26:30], data[30:34]
        if own not in self._own or self._is_nonsense(source):
            return False
        if not is_valid(data[14:34]) or not is_valid(data[34:end]):
            return False
        mac = data[6:12]
        self.cable.seen(source, mac)
        self._emitter.whole(own, source, mac, ip.ICMP, icmp.echo_answer(data, 34, end))
        return True

    def _packet(self, packet: ip.Packet, mac: bytes, is_done: bool) -> None:
        """A whole IP packet."""
        if self._is_nonsense(packet.source):
            self._drop("source address", packet.raw)
            return
        self.cable.seen(packet.source, mac)
        protocol = packet.protocol
        if protocol == ip.UDP:
            self._udp(packet, mac, is_done)
        elif protocol == icmp_of(packet.source):
            self._icmp(packet, mac)
        elif protocol == ip.TCP:
            self._tcp_slow(packet, mac, is_done)
        else:
            is_own = packet.destination in self._own
            self._emitter.complain(Reason.PROTOCOL if is_own else Reason.PROHIBITED, packet, mac)

    def _is_nonsense(self, source: bytes) -> bool:
        """Sources that nobody can have: several machines at once, a loopback, or ours."""
        if len(source) == 4:
            return source[0] >= 224 or source[0] == 127 or source in self._own
        return source[0] == 0xFF or source == LOOPBACK6 or source in self._own

    def _tcp_slow(self, packet: ip.Packet, mac: bytes, is_done: bool) -> None:
        """TCP behind IP options, extension headers, or put together from fragments."""
        payload = packet.payload
        if len(payload) < 20:
            self._drop("malformed TCP", packet.raw)
            return
        if not is_done and not is_valid(payload, pseudo_sum(packet.source, packet.destination, ip.TCP, len(payload))):
            self._drop("TCP checksum", packet.raw)
            return
        # The table wants the frame's source address before the segment.
        data = bytes(6) + mac + payload
        self.tcp.segment(packet.source + packet.destination + payload[:4], data, 12, len(data))

    def _drop(self, reason: str, data: bytes) -> None:
        self.dropped += 1
        if usernet_drop.on:
            usernet_drop(reason, len(data))
        if guest_error.on:
            guest_error("user-mode network", f"{reason}, {len(data)} bytes")

    # --- ICMP -----------------------------------------------------------------------------------------------

    def _icmp(self, packet: ip.Packet, mac: bytes) -> None:
        payload = packet.payload
        if payload and len(packet.source) == 16 and payload[0] in ndp.MESSAGES:
            if not self.cable.discovery(packet, mac, self.now):
                self._drop("malformed ND", packet.raw)
            return
        echo = icmp.parse_echo(packet)
        if echo is None:
            self._error_of_guest(packet)
            return
        if not echo.is_request:
            return
        destination = packet.destination
        if destination in self._own:
            reply = icmp.echo_reply(destination, packet.source, echo.identifier, echo.sequence, echo.data)
            self._emitter.packet(destination, packet.source, mac, packet.protocol, reply)
            return
        target = host_address(self.plan, destination)
        if target is None:
            self._emitter.complain(Reason.PROHIBITED, packet, mac)
            return
        if packet.ttl <= 1:
            self._emitter.complain(Reason.HOP_LIMIT, packet, mac)
            return
        mapping = self.udp.echo_mapping(packet.source, echo.identifier, mac, self.now)
        reason = self._outside.send_echo(mapping, target, echo.sequence, echo.data, packet.ttl - 1)
        if reason is not None:
            self._emitter.complain(reason, packet, mac)

    def _error_of_guest(self, packet: ip.Packet) -> None:
        """The guest, or a machine behind it, could not take a packet of ours. Only TCP has somebody to tell."""
        error = icmp.parse_error(packet)
        if error is not None and error.protocol == ip.TCP:
            self.tcp.guest_said(error.destination + error.source + error.head[2:4] + error.head[:2], error)

    def echo_received(self, mapping: EchoMapping, source: bytes, sequence: int, data: bytes) -> None:
        """A reply from the world. source: as the guest knows it (`guest_view`)."""
        self.udp.echo.get((mapping.address, mapping.identifier), self.now)
        reply = icmp.echo_reply(source, mapping.address, mapping.identifier, sequence, data)
        self._emitter.packet(source, mapping.address, mapping.mac, icmp_of(source), reply)

    def echo_failed(
        self, mapping: EchoMapping, reason: Reason, reporter: bytes, destination: bytes, sequence: int, mtu: int = 0
    ) -> None:
        """The world says that an echo request did not arrive. reporter: who says it, empty for ourselves."""
        head = icmp.echo_head(destination, mapping.identifier, sequence)
        protocol = icmp_of(destination)
        self._emitter.report(reason, mapping.address, mapping.mac, destination, protocol, head, reporter, mtu)

    # --- UDP ------------------------------------------------------------------------------------------------

    def _udp(self, packet: ip.Packet, mac: bytes, is_done: bool) -> None:
        datagram = udp.parse(packet, is_done)
        if datagram is None:
            self._drop("malformed UDP", packet.raw)
            return
        port, destination = datagram.destination_port, packet.destination
        if self.cable.datagram(packet, datagram, mac, self.now):
            return
        peer = self.udp.forwarded_peer(packet.source, datagram.source_port, destination, port, self.now)
        if peer is not None:
            self._outside.answer_forwarded(peer, datagram.payload)
            return
        if port == dns_service.PORT and destination in self._own:
            back = packet.source, datagram.source_port
            reply = partial(self._emitter.datagram, destination, port, *back, mac)
            self.dns.ask(datagram.payload, reply, self.now, over_tcp=False)
            return
        if self._is_for_all(destination):
            return  # stays on the cable
        target = host_address(self.plan, destination)
        if target is None:
            is_own = destination in self._own
            self._emitter.complain(Reason.PORT if is_own else Reason.PROHIBITED, packet, mac)
            return
        if packet.ttl <= 1:
            self._emitter.complain(Reason.HOP_LIMIT, packet, mac)
            return
        mapping = self.udp.mapping(packet.source, datagram.source_port, mac, self.now)
        mapping.sent_to(destination)
        reason = self._outside.send_udp(mapping, target, port, datagram.payload, packet.ttl - 1)
        if reason is not None:
            self._emitter.complain(reason, packet, mac)

    def _is_for_all(self, destination: bytes) -> bool:
        if len(destination) == 4:
            return destination[0] >= 224 or destination == self.plan.network.broadcast_address.packed
        return destination[0] == 0xFF

    def udp_received(self, mapping: UdpMapping, source: bytes, port: int, payload: bytes) -> None:
        """A datagram from the world. source: as the guest knows it (`guest_view`)."""
        if source in mapping.peers:
            self.udp.udp.get((mapping.address, mapping.port), self.now)
            self._emitter.datagram(source, port, mapping.address, mapping.port, mapping.mac, payload)

    def udp_failed(
        self, mapping: UdpMapping, reason: Reason, reporter: bytes, destination: bytes, port: int, mtu: int = 0
    ) -> None:
        """The world says that a datagram did not arrive."""
        head = udp.header(mapping.port, port, 0)
        self._emitter.report(reason, mapping.address, mapping.mac, destination, ip.UDP, head, reporter, mtu)

    def forward_udp(
        self, forward: Hashable, peer: Hashable, peer_port: int, guest: bytes, guest_port: int, payload: bytes
    ) -> None:
        """A datagram came to a forwarded port. forward, peer: what `answer_forwarded` gets back. guest: empty for the
        leased address."""
        guest = guest or self.names.guest_address(self.now)
        own = self._gateway_for(guest)
        session = self.udp.forward_session(forward, peer, peer_port, guest, guest_port, own, self.now)
        if session is None:
            self.dropped += 1
            return

        def emit(mac: bytes) -> None:
            self._emitter.datagram(own, session.own_port, guest, guest_port, mac, payload)

        self._with_mac(guest, emit)

    # --- TCP ------------------------------------------------------------------------------------------------

    def _open_tcp(self, endpoint: TcpEndpoint, address: bytes, port: int) -> None:
        """The guest begins a connection."""
        if endpoint.path is not None:
            self.cable.seen(endpoint.key[: len(address)], endpoint.path.mac)
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
            self._emitter.report(reason, key[:size], endpoint.path.mac, key[size : 2 * size], ip.TCP, head)
        endpoint.refuse()

    def connect(self, application: TcpApplication, guest: bytes, port: int, peer_port: int) -> TcpEndpoint | None:
        """A connection came to a forwarded port: begin one to the guest, from the gateway. None if there are too many.

        guest: empty for the leased address. peer_port: which port the guest shall see, if it is free.
        """
        guest = guest or self.names.guest_address(self.now)
        own = self._gateway_for(guest)
        own_port = peer_port if peer_port >= 1024 else _EPHEMERAL[0]
        for _ in range(_PORTS_TRIED):
            endpoint = self.tcp.open(application, own, guest, own_port, port)
            if endpoint is not None:
                self._with_mac(guest, partial(self.tcp.learned, endpoint))
                return endpoint
            own_port = _EPHEMERAL[self._random32() % len(_EPHEMERAL)]
        return None

    # --- addresses ------------------------------------------------------------------------------------------

    def guest_view(self, address: bytes) -> bytes:
        """An address of the host's side as the guest knows it: the host's loopback is the gateway."""
        if len(address) == 4:
            return self.plan.gateway if address[0] == 127 else address
        return self.plan.gateway6 if address == LOOPBACK6 else address

    def _gateway_for(self, guest: bytes) -> bytes:
        return self.plan.gateway if len(guest) == 4 else self.plan.gateway6

    def _with_mac(self, guest: bytes, call: Callable[[bytes], None]) -> None:
        """Call with the guest's MAC, now if it is known, else when somebody answers."""
        mac = self.cable.neighbours.get(guest)
        if mac is None:
            self.cable.neighbours.seek(guest, call, self.now)
        else:
            call(mac)

    def addresses_changed(self) -> None:
        """`known_addresses` anew."""
        self.known_addresses = self.names.known(self.now)
