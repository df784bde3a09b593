"""What the engine shows as processor."""

from __future__ import annotations

import pytest

from manor.accel.dbt.accel import DbtAccel
from manor.base.address import Gpa
from manor.base.errors import ConfigError
from manor.bus.bus import Bus
from manor.machine.pc import PcExits
from manor.mem.guest_memory import GuestMemory, Region
from manor.spec.machine import CpuModel


@pytest.fixture
def parts() -> tuple[GuestMemory, PcExits]:
    return GuestMemory([Region(Gpa(0), 1 << 20)]), PcExits(Bus("pio"), Bus("mmio"), [], [])


@pytest.mark.parametrize("model", ["max", "x86-64-v2"])
def test_models_that_the_engine_is(parts: tuple[GuestMemory, PcExits], model: CpuModel) -> None:
    vm = DbtAccel().create_vm(*parts, 1, model)
    assert len(vm.vcpus) == 1
    vm.close()


@pytest.mark.parametrize("model", ["host", "x86-64-v3"])
def test_models_that_the_engine_is_not(parts: tuple[GuestMemory, PcExits], model: CpuModel) -> None:
    with pytest.raises(ConfigError, match=f"cpu: under the accelerator dbt there is no {model}; give one of max, x86"):
        DbtAccel().create_vm(*parts, 1, model)
