"""virtio-vsock: streams between the guest and the host.

Source: VIRTIO 1.2, section 5.10 "Socket Device".

The device moves packets; what they mean is the backend's business. Packets for the guest are pulled from the backend
when there is a buffer for them, so none wait here.
"""

from __future__ import annotations

import struct
from typing import Final

from manor.backends.vsock.api import VsockBackend
from manor.backends.vsock.packet import HEADER_SIZE, MAX_PAYLOAD, decode, payload_size
from manor.base.bits import bit
from manor.base.errors import SavedStateError
from manor.devices.virtio.device import Defer, VirtioDevice
from manor.devices.virtio.queue import Queue
from manor.mem.guest_memory import GuestMemory
from manor.regs.access import RO
from manor.regs.block import RegisterBlock
from manor.regs.field import Reg, RegisterTable

VIRTIO_VSOCK_F_STREAM: Final = 0
VIRTIO_VSOCK_EVENT_TRANSPORT_RESET: Final = 0

RECEIVE_QUEUE: Final = 0
TRANSMIT_QUEUE: Final = 1
EVENT_QUEUE: Final = 2
QUEUE_SIZE: Final = 256
TURN_LIMIT: Final = 64
"""Packets of one turn: the machine lock is not held for longer than these take."""

_EVENT: Final = struct.Struct("<I")

# The specification has one 64-bit field, of which the upper half is reserved (5.10.4).
GUEST_CID = Reg("guest_cid", 0x0, 32, RO, stored=False, source="VIRTIO 1.2, 5.10.4")
GUEST_CID_HIGH = Reg("guest_cid_high", 0x4, 32, RO, stored=False, source="VIRTIO 1.2, 5.10.4")
CONFIG_TABLE = RegisterTable("virtio-vsock config", 8, (GUEST_CID, GUEST_CID_HIGH), split=True)


class VirtioVsock(VirtioDevice):
    """Socket device. `handle_queue` runs on the I/O loop, as the backend wants it."""

    DEVICE_ID = 19

    def __init__(self, name: str, memory: GuestMemory, defer: Defer, backend: VsockBackend) -> None:
        super().__init__(name, memory, defer, [QUEUE_SIZE] * 3, bit(VIRTIO_VSOCK_F_STREAM))
        self._backend = backend
        self._config = RegisterBlock(CONFIG_TABLE, self, name)
        self._must_tell_reset = False
        backend.on_packets = self._on_packets

    def _on_packets(self) -> None:
        """Thread: the I/O loop's, lock held or not."""
        self._defer(self._pull)

    def _pull(self) -> None:
        if self.is_running:
            self.schedule(RECEIVE_QUEUE)

    # -- virtio --

    def on_reset(self) -> None:
        # On the loop, where the backend lives; a driver's first packet comes later there.
        self._defer(self._backend.reset)
        self._must_tell_reset = False

    def handle_queue(self, queue: Queue) -> bool:
        if queue.index == RECEIVE_QUEUE:
            return self._give(queue)
        if queue.index == TRANSMIT_QUEUE:
            return self._take(queue)
        self._tell_reset(queue)
        return False

    def _give(self, queue: Queue) -> bool:
        """Packets for the guest."""
        was_congested = self._backend.is_congested
        for _ in range(TURN_LIMIT):
            if not self._backend.has_packets:
                break
            chain = queue.pop()
            if chain is None:
                break
            room = chain.writable_size - HEADER_SIZE
            if room < 0:
                self.report(f"receive buffer of {chain.writable_size} bytes")
                queue.add_used(chain, 0)
                continue
            packet = self._backend.next_packet(min(room, MAX_PAYLOAD))
            if packet is None:
                queue.undo_pop(chain)
                break
            queue.add_used(chain, chain.write(packet.encode()))
        if was_congested and not self._backend.is_congested:
            self.schedule(TRANSMIT_QUEUE)
        return self._backend.has_packets and queue.has_available()

    def _take(self, queue: Queue) -> bool:
        """Packets of the guest."""
        for _ in range(TURN_LIMIT):
            if self._backend.is_congested:
                return False  # goes on when the guest took what waits for it (5.10.6.1.1)
            chain = queue.pop()
            if chain is None:
                return False
            header = chain.read(HEADER_SIZE)
            following = chain.readable_size - HEADER_SIZE
            size = payload_size(header) if len(header) == HEADER_SIZE else -1
            if not 0 <= size <= min(following, MAX_PAYLOAD):
                self.report(f"packet of {chain.readable_size} bytes whose header says {size}")
            else:
                self._backend.receive(decode(header, chain.read(size, HEADER_SIZE)))
            queue.add_used(chain, 0)
        return queue.has_available()

    def _tell_reset(self, queue: Queue) -> None:
        """After a load: the connections were left behind (5.10.6.7)."""
        if not self._must_tell_reset:
            return
        chain = queue.pop()
        if chain is None:
            return
        self._must_tell_reset = False
        queue.add_used(chain, chain.write(_EVENT.pack(VIRTIO_VSOCK_EVENT_TRANSPORT_RESET)))

    # -- configuration --

    @property
    def config_size(self) -> int:
        return CONFIG_TABLE.size

    def read_config(self, offset: int, size: int) -> int:
        return self._config.read(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        self._config.write(offset, size, value)

    def on_read_guest_cid(self) -> int:
        return self._backend.cid

    def on_read_guest_cid_high(self) -> int:
        return 0

    # -- save and load --

    def save_own(self) -> bool:
        """Whether the driver is still to be told of a reset: connections themselves cannot be moved."""
        return self._must_tell_reset

    def check_own(self, own: object) -> None:
        if type(own) is not bool:
            raise SavedStateError(self.name, "not a socket device")

    def load_own(self, own: object) -> None:
        self._must_tell_reset = True
