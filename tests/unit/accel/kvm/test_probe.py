"""The verdict about the host's KVM, and its cache."""

from __future__ import annotations

import errno
import itertools
from pathlib import Path

import pytest

from manor.accel.kvm import probe_cache
from manor.accel.kvm.probe import KvmState, Verdict, probe
from manor.accel.kvm.probe_guest import Measurement
from manor.accel.kvm.run_page import ExitReason, RunPage
from manor.testing.fake_kvm import FakeKernel, write_exit, write_port_access

FAST = Measurement(runs=True, mips=4000, syscall_works=True)


@pytest.fixture
def kernel() -> FakeKernel:
    return FakeKernel()


def look(kernel: FakeKernel, cache: Path, measured: Measurement | None = FAST) -> Verdict:
    if measured is not None:
        probe_cache.store(cache, measured)
    verdict = probe(kernel, cache=cache)
    assert kernel.open_fds == set()
    return verdict


@pytest.mark.parametrize(
    ("request_", "number", "state", "advice"),
    [
        ("open", errno.ENOENT, KvmState.NO_DEVICE, "Load the module"),
        ("open", errno.EACCES, KvmState.NO_PERMISSION, "Join the group kvm"),
        ("KVM_CREATE_VM", errno.EBUSY, KvmState.BUSY, "End the other hypervisor"),
        ("KVM_CREATE_VM", errno.ENODEV, KvmState.NO_DEVICE, "Load the module"),
        ("KVM_CHECK_EXTENSION", errno.EIO, KvmState.BROKEN, ""),
    ],
)
def test_refusal_is_a_verdict(
    kernel: FakeKernel, tmp_path: Path, request_: str, number: int, state: KvmState, advice: str
) -> None:
    kernel.failing[request_] = number
    verdict = look(kernel, tmp_path / "kvm.json")
    assert verdict.state is state
    assert verdict.fix.startswith(advice)
    assert verdict.fix not in verdict.reason or not verdict.fix
    assert not verdict.can_run


def test_old_kvm(kernel: FakeKernel, tmp_path: Path) -> None:
    kernel.absent = {136}
    verdict = look(kernel, tmp_path / "kvm.json")
    assert (verdict.state, verdict.missing) == (KvmState.MISSING_EXTENSIONS, ("KVM_CAP_IMMEDIATE_EXIT",))
    kernel.absent, kernel.api_version = set(), 13
    assert look(kernel, tmp_path / "kvm.json").state is KvmState.TOO_OLD


@pytest.mark.parametrize(
    ("measured", "state", "text"),
    [
        (FAST, KvmState.USABLE, "usable: /dev/kvm runs guests on the processor (4,000 MIPS)"),
        (
            Measurement(True, 0.9, False),
            KvmState.EMULATED,
            "emulated: /dev/kvm runs ring 0 at 0.9 MIPS, so it is emulated on this host, and SYSCALL from ring 3 does "
            "not work",
        ),
        (
            Measurement(True, 4000, False, "SYSCALL ends in exit SHUTDOWN"),
            KvmState.BROKEN,
            "broken: SYSCALL ends in exit SHUTDOWN under /dev/kvm",
        ),
        (
            Measurement(False, 0, False, "a port write in real mode ends in exit SHUTDOWN"),
            KvmState.BROKEN,
            "broken: /dev/kvm does not run a simple guest: a port write in real mode ends in exit SHUTDOWN",
        ),
    ],
)
def test_measurement_decides(
    kernel: FakeKernel, tmp_path: Path, measured: Measurement, state: KvmState, text: str
) -> None:
    verdict = look(kernel, tmp_path / "kvm.json", measured)
    assert (verdict.state, str(verdict), verdict.is_cached) == (state, text, True)
    assert verdict.is_usable == (state is KvmState.USABLE)


def test_guest_is_measured_once_and_then_cached(
    kernel: FakeKernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = 0
    ticks = itertools.count(0, 1000)
    monkeypatch.setattr("manor.accel.kvm.probe_guest._now", lambda: next(ticks))

    def enter(page: RunPage) -> None:
        nonlocal entered
        entered += 1
        # real mode, short loop, long loop, SYSCALL
        write_port_access(page, 0x81 if entered == 4 else 0x80, 1, True, b"\0")

    kernel._enter = enter
    cache = tmp_path / "deep" / "kvm.json"
    first = look(kernel, cache, None)
    assert (first.state, first.is_cached, entered) == (KvmState.USABLE, False, 4)
    second = look(kernel, cache, None)
    assert (second.state, second.is_cached, entered) == (KvmState.USABLE, True, 4)


def test_guest_that_ends_otherwise_is_said(kernel: FakeKernel, tmp_path: Path) -> None:
    kernel._enter = lambda page: write_exit(page, ExitReason.SHUTDOWN)
    verdict = look(kernel, tmp_path / "kvm.json", None)
    assert verdict.reason == "/dev/kvm does not run a simple guest: a port write in real mode ends in exit SHUTDOWN"


@pytest.mark.parametrize("content", ["", "[]", '{"host": []}', '{"host": [], "measured": {}}', "\0"])
def test_damaged_cache_is_no_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "kvm.json"
    path.write_text(content)
    assert probe_cache.load(path) is None
    probe_cache.store(path, FAST)
    assert probe_cache.load(path) == FAST


def test_cache_of_another_kernel_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kvm.json"
    probe_cache.store(path, FAST)
    monkeypatch.setattr(probe_cache, "host_key", lambda: [1, "another kernel"])
    assert probe_cache.load(path) is None


def test_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    probe_cache.store(tmp_path / "file" / "kvm.json", FAST)
    probe_cache.store(None, FAST)
    assert probe_cache.load(None) is None


def test_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert probe_cache.default_path() == tmp_path / "manor" / "kvm.json"
