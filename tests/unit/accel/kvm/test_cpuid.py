"""What CPUID tells the guest, from a made-up host."""

from __future__ import annotations

import pytest

from manor.accel.kvm import cpuid
from manor.accel.kvm.cpuid import Feature
from manor.accel.kvm.cpuid_table import Leaf
from manor.base.errors import ConfigError
from manor.spec.machine import CPU_MODELS, CpuModel

ALL = 0xFFFF_FFFF
HOST = (
    Leaf(0, 0, False, 0x1F),
    Leaf(1, 0, False, 0x806F8, 0, ALL, ALL),
    Leaf(4, 0, True, 0x1C00_4121),
    Leaf(4, 3, True, 0x1C00_4163),
    Leaf(7, 0, True, 2, ALL, ALL, ALL),
    Leaf(0xA, 0, False, 0x0730_0404),
    Leaf(0xB, 0, True),
    Leaf(0xB, 1, True),
    Leaf(0xD, 0, True, 0x602E7, 0, 0, 0),
    Leaf(0xD, 2, True, 0x100, 0x240),
    Leaf(0xD, 5, True, 0x40, 0x440),
    Leaf(0x8000_0001, 0, False, 0, 0, ALL, ALL),
    Leaf(0x8000_0008, 0, False, 0x3030),
    Leaf(0x8000_001E, 0, False),
)


def table(model: CpuModel = "host", index: int = 1, cpus: int = 4) -> dict[tuple[int, int], Leaf]:
    return {(leaf.function, leaf.index): leaf for leaf in cpuid.build(HOST, model, index, cpus, has_deadline=True)}


@pytest.mark.parametrize("model", CPU_MODELS)
def test_hidden_features_are_hidden(model: CpuModel) -> None:
    leaves = cpuid.build(HOST, model, 0, 1, has_deadline=True)
    assert [feature.name for feature in cpuid.HIDDEN if cpuid.has(leaves, feature)] == []
    assert table(model)[0xA, 0] == Leaf(0xA, 0, False)


def test_topology_is_one_socket_of_single_threads() -> None:
    leaves = table()
    assert leaves[1, 0].ebx >> 16 == 1 << 8 | 4
    assert (leaves[0xB, 0].eax, leaves[0xB, 0].ebx, leaves[0xB, 0].ecx, leaves[0xB, 0].edx) == (0, 1, 0x100, 1)
    assert (leaves[0xB, 1].eax, leaves[0xB, 1].ebx, leaves[0xB, 1].ecx, leaves[0xB, 1].edx) == (2, 4, 0x201, 1)
    assert leaves[4, 0].eax >> 14 & 0xFFF == 0
    assert leaves[4, 3].eax >> 14 & 0xFFF == 3
    assert leaves[4, 3].eax >> 26 == 3
    assert leaves[0x8000_0008, 0].ecx == 2 << 12 | 3
    assert leaves[0x8000_001E, 0].eax == 1


def test_models_show_their_level_and_no_more() -> None:
    avx, avx2, avx512 = Feature("", 1, "ecx", 28), Feature("", 7, "ebx", 5), Feature("", 7, "ebx", 16)
    sse42, hypervisor = Feature("", 1, "ecx", 20), Feature("", 1, "ecx", 31)
    expectations: tuple[tuple[CpuModel, tuple[bool, ...]], ...] = (
        ("max", (True, True, True, True, True)),
        ("host", (True, True, True, True, True)),
        ("x86-64-v2", (False, False, False, True, True)),
        ("x86-64-v3", (True, True, False, True, True)),
    )
    for model, expected in expectations:
        leaves = cpuid.build(HOST, model, 0, 1, has_deadline=True)
        assert tuple(cpuid.has(leaves, f) for f in (avx, avx2, avx512, sse42, hypervisor)) == expected, model


def test_models_limit_the_xsave_area() -> None:
    assert table("host")[0xD, 5].eax == 0x40
    assert table("x86-64-v3")[0xD, 5].eax == 0
    assert table("x86-64-v3")[0xD, 0].eax == 7
    assert table("x86-64-v3")[0xD, 2].eax == 0x100
    assert table("x86-64-v2")[0xD, 0].eax == 3
    assert table("x86-64-v2")[0xD, 2].eax == 0


def test_deadline_timer_follows_kvm() -> None:
    assert table()[1, 0].ecx >> 24 & 1
    leaf = next(leaf for leaf in cpuid.build(HOST, "host", 0, 1, has_deadline=False) if leaf.function == 1)
    assert not leaf.ecx >> 24 & 1


def test_model_that_the_host_cannot_be_is_refused_by_what_is_missing() -> None:
    poor = [leaf for leaf in HOST if leaf.function != 7]
    with pytest.raises(ConfigError, match="cpu: this host is no x86-64-v3: it lacks bmi1, avx2, bmi2; give max"):
        cpuid.build(poor, "x86-64-v3", 0, 1, has_deadline=True)
