"""Admin commands: queues, identity, features, logs, asynchronous events.

Source: NVM Express Base Specification 1.4, section 5 "Admin Command Set".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from manor.base.errors import SavedStateError
from manor.devices.nvme import identify, prp
from manor.devices.nvme.queues import Command, CompletionQueue, Outcome, SubmissionQueue
from manor.devices.nvme.regs import MAX_QUEUE_SIZE, PAGE, Admin, FeatureId, Status
from manor.mem.guest_memory import GuestMemory

if TYPE_CHECKING:
    from manor.devices.nvme.controller import NvmeController

EVENT_ERROR, EVENT_NOTICE = 0, 2
"""Types of asynchronous events (figure 145)."""
INVALID_DOORBELL_REGISTER, INVALID_DOORBELL_VALUE = 0, 1
NAMESPACE_CHANGED: Final = 0
"""Information of a notice (figure 148)."""
LOG_ERROR, LOG_SMART, LOG_FIRMWARE, LOG_CHANGED_NAMESPACES = 1, 2, 3, 4
"""Log pages (figure 191)."""
_NOTICE_NAMESPACE: Final = 1 << 8
"""Feature ASYNC_EVENTS: send namespace attribute notices (figure 295)."""

_FEATURES: Final[dict[FeatureId, tuple[int, int]]] = {
    FeatureId.ARBITRATION: (0, 0xFFFF_FF07),
    FeatureId.POWER_MANAGEMENT: (0, 0),
    FeatureId.TEMPERATURE_THRESHOLD: (343, 0x3F_FFFF),
    FeatureId.ERROR_RECOVERY: (0, 0xFFFF),
    FeatureId.WRITE_CACHE: (1, 1),
    FeatureId.INTERRUPT_COALESCING: (0, 0xFFFF),
    FeatureId.INTERRUPT_VECTOR: (0, 0),
    FeatureId.WRITE_ATOMICITY: (0, 1),
    FeatureId.ASYNC_EVENTS: (0, 0xFF | _NOTICE_NAMESPACE),
}
"""Feature to its default and the bits of its value that the driver may set. Coalescing and arbitration are requests:
what the driver says is kept, and nothing follows from it."""

_SELECT_CURRENT, _SELECT_DEFAULT, _SELECT_SAVED, _SELECT_CAPABILITIES = range(4)
_CAPABLE_OF_CHANGE: Final = 1 << 2
_SAVE: Final = 1 << 31


@dataclass(frozen=True, slots=True)
class AdminState:
    """What the driver told, and events that it was not told of."""

    features: tuple[tuple[int, int], ...]
    event_requests: tuple[int, ...]
    events: tuple[tuple[int, int, int], ...]
    masked: tuple[int, ...]
    is_namespace_changed: bool


class AdminCommands:
    """The admin side of one controller. Thread: machine lock held."""

    def __init__(self, controller: NvmeController, memory: GuestMemory) -> None:
        self._controller = controller
        self._memory = memory
        self.reset()

    def reset(self) -> None:
        """As after a controller reset: no event waits, every feature has its default."""
        self._features: dict[FeatureId, int] = {number: default for number, (default, _) in _FEATURES.items()}
        self._event_requests: list[int] = []
        self._events: list[tuple[int, int, int]] = []
        self._masked: set[int] = set()
        self._is_namespace_changed = False

    @property
    def has_write_cache(self) -> bool:
        """Whether writes may be done before they are on the medium (5.21.1.6)."""
        return bool(self._features[FeatureId.WRITE_CACHE] & 1)

    def execute(self, sq: SubmissionQueue, command: Command) -> Outcome | None:
        """The outcome; None for a command whose completion comes later."""
        try:
            match command.opcode:
                case Admin.IDENTIFY:
                    return self._identify(command)
                case Admin.GET_LOG_PAGE:
                    return self._get_log_page(command)
                case Admin.SET_FEATURES:
                    return self._set_features(command)
                case Admin.GET_FEATURES:
                    return self._get_features(command)
                case Admin.CREATE_CQ:
                    return self._create_cq(command)
                case Admin.CREATE_SQ:
                    return self._create_sq(command)
                case Admin.DELETE_CQ:
                    return self._delete_cq(command)
                case Admin.DELETE_SQ:
                    return self._delete_sq(command)
                case Admin.ABORT:
                    return Outcome(Status.SUCCESS, 1)  # not aborted: what is in flight is in the host's hands (5.1)
                case Admin.ASYNC_EVENT:
                    return self._request_event(command)
        except prp.BadPrp as bad:
            return self._refuse(bad.status, f"admin command {command.opcode:#x}: {bad}")
        return self._refuse(Status.INVALID_OPCODE, f"admin opcode {command.opcode:#x}")

    def _refuse(self, status: Status, message: str) -> Outcome:
        self._controller.report(message)
        return Outcome(status)

    def _give(self, command: Command, data: bytes) -> Outcome:
        """Put `data` where the command wants it."""
        prp.write(self._memory, prp.pieces(self._memory, command.prp1, command.prp2, len(data)), data)
        return Outcome(Status.SUCCESS)

    # -- identity and logs --

    def _identify(self, command: Command) -> Outcome:
        """5.15. CNS in the low byte of dword 10."""
        disk = self._controller.disk
        kind = command.cdw10 & 0xFF
        if kind == 1:
            return self._give(command, identify.controller(disk, self._controller.identity.vendor_id))
        if kind == 2:
            if command.nsid >= identify.NSID_ALL - 1:
                return self._refuse(Status.INVALID_NAMESPACE, f"namespaces after {command.nsid:#x}")
            return self._give(command, identify.active_namespaces(command.nsid))
        if kind not in (0, 3):
            return self._refuse(Status.INVALID_FIELD, f"identify of kind {kind:#x}")
        if command.nsid != identify.NAMESPACE:
            return self._refuse(Status.INVALID_NAMESPACE, f"identify of namespace {command.nsid:#x}")
        return self._give(command, identify.namespace(disk) if kind == 0 else identify.descriptors(disk))

    def _get_log_page(self, command: Command) -> Outcome:
        """5.14. The length counts dwords, minus one, in two halves; the offset bytes."""
        page = command.cdw10 & 0xFF
        size = 4 * ((command.cdw10 >> 16 | (command.cdw11 & 0xFFFF) << 16) + 1)
        offset = command.cdw12 | command.cdw13 << 32
        match page:
            case 1:
                data = identify.error_log()
            case 2:
                data = identify.smart_log(self._controller.disk)
            case 3:
                data = identify.firmware_log()
            case 4:
                data = identify.changed_namespaces_log(self._is_namespace_changed)
            case _:
                return self._refuse(Status.INVALID_LOG_PAGE, f"log page {page:#x}")
        if offset % 4 or offset > len(data):
            return self._refuse(Status.INVALID_FIELD, f"log page {page:#x} from {offset:#x}")
        outcome = self._give(command, data[offset : offset + size])
        if not command.cdw10 & 1 << 15:  # unless events are to be retained
            self._masked.discard({1: EVENT_ERROR, 4: EVENT_NOTICE}.get(page, -1))
            if page == LOG_CHANGED_NAMESPACES:
                self._is_namespace_changed = False
            self.send_events()
        return outcome

    # -- features --

    def _set_features(self, command: Command) -> Outcome:
        number, value = command.cdw10 & 0xFF, command.cdw11
        if command.cdw10 & _SAVE:
            return self._refuse(Status.FEATURE_NOT_SAVEABLE, f"feature {number:#x} saved")
        if number == FeatureId.QUEUES:
            return self._set_queues(value)
        if number not in _FEATURES:
            return self._refuse(Status.INVALID_FIELD, f"feature {number:#x}")
        feature = FeatureId(number)
        if feature is FeatureId.POWER_MANAGEMENT and value & 0x1F:
            return self._refuse(Status.INVALID_FIELD, f"power state {value & 0x1F}")
        if feature is FeatureId.INTERRUPT_VECTOR:
            if value & 0xFFFF >= self._controller.vectors.vectors:
                return self._refuse(Status.INVALID_FIELD, f"interrupt vector {value & 0xFFFF}")
            return Outcome(Status.SUCCESS)
        self._features[feature] = value & _FEATURES[feature][1]
        return Outcome(Status.SUCCESS)

    def _set_queues(self, value: int) -> Outcome:
        """5.21.1.7: both counts minus one; only before there are I/O queues."""
        if value & 0xFFFF == 0xFFFF or value >> 16 == 0xFFFF:
            return self._refuse(Status.INVALID_FIELD, f"number of queues {value:#x}")
        if any(self._controller.submission.keys() | self._controller.completion.keys()):
            return self._refuse(Status.COMMAND_SEQUENCE_ERROR, "number of queues set when there are some")
        return Outcome(Status.SUCCESS, self._queues)

    @property
    def _queues(self) -> int:
        """The number of queue pairs, as the feature states it."""
        return (self._controller.queue_limit - 1) * 0x1_0001

    def _get_features(self, command: Command) -> Outcome:
        number, select = command.cdw10 & 0xFF, command.cdw10 >> 8 & 7
        if (number not in _FEATURES and number != FeatureId.QUEUES) or select > _SELECT_CAPABILITIES:
            return self._refuse(Status.INVALID_FIELD, f"feature {number:#x}, selection {select}")
        if select == _SELECT_CAPABILITIES:
            return Outcome(Status.SUCCESS, _CAPABLE_OF_CHANGE)
        if number == FeatureId.QUEUES:
            return Outcome(Status.SUCCESS, self._queues)
        feature = FeatureId(number)
        if feature is FeatureId.INTERRUPT_VECTOR:
            vector = command.cdw11 & 0xFFFF
            if vector >= self._controller.vectors.vectors:
                return self._refuse(Status.INVALID_FIELD, f"interrupt vector {vector}")
            return Outcome(Status.SUCCESS, vector)
        # Nothing is saved over a reset, so what is saved is the default.
        is_current = select == _SELECT_CURRENT
        return Outcome(Status.SUCCESS, self._features[feature] if is_current else _FEATURES[feature][0])

    # -- queues --

    def _queue_problem(self, command: Command, entry: int, existing: object) -> Outcome | None:
        """What is wrong with a queue to be created, if anything. entry: bytes of one of its entries."""
        number, size = command.cdw10 & 0xFFFF, (command.cdw10 >> 16) + 1
        if not 1 <= number <= self._controller.queue_limit or existing is not None:
            return self._refuse(Status.INVALID_QUEUE_IDENTIFIER, f"creation of queue {number}")
        if not 2 <= size <= MAX_QUEUE_SIZE:
            return self._refuse(Status.INVALID_QUEUE_SIZE, f"queue {number} of {size} entries")
        if not command.cdw11 & 1:
            return self._refuse(Status.INVALID_FIELD, f"queue {number} is not contiguous")
        if command.prp1 % PAGE:
            return self._refuse(Status.PRP_OFFSET_INVALID, f"queue {number} at {command.prp1:#x}")
        if not self._controller.is_ram(command.prp1, entry * size):
            return self._refuse(Status.DATA_TRANSFER_ERROR, f"queue {number} at {command.prp1:#x} is not in RAM")
        if not self._controller.has_entry_sizes:
            return self._refuse(Status.INVALID_FIELD, f"queue {number} with entries of other sizes in CC")
        return None

    def _create_cq(self, command: Command) -> Outcome:
        number, size = command.cdw10 & 0xFFFF, (command.cdw10 >> 16) + 1
        problem = self._queue_problem(command, 16, self._controller.completion.get(number))
        if problem is not None:
            return problem
        vector = command.cdw11 >> 16
        if vector >= self._controller.vectors.vectors:
            return self._refuse(Status.INVALID_INTERRUPT_VECTOR, f"queue {number} with vector {vector}")
        has_interrupts = bool(command.cdw11 & 2)
        self._controller.completion[number] = CompletionQueue(
            self._memory, number, command.prp1, size, vector if has_interrupts else None
        )
        return Outcome(Status.SUCCESS)

    def _create_sq(self, command: Command) -> Outcome:
        number, size = command.cdw10 & 0xFFFF, (command.cdw10 >> 16) + 1
        problem = self._queue_problem(command, 64, self._controller.submission.get(number))
        if problem is not None:
            return problem
        cq = self._controller.completion.get(command.cdw11 >> 16)
        if cq is None or cq.number == 0:
            return self._refuse(Status.COMPLETION_QUEUE_INVALID, f"queue {number} with {command.cdw11 >> 16}")
        self._controller.submission[number] = SubmissionQueue(self._memory, number, command.prp1, size, cq)
        return Outcome(Status.SUCCESS)

    def _delete_cq(self, command: Command) -> Outcome:
        number = command.cdw10 & 0xFFFF
        if number == 0 or number not in self._controller.completion:
            return self._refuse(Status.INVALID_QUEUE_IDENTIFIER, f"deletion of completion queue {number}")
        if any(sq.cq.number == number for sq in self._controller.submission.values()):
            return self._refuse(Status.INVALID_QUEUE_DELETION, f"completion queue {number} is in use")
        del self._controller.completion[number]
        return Outcome(Status.SUCCESS)

    def _delete_sq(self, command: Command) -> Outcome | None:
        """5.6: over when the queue's commands are. Those not taken yet are dropped."""
        number = command.cdw10 & 0xFFFF
        sq = self._controller.submission.get(number)
        if number == 0 or sq is None or sq.deletion is not None:
            return self._refuse(Status.INVALID_QUEUE_IDENTIFIER, f"deletion of submission queue {number}")
        if not sq.in_flight:
            del self._controller.submission[number]
            return Outcome(Status.SUCCESS)
        sq.deletion = command.cid
        self._controller.submission[0].cq.reserved += 1
        return None

    def deleted(self, sq: SubmissionQueue) -> None:
        """The last command of a queue that is being deleted has ended."""
        assert sq.deletion is not None
        admin = self._controller.submission[0]
        del self._controller.submission[sq.number]
        admin.cq.reserved -= 1
        self._controller.complete(admin, sq.deletion, Outcome(Status.SUCCESS))
        self._controller.interrupt(admin.cq)

    # -- asynchronous events --

    def _request_event(self, command: Command) -> Outcome | None:
        """5.2: completed when there is an event."""
        if len(self._event_requests) >= identify.ASYNC_EVENT_LIMIT:
            return self._refuse(Status.ASYNC_EVENT_LIMIT, "too many asynchronous event requests")
        self._event_requests.append(command.cid)
        self.send_events()
        return None

    def namespace_changed(self) -> None:
        """The disk has another size."""
        self._is_namespace_changed = True
        if self._features[FeatureId.ASYNC_EVENTS] & _NOTICE_NAMESPACE:
            self._raise(EVENT_NOTICE, NAMESPACE_CHANGED, LOG_CHANGED_NAMESPACES)

    def doorbell_error(self, exists: bool) -> None:
        """The driver wrote a doorbell of no queue, or a value that makes no sense."""
        information = INVALID_DOORBELL_VALUE if exists else INVALID_DOORBELL_REGISTER
        self._raise(EVENT_ERROR, information, LOG_ERROR)

    def _raise(self, kind: int, information: int, page: int) -> None:
        event = (kind, information, page)
        if event not in self._events:
            self._events.append(event)
        self.send_events()

    def send_events(self) -> None:
        """Complete requests with events, one type at a time until the driver has read its log page (5.2)."""
        admin = self._controller.submission.get(0)
        if admin is None:
            return
        sent = False
        for event in list(self._events):
            kind, information, page = event
            if not self._event_requests or not admin.cq.has_room:
                break
            if kind in self._masked:
                continue
            self._events.remove(event)
            self._masked.add(kind)
            cid = self._event_requests.pop(0)
            result = kind | information << 8 | page << 16
            self._controller.complete(admin, cid, Outcome(Status.SUCCESS, result))
            sent = True
        if sent:
            self._controller.interrupt(admin.cq)

    # -- save and load --

    def save(self) -> AdminState:
        return AdminState(
            tuple((int(number), value) for number, value in self._features.items()),
            tuple(self._event_requests),
            tuple(self._events),
            tuple(sorted(self._masked)),
            self._is_namespace_changed,
        )

    def check(self, state: object) -> None:
        """Raise SavedStateError if `load` would."""
        name = self._controller.name
        if not isinstance(state, AdminState) or type(state.is_namespace_changed) is not bool:
            raise SavedStateError(name, "not the admin side of a controller")
        known = [int(number) for number in _FEATURES]
        if [number for number, _ in state.features] != known:
            raise SavedStateError(name, f"features are not {known}")
        for number, value in state.features:
            default, changeable = _FEATURES[FeatureId(number)]
            if type(value) is not int or (value != default and value & ~changeable):
                raise SavedStateError(name, f"feature {number} is {value!r}")
        if len(state.event_requests) > identify.ASYNC_EVENT_LIMIT or any(
            type(cid) is not int or not 0 <= cid <= 0xFFFF for cid in state.event_requests
        ):
            raise SavedStateError(name, f"event requests {state.event_requests}")
        kinds = (EVENT_ERROR, EVENT_NOTICE)
        if any(kind not in kinds for kind in state.masked) or any(
            len(event) != 3 or event[0] not in kinds or not all(0 <= part <= 0xFF for part in event)
            for event in state.events
        ):
            raise SavedStateError(name, f"events {state.events}")

    def load(self, state: AdminState) -> None:
        """Take over a checked state."""
        self._features = {FeatureId(number): value for number, value in state.features}
        self._event_requests = list(state.event_requests)
        self._events = list(state.events)
        self._masked = set(state.masked)
        self._is_namespace_changed = state.is_namespace_changed
