"""Shares, limits, pins: kept in the configuration, shown again, and never pretended of what runs."""

from __future__ import annotations

from typing import Any

import pytest

from manor.domain.xml.tuning import BlkioDevice, VcpuPin
from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.protocol.records import ParamType, TypedParam
from manor.service.procedures.domain_tuning import UNLIMITED
from tests.unit.service.harness import Harness, with_harness

LIVE, CONFIG = 1, 2
DISK = {"disk": "vda"}
NIC = {"device": "52:54:00:11:22:33"}
ULLONG, UINT, LLONG, INT, STRING = (
    ParamType.ULLONG, ParamType.UINT, ParamType.LLONG, ParamType.INT, ParamType.STRING
)  # fmt: skip
CASES: list[tuple[str, dict[str, Any], list[tuple[str, ParamType, int | str]]]] = [
    ("memory", {}, [("hard_limit", ULLONG, 102400), ("soft_limit", ULLONG, 51200)]),
    ("scheduler", {}, [("cpu_shares", ULLONG, 2048), ("vcpu_quota", LLONG, -1), ("global_period", ULLONG, 100000)]),
    ("numa", {}, [("numa_mode", INT, 2), ("numa_nodeset", STRING, "0-1")]),
    ("blkio", {}, [("weight", UINT, 300), ("device_weight", STRING, "/dev/sda,200,/dev/sdb,100")]),
    ("block_io_tune", DISK, [("total_iops_sec", ULLONG, 500), ("total_iops_sec_max", ULLONG, 900)]),
    ("interface", NIC, [("inbound.average", UINT, 1000), ("outbound.average", UINT, 2000)]),
]


def names(kind: str) -> tuple[str, str]:
    if kind == "scheduler":
        return "domain_get_scheduler_parameters_flags", "domain_set_scheduler_parameters_flags"
    end = kind if kind == "block_io_tune" else f"{kind}_parameters"
    return f"domain_get_{end}", f"domain_set_{end}"


async def get(harness: Harness, kind: str, more: dict[str, Any], flags: int = CONFIG) -> dict[str, int | str]:
    found = await harness.call(names(kind)[0], domain=harness.web1, nparams=99, flags=flags, **more)
    rows = found[0] if isinstance(found, tuple) else found
    REMOTE[names(kind)[0]].encode_result(found)  # it has to fit the wire
    return {row.field: row.value for row in rows}


@pytest.mark.parametrize(("kind", "more", "values"), CASES, ids=[case[0] for case in CASES])
def test_what_is_set_is_shown_and_only_in_the_configuration(
    kind: str, more: dict[str, Any], values: list[tuple[str, ParamType, int | str]]
) -> None:
    params = [TypedParam(name, int(type_), value) for name, type_, value in values]

    async def scenario(harness: Harness) -> None:
        before = await get(harness, kind, more)
        await harness.call(names(kind)[1], domain=harness.web1, params=params, flags=CONFIG, **more)
        wanted = {**before, **{name: value for name, _, value in values}}
        assert await get(harness, kind, more) == wanted
        await harness.call("domain_create", domain=harness.web1)
        assert await get(harness, kind, more, LIVE) == wanted
        for flags in (0, LIVE, LIVE | CONFIG):
            error = await harness.refused(names(kind)[1], domain=harness.web1, params=params, flags=flags, **more)
            assert (error.code, "--config" in error.message) == (3, True)
        defaults = [TypedParam(name, int(type_), before[name]) for name, type_, _ in values if before[name] != ""]
        await harness.call(names(kind)[1], domain=harness.web1, params=defaults, flags=CONFIG, **more)
        assert await get(harness, kind, more, LIVE) == wanted
        assert await get(harness, kind, more) != wanted

    with_harness(scenario)


@pytest.mark.parametrize(("kind", "more", "values"), CASES, ids=[case[0] for case in CASES])
def test_a_client_hears_first_how_much_room_it_needs(
    kind: str, more: dict[str, Any], values: list[tuple[str, ParamType, int | str]]
) -> None:
    async def scenario(harness: Harness) -> None:
        found = await harness.call(names(kind)[0], domain=harness.web1, nparams=0, flags=CONFIG, **more)
        count = len(await get(harness, kind, more))
        if kind == "scheduler":
            assert (await harness.call("domain_get_scheduler_type", domain=harness.web1)) == ("posix", count)
        else:
            assert found == ([], count)

    with_harness(scenario)


@pytest.mark.parametrize(
    ("kind", "more", "param", "message"),
    [
        ("memory", {}, TypedParam("nothing", int(ULLONG), 1), "'nothing' is not supported; there are hard_limit"),
        ("memory", {}, TypedParam("hard_limit", int(STRING), "x"), "invalid type for parameter 'hard_limit'"),
        ("numa", {}, TypedParam("numa_mode", int(INT), 9), "9 is unknown"),
        ("numa", {}, TypedParam("numa_nodeset", int(STRING), "a-b"), "no set of processors"),
        ("numa", {}, TypedParam("numa_nodeset", int(INT), 1), "invalid type for parameter 'numa_nodeset'"),
        ("blkio", {}, TypedParam("device_weight", int(STRING), "/dev/sda"), "not a list like"),
        ("blkio", {}, TypedParam("weight", int(UINT), 5000), "out of range"),
        ("block_io_tune", {"disk": "vdz"}, TypedParam("total_iops_sec", int(ULLONG), 5), "disk 'vdz'"),
        ("interface", {"device": "x"}, TypedParam("inbound.average", int(UINT), 5), "cannot find interface x"),
        ("interface", NIC, TypedParam("inbound.color", int(UINT), 5), "not supported"),
        ("interface", NIC, TypedParam("color", int(UINT), 5), "not supported"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(
    kind: str, more: dict[str, Any], param: TypedParam, message: str
) -> None:
    async def scenario(harness: Harness) -> None:
        before = await harness.document()
        error = await harness.refused(names(kind)[1], domain=harness.web1, params=[param], flags=CONFIG, **more)
        assert message in error.message
        assert await harness.document() == before

    with_harness(scenario)


def test_no_limit_takes_the_element_away() -> None:
    async def scenario(harness: Harness) -> None:
        before = await harness.document()
        limit = TypedParam("hard_limit", int(ULLONG), 102400)
        await harness.call("domain_set_memory_parameters", domain=harness.web1, params=[limit], flags=CONFIG)
        assert (await harness.document()).memtune is not None
        none = TypedParam("hard_limit", int(ULLONG), UNLIMITED)
        await harness.call("domain_set_memory_parameters", domain=harness.web1, params=[none], flags=CONFIG)
        devices = TypedParam("device_weight", int(STRING), "/dev/sda,200")
        await harness.call("domain_set_blkio_parameters", domain=harness.web1, params=[devices], flags=CONFIG)
        assert (await harness.document()).blkiotune.devices == (  # type: ignore[union-attr]
            BlkioDevice(path="/dev/sda", weight=200),
        )
        devices = TypedParam("device_weight", int(STRING), "/dev/sda,0")
        await harness.call("domain_set_blkio_parameters", domain=harness.web1, params=[devices], flags=CONFIG)
        assert await harness.document() == before

    with_harness(scenario)


def test_the_older_scheduler_calls() -> None:
    async def scenario(harness: Harness) -> None:
        params = [TypedParam("cpu_shares", int(ULLONG), 512)]
        await harness.call("domain_set_scheduler_parameters", domain=harness.web1, params=params)
        found = await harness.call("domain_get_scheduler_parameters", domain=harness.web1, nparams=9)
        assert {row.field: row.value for row in found}["cpu_shares"] == 512

    with_harness(scenario)


def test_pins() -> None:
    async def scenario(harness: Harness) -> None:
        web1 = harness.web1
        everything = await harness.call("domain_get_vcpu_pin_info", domain=web1, max_maps=9, map_size=2, flags=CONFIG)
        await harness.call("domain_pin_vcpu_flags", domain=web1, vcpu=1, cpu_map=b"\x01", flags=CONFIG)
        maps, count = await harness.call("domain_get_vcpu_pin_info", domain=web1, max_maps=9, map_size=2, flags=CONFIG)
        assert count == 2
        assert maps[2:] == b"\x01\x00"
        assert maps[:2] == everything[0][:2]
        assert (await harness.document()).cputune.vcpu_pins == (VcpuPin(vcpu=1, cpus="0"),)  # type: ignore[union-attr]
        await harness.call("domain_pin_vcpu", domain=web1, vcpu=1, cpu_map=everything[0][:2])
        assert (await harness.document()).cputune is None
        await harness.call("domain_pin_emulator", domain=web1, cpu_map=b"\x01", flags=CONFIG)
        assert await harness.call("domain_get_emulator_pin_info", domain=web1, map_size=1, flags=CONFIG) == (b"\x01", 1)
        assert await harness.call("domain_get_iothread_info", domain=web1, flags=CONFIG) == ([], 0)
        error = await harness.refused("domain_pin_vcpu", domain=web1, vcpu=7, cpu_map=b"\x01")
        assert "vcpu 7 is out of range" in error.message
        error = await harness.refused("domain_pin_emulator", domain=web1, cpu_map=b"\x00", flags=CONFIG)
        assert "Empty cpu list" in error.message

    with_harness(scenario)


def test_what_is_done_at_the_end() -> None:
    async def scenario(harness: Harness) -> None:
        web1 = harness.web1
        await harness.call("domain_set_lifecycle_action", domain=web1, type=2, action=3, flags=CONFIG)
        assert (await harness.document()).on_crash == "preserve"
        await harness.call("domain_create", domain=web1)
        await harness.call("domain_set_lifecycle_action", domain=web1, type=2, action=0, flags=LIVE)
        assert ((await harness.document()).on_crash, (await harness.document(True)).on_crash) == ("destroy", "preserve")
        error = await harness.refused("domain_set_lifecycle_action", domain=web1, type=1, action=0, flags=LIVE)
        assert "--config" in error.message
        for wrong in ({"type": 3, "action": 0}, {"type": 0, "action": 6}):
            error = await harness.refused("domain_set_lifecycle_action", domain=web1, flags=CONFIG, **wrong)
            assert error.code == 8

    with_harness(scenario)
