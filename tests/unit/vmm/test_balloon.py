"""The host's end of the balloon, with a device that answers by itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from manor.base.errors import ConfigError, HostError, StateError
from manor.base.units import MiB
from manor.devices.virtio.balloon import BalloonCounts
from manor.vmm.balloon import Balloon, MemoryStatistics


class Device:
    """Gives up what is asked for, at once, if it is willing."""

    def __init__(self, is_willing: bool = True, is_running: bool = True) -> None:
        self.on_actual: Callable[[], None] = lambda: None
        self.on_statistics: Callable[[], None] = lambda: None
        self.actual = 0
        self.statistics: dict[str, int] = {}
        self.counts = BalloonCounts(7, 8)
        self._is_willing = is_willing
        self.is_running = is_running

    def set_target(self, pages: int) -> None:
        if self._is_willing:
            self.actual = pages
            self.on_actual()

    def request_statistics(self) -> bool:
        if self.is_running and self._is_willing:
            self.statistics = {"free": 5 * MiB}
            self.on_statistics()
        return self.is_running


def test_target_is_what_the_guest_shall_have() -> None:
    balloon = Balloon(256 * MiB)
    assert balloon.target == balloon.actual == 256 * MiB
    balloon.target = 200 * MiB  # remembered for the guest to come
    device = Device()
    balloon.connect(device, threading.RLock())
    assert device.actual == 56 * MiB // 4096
    assert balloon.wait(0) == 200 * MiB
    balloon.target = "100M"
    assert balloon.actual == 100 * MiB
    balloon.disconnect()
    assert balloon.actual == 256 * MiB
    assert balloon.target == 100 * MiB


@pytest.mark.parametrize("wrong", [0, -1, 257 * MiB, "much"])
def test_target_that_cannot_be(wrong: int | str) -> None:
    balloon = Balloon(256 * MiB)
    with pytest.raises(ConfigError, match="balloon.target"):
        balloon.target = wrong


def test_guest_that_does_not_follow_is_not_waited_for_without_end() -> None:
    balloon = Balloon(256 * MiB)
    balloon.connect(Device(is_willing=False), threading.RLock())
    balloon.target = MiB
    with pytest.raises(TimeoutError, match="not 1048576"):
        balloon.wait(0.01)


def test_statistics() -> None:
    balloon = Balloon(256 * MiB)
    with pytest.raises(StateError):
        balloon.statistics()
    assert not balloon.has_driver
    balloon.connect(Device(), threading.RLock())
    assert balloon.has_driver
    assert balloon.statistics() == MemoryStatistics(free=5 * MiB, inflated=7, reported=8)
    assert balloon.statistics().as_dict()["total"] is None
    balloon.connect(Device(is_running=False), threading.RLock())
    with pytest.raises(StateError, match="without a balloon driver"):
        balloon.statistics()
    balloon.connect(Device(is_willing=False), threading.RLock())
    with pytest.raises(HostError, match="did not answer"):
        balloon.statistics(0.01)
