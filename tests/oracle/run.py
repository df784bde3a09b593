"""Command line of the differential tests: `python -m tests.oracle.run --group alu --count 200 --only add,sub`.

Compares the engine (or unicorn, with --subject unicorn) with the host CPU. Exit status 1 if anything differs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable

from tests.oracle import generate
from tests.oracle.cases import GROUPS
from tests.oracle.deviations import explained
from tests.oracle.generate import BLOCK_GROUPS, Case
from tests.oracle.host import HostExecutor
from tests.oracle.report import Runs, describe, judge
from tests.oracle.state import MachineState, Undefined


def _subject(name: str) -> Runs:
    if name == "unicorn":
        from tests.oracle.unicorn_oracle import UnicornExecutor

        return UnicornExecutor()
    from tests.oracle.engine import EngineExecutor

    subject: Runs = EngineExecutor()
    return subject


def _no_exclusion(case: Case, expected: MachineState) -> str | None:
    return None


def _no_deviation(case: Case, host: MachineState, ours: MachineState) -> str | None:
    return None


def _as_the_manual_says(case: Case) -> Undefined:
    return case.undefined


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.oracle.run", description=__doc__)
    parser.add_argument("--group", default="", help=f"comma list of {', '.join(GROUPS)}; default all")
    parser.add_argument(
        "--block", default="", help=f"comma list of {', '.join(BLOCK_GROUPS)} or all: mixed blocks instead"
    )
    parser.add_argument("--count", type=int, default=20, help="cases for each form (or blocks for each kind)")
    parser.add_argument("--only", default="", help="comma list of mnemonics")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--details", type=int, default=3, help="mnemonics shown with their first failing case")
    parser.add_argument("--case", default="", help="one case by its name, as printed in a failure")
    parser.add_argument("--subject", choices=("engine", "unicorn"), default="engine")
    arguments = parser.parse_args()
    subject = _subject(arguments.subject)
    skip, undefined, explain = _no_exclusion, _as_the_manual_says, explained
    if arguments.subject == "unicorn":
        from tests.oracle.unicorn_oracle import excluded, relaxed

        skip, undefined, explain = excluded, relaxed, _no_deviation
    failed = 0
    for name, cases in _selected(arguments):
        started = time.monotonic()
        report = judge(cases, HostExecutor(), subject, skip, undefined, explain)
        print(f"{name} (seed {arguments.seed}, {time.monotonic() - started:.1f} s): {report.text(arguments.details)}")
        failed += report.failed
    return 1 if failed else 0


def _selected(arguments: argparse.Namespace) -> Iterable[tuple[str, Iterable[Case]]]:
    if arguments.case:
        case = generate.by_name(arguments.case)
        print("\n".join(describe(case)))
        yield arguments.case, [case]
        return
    if arguments.block:
        kinds = BLOCK_GROUPS if arguments.block == "all" else tuple(arguments.block.split(","))
        for kind in kinds:
            yield f"blocks {kind}", generate.blocks(kind, arguments.count, arguments.seed)
        return
    only = tuple(filter(None, arguments.only.split(",")))
    for group in tuple(filter(None, arguments.group.split(","))) or GROUPS:
        yield group, generate.singles(group, arguments.count, arguments.seed, only)


if __name__ == "__main__":
    sys.exit(main())
