"""virtio-net: an Ethernet interface.

Source: VIRTIO 1.2, section 5.1 "Network Device".

Checksums and segmentation are offered to every guest, whatever the backend can do: what it does not take, `net_port`
does on the host, where it costs less than in a guest. Not offered: fragmentation of UDP (UFO), which Linux gave up;
ECN with segmentation, whose rare frames the guest segments itself; hashes and RSS.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from manor.backends.net.api import Frame, Offloads, Segmentation
from manor.backends.net.offload import FRAME_LIMIT, NOTHING, flow_key
from manor.base.bits import bit
from manor.base.clock import MILLISECOND, Clock
from manor.base.errors import SavedStateError
from manor.base.timers import Timers
from manor.devices.virtio.device import Defer, Status, VirtioDevice
from manor.devices.virtio.net_control import CONTROL_QUEUE_SIZE, Control, NetState
from manor.devices.virtio.net_features import (
    ALL_FEATURES,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_CTRL_VLAN,
    VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_USO,
    VIRTIO_NET_F_MQ,
    VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_STATUS,
    VIRTIO_NET_S_ANNOUNCE,
    VIRTIO_NET_S_LINK_UP,
)
from manor.devices.virtio.net_filter import ReceiveFilter
from manor.devices.virtio.net_header import ETHERNET_HEADER, HEADER, HEADER_SIZE, frame_of, header_of
from manor.devices.virtio.queue import Chain, Queue
from manor.mem.guest_memory import GuestMemory
from manor.regs.access import RO
from manor.regs.block import RegisterBlock
from manor.regs.field import Reg, RegisterTable

QUEUE_SIZE: Final = 256
MAX_PAIRS: Final = 16
TRANSMIT_BUDGET: Final = 1 << 20
"""Bytes of a turn: the machine lock is free again, and the frames on their way, before the next."""
SENT_DELAY_NS: Final = MILLISECOND
"""For how long the guest is not told that a few frames were sent. Linux looks at what was sent whenever it receives,
and before it sends more; mostly one of them comes first, and the interrupt is saved."""
FLOW_LIMIT: Final = 4096
"""Flows whose queue pair is remembered."""

_S: Final = "VIRTIO 1.2, 5.1.4 struct virtio_net_config"
MAC = Reg("mac", 0, 8, RO, stored=False, count=6, stride=1, source=_S)
STATUS = Reg("status", 6, 16, RO, stored=False, source=_S)
MAX_VIRTQUEUE_PAIRS = Reg("max_virtqueue_pairs", 8, 16, RO, stored=False, source=_S)
MTU = Reg("mtu", 10, 16, RO, stored=False, source=_S)
SPEED = Reg("speed", 12, 32, RO, stored=False, source=_S, doc="Mbit/s")
DUPLEX = Reg("duplex", 16, 8, RO, stored=False, source=_S)
CONFIG_TABLE = RegisterTable(
    "virtio-net config", 17, (MAC, STATUS, MAX_VIRTQUEUE_PAIRS, MTU, SPEED, DUPLEX), split=True, source=_S
)
FULL_DUPLEX: Final = 1
DEFAULT_SPEED: Final = 10_000

_HOST_KINDS: Final = {
    VIRTIO_NET_F_CSUM: Segmentation.NONE,
    VIRTIO_NET_F_HOST_TSO4: Segmentation.TCPV4,
    VIRTIO_NET_F_HOST_TSO6: Segmentation.TCPV6,
    VIRTIO_NET_F_HOST_USO: Segmentation.UDP_L4,
}


class Port(Protocol):
    """Where frames go; `net_port.NetPort`. Machine lock held."""

    def transmit(self, frames: list[Frame]) -> bool:
        """Send frames soon. True: so few that the vCPU that kicked does it, before the guest goes on."""

    def room(self) -> None:
        """There are receive buffers again."""


class VirtioNet(VirtioDevice):
    """One interface. mac: 6 bytes. mtu: bytes of the largest IP packet. pairs: of queues. speed: Mbit/s, for show.

    clock, timers: for interrupts about little that was sent, which come late; without, they come at once.
    """

    DEVICE_ID = 1
    SERVES_KICKS = True

    def __init__(
        self,
        name: str,
        memory: GuestMemory,
        defer: Defer,
        port: Port,
        *,
        mac: bytes,
        mtu: int = 1500,
        pairs: int = 1,
        speed: int = DEFAULT_SPEED,
        link_up: bool = True,
        clock: Clock | None = None,
        timers: Timers | None = None,
    ) -> None:
        if not 1 <= pairs <= MAX_PAIRS or len(mac) != 6:
            raise ValueError(f"{name}: {pairs} queue pairs, MAC address of {len(mac)} bytes")
        self.mac = self._own_mac = mac
        self.mtu = mtu
        self.pairs = pairs
        self.speed = speed
        self.is_link_up = link_up
        self.filter = ReceiveFilter(mac)
        self.accepts = NOTHING
        """What the guest takes undone (net_port.FrameDevice)."""
        self.active_pairs = 1
        self.must_announce = False
        self.counters = dict.fromkeys(COUNTERS, 0)
        self._memory = memory
        self._port = port
        self._flows: dict[bytes, int] = {}
        self._is_starved = False
        self._clock = clock
        self._timers = timers
        self._is_waiting = False
        """A timer will tell of what is in `_untold`."""
        self._untold: set[int] = set()
        """Transmit queues whose last frames the guest was not told of."""
        self._sent_little = False
        self._allowed: frozenset[Segmentation] = frozenset()
        self._is_mergeable = False
        self._may_vouch = False
        self._control_index = 2
        features = ALL_FEATURES if pairs > 1 else ALL_FEATURES & ~bit(VIRTIO_NET_F_MQ)
        super().__init__(name, memory, defer, [QUEUE_SIZE] * (2 * pairs) + [CONTROL_QUEUE_SIZE], features)
        self._control = Control(self)
        self._config = RegisterBlock(CONFIG_TABLE, self, name)

    # -- the host's side: machine lock held --

    def set_link(self, is_up: bool) -> None:
        """Plug the cable in, or pull it: while it is out, frames are dropped both ways."""
        if is_up != self.is_link_up:
            self.is_link_up = is_up
            self.change_config()

    def announce(self) -> None:
        """Ask the guest to tell the network where it is (5.1.6.5.4); without that feature nothing happens."""
        if self.has_feature(VIRTIO_NET_F_GUEST_ANNOUNCE) and self.is_running:
            self.must_announce = True
            self.change_config()

    def receive(self, frames: Sequence[Frame]) -> int:
        """Put frames into the guest's buffers; how many are dealt with. The rest waits for `Port.room`."""
        counters = self.counters
        if not self.is_running or not self.is_link_up:
            counters["receive_dropped"] += len(frames)
            return len(frames)
        touched: dict[int, Queue] = {}
        done = 0
        for frame in frames:
            size = len(frame.data)
            if size < ETHERNET_HEADER or not self.filter.wants(frame.data):
                counters["receive_filtered"] += 1
            else:
                queue = self._queue_for(frame)
                if not queue.is_active or size > FRAME_LIMIT:
                    counters["receive_dropped"] += 1
                elif self._place(queue, frame):
                    touched[queue.index] = queue
                else:
                    self._is_starved = True
                    break
            done += 1
        for queue in touched.values():
            self.finish(queue)
        return done

    # -- virtio --

    def handle_queue(self, queue: Queue) -> bool:
        index = queue.index
        if index == self._control_index:
            return self._control.serve(queue)
        if index >= 2 * self.pairs or (index > 1 and not self.has_feature(VIRTIO_NET_F_MQ)):
            self.report(f"kick of queue {index}, which has no meaning without VIRTIO_NET_F_MQ")
            return False
        if index & 1:
            return self._transmit(queue)
        if self._is_starved:
            self._is_starved = False
            self._port.room()
        return False

    def on_driver_ok(self) -> None:
        self._configure()
        self.set_guest_offloads(self.driver_features)

    def on_reset(self) -> None:
        self.mac = self.filter.mac = self._own_mac
        self.filter.reset()
        self.accepts = NOTHING
        self.active_pairs = 1
        self.must_announce = False
        self._untold.clear()
        self._configure()  # to what it is without features
        self._flows.clear()
        if self._is_starved:
            self._is_starved = False
            self._port.room()  # what waits will be dropped

    def _configure(self) -> None:
        """Take over what was negotiated."""
        self._allowed = frozenset(kind for number, kind in _HOST_KINDS.items() if self.has_feature(number))
        self._is_mergeable = self.has_feature(VIRTIO_NET_F_MRG_RXBUF)
        self._may_vouch = self.has_feature(VIRTIO_NET_F_GUEST_CSUM)
        self._control_index = 2 * self.pairs if self.has_feature(VIRTIO_NET_F_MQ) else 2
        self.filter.has_vlan_filter = self.has_feature(VIRTIO_NET_F_CTRL_VLAN)

    def set_guest_offloads(self, features: int) -> None:
        """What the guest takes undone from now on: bits of GUEST_*, which depend on GUEST_CSUM (5.1.3.1)."""
        checksum = bool(features >> VIRTIO_NET_F_GUEST_CSUM & 1)
        self.accepts = Offloads(
            checksum=checksum,
            tcpv4=checksum and bool(features >> VIRTIO_NET_F_GUEST_TSO4 & 1),
            tcpv6=checksum and bool(features >> VIRTIO_NET_F_GUEST_TSO6 & 1),
        )
        self._may_vouch = checksum

    def set_mac(self, mac: bytes) -> None:
        """The driver chose another address."""
        self.mac = self.filter.mac = mac

    # -- transmission --

    def _transmit(self, queue: Queue) -> bool:
        frames: list[Frame] = []
        self._sent_little = False
        budget = TRANSMIT_BUDGET
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None:
                break
            frame = self._take(chain)
            queue.add_used(chain, 0)
            if isinstance(frame, str):
                self.counters["send_malformed"] += 1
                self.report(f"queue {queue.index}: {frame}")
                continue
            frames.append(frame)
            budget -= len(frame.data)
            if budget <= 0:
                break
        counters = self.counters
        if frames and self.is_link_up:
            counters["sent_frames"] += len(frames)
            counters["sent_bytes"] += TRANSMIT_BUDGET - budget
            if self.active_pairs > 1:
                self._remember_flows(frames, queue.index >> 1)
            self._sent_little = self._port.transmit(frames)
        else:
            counters["send_dropped"] += len(frames)
        return queue.has_available()

    def _take(self, chain: Chain) -> Frame | str:
        """Copy the frame of a chain, or tell what is wrong with it."""
        size = chain.readable_size
        if not HEADER_SIZE + ETHERNET_HEADER <= size <= HEADER_SIZE + FRAME_LIMIT:
            return f"frame of {size} bytes with its header"
        header = HEADER.unpack(chain.read(HEADER_SIZE))
        return frame_of(header, chain.read(size - HEADER_SIZE, HEADER_SIZE), self._allowed)

    # --- interrupts -----------------------------------------------------------------------------------------

    def finish(self, queue: Queue) -> None:
        """Put off telling the guest of a few frames that were sent."""
        timers, clock = self._timers, self._clock
        if not self._sent_little or not queue.index & 1 or timers is None or clock is None:
            super().finish(queue)
            return
        self._sent_little = False
        self._untold.add(queue.index)
        if not self._is_waiting:
            self._is_waiting = True
            timers.at(clock.now_ns() + SENT_DELAY_NS, self._tell)

    def _tell(self) -> None:
        """Time is over: tell of what was sent, if the guest has not seen it meanwhile."""
        untold, self._untold = self._untold, set()
        self._is_waiting = False
        for index in untold:
            super().finish(self.queues[index])
        if untold and self._timers is not None and self._clock is not None:
            # More will come: to stay awake for it costs less than to be woken again.
            self._is_waiting = True
            self._timers.at(self._clock.now_ns() + SENT_DELAY_NS, self._tell)

    # -- reception --

    def _place(self, queue: Queue, frame: Frame) -> bool:
        """Write a frame into as many chains as it takes; False, and nothing happens, if there are too few."""
        data = frame.data
        needed = HEADER_SIZE + len(data)
        chain = queue.pop()
        if chain is None:
            return False
        chains, room = [chain], chain.writable_size
        while room < needed and self._is_mergeable:
            chain = queue.pop()
            if chain is None:
                break
            chains.append(chain)
            room += chain.writable_size
        first = chains[0]
        if room < needed or first.writable_size < HEADER_SIZE:
            return self._give_up(queue, chains, needed)
        first.write(header_of(frame, len(chains), self._may_vouch))
        if len(chains) == 1:
            first.write(data, HEADER_SIZE)
            queue.add_used(first, needed)
        else:
            content = memoryview(data)
            position = first.write(content, HEADER_SIZE)
            queue.add_used(first, HEADER_SIZE + position, False)
            for chain in chains[1:]:
                size = chain.write(content[position:])
                position += size
                # The driver of another vCPU may be looking: it must find all chains of a frame together.
                queue.add_used(chain, size, chain is chains[-1])
        self.counters["received_frames"] += 1
        self.counters["received_bytes"] += len(data)
        return True

    def _give_up(self, queue: Queue, chains: list[Chain], needed: int) -> bool:
        """Put chains back that do not suffice. True if more will not help: then the frame is dropped."""
        for chain in reversed(chains):
            queue.undo_pop(chain)
        is_hopeless = not self._is_mergeable or len(chains) >= queue.size or chains[0].writable_size < HEADER_SIZE
        if is_hopeless:
            self.counters["receive_dropped"] += 1
            self.report(f"queue {queue.index}: receive buffers too small for {needed} bytes")
        return is_hopeless

    def _queue_for(self, frame: Frame) -> Queue:
        """The receive queue of the pair on which the guest last sent on this flow (5.1.6.5.5)."""
        if self.active_pairs == 1:
            return self.queues[0]
        pair = self._flows.get(flow_key(frame.data, is_reply=True), 0)
        return self.queues[2 * pair if pair < self.active_pairs else 0]

    def _remember_flows(self, frames: Sequence[Frame], pair: int) -> None:
        flows = self._flows
        if len(flows) > FLOW_LIMIT:
            flows.clear()
        for frame in frames:
            flows[flow_key(frame.data, is_reply=False)] = pair

    # -- configuration --

    @property
    def config_size(self) -> int:
        return CONFIG_TABLE.size

    def read_config(self, offset: int, size: int) -> int:
        return self._config.read(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        self._config.write(offset, size, value)

    def on_read_mac(self, index: int) -> int:
        return self.mac[index]

    def on_read_status(self) -> int:
        if not self.has_feature(VIRTIO_NET_F_STATUS):
            return 0
        return (VIRTIO_NET_S_LINK_UP if self.is_link_up else 0) | (VIRTIO_NET_S_ANNOUNCE if self.must_announce else 0)

    def on_read_max_virtqueue_pairs(self) -> int:
        return self.pairs

    def on_read_mtu(self) -> int:
        return self.mtu

    def on_read_speed(self) -> int:
        return self.speed

    def on_read_duplex(self) -> int:
        return FULL_DUPLEX

    # -- save and load --

    def save_own(self) -> NetState:
        return NetState(
            mac=self.mac.hex(),
            link_up=self.is_link_up,
            must_announce=self.must_announce,
            active_pairs=self.active_pairs,
            accepts=(self.accepts.checksum, self.accepts.tcpv4, self.accepts.tcpv6),
            filter=self.filter.save(),
        )

    def check_own(self, own: object) -> None:
        if not isinstance(own, NetState):
            raise SavedStateError(self.name, "not a network interface")
        problem = own.problem(self.pairs)
        if problem:
            raise SavedStateError(self.name, problem)

    def load_own(self, own: object) -> None:
        assert isinstance(own, NetState)
        if self.status & Status.DRIVER_OK:
            self._configure()
        self.mac = self.filter.mac = bytes.fromhex(own.mac)
        self.is_link_up = own.link_up
        self.must_announce = own.must_announce
        self.active_pairs = own.active_pairs
        checksum, tcpv4, tcpv6 = own.accepts
        self.accepts = Offloads(checksum=checksum, tcpv4=tcpv4, tcpv6=tcpv6)
        self._may_vouch = checksum
        self.filter.load(own.filter)


COUNTERS: Final = (
    "sent_frames", "sent_bytes", "send_dropped", "send_malformed",
    "received_frames", "received_bytes", "receive_dropped", "receive_filtered",
)  # fmt: skip
"""What a device counts; `send` and `receive` as the guest sees them."""
