"""What all virtio devices share: status, feature negotiation, queues, reset.

Source: VIRTIO 1.2, sections 2.1 "Device Status Field", 2.2 "Feature Bits", 3.1 "Device Initialization".

A transport (virtio-pci) drives this by the methods marked "transport"; it is told of used buffers and of
changes of the configuration through the `Notifier` it sets. Queue work does not run inside the kick: it goes
through `defer`, so the vCPU does not wait for the host; a type whose turns are short may ask for the kick itself
(`SERVES_KICKS`). Each turn handles a bounded number of chains.

A type that works on chains while no lock is held (`is_busy`) makes a reset take time: the device, or the queue, says
that it is over when that work is (2.4.1, 2.6.1). Until then its guest memory may change, and nothing else happens.
Thread: all methods, and the callbacks given to `defer`, under the machine lock.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, IntFlag
from functools import partial
from typing import ClassVar, Protocol

from manor.base.bits import bit
from manor.base.errors import SavedStateError, StateError
from manor.base.states import StateTable
from manor.devices.device import Device
from manor.devices.virtio.queue import Queue, QueueState
from manor.mem.guest_memory import GuestMemory
from manor.trace.event import declare, guest_error

Defer = Callable[[Callable[[], None]], None]
"""Run a callback soon on the I/O loop, under the machine lock."""

VIRTIO_F_INDIRECT_DESC = 28
VIRTIO_F_EVENT_IDX = 29
VIRTIO_F_VERSION_1 = 32
VIRTIO_F_RING_RESET = 40
"""Reserved feature bits (VIRTIO 1.2, section 6)."""

COMMON_FEATURES = (
    bit(VIRTIO_F_INDIRECT_DESC) | bit(VIRTIO_F_EVENT_IDX) | bit(VIRTIO_F_VERSION_1) | bit(VIRTIO_F_RING_RESET)
)


class Status(IntFlag):
    """Device status bits (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


class State(Enum):
    """How far the driver got."""

    RESET = "reset"
    ACKNOWLEDGED = "acknowledged"
    DRIVER = "driver"
    FEATURES_OK = "features_ok"
    DRIVER_OK = "driver_ok"
    NEEDS_RESET = "needs_reset"
    FAILED = "failed"
    RESETTING = "resetting"


class Event(Enum):
    """What moves a device from state to state."""

    ACKNOWLEDGE = "acknowledge"
    DRIVER = "driver"
    FEATURES_OK = "features_ok"
    DRIVER_OK = "driver_ok"
    BREAK = "break"
    FAIL = "fail"
    BEGIN_RESET = "begin_reset"
    RESET = "reset"


LIFECYCLE: StateTable[State, Event] = StateTable(
    "virtio device",
    State.RESET,
    {
        (State.RESET, Event.ACKNOWLEDGE): State.ACKNOWLEDGED,
        (State.ACKNOWLEDGED, Event.DRIVER): State.DRIVER,
        (State.DRIVER, Event.FEATURES_OK): State.FEATURES_OK,
        (State.FEATURES_OK, Event.DRIVER_OK): State.DRIVER_OK,
        (State.FEATURES_OK, Event.BREAK): State.NEEDS_RESET,
        (State.DRIVER_OK, Event.BREAK): State.NEEDS_RESET,
        (State.ACKNOWLEDGED, Event.FAIL): State.FAILED,
        (State.DRIVER, Event.FAIL): State.FAILED,
        (State.FEATURES_OK, Event.FAIL): State.FAILED,
        (State.DRIVER_OK, Event.FAIL): State.FAILED,
        (State.NEEDS_RESET, Event.FAIL): State.FAILED,
        **{(state, Event.BEGIN_RESET): State.RESETTING for state in State},
        **{(state, Event.RESET): State.RESET for state in State},
    },
)

_DRIVER_EVENTS = (
    (Status.ACKNOWLEDGE, Event.ACKNOWLEDGE),
    (Status.DRIVER, Event.DRIVER),
    (Status.FEATURES_OK, Event.FEATURES_OK),
    (Status.DRIVER_OK, Event.DRIVER_OK),
    (Status.FAILED, Event.FAIL),
)
"""Status bits the driver sets, in the order of 3.1.1; several at once are taken in this order."""

virtio_status = declare("virtio_status", device=str, status=int)
virtio_features = declare("virtio_features", device=str, features=int)
virtio_kick = declare("virtio_kick", device=str, queue=int)


class Notifier(Protocol):
    """The transport, as the device sees it. Thread: machine lock held."""

    def queue_used(self, index: int) -> None:
        """The driver wants to know that queue `index` has used buffers."""

    def config_changed(self) -> None:
        """The device configuration or the status changed by itself."""


@dataclass(frozen=True, slots=True)
class VirtioState:
    """Guest-visible state of a virtio device. own: what the device type adds, a plain value or None."""

    state: str
    status: int
    driver_features: int
    config_generation: int
    queues: tuple[QueueState, ...]
    own: object


class VirtioDevice(Device):
    """Base of all virtio devices.

    queue_sizes: largest size of each queue. features: bits the type offers besides the common ones.
    """

    DEVICE_ID: ClassVar[int]
    """Virtio device ID (VIRTIO 1.2, section 5)."""
    SERVES_KICKS: ClassVar[bool] = False
    """Give a queue its turn inside the kick: what it takes must be worth no other thread's wake-up."""

    def __init__(
        self, name: str, memory: GuestMemory, defer: Defer, queue_sizes: Sequence[int], features: int = 0
    ) -> None:
        self.name = name
        self.offered_features = COMMON_FEATURES | features
        self.notifier: Notifier | None = None
        self._defer = defer
        self.queues = tuple(
            Queue(index, size, memory, partial(self._queue_broken, index)) for index, size in enumerate(queue_sizes)
        )
        self._scheduled = [False] * len(self.queues)
        self._clear()

    def _clear(self) -> None:
        self.state = State.RESET
        self.status = 0
        self.driver_features = 0
        self.config_generation = 0
        for queue in self.queues:
            queue.reset()

    # -- for device types --

    @abstractmethod
    def handle_queue(self, queue: Queue) -> bool:
        """Serve a queue that was kicked; at most `queue.size` chains. True asks for another turn."""

    def is_busy(self, index: int) -> bool:
        """Whether work on chains of queue `index` goes on while no lock is held. Its end calls `settle`."""
        return False

    def on_reset(self) -> None:
        """Forget what the driver told."""

    def on_driver_ok(self) -> None:
        """The driver is ready; every queue gets a turn after this."""

    def read_config(self, offset: int, size: int) -> int:
        """Device-specific configuration; beyond its end, zero."""
        self.report(f"read of {size} bytes at {offset:#x} of the device configuration")
        return 0

    def write_config(self, offset: int, size: int, value: int) -> None:
        """Write to the device-specific configuration; read-only unless the type says otherwise."""
        self.report(f"write of {size} bytes at {offset:#x} of the device configuration")

    @property
    def config_size(self) -> int:
        """Bytes of device-specific configuration."""
        return 0

    def save_own(self) -> object:
        """State of the device type: a plain value."""
        return None

    def check_own(self, own: object) -> None:
        """Raise SavedStateError if `load_own` would."""
        if own is not None:
            raise SavedStateError(self.name, "unexpected state of the device type")

    def load_own(self, own: object) -> None:
        """Take over what `save_own` returned; checked before."""

    @property
    def is_running(self) -> bool:
        """Whether the device may use its queues."""
        return self.state is State.DRIVER_OK

    def has_feature(self, number: int) -> bool:
        """Whether feature bit `number` was negotiated; meaningful from FEATURES_OK on."""
        return bool(self.driver_features >> number & 1)

    def finish(self, queue: Queue) -> None:
        """Tell the driver of used buffers of `queue` if it wants to know; once after each batch."""
        if queue.take_interrupt() and self.notifier is not None:
            self.notifier.queue_used(queue.index)

    def schedule(self, index: int) -> None:
        """Give queue `index` a turn on the I/O loop soon; several requests become one turn."""
        if not self._scheduled[index]:
            self._scheduled[index] = True
            self._defer(partial(self._turn, index))

    def settle(self, index: int) -> None:
        """Work on chains of queue `index` ended: end the resets that waited for it."""
        if self.state is State.RESETTING:
            self._try_reset()
        elif self.queues[index].is_resetting and not self.is_busy(index):
            self.queues[index].reset()

    def change_config(self) -> None:
        """Tell the driver that the device configuration changed. Call after the change."""
        self.config_generation = (self.config_generation + 1) & 0xFF
        if self.is_running and self.notifier is not None:
            self.notifier.config_changed()

    def report(self, message: str) -> None:
        """Trace a mistake of the guest."""
        if guest_error.on:
            guest_error(self.name, message)

    # -- for the transport --

    def reset(self) -> None:
        self._clear()
        self.on_reset()
        if virtio_status.on:
            virtio_status(self.name, 0)

    def write_status(self, value: int) -> None:
        """Transport: the driver writes the status; 0 resets (2.1.1, 2.1.2)."""
        if value == 0:
            self.state = LIFECYCLE.next(self.state, Event.BEGIN_RESET)
            self._try_reset()
            return
        if self.state is State.RESETTING:
            self.report(f"status {value:#x} written before the reset is over")
            return
        if self.status & ~Status.DEVICE_NEEDS_RESET & ~value:
            self.report(f"status {self.status:#x} written with {value:#x}: bits cannot be cleared one by one")
        for flag, event in _DRIVER_EVENTS:
            if value & flag and not self.status & flag:
                self._driver_event(flag, event)
        if virtio_status.on:
            virtio_status(self.name, self.status)

    def write_driver_features(self, select: int, value: int) -> None:
        """Transport: features `32 * select` and up that the driver accepts; only before FEATURES_OK."""
        if self.state not in (State.RESET, State.ACKNOWLEDGED, State.DRIVER):
            self.report("features written after FEATURES_OK")
        elif select > 1:
            if value:
                self.report(f"features {value:#x} written to unknown word {select}")
        else:
            shift = 32 * select
            self.driver_features = self.driver_features & ~(0xFFFF_FFFF << shift) | value << shift

    def enable_queue(self, index: int) -> None:
        """Transport: the driver finished setting up queue `index`."""
        if self.state not in (State.FEATURES_OK, State.DRIVER_OK):
            self.report(f"queue {index} enabled in state {self.state.value}")
            return
        queue = self.queues[index]
        queue.event_idx = self.has_feature(VIRTIO_F_EVENT_IDX)
        queue.indirect = self.has_feature(VIRTIO_F_INDIRECT_DESC)
        queue.enable()

    def reset_queue(self, index: int) -> None:
        """Transport: the driver resets one queue (2.6.1, VIRTIO_F_RING_RESET)."""
        if not self.has_feature(VIRTIO_F_RING_RESET):
            self.report(f"queue {index} reset without VIRTIO_F_RING_RESET")
            return
        if self.is_busy(index):
            self.queues[index].begin_reset()
        else:
            self.queues[index].reset()

    def kick(self, index: int) -> None:
        """Transport: the driver added buffers to queue `index`, which may not exist."""
        if virtio_kick.on:
            virtio_kick(self.name, index)
        if index >= len(self.queues):
            self.report(f"kick of queue {index}, there are {len(self.queues)}")
        elif not self.is_running:
            self.report(f"kick of queue {index} in state {self.state.value}")
        elif self.SERVES_KICKS:
            self._turn(index)
        else:
            self.schedule(index)

    # -- inside --

    def _try_reset(self) -> None:
        """End the reset if no work on chains goes on any more; otherwise the end of that comes back here."""
        if any(self.is_busy(queue.index) for queue in self.queues):
            for queue in self.queues:
                queue.begin_reset()
            return
        self.state = LIFECYCLE.next(self.state, Event.RESET)
        self.reset()

    def _driver_event(self, flag: Status, event: Event) -> None:
        if not LIFECYCLE.allows(self.state, event):
            self.report(f"status bit {flag.name} set in state {self.state.value}")
            return
        if event is Event.FEATURES_OK and not self._accept_features():
            return  # the bit stays clear: that is how the driver learns (3.1.1 step 6)
        self.state = LIFECYCLE.next(self.state, event)
        self.status |= flag
        if event is Event.DRIVER_OK:
            self.on_driver_ok()
            # Buffers may have been added before the device was allowed to look (3.1.1 step 7).
            for queue in self.queues:
                if queue.is_active:
                    self.schedule(queue.index)

    def _accept_features(self) -> bool:
        unknown = self.driver_features & ~self.offered_features
        if unknown:
            self.report(f"features {unknown:#x} were not offered")
            return False
        if not self.has_feature(VIRTIO_F_VERSION_1):
            self.report("driver without VIRTIO_F_VERSION_1; legacy drivers are not supported")
            return False
        if virtio_features.on:
            virtio_features(self.name, self.driver_features)
        return True

    def _turn(self, index: int) -> None:
        self._scheduled[index] = False
        queue = self.queues[index]
        if not self.is_running or not queue.is_active:
            return
        more = self.handle_queue(queue)
        self.finish(queue)
        if more and self.is_running:
            self.schedule(index)

    def _queue_broken(self, index: int, reason: str) -> None:
        """A queue met a rule the driver broke: stop and ask for a reset (2.1.2)."""
        was_running = self.is_running
        if LIFECYCLE.allows(self.state, Event.BREAK):
            self.state = LIFECYCLE.next(self.state, Event.BREAK)
            self.status |= Status.DEVICE_NEEDS_RESET
        self.report(f"queue {index}: {reason}; the device needs a reset")
        if was_running and self.notifier is not None:
            self.notifier.config_changed()

    # -- save and load --

    def save(self) -> VirtioState:
        """State with all queues at rest. Raises StateError while chains are in flight or a reset goes on."""
        if self.state is State.RESETTING:
            raise StateError(f"save {self.name}", self.state.value)
        return VirtioState(
            state=self.state.value,
            status=int(self.status),
            driver_features=self.driver_features,
            config_generation=self.config_generation,
            queues=tuple(queue.save() for queue in self.queues),
            own=self.save_own(),
        )

    def check(self, state: object) -> VirtioState:
        """Give `state` back if `load` would take it. Raises SavedStateError otherwise."""
        if not isinstance(state, VirtioState):
            raise SavedStateError(self.name, "not a virtio device")
        if state.state not in {known.value for known in State}:
            raise SavedStateError(self.name, f"no state {state.state!r}")
        if type(state.status) is not int or state.status & ~sum(Status) or state.status < 0:
            raise SavedStateError(self.name, f"status {state.status!r}")
        required, forbidden = _STATUS_BITS[State(state.state)]
        if state.status & (required | forbidden) != required:
            raise SavedStateError(self.name, f"status {state.status:#x} in state {state.state}")
        if type(state.driver_features) is not int or not 0 <= state.driver_features < 1 << 64:
            raise SavedStateError(self.name, f"features {state.driver_features!r}")
        if state.status & Status.FEATURES_OK and state.driver_features & ~self.offered_features:
            raise SavedStateError(self.name, f"features {state.driver_features:#x} are not all offered")
        if type(state.config_generation) is not int or not 0 <= state.config_generation <= 0xFF:
            raise SavedStateError(self.name, f"configuration generation {state.config_generation!r}")
        if type(state.queues) is not tuple or len(state.queues) != len(self.queues):
            raise SavedStateError(self.name, f"not {len(self.queues)} queues")
        for queue, saved in zip(self.queues, state.queues, strict=True):
            queue.check(saved)
        self.check_own(state.own)
        return state

    def load(self, state: object) -> None:
        saved = self.check(state)
        self.state = State(saved.state)
        self.status = saved.status
        self.driver_features = saved.driver_features
        self.config_generation = saved.config_generation
        for queue, queue_state in zip(self.queues, saved.queues, strict=True):
            queue.load(queue_state)
            queue.event_idx = self.has_feature(VIRTIO_F_EVENT_IDX)
            queue.indirect = self.has_feature(VIRTIO_F_INDIRECT_DESC)
        self.load_own(saved.own)
        if self.is_running:
            # A turn that was scheduled when the state was saved is not part of it; an extra one does no harm.
            for queue in self.queues:
                if queue.is_active:
                    self.schedule(queue.index)


_STATUS_BITS: dict[State, tuple[int, int]] = {
    State.RESET: (0, 0xFF),
    State.ACKNOWLEDGED: (1, 0xFE),
    State.DRIVER: (3, 0xFC),
    State.FEATURES_OK: (0x0B, 0xF4),
    State.DRIVER_OK: (0x0F, 0xF0),
    State.NEEDS_RESET: (0x4B, 0x80),
    State.FAILED: (0x81, 0),
    State.RESETTING: (0x100, 0),  # never: it is not saved
}
"""Status bits that must be set, and that must be clear, in each state of a saved device."""
