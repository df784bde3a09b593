"""Registers of the local APIC, as MMIO (xAPIC) and as MSRs (x2APIC).

Source: Intel SDM volume 3, chapter 11: table 11-1 "Local APIC Register Address Map", table 11-6 "Local APIC
Register Address Map Supported by x2APIC", figures 11-6 to 11-30.

The x2APIC table uses offset 8 * (MSR index - 0x800): a model-specific register is 64 bits wide.
"""

from __future__ import annotations

from typing import Final

from manor.regs.access import RO, RW, WO, Access
from manor.regs.field import Field, Reg, RegisterTable, reserved

MSR_APIC_BASE: Final = 0x1B
MSR_TSC_DEADLINE: Final = 0x6E0
MSR_X2APIC: Final = 0x800
MSR_X2APIC_END: Final = 0x900

# --- fields that both forms share -------------------------------------------------------------------------

_VECTOR: Final = Field("vector", 0, 8)
_STATUS: Final = Field("delivery_status", 12, access=RO)
_MASK: Final = Field("mask", 16, reset=1)
_MODE: Final = Field("delivery_mode", 8, 3)

TPR_FIELDS: Final = (Field("priority", 0, 8), reserved(8, 24))
SVR_FIELDS: Final = (
    Field("vector", 0, 8, reset=0xFF),
    Field("enable", 8, doc="software enable"),
    Field("focus", 9, doc="focus processor checking; no effect"),
    reserved(10, 2),
    Field("eoi_suppress", 12, doc="no end-of-interrupt broadcast"),
    reserved(13, 19),
)
VERSION_FIELDS: Final = (
    Field("version", 0, 8, reset=0x14),
    reserved(8, 8),
    Field("max_lvt", 16, 8, reset=5, doc="local vector table entries minus one"),
    Field("eoi_suppress", 24, reset=1, doc="broadcast suppression is offered"),
    reserved(25, 7),
)
DFR_FIELDS: Final = (
    reserved(0, 28, 0xFFF_FFFF),
    Field("model", 28, 4, reset=15, values=((0, "cluster"), (15, "flat"))),
)
ESR_FIELDS: Final = (
    reserved(0, 4),
    Field("redirectable_ipi", 4),
    Field("send_illegal_vector", 5),
    Field("receive_illegal_vector", 6),
    Field("illegal_register", 7),
    reserved(8, 24),
)
_ICR_LOW: Final = (
    Field("vector", 0, 8),
    Field("delivery_mode", 8, 3),
    Field("logical", 11),
)
_ICR_MIDDLE: Final = (
    Field("level", 14),
    Field("trigger", 15),
    reserved(16, 2),
    Field("shorthand", 18, 2, values=((0, "none"), (1, "self"), (2, "all"), (3, "all but self"))),
    reserved(20, 12),
)
LVT_TIMER_FIELDS: Final = (
    _VECTOR,
    reserved(8, 4),
    _STATUS,
    reserved(13, 3),
    _MASK,
    Field("timer_mode", 17, 2, values=((0, "one-shot"), (1, "periodic"), (2, "TSC deadline"))),
    reserved(19, 13),
)
LVT_EVENT_FIELDS: Final = (_VECTOR, _MODE, reserved(11), _STATUS, reserved(13, 3), _MASK, reserved(17, 15))
LVT_LINT_FIELDS: Final = (
    _VECTOR,
    _MODE,
    reserved(11),
    _STATUS,
    Field("polarity", 13),
    Field("remote_irr", 14, access=RO),
    Field("trigger", 15),
    _MASK,
    reserved(17, 15),
)
LVT_ERROR_FIELDS: Final = (_VECTOR, reserved(8, 4), _STATUS, reserved(13, 3), _MASK, reserved(17, 15))
DIVIDE_FIELDS: Final = (
    Field("low", 0, 2),
    reserved(2),
    Field("high", 3),
    reserved(4, 28),
)

LVT_KINDS: Final = ("timer", "thermal", "perf", "lint0", "lint1", "error")
_LVT_FIELDS: Final = (
    LVT_TIMER_FIELDS,
    LVT_EVENT_FIELDS,
    LVT_EVENT_FIELDS,
    LVT_LINT_FIELDS,
    LVT_LINT_FIELDS,
    LVT_ERROR_FIELDS,
)


def _reg(
    name: str, offset: int, access: Access = RW, fields: tuple[Field, ...] = (), doc: str = "", count: int = 1
) -> Reg:
    stride = 16 if count > 1 else 0
    return Reg(name, offset, 32, access, fields, stored=False, count=count, stride=stride, doc=doc)


XAPIC: Final = RegisterTable(
    "xapic",
    0x1000,
    (
        _reg("ID", 0x20, RO, (reserved(0, 24), Field("id", 24, 8)), "fixed; writes are ignored"),
        _reg("VERSION", 0x30, RO, VERSION_FIELDS),
        _reg("TPR", 0x80, RW, TPR_FIELDS, "task priority"),
        _reg("APR", 0x90, RO, (), "arbitration priority"),
        _reg("PPR", 0xA0, RO, (), "processor priority"),
        _reg("EOI", 0xB0, WO, (), "end of interrupt"),
        _reg("RRD", 0xC0, RO, (), "remote read; always 0"),
        _reg("LDR", 0xD0, RW, (reserved(0, 24), Field("id", 24, 8)), "logical destination"),
        _reg("DFR", 0xE0, RW, DFR_FIELDS, "destination format"),
        _reg("SVR", 0xF0, RW, SVR_FIELDS, "spurious interrupt vector"),
        _reg("ISR", 0x100, RO, (), "in service", 8),
        _reg("TMR", 0x180, RO, (), "trigger mode", 8),
        _reg("IRR", 0x200, RO, (), "interrupt request", 8),
        _reg("ESR", 0x280, RW, ESR_FIELDS, "error status; a write latches"),
        _reg("ICR_LOW", 0x300, RW, (*_ICR_LOW, _STATUS, reserved(13), *_ICR_MIDDLE), "interrupt command"),
        _reg("ICR_HIGH", 0x310, RW, (reserved(0, 24), Field("destination", 24, 8))),
        *(
            _reg(f"LVT_{kind.upper()}", 0x320 + 16 * index, RW, fields, "local vector table")
            for index, (kind, fields) in enumerate(zip(LVT_KINDS, _LVT_FIELDS, strict=True))
        ),
        _reg("INITIAL_COUNT", 0x380),
        _reg("CURRENT_COUNT", 0x390, RO),
        _reg("DIVIDE", 0x3E0, RW, DIVIDE_FIELDS, "timer divide configuration"),
    ),
    source="Intel SDM volume 3, table 11-1",
)

_HIGH: Final = reserved(32, 32)


def _msr(
    name: str, index: int, access: Access = RW, fields: tuple[Field, ...] = (), doc: str = "", count: int = 1
) -> Reg:
    parts = fields or (Field("value", 0, 32),)
    stride = 8 if count > 1 else 0
    return Reg(
        name, 8 * index, 64, access, (*parts, _HIGH), stored=False, count=count, stride=stride, doc=doc
    )


X2APIC: Final = RegisterTable(
    "x2apic",
    8 * (MSR_X2APIC_END - MSR_X2APIC),
    (
        _msr("X2ID", 0x02, RO),
        _msr("VERSION", 0x03, RO, VERSION_FIELDS),
        _msr("TPR", 0x08, RW, TPR_FIELDS),
        _msr("PPR", 0x0A, RO),
        _msr("EOI", 0x0B, WO, (), "only 0 may be written"),
        _msr("X2LDR", 0x0D, RO, (), "cluster and bit, from the ID"),
        _msr("SVR", 0x0F, RW, SVR_FIELDS),
        _msr("ISR", 0x10, RO, count=8),
        _msr("TMR", 0x18, RO, count=8),
        _msr("IRR", 0x20, RO, count=8),
        _msr("ESR", 0x28, RW, ESR_FIELDS, "only 0 may be written"),
        Reg(
            "ICR", 8 * 0x30, 64, RW, stored=False, doc="interrupt command; a write sends",
            fields=(*_ICR_LOW, reserved(12, 2), *_ICR_MIDDLE, Field("destination", 32, 32)),
        ),
        *(
            _msr(f"LVT_{kind.upper()}", 0x32 + index, RW, fields)
            for index, (kind, fields) in enumerate(zip(LVT_KINDS, _LVT_FIELDS, strict=True))
        ),
        _msr("INITIAL_COUNT", 0x38),
        _msr("CURRENT_COUNT", 0x39, RO),
        _msr("DIVIDE", 0x3E, RW, DIVIDE_FIELDS),
        _msr("SELF_IPI", 0x3F, WO, (Field("vector", 0, 8), reserved(8, 24))),
    ),
    source="Intel SDM volume 3, table 11-6",
)  # fmt: skip
