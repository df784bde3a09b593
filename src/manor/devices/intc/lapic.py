"""Local APIC: xAPIC (MMIO) and x2APIC (MSR), one per vCPU.

Source: Intel SDM volume 3, chapter 11 "Advanced Programmable Interrupt Controller (APIC)".

Guest-visible differences from hardware:
- Interrupts travel at once: delivery status is always idle.
- The MMIO window does not move: a new base in APIC_BASE is stored, and a guest error.
- There is no 8259 (ExtINT), no system management mode (SMI), no CMCI entry.
- The ID is fixed; remote read gives 0; focus processor checking has no effect.

Thread: any; the lock of the ApicBus is taken inside. CpuLines methods are called with that lock held, so
they must not wait for a thread that may want it.
"""

from __future__ import annotations

from typing import Final, Protocol

from manor.base.clock import Clock
from manor.base.errors import SavedStateError
from manor.base.timers import Timers
from manor.devices.device import Device
from manor.devices.intc.apic_bus import ApicBus
from manor.devices.intc.lapic_regs import (
    LVT_KINDS,
    MSR_APIC_BASE,
    MSR_TSC_DEADLINE,
    MSR_X2APIC,
    MSR_X2APIC_END,
    X2APIC,
    XAPIC,
)
from manor.devices.intc.lapic_timer import LapicTimer, TimerMode
from manor.devices.intc.message import BROADCAST_8, BROADCAST_32, DeliveryMode, InterruptMessage
from manor.regs.block import RegisterBlock, register_write
from manor.regs.field import Reg
from manor.spec.interrupt_state import LapicState, apic_divider
from manor.trace.event import declare, guest_error

__all__ = ["ApicBus", "CpuLines", "LapicState", "LocalApic"]

BASE_ADDRESS: Final = 0xFEE0_0000
_BASE_BSP: Final = 1 << 8
_BASE_X2APIC: Final = 1 << 10
_BASE_ENABLE: Final = 1 << 11
_BASE_ADDRESS_MASK: Final = 0x000F_FFFF_FFFF_F000
_BASE_VALID: Final = _BASE_ADDRESS_MASK | _BASE_BSP | _BASE_X2APIC | _BASE_ENABLE
"""Figure 11-26. Bits of the address above the physical address width should be refused; 52 is the widest."""

TIMER, THERMAL, PERF, LINT0, LINT1, ERROR = range(6)
_LVT_MASKED: Final = 1 << 16
_LVT_REGS: Final = tuple(XAPIC.by_name[f"LVT_{kind.upper()}"] for kind in LVT_KINDS)
_SVR: Final = XAPIC.by_name["SVR"]
_SVR_ENABLE: Final = _SVR.mask("enable")
_SVR_EOI_SUPPRESS: Final = _SVR.mask("eoi_suppress")
_VERSION: Final = XAPIC.by_name["VERSION"].reset_value
_ESR: Final = XAPIC.by_name["ESR"]
_ESR_SEND_ILLEGAL: Final = _ESR.mask("send_illegal_vector")
_ESR_RECEIVE_ILLEGAL: Final = _ESR.mask("receive_illegal_vector")
_ESR_ILLEGAL_REGISTER: Final = _ESR.mask("illegal_register")
_DFR: Final = XAPIC.by_name["DFR"]
_EOI_OFFSET: Final = XAPIC.by_name["EOI"].offset
_DIVIDE: Final = XAPIC.by_name["DIVIDE"]
_DFR_FLAT: Final = 0xF
_FIRST_LEGAL_VECTOR: Final = 16
"""Vectors 0 to 15 belong to exceptions. SDM volume 3, 11.5.2."""
_ALL: Final = (1 << 256) - 1


def _msr_map(direction: str) -> dict[int, Reg]:
    return {MSR_X2APIC + offset // 8: reg for offset, (reg, _) in X2APIC.layout("", direction).items()}


_MSR_READS: Final = _msr_map("read")
_MSR_WRITES: Final = _msr_map("write")
_KNOWN_OFFSETS: Final = frozenset(XAPIC.layout("", "read")) | frozenset(XAPIC.layout("", "write"))

lapic_accept = declare("lapic_accept", apic_id=int, vector=int, is_level=bool)
lapic_acknowledge = declare("lapic_acknowledge", apic_id=int, vector=int)
lapic_eoi = declare("lapic_eoi", apic_id=int, vector=int)
lapic_timer_fire = declare("lapic_timer_fire", apic_id=int, vector=int, is_masked=bool)
lapic_msr_read = declare("lapic_msr_read", apic_id=int, index=int, value=int)
lapic_msr_write = declare("lapic_msr_write", apic_id=int, index=int, value=int)


class CpuLines(Protocol):
    """The vCPU, as its local APIC sees it. Thread: any, APIC bus lock held."""

    def interrupt_pending(self, pending: bool) -> None: ...
    def nmi(self) -> None: ...
    def init(self) -> None: ...
    def sipi(self, vector: int) -> None: ...


class LocalApic(Device):
    """Implements BusTarget (its MMIO page), InterruptController (for its vCPU) and ApicTarget (for the
    bus)."""

    def __init__(
        self,
        apic_id: int,
        clock: Clock,
        timers: Timers,
        tsc_frequency_hz: int,
        cpu: CpuLines,
        bus: ApicBus,
        *,
        is_bootstrap: bool | None = None,
    ) -> None:
        """is_bootstrap: whether APIC_BASE shows this processor as the BSP; by default APIC ID 0 is."""
        self.name = f"lapic{apic_id}"
        self.apic_id = apic_id
        self._is_bootstrap = apic_id == 0 if is_bootstrap is None else is_bootstrap
        self._cpu = cpu
        self._bus = bus
        self._lock = bus.lock
        self._timer = LapicTimer(clock, timers, tsc_frequency_hz, self._on_timer)
        self._pending = False
        self._xapic = RegisterBlock(XAPIC, self, self.name)
        self._x2apic = RegisterBlock(X2APIC, self, self.name)
        self._apic_base = 0
        self._reset_registers()
        self._reset_base()
        bus.attach(self)

    # --- life -----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        with self._lock:
            self._reset_registers()
            self._reset_base()
            self._update()

    def _reset_base(self) -> None:
        self._apic_base = BASE_ADDRESS | _BASE_ENABLE | (_BASE_BSP if self._is_bootstrap else 0)

    def _reset_registers(self) -> None:
        """State after power-up, and after INIT. SDM volume 3, 11.4.7.1 and 11.4.7.3."""
        self._tpr = 0
        self._ldr = 0
        self._dfr = _DFR.reset_value
        self._svr = _SVR.reset_value
        self._esr = 0
        self._esr_pending = 0
        self._icr = 0
        self._lvt = [reg.reset_value for reg in _LVT_REGS]
        self._irr = 0
        self._isr = 0
        self._tmr = 0
        self._ppr = 0
        self._divide = 0
        self._timer.reset()

    def save(self) -> LapicState:
        with self._lock:
            self._expire_timer()
            timer = self._timer
            return LapicState(
                self.apic_id, self._apic_base, self._tpr, self._ldr, self._dfr, self._svr, self._esr,
                self._esr_pending, self._icr, tuple(self._lvt), self._irr, self._isr, self._tmr,
                int(timer.mode), timer.initial_count, self._divide, timer.tsc_deadline, timer.remaining_ns(),
            )  # fmt: skip

    def load(self, state: object) -> None:
        if not isinstance(state, LapicState):
            raise SavedStateError(self.name, f"not the state of a local APIC: {type(state).__name__}")
        self._check(state)
        with self._lock:
            self._apic_base = state.apic_base
            self._tpr = state.tpr
            self._ldr = state.ldr
            self._dfr = state.dfr
            self._svr = state.svr
            self._esr = state.esr
            self._esr_pending = state.esr_pending
            self._icr = state.icr
            self._lvt = list(state.lvt)
            self._irr = state.irr
            self._isr = state.isr
            self._tmr = state.tmr
            self._divide = state.divide
            timer = self._timer
            timer.reset()
            timer.mode = TimerMode(state.timer_mode)
            timer.initial_count = state.timer_initial_count
            timer.divider = apic_divider(state.divide)
            timer.tsc_deadline = state.tsc_deadline
            timer.restore(state.timer_remaining_ns)
            self._update()

    def _check(self, state: LapicState) -> None:
        def refuse(what: str) -> SavedStateError:
            return SavedStateError(self.name, what)

        if state.apic_id != self.apic_id:
            raise refuse(f"belongs to APIC {state.apic_id}")
        mode = state.apic_base & (_BASE_ENABLE | _BASE_X2APIC)
        if state.apic_base & ~_BASE_VALID or mode == _BASE_X2APIC:
            raise refuse(f"APIC_BASE {state.apic_base:#x} is invalid")
        legal = _ALL & ~((1 << _FIRST_LEGAL_VECTOR) - 1)
        if any(bits & ~legal or bits < 0 for bits in (state.irr, state.isr, state.tmr)):
            raise refuse("IRR, ISR or TMR has illegal vectors")
        if len(state.lvt) != len(_LVT_REGS) or any(
            value & reg.reserved_mask or value >> 32 for value, reg in zip(state.lvt, _LVT_REGS, strict=True)
        ):
            raise refuse("the local vector table is invalid")
        if not 0 <= state.tpr <= 0xFF or state.svr & _SVR.reserved_mask or state.svr >> 32:
            raise refuse("TPR or SVR is invalid")
        if state.timer_mode not in (0, 1, 2) or state.divide & ~_DIVIDE.write_mask:
            raise refuse("the timer is invalid")
        if not 0 <= state.timer_initial_count < 1 << 32:
            raise refuse("the timer is invalid")
        if not 0 <= state.tsc_deadline < 1 << 64 or (state.timer_remaining_ns or 0) < 0:
            raise refuse("the timer is invalid")
        if any(not 0 <= value < 1 << 32 for value in (state.ldr, state.dfr, state.esr, state.esr_pending)):
            raise refuse("a register has more than 32 bits")
        if not 0 <= state.icr < 1 << 64:
            raise refuse("ICR has more than 64 bits")

    # --- towards the vCPU: InterruptController --------------------------------------------------------------

    def acknowledge(self) -> int | None:
        """Deliver the highest pending interrupt: moved from IRR to ISR. None if none is deliverable."""
        with self._lock:
            irr = self._irr
            vector = irr.bit_length() - 1
            if vector < 0 or vector >> 4 <= self._ppr >> 4 or not self._apic_base & _BASE_ENABLE:
                return None
            self._irr = irr & ~(1 << vector)
            self._isr |= 1 << vector
            if lapic_acknowledge.on:
                lapic_acknowledge(self.apic_id, vector)
            self._update()
            return vector

    def has_interrupt(self) -> bool:
        """Whether `acknowledge` would give a vector."""
        return self._pending

    def get_tpr(self) -> int:
        """CR8: bits 7:4 of the task priority."""
        return self._tpr >> 4

    def set_tpr(self, value: int) -> None:
        """CR8 written: the low four bits count, the subclass becomes 0. SDM volume 3, 11.8.6.1."""
        with self._lock:
            self._tpr = (value & 0xF) << 4
            self._update()

    def read_msr(self, index: int) -> int | None:
        """APIC_BASE, TSC_DEADLINE or an x2APIC register; None is #GP(0)."""
        with self._lock:
            value: int | None
            if index == MSR_APIC_BASE:
                value = self._apic_base
            elif index == MSR_TSC_DEADLINE:
                self._expire_timer()
                value = self._timer.tsc_deadline
            elif index not in _MSR_READS or not self._is_x2apic:
                return None
            else:
                value = self._x2apic.read((index - MSR_X2APIC) * 8, 8)
            if lapic_msr_read.on:
                lapic_msr_read(self.apic_id, index, value)
            return value

    def write_msr(self, index: int, value: int) -> bool:
        """False is #GP(0): no such register, read-only, reserved bits, or an illegal change of mode."""
        if lapic_msr_write.on:
            lapic_msr_write(self.apic_id, index, value)
        with self._lock:
            if index == MSR_APIC_BASE:
                return self._write_base(value)
            if index == MSR_TSC_DEADLINE:
                self._timer.set_deadline(value)
                self._expire_timer()
                return True
            reg = _MSR_WRITES.get(index)
            if reg is None or not self._is_x2apic or value & reg.reserved_mask:
                return False
            if value and reg.name in ("EOI", "ESR"):
                return False  # SDM volume 3, 11.12.1.2: writing anything but 0 is #GP
            self._x2apic.write((index - MSR_X2APIC) * 8, 8, value)
            return True

    @staticmethod
    def owns_msr(index: int) -> bool:
        """Whether `index` is one of ours, existing or not."""
        return index in (MSR_APIC_BASE, MSR_TSC_DEADLINE) or MSR_X2APIC <= index < MSR_X2APIC_END

    def set_tsc_offset(self, offset: int) -> None:
        """What the vCPU adds to the host-derived time-stamp counter; a pending TSC deadline moves with it."""
        with self._lock:
            if offset == self._timer.tsc_offset:
                return
            self._timer.tsc_offset = offset
            self._timer.rearm()
            self._expire_timer()

    def tsc(self) -> int:
        """The time-stamp counter the deadline is compared with."""
        return self._timer.tsc()

    def poll(self) -> None:
        """Fire the timer now if it is due: for a vCPU that would otherwise wait for the I/O loop."""
        with self._lock:
            self._expire_timer()

    @property
    def apic_base(self) -> int:
        """IA32_APIC_BASE."""
        return self._apic_base

    # --- towards the bus: ApicTarget ------------------------------------------------------------------------

    @property
    def _is_x2apic(self) -> bool:
        return self._apic_base & (_BASE_ENABLE | _BASE_X2APIC) == _BASE_ENABLE | _BASE_X2APIC

    def matches(self, destination: int, is_logical: bool) -> bool:
        """Whether a message with this destination is for us. SDM volume 3, 11.6.2 and 11.12.10."""
        if destination == BROADCAST_32:
            return True
        if not is_logical:
            return destination == self.apic_id
        if self._is_x2apic:
            own = self._x2apic_ldr()
            return destination >> 16 == own >> 16 and bool(destination & own & 0xFFFF)
        if destination > 0xFF:
            return False
        own = self._ldr >> 24
        if self._dfr >> 28 == _DFR_FLAT:
            return bool(destination & own)
        return destination >> 4 == own >> 4 and bool(destination & own & 0xF)

    def can_accept(self) -> bool:
        """Whether fixed interrupts are taken: enabled globally and by software."""
        return bool(self._apic_base & _BASE_ENABLE and self._svr & _SVR_ENABLE)

    def priority(self) -> int:
        """For lowest-priority arbitration: arbitration priority, SDM volume 3, 11.6.2.4."""
        requested = self._irr.bit_length() - 1
        return max(self._tpr, self._ppr, requested if requested > 0 else 0)

    def accept(self, vector: int, is_level: bool) -> bool:
        """Take a fixed interrupt into IRR; whether it was taken. Lock held."""
        if not self.can_accept():
            return False
        if vector < _FIRST_LEGAL_VECTOR:
            self._error(_ESR_RECEIVE_ILLEGAL)
            return False
        one = 1 << vector
        self._irr |= one
        if is_level:
            self._tmr |= one
        else:
            self._tmr &= ~one
        if lapic_accept.on:
            lapic_accept(self.apic_id, vector, is_level)
        if not self._pending:
            self._update()
        return True

    def receive_nmi(self) -> None:
        self._cpu.nmi()

    def receive_init(self) -> None:
        """INIT: all registers but the ID and APIC_BASE. SDM volume 3, 11.4.7.3."""
        self._reset_registers()
        self._update()
        self._cpu.init()

    def receive_startup(self, vector: int) -> None:
        self._cpu.sipi(vector)

    def signal(self, entry: int) -> None:
        """A local event: LINT0, LINT1, THERMAL or PERF goes through its vector table entry. Edge only."""
        with self._lock:
            value = self._lvt[entry]
            if value & _LVT_MASKED:
                return
            match DeliveryMode((value >> 8) & 7):
                case DeliveryMode.FIXED:
                    self.accept(value & 0xFF, False)
                case DeliveryMode.NMI:
                    self.receive_nmi()
                case DeliveryMode.INIT:
                    self.receive_init()
                case mode:
                    if guest_error.on:
                        guest_error(self.name, f"{LVT_KINDS[entry]}: no delivery mode {mode.name}")

    # --- MMIO: BusTarget ------------------------------------------------------------------------------------

    def read(self, offset: int, size: int) -> int:
        """xAPIC register read. All ones when the APIC is disabled or in x2APIC mode."""
        with self._lock:
            if not self._is_xapic("read", offset):
                return (1 << (8 * size)) - 1
            return self._xapic.read(offset, size)

    def write(self, offset: int, size: int, value: int) -> None:
        """xAPIC register write."""
        with self._lock:
            if offset == _EOI_OFFSET and size == 4 and not register_write.on and self._is_xapic("write", offset):
                self.on_write_eoi(value)  # what guests write most, in fewer steps
            elif self._is_xapic("write", offset):
                self._xapic.write(offset, size, value)

    def _is_xapic(self, action: str, offset: int) -> bool:
        if self._apic_base & (_BASE_ENABLE | _BASE_X2APIC) != _BASE_ENABLE:
            if guest_error.on:
                guest_error(self.name, f"{action} at offset {offset:#x} while not in xAPIC mode")
            return False
        if offset & ~3 not in _KNOWN_OFFSETS:
            self._error(_ESR_ILLEGAL_REGISTER)
        return True

    # --- register hooks, shared by both forms ---------------------------------------------------------------

    def on_read_id(self) -> int:
        return (self.apic_id & 0xFF) << 24

    def on_read_x2id(self) -> int:
        return self.apic_id

    def on_read_version(self) -> int:
        return _VERSION

    def on_read_tpr(self) -> int:
        return self._tpr

    def on_write_tpr(self, value: int) -> None:
        self._tpr = value
        self._update()

    def on_read_apr(self) -> int:
        return self.priority()

    def on_read_ppr(self) -> int:
        return self._ppr

    def on_write_eoi(self, _value: int) -> None:
        vector = self._isr.bit_length() - 1
        if vector < 0:
            return  # an EOI with nothing in service has no effect
        one = 1 << vector
        self._isr &= ~one
        if lapic_eoi.on:
            lapic_eoi(self.apic_id, vector)
        self._update()
        if self._tmr and self._tmr & one and not self._svr & _SVR_EOI_SUPPRESS:
            self._bus.end_of_interrupt(vector)

    def on_read_rrd(self) -> int:
        return 0

    def on_read_ldr(self) -> int:
        return self._ldr

    def on_write_ldr(self, value: int) -> None:
        self._ldr = value

    def on_read_x2ldr(self) -> int:
        return self._x2apic_ldr()

    def _x2apic_ldr(self) -> int:
        """Cluster and bit from the ID. SDM volume 3, 11.12.10.2."""
        return (self.apic_id >> 4) << 16 | 1 << (self.apic_id & 0xF)

    def on_read_dfr(self) -> int:
        return self._dfr

    def on_write_dfr(self, value: int) -> None:
        self._dfr = value | _DFR.reserved_value

    def on_read_svr(self) -> int:
        return self._svr

    def on_write_svr(self, value: int) -> None:
        self._svr = value
        if not value & _SVR_ENABLE:
            # Software disable sets every mask bit. SDM volume 3, 11.4.7.2.
            self._lvt = [entry | _LVT_MASKED for entry in self._lvt]

    def on_read_isr(self, index: int) -> int:
        return (self._isr >> (32 * index)) & 0xFFFF_FFFF

    def on_read_tmr(self, index: int) -> int:
        return (self._tmr >> (32 * index)) & 0xFFFF_FFFF

    def on_read_irr(self, index: int) -> int:
        return (self._irr >> (32 * index)) & 0xFFFF_FFFF

    def on_read_esr(self) -> int:
        return self._esr

    def on_write_esr(self, _value: int) -> None:
        # A write makes the errors since the last write visible. SDM volume 3, 11.5.3.
        self._esr = self._esr_pending
        self._esr_pending = 0

    def on_read_icr_low(self) -> int:
        return self._icr & 0xFFFF_FFFF

    def on_write_icr_low(self, value: int) -> None:
        self._icr = (self._icr & ~0xFFFF_FFFF) | value
        destination = self._icr >> 56
        self._send(BROADCAST_32 if destination == BROADCAST_8 else destination)

    def on_read_icr_high(self) -> int:
        return self._icr >> 32

    def on_write_icr_high(self, value: int) -> None:
        self._icr = (self._icr & 0xFFFF_FFFF) | value << 32

    def on_read_icr(self) -> int:
        return self._icr

    def on_write_icr(self, value: int) -> None:
        self._icr = value
        self._send(value >> 32)

    def on_write_self_ipi(self, value: int) -> None:
        if value < _FIRST_LEGAL_VECTOR:
            self._error(_ESR_SEND_ILLEGAL)
        else:
            self.accept(value, False)

    def on_read_lvt_timer(self) -> int:
        return self._lvt[TIMER]

    def on_write_lvt_timer(self, value: int) -> None:
        mode = TimerMode((value >> 17) & 3)
        if mode is TimerMode.RESERVED:
            if guest_error.on:
                guest_error(self.name, "reserved timer mode; the mode stays")
            mode = self._timer.mode
            value = (value & ~(3 << 17)) | mode << 17
        self._expire_timer()
        self._write_lvt(TIMER, value)
        self._timer.set_mode(mode)

    def on_read_lvt_thermal(self) -> int:
        return self._lvt[THERMAL]

    def on_write_lvt_thermal(self, value: int) -> None:
        self._write_lvt(THERMAL, value)

    def on_read_lvt_perf(self) -> int:
        return self._lvt[PERF]

    def on_write_lvt_perf(self, value: int) -> None:
        self._write_lvt(PERF, value)

    def on_read_lvt_lint0(self) -> int:
        return self._lvt[LINT0]

    def on_write_lvt_lint0(self, value: int) -> None:
        self._write_lvt(LINT0, value)

    def on_read_lvt_lint1(self) -> int:
        return self._lvt[LINT1]

    def on_write_lvt_lint1(self, value: int) -> None:
        self._write_lvt(LINT1, value)

    def on_read_lvt_error(self) -> int:
        return self._lvt[ERROR]

    def on_write_lvt_error(self, value: int) -> None:
        self._write_lvt(ERROR, value)

    def _write_lvt(self, entry: int, value: int) -> None:
        if not self._svr & _SVR_ENABLE:
            value |= _LVT_MASKED  # masks cannot be cleared while disabled by software
        self._lvt[entry] = value

    def on_read_initial_count(self) -> int:
        return self._timer.initial_count

    def on_write_initial_count(self, value: int) -> None:
        self._expire_timer()
        self._timer.set_initial_count(value)

    def on_read_current_count(self) -> int:
        self._expire_timer()
        return self._timer.current_count()

    def on_read_divide(self) -> int:
        return self._divide

    def on_write_divide(self, value: int) -> None:
        self._expire_timer()
        self._divide = value
        self._timer.set_divider(apic_divider(value))

    # --- inside ---------------------------------------------------------------------------------------------

    def _update(self) -> None:
        """Compute the processor priority, and tell the vCPU if deliverability changed."""
        tpr = self._tpr
        isr = self._isr
        if isr:
            in_service = (isr.bit_length() - 1) & 0xF0
            ppr = tpr if tpr & 0xF0 >= in_service else in_service
        else:
            ppr = tpr
        self._ppr = ppr
        pending = (
            (self._irr.bit_length() - 1) >> 4 > ppr >> 4 and self._apic_base & _BASE_ENABLE != 0
            if self._irr
            else False
        )
        if pending != self._pending:
            self._pending = pending
            self._cpu.interrupt_pending(pending)

    def _error(self, bit: int) -> None:
        """Log an error and raise the error interrupt. SDM volume 3, 11.5.3."""
        if guest_error.on:
            guest_error(self.name, f"APIC error {bit:#x}")
        is_new = not self._esr_pending & bit
        self._esr_pending |= bit
        entry = self._lvt[ERROR]
        # An illegal vector in the error entry itself must not raise errors without end.
        if is_new and not entry & _LVT_MASKED and entry & 0xFF >= _FIRST_LEGAL_VECTOR:
            self.accept(entry & 0xFF, False)

    def _send(self, destination: int) -> None:
        """Send what the interrupt command register says."""
        icr = self._icr
        mode = DeliveryMode((icr >> 8) & 7)
        vector = icr & 0xFF
        is_asserted = bool(icr & 1 << 14)
        if mode is DeliveryMode.INIT and not is_asserted and icr & 1 << 15:
            return  # INIT level de-assert: only resets arbitration IDs, which we do not have. 11.6.1
        if mode in (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY) and vector < _FIRST_LEGAL_VECTOR:
            self._error(_ESR_SEND_ILLEGAL)
            return
        message = InterruptMessage(destination, bool(icr & 1 << 11), mode, vector)
        match (icr >> 18) & 3:
            case 0:
                self._bus.deliver(message)
            case 1:
                # Self is legal with fixed only. SDM volume 3, table 11-3.
                if mode is DeliveryMode.FIXED:
                    self.accept(vector, False)
                elif guest_error.on:
                    guest_error(self.name, f"shorthand self with delivery mode {mode.name}")
            case 2:
                everyone = InterruptMessage(BROADCAST_32, False, mode, vector)
                if mode in (DeliveryMode.FIXED, DeliveryMode.LOWEST_PRIORITY):
                    self._bus.deliver(everyone)
                elif guest_error.on:
                    guest_error(self.name, f"shorthand all with delivery mode {mode.name}")
            case _:
                self._bus.deliver_except(self, InterruptMessage(BROADCAST_32, False, mode, vector))

    def _write_base(self, value: int) -> bool:
        if value & ~_BASE_VALID:
            return False
        old = self._apic_base & (_BASE_ENABLE | _BASE_X2APIC)
        new = value & (_BASE_ENABLE | _BASE_X2APIC)
        if new == _BASE_X2APIC:
            return False
        if old == _BASE_ENABLE | _BASE_X2APIC and new == _BASE_ENABLE:
            return False  # out of x2APIC mode only by way of disabled. SDM volume 3, figure 11-27
        if old == 0 and new == _BASE_ENABLE | _BASE_X2APIC:
            return False
        if value & _BASE_ADDRESS_MASK != BASE_ADDRESS and guest_error.on:
            guest_error(self.name, f"APIC base {value & _BASE_ADDRESS_MASK:#x}: the registers do not move")
        self._apic_base = value
        if new == 0 and old != 0:
            self._reset_registers()  # disabled: state is lost. SDM volume 3, 11.4.3
        self._update()
        return True

    def _on_timer(self) -> None:
        """Called by the timer queue."""
        with self._lock:
            self._expire_timer()
            self._timer.due()

    def _expire_timer(self) -> None:
        if not self._timer.expire():
            return
        entry = self._lvt[TIMER]
        is_masked = bool(entry & _LVT_MASKED)
        if lapic_timer_fire.on:
            lapic_timer_fire(self.apic_id, entry & 0xFF, is_masked)
        if not is_masked:
            self.accept(entry & 0xFF, False)
