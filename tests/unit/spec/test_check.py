"""Checks of a machine's description."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manor.base.errors import ConfigError
from manor.base.units import GiB, MiB
from manor.spec.check import check
from manor.spec.machine import CRYSTAL_FREQUENCY_HZ, MAX_CPUS, MIN_MEMORY, TSC_FREQUENCY_HZ, TSC_RATIO, MachineSpec

GOOD = MachineSpec(Path("kernel"))


@pytest.mark.parametrize(
    "changes", [{}, {"cpus": MAX_CPUS}, {"memory": MIN_MEMORY}, {"memory": GiB}, {"console": "virtio"}]
)
def test_good_descriptions(changes: dict[str, object]) -> None:
    check(replace(GOOD, **changes), GiB)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"cpus": 0}, "cpus"),
        ({"cpus": MAX_CPUS + 1}, "cpus"),
        ({"memory": MIN_MEMORY - 4096}, "memory"),
        ({"memory": GiB + 4096}, "memory"),
        ({"memory": 64 * MiB + 1}, "memory"),
        ({"console": "vga"}, "console"),
        ({"cpu": "z80"}, "cpu"),
    ],
)
def test_bad_descriptions_name_the_field(changes: dict[str, object], path: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check(replace(GOOD, **changes), GiB)  # type: ignore[arg-type]
    assert refused.value.path == path


def test_the_tsc_counts_nanoseconds() -> None:
    assert CRYSTAL_FREQUENCY_HZ * TSC_RATIO == TSC_FREQUENCY_HZ == 1_000_000_000
