"""The engine against the host CPU on generated user-mode code.

Failures come as a table, one line a mnemonic with the first failing case in full; repeat one with
`python -m tests.oracle.run --case NAME`, a mnemonic with `--group G --only M --count 200`.
"""

from __future__ import annotations

import os

import pytest

from tests.oracle.cases import GROUPS
from tests.oracle.deviations import explained
from tests.oracle.generate import BLOCK_GROUPS, blocks, singles
from tests.oracle.host import HostExecutor
from tests.oracle.report import judge
from tests.oracle.state import Executor

SEED = int(os.environ.get("MANOR_TEST_SEED", "1"))
COUNT = int(os.environ.get("MANOR_TEST_COUNT", "8"))


@pytest.fixture(scope="module")
def engine() -> Executor:
    from tests.oracle.engine import EngineExecutor

    executor: Executor = EngineExecutor()
    return executor


@pytest.mark.parametrize("group", GROUPS)
def test_single_instructions(group: str, engine: Executor) -> None:
    report = judge(singles(group, COUNT, SEED), HostExecutor(), engine, explain=explained)
    assert not report.failed, f"seed {SEED}: {report.text(details=5)}"


@pytest.mark.parametrize("kind", BLOCK_GROUPS)
def test_blocks(kind: str, engine: Executor) -> None:
    report = judge(blocks(kind, 40 * COUNT, SEED), HostExecutor(), engine, explain=explained)
    assert not report.failed, f"seed {SEED}: {report.text(details=2)}"
