"""MC146818 real-time clock and CMOS RAM, as on a PC.

Source: Motorola MC146818A datasheet, 1984; the century byte at 0x32 is the IBM PS/2 convention that the ACPI
FADT announces (ACPI 6.5, 5.2.9, CENTURY).

Time is the host's civil time (UTC) plus an offset that changes when the guest sets the clock.

Guest-visible differences from hardware:
- Only the 32.768 kHz time base (DV = 2) runs; every other divider setting holds the clock.
- A time that is no valid date is a guest error and is ignored when the clock goes on.
- No square wave; daylight saving (DSE) is stored and has no effect.
- On reset the time, the format bits of register B and the RAM survive, as with a battery.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from manor.base.clock import SECOND, Clock
from manor.base.errors import SavedStateError
from manor.base.timers import TimerHandle, Timers
from manor.bus.irq import IrqLine
from manor.devices.device import Device
from manor.regs.access import RC, RO, WO
from manor.regs.block import RegisterBlock
from manor.regs.field import Field, Reg, RegisterTable, reserved
from manor.trace.event import declare, guest_error

CMOS_SIZE: Final = 128
CENTURY_INDEX: Final = 0x32

INDEX: Final = Reg(
    "INDEX", 0, access=WO, doc="port 0x70",
    fields=(Field("index", 0, 7), Field("nmi_mask", 7, doc="stored, no effect")),
)  # fmt: skip
DATA: Final = Reg("DATA", 1, stored=False, doc="port 0x71")
PORTS: Final = RegisterTable("rtc", 2, (INDEX, DATA), split=True, unmapped=0xFF, source="IBM PC AT")

SECONDS: Final = Reg("SECONDS", 0)
MINUTES: Final = Reg("MINUTES", 2)
HOURS: Final = Reg("HOURS", 4, doc="in 12-hour format bit 7 is PM")
DAY_OF_WEEK: Final = Reg("DAY_OF_WEEK", 6, doc="Sunday is 1")
DAY_OF_MONTH: Final = Reg("DAY_OF_MONTH", 7)
MONTH: Final = Reg("MONTH", 8)
YEAR: Final = Reg("YEAR", 9)
CENTURY: Final = Reg("CENTURY", CENTURY_INDEX)
TIME_REGS: Final = (SECONDS, MINUTES, HOURS, DAY_OF_WEEK, DAY_OF_MONTH, MONTH, YEAR, CENTURY)
SECONDS_ALARM: Final = Reg("SECONDS_ALARM", 1, doc="0xC0 and above match every second")
MINUTES_ALARM: Final = Reg("MINUTES_ALARM", 3)
HOURS_ALARM: Final = Reg("HOURS_ALARM", 5)
A: Final = Reg(
    "A", 0x0A, source="MC146818A, register A",
    fields=(
        Field("rs", 0, 4, reset=6, doc="periodic rate"),
        Field("dv", 4, 3, reset=2, doc="divider; 2 is running"),
        Field("uip", 7, access=RO, doc="update in progress"),
    ),
)  # fmt: skip
B: Final = Reg(
    "B", 0x0B, source="MC146818A, register B",
    fields=(
        Field("dse", 0),
        Field("h24", 1, reset=1, doc="24-hour format"),
        Field("dm", 2, doc="binary format"),
        Field("sqwe", 3),
        Field("uie", 4, doc="update-ended interrupt enable"),
        Field("aie", 5, doc="alarm interrupt enable"),
        Field("pie", 6, doc="periodic interrupt enable"),
        Field("set", 7, doc="hold the time for setting"),
    ),
)  # fmt: skip
C: Final = Reg(
    "C", 0x0C, access=RO, source="MC146818A, register C",
    fields=(
        reserved(0, 4),
        Field("uf", 4, access=RC),
        Field("af", 5, access=RC),
        Field("pf", 6, access=RC),
        Field("irqf", 7, access=RC),
    ),
)  # fmt: skip
D: Final = Reg(
    "D", 0x0D, access=RO, source="MC146818A, register D", fields=(reserved(0, 7), Field("vrt", 7, reset=1))
)
RAM: Final = tuple(
    Reg(f"RAM_{index:02X}", index) for index in range(0x0E, CMOS_SIZE) if index != CENTURY_INDEX
)
CMOS: Final = RegisterTable(
    "cmos",
    CMOS_SIZE,
    (*TIME_REGS, SECONDS_ALARM, MINUTES_ALARM, HOURS_ALARM, A, B, C, D, *RAM),
    source="Motorola MC146818A, 1984",
)

_UIP: Final = A.mask("uip")
_RUNNING_DV: Final = 2
_SET: Final = B.mask("set")
_UIE: Final = B.mask("uie")
_AIE: Final = B.mask("aie")
_PIE: Final = B.mask("pie")
_UF: Final = C.mask("uf")
_AF: Final = C.mask("af")
_PF: Final = C.mask("pf")
_IRQF: Final = C.mask("irqf")
_UPDATE_NS: Final = 1_984_000 + 244_000
"""How long UIP is one before the second changes: 244 us warning and 1984 us update, for a 32.768 kHz time
base."""
_AFTER_RESET_NS: Final = SECOND // 2
"""The first update comes this long after the divider leaves reset. MC146818A, "Divider control"."""
_BASE_HZ: Final = 32_768
_DONT_CARE: Final = 0xC0
_PM: Final = 0x80
_DAY: Final = 86_400
_EPOCH_DAY: Final = datetime.date(1970, 1, 1).toordinal()
_LAST_SECOND: Final = (datetime.date(9999, 12, 31).toordinal() - _EPOCH_DAY + 1) * _DAY - 1
_FIRST_SECOND: Final = (1 - _EPOCH_DAY) * _DAY

rtc_set_time = declare("rtc_set_time", device=str, seconds=int)
rtc_interrupt = declare("rtc_interrupt", device=str, flags=int)


@dataclass(frozen=True, slots=True)
class Mc146818State:
    """Saved state. offset_ns: guest's time minus the host's civil time. was_reset: by the divider, while held."""

    ports: Mapping[str, int | str]
    cmos: Mapping[str, int | str]
    offset_ns: int
    weekday_offset: int
    is_held: bool
    was_reset: bool


class Mc146818(Device):
    """Implements BusTarget for the two ports.

    wall-clock time comes from `clock.wall_ns`, the periodic rate and all waiting from `clock.now_ns`.
    """

    def __init__(self, name: str, irq: IrqLine, clock: Clock, timers: Timers) -> None:
        self.name = name
        self._irq = irq
        self._clock = clock
        self._timers = timers
        self._timer: TimerHandle | None = None
        self._offset_ns = 0
        self._weekday_offset = 0
        self._is_held = False
        self._was_reset = False
        self._ports = RegisterBlock(PORTS, self, name)
        self._cmos = RegisterBlock(CMOS, self, f"{name}.cmos")
        self.read = self._ports.read
        self.write = self._ports.write
        self._seen_second = self._now_second()
        self._seen_tick = self._now_tick()
        self.reset()

    # --- life -----------------------------------------------------------------------------------------------

    def reset(self) -> None:
        self._release_hold()
        cmos = self._cmos
        cmos[A] = A.reset_value
        cmos[B] = cmos[B] & B.mask("dse", "h24", "dm")
        cmos[C] = C.reset_value
        self._ports.reset()
        self._seen_second = self._now_second()
        self._seen_tick = self._now_tick()
        self._update()

    def save(self) -> Mc146818State:
        self._catch_up()
        return Mc146818State(
            self._ports.save(), self._cmos.save(), self._offset_ns, self._weekday_offset, self._is_held, self._was_reset
        )

    def load(self, state: object) -> None:
        if not isinstance(state, Mc146818State):
            raise SavedStateError(self.name, f"not the state of a real-time clock: {type(state).__name__}")
        if not isinstance(state.offset_ns, int) or state.weekday_offset not in range(7):
            raise SavedStateError(self.name, "time or day of week is out of range")
        self._cmos.check(state.cmos)
        self._ports.load(state.ports)
        self._cmos.load(state.cmos)
        self._offset_ns = state.offset_ns
        self._weekday_offset = state.weekday_offset
        self._is_held = state.is_held
        self._was_reset = state.was_reset
        self._seen_second = self._now_second()
        self._seen_tick = self._now_tick()
        self._update()

    def set_ram(self, index: int, value: int) -> None:
        """Put a byte into the CMOS RAM, as firmware would. Raises KeyError if `index` is not RAM."""
        self._cmos[CMOS.by_name[f"RAM_{index:02X}"]] = value

    # --- ports ----------------------------------------------------------------------------------------------

    def on_read_data(self) -> int:
        return self._cmos.read(self._ports[INDEX] & 0x7F, 1)

    def on_write_data(self, value: int) -> None:
        self._cmos.write(self._ports[INDEX] & 0x7F, 1, value)

    # --- time registers -------------------------------------------------------------------------------------

    def on_read_seconds(self) -> int:
        return self._shown(SECONDS)

    def on_read_minutes(self) -> int:
        return self._shown(MINUTES)

    def on_read_hours(self) -> int:
        return self._shown(HOURS)

    def on_read_day_of_week(self) -> int:
        return self._shown(DAY_OF_WEEK)

    def on_read_day_of_month(self) -> int:
        return self._shown(DAY_OF_MONTH)

    def on_read_month(self) -> int:
        return self._shown(MONTH)

    def on_read_year(self) -> int:
        return self._shown(YEAR)

    def on_read_century(self) -> int:
        return self._shown(CENTURY)

    def on_write_seconds(self, value: int) -> None:
        self._time_written(SECONDS, value)

    def on_write_minutes(self, value: int) -> None:
        self._time_written(MINUTES, value)

    def on_write_hours(self, value: int) -> None:
        self._time_written(HOURS, value)

    def on_write_day_of_week(self, value: int) -> None:
        self._time_written(DAY_OF_WEEK, value)

    def on_write_day_of_month(self, value: int) -> None:
        self._time_written(DAY_OF_MONTH, value)

    def on_write_month(self, value: int) -> None:
        self._time_written(MONTH, value)

    def on_write_year(self, value: int) -> None:
        self._time_written(YEAR, value)

    def on_write_century(self, value: int) -> None:
        self._time_written(CENTURY, value)

    def _shown(self, reg: Reg) -> int:
        if not self._is_held:
            self._fill_registers()
        return self._cmos[reg]

    def _time_written(self, reg: Reg, value: int) -> None:
        if self._is_held:
            return  # the stored value counts when the clock goes on
        self._fill_registers()
        self._cmos[reg] = value
        self._set_from_registers()
        self._update()

    # --- alarm and status registers -------------------------------------------------------------------------

    def on_write_seconds_alarm(self, _value: int) -> None:
        self._update()

    def on_write_minutes_alarm(self, _value: int) -> None:
        self._update()

    def on_write_hours_alarm(self, _value: int) -> None:
        self._update()

    def on_read_a(self) -> int:
        value = self._cmos[A] & ~_UIP
        if not self._is_held and self._now_ns() % SECOND >= SECOND - _UPDATE_NS:
            value |= _UIP
        return value

    def on_write_a(self, _value: int) -> None:
        self._seen_tick = self._now_tick()
        self._hold_or_go()
        self._update()

    def on_write_b(self, value: int) -> None:
        if value & _SET:
            self._cmos[B] = value & ~_UIE  # SET clears UIE. MC146818A, register B
        self._catch_up()
        self._hold_or_go()
        self._update()

    def on_read_c(self) -> int:
        self._catch_up()
        value = self._cmos[C]
        self._cmos[C] = 0
        self._update()
        return value

    # --- time -----------------------------------------------------------------------------------------------

    def _now_ns(self) -> int:
        """The guest's civil time, kept within the years a date can have."""
        now = self._clock.wall_ns() + self._offset_ns
        return max(_FIRST_SECOND * SECOND, min(now, _LAST_SECOND * SECOND))

    def _now_second(self) -> int:
        return self._now_ns() // SECOND

    def _hold_or_go(self) -> None:
        """Stop or start the clock after a change of SET or the divider."""
        is_reset = A.field("dv").get(self._cmos[A]) != _RUNNING_DV
        hold = is_reset or bool(self._cmos[B] & _SET)
        if hold and not self._is_held:
            self._fill_registers()
            self._is_held = True
            self._was_reset = is_reset
        elif hold:
            self._was_reset = self._was_reset or is_reset
        elif self._is_held:
            self._is_held = False
            self._set_from_registers()
            if self._was_reset:
                self._offset_ns += _AFTER_RESET_NS - self._now_ns() % SECOND
            self._was_reset = False
            self._seen_second = self._now_second()

    def _release_hold(self) -> None:
        """Continue with the held time, for reset."""
        if self._is_held:
            self._is_held = False
            self._set_from_registers()
        self._was_reset = False

    def _encode(self, value: int) -> int:
        return value if B.field("dm").get(self._cmos[B]) else value // 10 << 4 | value % 10

    def _decode(self, value: int) -> int | None:
        """The number a register holds; None if it is not BCD in BCD format."""
        if B.field("dm").get(self._cmos[B]):
            return value
        tens, ones = value >> 4, value & 0xF
        return None if tens > 9 or ones > 9 else tens * 10 + ones

    def _encode_hour(self, hour: int) -> int:
        if B.field("h24").get(self._cmos[B]):
            return self._encode(hour)
        return self._encode((hour + 11) % 12 + 1) | (_PM if hour >= 12 else 0)

    def _decode_hour(self, value: int) -> int | None:
        if B.field("h24").get(self._cmos[B]):
            return self._decode(value)
        hour = self._decode(value & ~_PM)
        if hour is None or not 1 <= hour <= 12:
            return None
        return hour % 12 + (12 if value & _PM else 0)

    def _fill_registers(self) -> None:
        """Time registers from the time."""
        days, second = divmod(self._now_second(), _DAY)
        date = datetime.date.fromordinal(_EPOCH_DAY + days)
        cmos = self._cmos
        cmos[SECONDS] = self._encode(second % 60)
        cmos[MINUTES] = self._encode(second // 60 % 60)
        cmos[HOURS] = self._encode_hour(second // 3600)
        cmos[DAY_OF_WEEK] = self._encode((date.isoweekday() + self._weekday_offset) % 7 + 1)
        cmos[DAY_OF_MONTH] = self._encode(date.day)
        cmos[MONTH] = self._encode(date.month)
        cmos[YEAR] = self._encode(date.year % 100)
        cmos[CENTURY] = self._encode(date.year // 100)

    def _set_from_registers(self) -> None:
        """Time from the time registers; the phase within the second goes on."""
        cmos = self._cmos
        second = self._decode(cmos[SECONDS])
        minute = self._decode(cmos[MINUTES])
        hour = self._decode_hour(cmos[HOURS])
        day = self._decode(cmos[DAY_OF_MONTH])
        month = self._decode(cmos[MONTH])
        year = self._decode(cmos[YEAR])
        century = self._decode(cmos[CENTURY])
        if second is None or minute is None or hour is None or second > 59 or minute > 59 or hour > 23:
            self._refuse_time()
            return
        if day is None or month is None or year is None or century is None or year > 99 or century > 99:
            self._refuse_time()
            return
        if not 1 <= day <= 31 or not 1 <= month <= 12 or century * 100 + year < 1:
            self._refuse_time()
            return
        # A day behind the month's end counts into the next month: guests set day and month one after the
        # other.
        first = datetime.date(century * 100 + year, month, 1)
        days = first.toordinal() + day - 1 - _EPOCH_DAY
        seconds = days * _DAY + hour * 3600 + minute * 60 + second
        wall = self._clock.wall_ns()
        phase = (wall + self._offset_ns) % SECOND
        self._offset_ns = seconds * SECOND + phase - wall
        weekday = self._decode(cmos[DAY_OF_WEEK])
        if weekday is not None and 1 <= weekday <= 7:
            natural = (_EPOCH_DAY + days - 1) % 7 + 1
            self._weekday_offset = (weekday - 1 - natural) % 7
        self._seen_second = self._now_second()
        if rtc_set_time.on:
            rtc_set_time(self.name, seconds)

    def _refuse_time(self) -> None:
        if guest_error.on:
            values = " ".join(f"{self._cmos[reg]:02x}" for reg in TIME_REGS)
            guest_error(self.name, f"time registers hold no valid date: {values}")

    # --- flags and interrupts -------------------------------------------------------------------------------

    def _period_hz(self) -> int:
        """Periodic rate; 0 for none. MC146818A, table 5 (32.768 kHz time base)."""
        rs = A.field("rs").get(self._cmos[A])
        if rs == 0 or A.field("dv").get(self._cmos[A]) != _RUNNING_DV:
            return 0
        return _BASE_HZ >> ((rs + 7 if rs <= 2 else rs) - 1)

    def _now_tick(self) -> int:
        return self._clock.now_ns() * self._period_hz() // SECOND

    def _catch_up(self) -> None:
        """Set the flags for everything that happened since the last look."""
        flags = 0
        tick = self._now_tick()
        if tick != self._seen_tick:
            self._seen_tick = tick
            flags |= _PF
        if not self._is_held:
            second = self._now_second()
            if second != self._seen_second:
                flags |= _UF
                alarm = self._next_alarm(self._seen_second)
                if self._seen_second < second and alarm is not None and alarm <= second:
                    flags |= _AF
                self._seen_second = second
        if flags:
            self._cmos[C] |= flags

    def _next_alarm(self, after: int) -> int | None:
        """First second later than `after` at which the alarm matches; None if its registers match nothing."""
        day, second = divmod(after + 1, _DAY)
        matching = (
            _matching(self._cmos[HOURS_ALARM], self._decode_hour, 24),
            _matching(self._cmos[MINUTES_ALARM], self._decode, 60),
            _matching(self._cmos[SECONDS_ALARM], self._decode, 60),
        )
        if not all(matching):
            return None
        for start in (second, 0):
            found = _first_time(*matching, start)
            if found is not None:
                return day * _DAY + found
            day += 1
        return None

    def _update(self) -> None:
        """Drive the interrupt line, and wait for the next event whose interrupt is enabled."""
        cmos = self._cmos
        enabled = cmos[B]
        # Flags and enables of one interrupt have the same bit position in C and B.
        active = cmos[C] & enabled & (_UF | _AF | _PF)
        if active:
            if not self._irq.level and rtc_interrupt.on:
                rtc_interrupt(self.name, active)
            cmos[C] |= _IRQF
        else:
            cmos[C] &= ~_IRQF
        self._irq.set(bool(active))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._next_event(enabled & ~cmos[C])
        if deadline is not None:
            self._timer = self._timers.at(deadline, self._on_timer)

    def _next_event(self, waiting: int) -> int | None:
        """`now_ns` time of the next event among the enable bits `waiting`. A flag already set needs no
        waiting."""
        now = self._clock.now_ns()
        deadlines = []
        rate = self._period_hz()
        if waiting & _PIE and rate:
            deadlines.append(-(-(self._seen_tick + 1) * SECOND // rate))
        if not self._is_held:
            guest_now = self._now_ns()
            if waiting & _UIE:
                deadlines.append(now + SECOND - guest_now % SECOND)
            if waiting & _AIE:
                alarm = self._next_alarm(self._seen_second)
                if alarm is not None:
                    # At most a minute at a time: the host may step its civil time meanwhile.
                    deadlines.append(now + min(max(0, alarm * SECOND - guest_now), 60 * SECOND))
        return min(deadlines) if deadlines else None

    def _on_timer(self) -> None:
        self._timer = None
        self._catch_up()
        self._update()


def _matching(alarm: int, decode: Callable[[int], int | None], count: int) -> list[int]:
    """The hours, minutes or seconds an alarm register matches."""
    if alarm >= _DONT_CARE:
        return list(range(count))
    value = decode(alarm)
    return [value] if value is not None and value < count else []


def _first_time(hours: list[int], minutes: list[int], seconds: list[int], start: int) -> int | None:
    """First time of day >= start (seconds) with a listed hour, minute and second."""
    for hour in hours:
        if hour * 3600 + 3599 < start:
            continue
        for minute in minutes:
            minute_start = hour * 3600 + minute * 60
            if minute_start + 59 < start:
                continue
            for second in seconds:
                if minute_start + second >= start:
                    return minute_start + second
    return None
