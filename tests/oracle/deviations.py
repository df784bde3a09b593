"""Where the engine may differ from the host CPU, each with its reason. Everything else that differs is a bug.

A rule sees the case, what the host did and what the engine did, and answers whether it explains *all* of the
difference: the rest of the state must agree. Where Intel's processors differ from AMD's the engine follows Intel's,
whose name its CPUID gives, or the manual; `hosts` says which vendor's processors are excused.

The order in which faults of one instruction are found "may vary from processor to processor" (SDM volume 3, 6.9).
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.oracle.generate import Case
from tests.oracle.host import AMD, INTEL, VENDOR
from tests.oracle.state import (
    GP,
    PAGE_FAULT,
    PAGE_SIZE,
    RCX,
    RSP,
    STATUS_FLAGS,
    MachineState,
    Outcome,
    Undefined,
    compare,
)

Explains = Callable[[MachineState, MachineState, Undefined], bool]


def _return_address_below_the_stack(host: MachineState, ours: MachineState, undefined: Undefined) -> bool:
    if host.outcome.vector != GP or ours.outcome.vector != GP:
        return False
    pushed = (host.gpr[RSP] - 8, 8)
    return not compare(host, ours, replace(undefined, memory=(*undefined.memory, pushed)))


def _both_page_faults(host: MachineState, ours: MachineState) -> bool:
    return host.outcome.vector == ours.outcome.vector == PAGE_FAULT


def _with_address(ours: MachineState, address: int) -> MachineState:
    alike = ours.copy()
    outcome: Outcome = ours.outcome
    alike.outcome = replace(outcome, address=address)
    return alike


def _other_byte_of_the_operand(host: MachineState, ours: MachineState, undefined: Undefined) -> bool:
    same_page = host.outcome.address // PAGE_SIZE == ours.outcome.address // PAGE_SIZE
    if not same_page or not _both_page_faults(host, ours):
        return False
    return not compare(host, _with_address(ours, host.outcome.address), undefined)


def _other_part_first(host: MachineState, ours: MachineState, undefined: Undefined) -> bool:
    if not _both_page_faults(host, ours):
        return False
    alike = _with_address(ours, host.outcome.address)
    alike.memory = host.memory
    return not compare(host, alike, undefined)


def _x87_only(host: MachineState, ours: MachineState, undefined: Undefined) -> bool:
    if host.outcome.vector is None or host.outcome.vector != ours.outcome.vector:
        return False
    alike = _with_address(ours, host.outcome.address)
    alike.x87 = host.x87
    return not compare(host, alike, undefined)


def _flags_of_the_last_element(host: MachineState, ours: MachineState, undefined: Undefined) -> bool:
    if host.outcome.vector is None or host.outcome.vector != ours.outcome.vector:
        return False
    return not compare(host, ours, replace(undefined, flags=undefined.flags | STATUS_FLAGS))


def _upper_half_of_the_counter(host: MachineState, ours: MachineState, undefined: Undefined) -> bool:
    if host.outcome.vector is None or ours.gpr[RCX] != host.gpr[RCX] & 0xFFFF_FFFF:
        return False
    alike = ours.copy()
    alike.gpr[RCX] = host.gpr[RCX]
    return not compare(host, alike, undefined)


def _other_operand_first(host: MachineState, ours: MachineState, undefined: Undefined) -> bool:
    if host.outcome.vector is None or ours.outcome.vector is None:
        return False
    alike = ours.copy()
    alike.outcome, alike.gpr[RCX] = host.outcome, host.gpr[RCX]
    return not compare(host, alike, replace(undefined, flags=undefined.flags | STATUS_FLAGS))


def _page_fault_before_exception(host: MachineState, ours: MachineState, undefined: Undefined) -> bool:
    """The host found the address bad; the engine the unmasked exception, which stays pending (ES)."""
    return host.outcome.vector is not None and ours.outcome.vector is None and bool(ours.x87[2] & 0x80)


def _nothing_to_store(host: MachineState, ours: MachineState, undefined: Undefined) -> bool:
    if host.outcome.vector is None or ours.outcome.vector is not None:
        return False
    alike = ours.copy()
    alike.outcome, alike.rip = host.outcome, host.rip
    return not compare(host, alike, undefined)


@dataclass(frozen=True, slots=True)
class Deviation:
    """Mnemonics and groups are patterns; the rule must explain the whole difference."""

    reason: str
    explains: Explains
    mnemonic: str = "*"
    group: str = "*"
    hosts: tuple[str, ...] = (AMD, INTEL)


_PARTS = "in which order the parts of a large operand are accessed is open (SDM volume 3, 6.9)"
_FLAGS = (
    "after a fault the flags are those from before the instruction (SDM volume 2, REP); AMD's are the last element's"
)
_COUNTER = "AMD's processors leave the upper half of RCX alone when the first element faults, Intel's clear it"
DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "an indirect call to a non-canonical address has stored its return address, below RSP, when it faults: plan, "
        "known differences",
        _return_address_below_the_stack,
        "call",
    ),
    Deviation(
        "CR2 holds the linear address that faulted (SDM volume 3, 4.7): of the part that was accessed first, which 6.9 "
        "leaves open",
        _other_byte_of_the_operand,
    ),
    Deviation(_PARTS, _other_part_first, group="x87_env"),
    Deviation(_PARTS, _other_part_first, "retfq"),
    Deviation(_PARTS, _other_part_first, "iretq"),
    Deviation(
        "an 80-bit store into an unmapped second page leaves the first page alone, as on AMD's processors",
        _other_part_first,
        "f*stp",
        hosts=(INTEL,),
    ),
    Deviation(
        "a store that faults changes nothing (SDM volume 3, 6.5), as on AMD's processors; Intel's clear TOP first",
        _x87_only,
        "mov*",
        group="mmx",
        hosts=(INTEL,),
    ),
    Deviation(
        "AMD's processors look at the address before they raise an unmasked exception of what is stored",
        _page_fault_before_exception,
        "f*",
        group="x87",
        hosts=(AMD,),
    ),
    Deviation(
        "with a mask of zeros, faults of the address are implementation-dependent (SDM volume 2, MASKMOVQ)",
        _nothing_to_store,
        "maskmov*",
    ),
    Deviation(_FLAGS, _flags_of_the_last_element, "cmps*", hosts=(AMD,)),
    Deviation(_FLAGS, _flags_of_the_last_element, "scas*", hosts=(AMD,)),
    Deviation(_COUNTER, _upper_half_of_the_counter, group="string", hosts=(AMD,)),
    Deviation(
        "if both operands fault, AMD's processors report that of RSI, Intel's that of RDI",
        _other_operand_first,
        "cmps*",
        hosts=(AMD,),
    ),
)


def explained(case: Case, host: MachineState, ours: MachineState) -> str | None:
    """Why the engine may differ from the host in this case, or None."""
    for rule in DEVIATIONS:
        if VENDOR not in rule.hosts:
            continue
        if not any(
            fnmatch.fnmatch(row.mnemonic, rule.mnemonic) and fnmatch.fnmatch(row.group, rule.group) for row in case.rows
        ):
            continue
        if rule.explains(host, ours, case.undefined):
            return rule.reason
    return None
