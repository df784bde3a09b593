"""Where the engine may differ from the host CPU, each with its reason. Everything else that differs is a bug.

A rule sees the case, what the host did and what the engine did, and answers whether it explains *all* of the
difference: the rest of the state must agree.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.oracle.generate import NON_CANONICAL, Case
from tests.oracle.state import GP, PAGE_FAULT, PAGE_SIZE, RSP, SS, MachineState, Outcome, Undefined, compare

Explains = Callable[[MachineState, MachineState, Undefined], bool]


def _branch_faults_at_target(host: MachineState, ours: MachineState, undefined: Undefined) -> bool:
    if host.outcome.vector != GP or ours.outcome.vector != GP or ours.rip < NON_CANONICAL:
        return False
    # The branch is complete, so what it did to the stack stands.
    alike = ours.copy()
    alike.rip, alike.gpr[RSP], alike.memory = host.rip, host.gpr[RSP], host.memory
    return not compare(host, alike, undefined)


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


def _stack_fault_by_other_vector(host: MachineState, ours: MachineState, undefined: Undefined) -> bool:
    if host.outcome.vector != SS or ours.outcome.vector != GP:
        return False
    alike = ours.copy()
    alike.outcome = replace(ours.outcome, vector=SS)
    return not compare(host, alike, undefined)


@dataclass(frozen=True, slots=True)
class Deviation:
    """Mnemonics and groups are patterns; the rule must explain the whole difference."""

    reason: str
    explains: Explains
    mnemonic: str = "*"
    group: str = "*"


_AT_TARGET = "a branch to a non-canonical address faults at the target, as on AMD's CPUs; Intel's fault at the branch"
_GP_FOR_SS = "a helper does not know that its operand is on the stack: not canonical, it raises #GP instead of #SS"
DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(_GP_FOR_SS, _stack_fault_by_other_vector, group="x87"),
    Deviation(_GP_FOR_SS, _stack_fault_by_other_vector, group="x87_env"),
    Deviation(_GP_FOR_SS, _stack_fault_by_other_vector, "cmpxchg8b"),
    Deviation(_AT_TARGET, _branch_faults_at_target, "jmp"),
    Deviation(_AT_TARGET, _branch_faults_at_target, "call"),
    Deviation(_AT_TARGET, _branch_faults_at_target, "ret"),
    Deviation(
        "CR2 holds an address inside the operand and the faulting page; which one, the manual leaves open",
        _other_byte_of_the_operand,
    ),
    Deviation("in which order the parts of a large operand are accessed is open", _other_part_first, group="x87_env"),
    Deviation("in which order the parts of a large operand are accessed is open", _other_part_first, "retfq"),
    Deviation("in which order the parts of a large operand are accessed is open", _other_part_first, "iretq"),
    Deviation(
        "an 80-bit store into an unmapped second page leaves the first page alone; the host writes its part of it",
        _other_part_first,
        "f*stp",
    ),
    Deviation(
        "a store that faults changes nothing; the host enters the MMX state first", _x87_only, "maskmovq", group="mmx"
    ),
)


def explained(case: Case, host: MachineState, ours: MachineState) -> str | None:
    """Why the engine may differ from the host in this case, or None."""
    for rule in DEVIATIONS:
        if not any(
            fnmatch.fnmatch(row.mnemonic, rule.mnemonic) and fnmatch.fnmatch(row.group, rule.group) for row in case.rows
        ):
            continue
        if rule.explains(host, ours, case.undefined):
            return rule.reason
    return None
