"""The control queue of a network device: commands of the driver, each answered by one byte.

Source: VIRTIO 1.2, 5.1.6.5 "Control Virtqueue". A command that is wrong in any way gets VIRTIO_NET_ERR and changes
nothing. Thread: machine lock held.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from manor.devices.virtio.net_features import (
    GUEST_OFFLOADS,
    VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_F_CTRL_MAC_ADDR,
    VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_RX_EXTRA,
    VIRTIO_NET_F_CTRL_VLAN,
    VIRTIO_NET_F_CTRL_VQ,
    VIRTIO_NET_F_GUEST_ANNOUNCE,
    VIRTIO_NET_F_MQ,
)
from manor.devices.virtio.net_filter import MODES, TABLE_LIMIT, VLAN_LIMIT, FilterState, ReceiveFilter
from manor.devices.virtio.queue import Chain, Queue
from manor.trace.event import declare

if TYPE_CHECKING:
    from manor.devices.virtio.net import VirtioNet

CONTROL_QUEUE_SIZE: Final = 64
COMMAND_LIMIT: Final = 2 + 2 * (4 + 6 * TABLE_LIMIT)
"""Bytes of a command that are looked at: two full MAC tables."""

VIRTIO_NET_OK: Final = 0
VIRTIO_NET_ERR: Final = 1

VIRTIO_NET_CTRL_RX: Final = 0
VIRTIO_NET_CTRL_MAC: Final = 1
VIRTIO_NET_CTRL_VLAN: Final = 2
VIRTIO_NET_CTRL_ANNOUNCE: Final = 3
VIRTIO_NET_CTRL_MQ: Final = 4
VIRTIO_NET_CTRL_GUEST_OFFLOADS: Final = 5
VIRTIO_NET_CTRL_MAC_TABLE_SET: Final = 0
VIRTIO_NET_CTRL_MAC_ADDR_SET: Final = 1
VIRTIO_NET_CTRL_VLAN_ADD: Final = 0
VIRTIO_NET_CTRL_VLAN_DEL: Final = 1
_RX_EXTRA: Final = 2
"""The first command of class RX that needs VIRTIO_NET_F_CTRL_RX_EXTRA."""

_U16: Final = struct.Struct("<H")
_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")

virtio_net_control = declare("virtio_net_control", device=str, command_class=int, command=int, ok=bool)


@dataclass(frozen=True, slots=True)
class NetState:
    """What the driver of an interface told. accepts: checksum, TCP over IPv4, over IPv6."""

    mac: str
    link_up: bool
    must_announce: bool
    active_pairs: int
    accepts: tuple[bool, bool, bool]
    filter: FilterState

    def problem(self, pairs: int) -> str | None:
        """What is wrong with it for a device of so many queue pairs, if anything."""
        flags = (self.link_up, self.must_announce, *self.accepts)
        if len(self.accepts) != 3 or any(type(flag) is not bool for flag in flags):
            return "flags are not booleans"
        if type(self.active_pairs) is not int or not 1 <= self.active_pairs <= pairs:
            return f"{self.active_pairs!r} of {pairs} queue pairs in use"
        if not isinstance(self.mac, str) or len(self.mac) != 12 or not all(c in "0123456789abcdef" for c in self.mac):
            return f"MAC address {self.mac!r}"
        return ReceiveFilter.problem(self.filter)


class Control:
    """Serves the control queue of `device`."""

    def __init__(self, device: VirtioNet) -> None:
        self._device = device
        self._classes: dict[int, Callable[[int, bytes], bool]] = {
            VIRTIO_NET_CTRL_RX: self._set_mode,
            VIRTIO_NET_CTRL_MAC: self._set_addresses,
            VIRTIO_NET_CTRL_VLAN: self._set_vlan,
            VIRTIO_NET_CTRL_ANNOUNCE: self._announced,
            VIRTIO_NET_CTRL_MQ: self._set_pairs,
            VIRTIO_NET_CTRL_GUEST_OFFLOADS: self._set_offloads,
        }

    def serve(self, queue: Queue) -> bool:
        """VirtioDevice.handle_queue for the control queue."""
        device = self._device
        if not device.has_feature(VIRTIO_NET_F_CTRL_VQ):
            device.report("kick of the control queue without VIRTIO_NET_F_CTRL_VQ")
            return False
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None:
                return False
            self._answer(queue, chain)
        return queue.has_available()

    def _answer(self, queue: Queue, chain: Chain) -> None:
        command = chain.read(COMMAND_LIMIT)
        is_done = False
        if chain.writable_size == 0:
            self._device.report("command without room for the answer")
        elif len(command) < 2:
            self._device.report(f"command of {len(command)} bytes")
        else:
            handler = self._classes.get(command[0])
            is_done = handler is not None and handler(command[1], command[2:])
            if not is_done:
                self._device.report(f"command {command[0]}.{command[1]} with {len(command) - 2} bytes is refused")
            if virtio_net_control.on:
                virtio_net_control(self._device.name, command[0], command[1], is_done)
        queue.add_used(chain, chain.write(bytes([VIRTIO_NET_OK if is_done else VIRTIO_NET_ERR])))

    # -- commands: whether it was done --

    def _set_mode(self, command: int, data: bytes) -> bool:
        needed = VIRTIO_NET_F_CTRL_RX if command < _RX_EXTRA else VIRTIO_NET_F_CTRL_RX_EXTRA
        if command >= len(MODES) or len(data) < 1 or not self._device.has_feature(needed):
            return False
        self._device.filter.switch(MODES[command], bool(data[0]))
        return True

    def _set_addresses(self, command: int, data: bytes) -> bool:
        device = self._device
        if command == VIRTIO_NET_CTRL_MAC_ADDR_SET:
            if not device.has_feature(VIRTIO_NET_F_CTRL_MAC_ADDR) or len(data) < 6 or data[0] & 1:
                return False
            device.set_mac(data[:6])
            return True
        if command != VIRTIO_NET_CTRL_MAC_TABLE_SET or not device.has_feature(VIRTIO_NET_F_CTRL_RX):
            return False
        tables: list[frozenset[bytes] | None] = []
        position = 0
        for _ in range(2):
            if len(data) < position + 4:
                return False
            (count,) = _U32.unpack_from(data, position)
            position += 4
            end = position + 6 * count
            if count > TABLE_LIMIT:
                # Its end, and with it the second table, may be beyond what was read: both let all through.
                device.filter.set_tables(tables[0] if tables else None, None)
                return True
            if end > len(data):
                return False
            tables.append(frozenset(data[at : at + 6] for at in range(position, end, 6)))
            position = end
        device.filter.set_tables(tables[0], tables[1])
        return True

    def _set_vlan(self, command: int, data: bytes) -> bool:
        if not self._device.has_feature(VIRTIO_NET_F_CTRL_VLAN) or len(data) < 2:
            return False
        (number,) = _U16.unpack_from(data)
        if number >= VLAN_LIMIT or command not in (VIRTIO_NET_CTRL_VLAN_ADD, VIRTIO_NET_CTRL_VLAN_DEL):
            return False
        self._device.filter.set_vlan(number, command == VIRTIO_NET_CTRL_VLAN_ADD)
        return True

    def _announced(self, command: int, data: bytes) -> bool:
        if command != 0 or not self._device.has_feature(VIRTIO_NET_F_GUEST_ANNOUNCE):
            return False
        self._device.must_announce = False
        return True

    def _set_pairs(self, command: int, data: bytes) -> bool:
        if command != 0 or not self._device.has_feature(VIRTIO_NET_F_MQ) or len(data) < 2:
            return False
        (count,) = _U16.unpack_from(data)
        if not 1 <= count <= self._device.pairs:
            return False
        self._device.active_pairs = count
        return True

    def _set_offloads(self, command: int, data: bytes) -> bool:
        device = self._device
        if command != 0 or not device.has_feature(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS) or len(data) < 8:
            return False
        (wanted,) = _U64.unpack_from(data)
        if wanted & ~(device.driver_features & GUEST_OFFLOADS):
            return False
        device.set_guest_offloads(wanted)
        return True
