"""Runs cases against a judge and says what differs: one line a mnemonic, the first failing case in full."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

from tests.oracle.disassemble import listing
from tests.oracle.generate import Case
from tests.oracle.state import GPR_NAMES, MachineState, Undefined, compare, show_flags

_BATCH = 500


class Runs(Protocol):
    def run(self, code: bytes, state: MachineState, max_insns: int) -> MachineState: ...


class RunsMany(Protocol):
    def run_many(self, cases: Sequence[tuple[bytes, MachineState]]) -> list[MachineState]: ...


@dataclass(slots=True)
class Failures:
    """Of one mnemonic."""

    cases: int = 0
    failed: int = 0
    first: Case | None = None
    differences: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Report:
    """Result of a comparison, by mnemonic."""

    by_mnemonic: dict[str, Failures] = field(default_factory=dict)
    cases: int = 0
    skipped: dict[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return sum(entry.failed for entry in self.by_mnemonic.values())

    def text(self, details: int = 3) -> str:
        """details: how many mnemonics are shown with their first failing case."""
        bad = {name: entry for name, entry in self.by_mnemonic.items() if entry.failed}
        lines = [f"{self.cases} cases, {self.failed} failed, {sum(self.skipped.values())} skipped"]
        for name, entry in sorted(bad.items(), key=lambda item: -item[1].failed):
            assert entry.first is not None
            what = entry.differences[0][:90]
            lines.append(f"  {name:12} {entry.failed:5}/{entry.cases:<5} {entry.first.name:>14}  {what}")
        for entry in islice(bad.values(), details):
            assert entry.first is not None
            lines += ["", *describe(entry.first), *(f"    {line}" for line in entry.differences)]
        return "\n".join(lines)


def describe(case: Case) -> list[str]:
    """Code and input of a case, for a person."""
    state = case.state
    lines = [f"--- {case.name}: {' ; '.join(listing(case.code, state.rip))}"]
    lines.append(f"    code {case.code.hex(' ')} at {state.rip:#x}; {show_flags(state.rflags)}; mxcsr={state.mxcsr:#x}")
    registers = [f"{name}={value:#x}" for name, value in zip(GPR_NAMES, state.gpr, strict=True)]
    lines.append("    " + " ".join(registers[:8]))
    lines.append("    " + " ".join(registers[8:]) + f" fs={state.fs_base:#x} gs={state.gs_base:#x}")
    vector = any(row.group.startswith(("sse", "mmx")) for row in case.rows)
    if vector:
        text = " ".join(listing(case.code, state.rip))
        shown = [f"xmm{n}={state.xmm[n]:#034x}" for n in range(16) if f"xmm{n}" in text or n == 0]
        lines.append("    " + " ".join(shown))
    if any(row.group.startswith(("x87", "mmx")) for row in case.rows):
        x87 = state.x87
        lines.append(f"    fcw={x87[1]:02x}{x87[0]:02x} fsw={x87[3]:02x}{x87[2]:02x} ftw={x87[4]:08b}")
        stack = [int.from_bytes(x87[32 + 16 * n : 42 + 16 * n], "little") for n in range(8)]
        lines.append("    " + " ".join(f"st{n}={value:020x}" for n, value in enumerate(stack)))
    return lines


def judge(
    cases: Iterable[Case],
    oracle: RunsMany,
    subject: Runs,
    skip: Callable[[Case, MachineState], str | None] = lambda case, expected: None,
    undefined: Callable[[Case], Undefined] = lambda case: case.undefined,
    explain: Callable[[Case, MachineState, MachineState], str | None] = lambda case, expected, got: None,
) -> Report:
    """Compare the subject with the oracle on every case.

    skip: why a case is not compared. explain: why a difference is no failure. Both are counted in `skipped`.
    """
    report = Report()
    iterator = iter(cases)
    while batch := list(islice(iterator, _BATCH)):
        expected = oracle.run_many([(case.host_code, case.state) for case in batch])
        for case, want in zip(batch, expected, strict=True):
            reason = skip(case, want)
            if reason is not None:
                report.skipped[reason] = report.skipped.get(reason, 0) + 1
                continue
            got = subject.run(case.code, case.state.copy(), 10_000)
            entry = report.by_mnemonic.setdefault(case.mnemonic, Failures())
            report.cases += 1
            entry.cases += 1
            differences = compare(want, got, undefined(case))
            reason = explain(case, want, got) if differences else None
            if reason is not None:
                report.skipped[reason] = report.skipped.get(reason, 0) + 1
            elif differences:
                entry.failed += 1
                if entry.first is None:
                    entry.first, entry.differences = case, differences
    return report
