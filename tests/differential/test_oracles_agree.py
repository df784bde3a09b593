"""The two judges against each other, and the table against capstone: trust in the oracles comes from here.

Disagreements are listed with their reasons in tests.oracle.unicorn_oracle.EXCLUSIONS.
"""

from __future__ import annotations

import pytest

from tests.oracle.cases import GROUPS, ROWS
from tests.oracle.disassemble import check
from tests.oracle.generate import BLOCK_GROUPS, blocks, by_name, single, singles
from tests.oracle.host import HostExecutor
from tests.oracle.report import judge
from tests.oracle.state import BP, GP, PAGE_FAULT, UD, MachineState
from tests.oracle.unicorn_oracle import UnicornExecutor, excluded, relaxed

SEED = 1000
COUNT = 6
_CODE, _PAGE = 0x7001_0123, 0x7010_0000


@pytest.mark.parametrize("group", GROUPS)
def test_unicorn_agrees_with_host(group: str) -> None:
    report = judge(singles(group, COUNT, SEED), HostExecutor(), UnicornExecutor(), excluded, relaxed)
    assert not report.failed, f"seed {SEED}: {report.text()}"


@pytest.mark.parametrize("kind", BLOCK_GROUPS)
def test_unicorn_agrees_with_host_on_blocks(kind: str) -> None:
    report = judge(blocks(kind, 100, SEED), HostExecutor(), UnicornExecutor(), excluded, relaxed)
    assert not report.failed, f"seed {SEED}: {report.text()}"


def test_every_encoding_disassembles_to_its_mnemonic() -> None:
    wrong = [problem for index in range(len(ROWS)) for seed in range(3) if (problem := check(single(index, seed)))]
    assert not wrong, "\n".join(wrong)


def test_cases_are_reproducible_from_their_name() -> None:
    for name in ("3/17", "700/5", "block.mixed/9"):
        first, second = by_name(name), by_name(name)
        assert (first.code, first.state) == (second.code, second.state)


@pytest.mark.parametrize(
    ("code", "vector", "error_code"),
    [
        ("0f0b", UD, 0),
        ("f4", GP, 0),  # hlt at CPL 3
        ("48890425f80f1070", None, 0),
        ("48890425fc0f1070", PAGE_FAULT, 6),  # crosses into nothing
        ("488b042500001170", PAGE_FAULT, 4),
        ("cc", BP, 0),
        ("eb10", None, 0),  # into the filling
    ],
)
def test_host_reports_outcome(code: str, vector: int | None, error_code: int) -> None:
    state = MachineState(rip=_CODE, memory={_PAGE: bytes(4096)})
    after = HostExecutor().run(bytes.fromhex(code), state)
    assert after.outcome.vector == vector
    assert after.outcome.error_code == error_code or vector is None


def test_host_survives_an_endless_loop() -> None:
    state = MachineState(rip=_CODE)
    hung, fine = HostExecutor(seconds=1).run_many([(b"\xeb\xfe", state), (b"\x90", state)])
    assert hung.outcome.failure == "timeout"
    assert fine.outcome.vector is None
    assert fine.rip == _CODE + 1
