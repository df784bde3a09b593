"""Foundations: addresses, bits, clocks, errors, units, state tables."""

from __future__ import annotations

import enum

import pytest

from manor.base import address, bits
from manor.base.clock import SECOND, FakeClock, HostClock
from manor.base.errors import (
    ConfigError,
    HostError,
    ManorError,
    OutOfRange,
    ProtocolError,
    SavedStateError,
    StateError,
)
from manor.base.states import StateTable
from manor.base.units import GiB, KiB, MiB, TiB, format_size, parse_size


def test_alignment() -> None:
    assert address.align_down(0x1FFF, 0x1000) == 0x1000
    assert address.align_up(0x1001, 0x1000) == 0x2000
    assert address.align_up(0x1000, 0x1000) == 0x1000
    assert address.is_aligned(0x2000, 0x1000)
    assert address.page_of(0x3FFF) == 3
    for bad in (0, -4, 3):
        with pytest.raises(ValueError, match="power of two"):
            address.align_up(1, bad)


def test_bits() -> None:
    assert bits.bit(5) == 0x20
    assert bits.mask(4, 8) == 0xF00
    assert bits.field(0xABCD, 4, 8) == 0xBC
    assert bits.insert(0xFFFF, 4, 8, 0x12) == 0xF12F
    assert bits.insert(0, 0, 4, 0x1F) == 0xF
    assert bits.sext(0x80, 8) == -128
    assert bits.sext(0x17F, 8) == 127
    assert bits.highest_bit(0) == -1
    assert bits.highest_bit(0x90) == 7
    assert bits.lowest_bit(0) == -1
    assert bits.lowest_bit(0x90) == 4
    assert bits.is_set(4, 2)


def test_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock(now_ns=5, wall_ns=1000)
    clock.advance(10)
    assert (clock.now_ns(), clock.wall_ns()) == (15, 1010)
    clock.set_wall(7)
    clock.advance(1)
    assert (clock.now_ns(), clock.wall_ns()) == (16, 8)
    with pytest.raises(ValueError, match="monotonic"):
        clock.advance(-1)


def test_host_clock_is_in_nanoseconds() -> None:
    clock = HostClock()
    first = clock.now_ns()
    assert clock.now_ns() >= first
    assert clock.wall_ns() > 1_500_000_000 * SECOND


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("512", 512), ("256M", 256 * MiB), (" 4 gib ", 4 * GiB), ("1k", KiB), ("0x10", 16), ("2TB", 2 * TiB)],
)
def test_parse_size(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "12X", "1 M M", "٣", "1" * 30])
def test_parse_size_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="like 256M"):
        parse_size(text)


def test_format_size() -> None:
    assert format_size(256 * MiB) == "256 MiB"
    assert format_size(3 * KiB // 2) == "1536 B"
    assert format_size(0) == "0 B"
    assert parse_size(format_size(5 * GiB)) == 5 * GiB


def test_errors_carry_their_facts() -> None:
    config = ConfigError("devices[2].queue_size", "must be a power of two")
    assert (config.path, str(config)) == (
        "devices[2].queue_size",
        "devices[2].queue_size: must be a power of two",
    )
    assert str(ConfigError("", "bad")) == "bad"
    host = HostError.from_os_error("open disk", FileNotFoundError(2, "No such file", "/x"))
    assert (host.errno, host.file, str(host)) == (2, "/x", "open disk: No such file")
    state = StateError("resume", "stopped", ["paused"])
    assert "allowed in: paused" in str(state)
    assert ProtocolError("bad magic", 0x10).offset == 0x10
    assert str(ProtocolError("bad magic", 0x10)) == "at offset 0x10: bad magic"
    assert isinstance(SavedStateError("rtc", "no"), ProtocolError)
    assert OutOfRange(0x1000, 4).address == 0x1000
    for error in (config, host, state):
        assert isinstance(error, ManorError)


class Light(enum.Enum):
    RED = 1
    GREEN = 2


def test_state_table() -> None:
    table = StateTable("light", Light.RED, {(Light.RED, "go"): Light.GREEN, (Light.GREEN, "stop"): Light.RED})
    assert table.next(Light.RED, "go") is Light.GREEN
    assert table.allows(Light.GREEN, "stop")
    assert table.events(Light.RED) == ["go"]
    assert "red --> green: go" in table.diagram()
    with pytest.raises(StateError) as caught:
        table.next(Light.GREEN, "go")
    assert caught.value.state == "green"
    assert caught.value.allowed == ("red",)


def test_state_table_refuses_dead_rows() -> None:
    with pytest.raises(ValueError, match="cannot be reached"):
        StateTable("light", Light.RED, {(Light.GREEN, "stop"): Light.RED})
