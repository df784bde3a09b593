"""virtio-console: a console and further byte streams.

Source: VIRTIO 1.2, section 5.3 "Console Device".

Without multiport, port 0 is all there is and its size is in the configuration. With it, ports are announced
over the control queues. Linux (up to at least 6.12) reads the two numbers of the control message RESIZE as
rows, columns, the specification says columns, rows (5.3.6.2); we follow the specification, so prefer
single-port consoles for terminals.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from manor.backends.char.api import CharBackend
from manor.base.bits import bit
from manor.base.errors import SavedStateError
from manor.devices.virtio.device import Defer, VirtioDevice
from manor.devices.virtio.queue import Queue
from manor.mem.guest_memory import GuestMemory
from manor.regs.access import RO, WO
from manor.regs.block import RegisterBlock
from manor.regs.field import Reg, RegisterTable
from manor.trace.event import declare

VIRTIO_CONSOLE_F_SIZE = 0
VIRTIO_CONSOLE_F_MULTIPORT = 1
VIRTIO_CONSOLE_F_EMERG_WRITE = 2

VIRTIO_CONSOLE_DEVICE_READY = 0
VIRTIO_CONSOLE_DEVICE_ADD = 1
VIRTIO_CONSOLE_PORT_READY = 3
VIRTIO_CONSOLE_CONSOLE_PORT = 4
VIRTIO_CONSOLE_RESIZE = 5
VIRTIO_CONSOLE_PORT_OPEN = 6
VIRTIO_CONSOLE_PORT_NAME = 7
"""Control events (5.3.6.2)."""

NO_PORT = 0xFFFF_FFFF
CONTROL_RECEIVE_QUEUE = 2
CONTROL_TRANSMIT_QUEUE = 3

DATA_QUEUE_SIZE = 256
CONTROL_QUEUE_SIZE = 64
PORT_LIMIT = 31  # two queues each and the two of control stay within 64 queues

# Output of one chain beyond this is dropped: descriptors may name the same memory again and again, and the
# host must not copy gigabytes for it. Drivers send at most tens of KiB at once.
TRANSMIT_LIMIT = 1024 * 1024
TRANSMIT_PIECE = 64 * 1024
# Input waiting for receive buffers; what does not fit stays with the backend.
INPUT_LIMIT = 4096

_CONTROL = struct.Struct("<IHH")
_SIZE = struct.Struct("<HH")

COLS = Reg("cols", 0x0, 16, RO, stored=False, source="VIRTIO 1.2, 5.3.4")
ROWS = Reg("rows", 0x2, 16, RO, stored=False, source="VIRTIO 1.2, 5.3.4")
MAX_NR_PORTS = Reg("max_nr_ports", 0x4, 32, RO, stored=False, source="VIRTIO 1.2, 5.3.4")
EMERG_WR = Reg("emerg_wr", 0x8, 32, WO, stored=False, source="VIRTIO 1.2, 5.3.4")
CONFIG_TABLE = RegisterTable("virtio-console config", 12, (COLS, ROWS, MAX_NR_PORTS, EMERG_WR), split=True)

virtio_console_control = declare("virtio_console_control", device=str, port=int, event=int, value=int)


@dataclass(frozen=True, slots=True)
class ConsoleState:
    """What the driver of a console told, and what it was not told yet."""

    columns: int
    rows: int
    control_ready: bool
    ports_ready: tuple[bool, ...]
    ports_open: tuple[bool, ...]
    input: tuple[bytes, ...]
    outbox: tuple[tuple[int, int, int, bytes], ...]


class ConsolePort:
    """One byte stream of a console; the `CharReceiver` of its backend.

    on_room: set by the backend, called when `can_receive` grew from nothing. on_open: the same, called when a program
    of the guest opened or closed the port (multiport only).
    """

    def __init__(self, console: VirtioConsole, index: int, backend: CharBackend, name: str) -> None:
        self.index = index
        self.backend = backend
        self.name = name
        self.input = bytearray()
        self.guest_ready = False
        self.guest_open = False
        self.on_room: Callable[[], None] = _do_nothing
        self.on_open: Callable[[bool], None] = _ignore
        self._console = console

    @property
    def receive_queue(self) -> int:
        return 0 if self.index == 0 else 2 + 2 * self.index

    @property
    def transmit_queue(self) -> int:
        return self.receive_queue + 1

    def can_receive(self) -> int:
        return INPUT_LIMIT - len(self.input)

    def receive(self, data: bytes) -> int:
        taken = data[: self.can_receive()]
        self.input += taken
        if taken:
            self._console.wake(self)
        return len(taken)


class VirtioConsole(VirtioDevice):
    """Console with one port, or several over control queues.

    backends: one per port. names: of the ports, "" for none; only with multiport. has_console: port 0 is a console;
    otherwise it is a byte stream as the others (only with multiport).
    """

    DEVICE_ID = 3

    def __init__(
        self,
        name: str,
        memory: GuestMemory,
        defer: Defer,
        backends: Sequence[CharBackend],
        *,
        multiport: bool = False,
        names: Sequence[str] = (),
        has_console: bool = True,
        columns: int = 80,
        rows: int = 25,
    ) -> None:
        if not 1 <= len(backends) <= (PORT_LIMIT if multiport else 1):
            raise ValueError(f"{name}: {len(backends)} ports do not fit multiport={multiport}")
        self.multiport = multiport
        self.has_console = has_console
        self.columns = columns
        self.rows = rows
        sizes = [DATA_QUEUE_SIZE, DATA_QUEUE_SIZE]
        features = bit(VIRTIO_CONSOLE_F_SIZE) | bit(VIRTIO_CONSOLE_F_EMERG_WRITE)
        if multiport:
            sizes += [CONTROL_QUEUE_SIZE, CONTROL_QUEUE_SIZE] + [DATA_QUEUE_SIZE] * (2 * len(backends) - 2)
            features |= bit(VIRTIO_CONSOLE_F_MULTIPORT)
        titles = [*names, *[""] * len(backends)]
        self.ports = tuple(ConsolePort(self, index, backend, titles[index]) for index, backend in enumerate(backends))
        self._control_ready = False
        # Control messages waiting for buffers, one per (port, event): a driver that never provides buffers
        # cannot make the host's memory grow.
        self._outbox: dict[tuple[int, int], tuple[int, bytes]] = {}
        super().__init__(name, memory, defer, sizes, features)
        self._config = RegisterBlock(CONFIG_TABLE, self, name)
        self._port_of = {port.receive_queue: port for port in self.ports}
        self._port_of |= {port.transmit_queue: port for port in self.ports}

    # -- host side --

    def resize(self, columns: int, rows: int) -> None:
        """Tell the guest the size of the terminal behind port 0, in characters."""
        columns, rows = min(max(columns, 0), 0xFFFF), min(max(rows, 0), 0xFFFF)
        if (columns, rows) == (self.columns, self.rows):
            return
        self.columns, self.rows = columns, rows
        if self._uses_multiport:
            if self.ports[0].guest_ready and self.has_console:
                self._send(0, VIRTIO_CONSOLE_RESIZE, 0, _SIZE.pack(columns, rows))
        else:
            self.change_config()

    def wake(self, port: ConsolePort) -> None:
        """There is input for `port`."""
        if self.is_running:
            self.schedule(port.receive_queue)

    # -- virtio --

    @property
    def _uses_multiport(self) -> bool:
        return self.has_feature(VIRTIO_CONSOLE_F_MULTIPORT)

    def on_driver_ok(self) -> None:
        # A driver without multiport looks at the size only when told that it changed.
        if (self.columns or self.rows) and not self._uses_multiport:
            self.change_config()

    def on_reset(self) -> None:
        self._control_ready = False
        self._outbox.clear()
        for port in self.ports:
            port.guest_ready = False
            self._set_open(port, False)

    def handle_queue(self, queue: Queue) -> bool:
        if queue.index in (CONTROL_RECEIVE_QUEUE, CONTROL_TRANSMIT_QUEUE):
            if not self._uses_multiport:
                return False
            if queue.index == CONTROL_RECEIVE_QUEUE:
                return self._deliver_control(queue)
            return self._take_control(queue)
        port = self._port_of[queue.index]
        if queue.index == port.receive_queue:
            return self._deliver_input(port, queue)
        return self._take_output(port, queue)

    def _take_output(self, port: ConsolePort, queue: Queue) -> bool:
        budget = TRANSMIT_LIMIT
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None:
                return False
            size = chain.readable_size
            if size > TRANSMIT_LIMIT:
                self.report(f"port {port.index}: {size:#x} bytes in one chain, {TRANSMIT_LIMIT:#x} taken")
                size = TRANSMIT_LIMIT
            for offset in range(0, size, TRANSMIT_PIECE):
                port.backend.write(chain.read(min(TRANSMIT_PIECE, size - offset), offset))
            queue.add_used(chain, 0)
            budget -= size
            if budget <= 0:
                break
        return queue.has_available()

    def _deliver_input(self, port: ConsolePort, queue: Queue) -> bool:
        was_full = port.can_receive() == 0
        for _ in range(queue.size):
            if not port.input:
                break
            chain = queue.pop()
            if chain is None:
                break
            written = chain.write(bytes(port.input[: chain.writable_size]))
            if written == 0:
                self.report(f"port {port.index}: receive buffer without room")
            del port.input[:written]
            queue.add_used(chain, written)
        if was_full and port.can_receive():
            port.on_room()
        return bool(port.input) and queue.has_available()

    # -- control queues --

    def _send(self, port: int, event: int, value: int, extra: bytes = b"") -> None:
        self._outbox.pop((port, event), None)
        self._outbox[port, event] = (value, extra)
        self.schedule(CONTROL_RECEIVE_QUEUE)

    def _deliver_control(self, queue: Queue) -> bool:
        while self._outbox:
            chain = queue.pop()
            if chain is None:
                return False
            (port, event), (value, extra) = next(iter(self._outbox.items()))
            message = _CONTROL.pack(port, event, value) + extra
            if chain.writable_size < len(message):
                self.report(f"control buffer of {chain.writable_size} bytes, message has {len(message)}")
                queue.add_used(chain, 0)
                # One such buffer per turn: the message waits for a proper one.
                return queue.has_available()
            del self._outbox[port, event]
            queue.add_used(chain, chain.write(message))
        return False

    def _take_control(self, queue: Queue) -> bool:
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None:
                return False
            message = chain.read(_CONTROL.size)
            queue.add_used(chain, 0)
            if len(message) < _CONTROL.size:
                self.report(f"control message of {len(message)} bytes")
                continue
            self._on_control(*_CONTROL.unpack(message))
        return queue.has_available()

    def _on_control(self, number: int, event: int, value: int) -> None:
        """The driver sent a control message (5.3.6.2)."""
        if virtio_console_control.on:
            virtio_console_control(self.name, number, event, value)
        if event == VIRTIO_CONSOLE_DEVICE_READY:
            self._control_ready = bool(value)
            if value:
                for port in self.ports:
                    self._send(port.index, VIRTIO_CONSOLE_DEVICE_ADD, 1)
            return
        if number >= len(self.ports) or not self._control_ready:
            self.report(f"control event {event} for port {number}, which is not there")
            return
        port = self.ports[number]
        if event == VIRTIO_CONSOLE_PORT_READY:
            port.guest_ready = bool(value)
            if value:
                self._announce(port)
        elif event == VIRTIO_CONSOLE_PORT_OPEN:
            self._set_open(port, bool(value))
        else:
            self.report(f"control event {event} is not one a driver sends")

    @staticmethod
    def _set_open(port: ConsolePort, is_open: bool) -> None:
        if is_open != port.guest_open:
            port.guest_open = is_open
            port.on_open(is_open)

    def _announce(self, port: ConsolePort) -> None:
        """Tell a driver that is ready for `port` what it is and that our side is open."""
        if port.index == 0 and self.has_console:
            self._send(0, VIRTIO_CONSOLE_CONSOLE_PORT, 1)
            self._send(0, VIRTIO_CONSOLE_RESIZE, 0, _SIZE.pack(self.columns, self.rows))
        if port.name:
            self._send(port.index, VIRTIO_CONSOLE_PORT_NAME, 1, port.name.encode())
        self._send(port.index, VIRTIO_CONSOLE_PORT_OPEN, 1)

    # -- configuration --

    @property
    def config_size(self) -> int:
        return CONFIG_TABLE.size

    def read_config(self, offset: int, size: int) -> int:
        return self._config.read(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        self._config.write(offset, size, value)

    def on_read_cols(self) -> int:
        return self.columns

    def on_read_rows(self) -> int:
        return self.rows

    def on_read_max_nr_ports(self) -> int:
        return len(self.ports)

    def on_write_emerg_wr(self, value: int) -> None:
        """One character for port 0, possible before the driver set anything up (5.3.5)."""
        self.ports[0].backend.write(bytes([value & 0xFF]))

    # -- save and load --

    def save_own(self) -> ConsoleState:
        return ConsoleState(
            columns=self.columns,
            rows=self.rows,
            control_ready=self._control_ready,
            ports_ready=tuple(port.guest_ready for port in self.ports),
            ports_open=tuple(port.guest_open for port in self.ports),
            input=tuple(bytes(port.input) for port in self.ports),
            outbox=tuple((port, event, value, extra) for (port, event), (value, extra) in self._outbox.items()),
        )

    def check_own(self, own: object) -> None:
        if not isinstance(own, ConsoleState):
            raise SavedStateError(self.name, "not a console")
        count = len(self.ports)
        if not (len(own.ports_ready) == len(own.ports_open) == len(own.input) == count):
            raise SavedStateError(self.name, f"not {count} ports")
        if any(type(flag) is not bool for flag in (own.control_ready, *own.ports_ready, *own.ports_open)):
            raise SavedStateError(self.name, "port flags are not booleans")
        if any(type(size) is not int or not 0 <= size <= 0xFFFF for size in (own.columns, own.rows)):
            raise SavedStateError(self.name, f"size {own.columns!r} x {own.rows!r}")
        if any(type(data) is not bytes or len(data) > INPUT_LIMIT for data in own.input):
            raise SavedStateError(self.name, f"input is not bytes, at most {INPUT_LIMIT}")
        for port, event, value, extra in own.outbox:
            if not (0 <= port < count and 0 <= event <= 0xFFFF and 0 <= value <= 0xFFFF and type(extra) is bytes):
                raise SavedStateError(self.name, f"control message {(port, event, value)}")

    def load_own(self, own: object) -> None:
        assert isinstance(own, ConsoleState)
        self.columns, self.rows = own.columns, own.rows
        self._control_ready = own.control_ready
        for port, ready, is_open, data in zip(self.ports, own.ports_ready, own.ports_open, own.input, strict=True):
            port.guest_ready = ready
            self._set_open(port, is_open)
            port.input[:] = data
        self._outbox = {(port, event): (value, extra) for port, event, value, extra in own.outbox}


def _do_nothing() -> None:
    """No backend waits for room."""


def _ignore(is_open: bool) -> None:
    """No backend wants to know."""
