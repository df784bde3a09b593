"""Sizes, tables and progress of `manor image`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from manor.backends.block.operations import SnapshotInfo
from manor.base.units import KiB, MiB
from manor.cli.image.progress import progress
from manor.cli.image.text import size_text, snapshot_table
from tests.unit.cli.image.programs import needs_qemu, qemu


def test_sizes_as_qemu_img_writes_them() -> None:
    expected = {
        0: "0 B", 999: "999 B", 1000: "0.977 KiB", 1023: "0.999 KiB", 1024: "1 KiB", 196 * KiB: "196 KiB",
        1310720: "1.25 MiB", 999 * MiB: "999 MiB", 1000 * MiB: "0.977 GiB", 5 << 40: "5 TiB", 1 << 63: "8 EiB",
    }  # fmt: skip
    assert {size: size_text(size) for size in expected} == expected


@needs_qemu
@pytest.mark.parametrize("size", [512, 1000 * KiB, 1023 * MiB, 7 * 1234567 * 512, 999 << 30, 1000 << 30])
def test_sizes_are_qemu_imgs(size: int) -> None:
    with open("raw", "wb") as file:
        file.truncate(size)
    assert f"virtual size: {size_text(size)} ({size} bytes)" in qemu("info", "-f", "raw", "raw").out


def test_long_names_of_snapshots_keep_their_distance() -> None:
    rows = snapshot_table([SnapshotInfo("1234567890", "a name of many letters", 5 * MiB, 0.0, 3_723_004_000_000)])
    assert rows[2].startswith("1234567890 a name of many letters    5 MiB ")
    assert rows[2].endswith("01:02:03.004")


def test_percentages(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("x", percent=True, quiet=False) as show:
        for done in range(1001):
            show(done, 1000)
    shown = capsys.readouterr().out
    assert shown.startswith("    (0.00/100%)\r    (1.00/100%)\r")
    assert shown.endswith("    (100.00/100%)\r\n")
    assert shown.count("\r") == 101
    with progress("x", percent=True, quiet=True) as show:
        show(1, 2)
    assert capsys.readouterr().out == ""


def test_bar_shows_what_takes_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manor.cli.image.progress.shows_bars", lambda: True)
    seconds = iter([0.0, 0.5, 1.5, 1.51, 2.0])
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    calls: list[object] = []

    class FakeBar:
        def step(self, message: str) -> None:
            calls.append(message)

        def advance(self, done: int, total: int) -> None:
            calls.append((done, total))

        def close(self) -> None:
            calls.append("closed")

    monkeypatch.setattr("manor.cli.image.progress.Bar", FakeBar)
    with progress("Copying", percent=False, quiet=False) as show:
        for done in range(1, 5):
            show(done, 10)
    assert calls == ["Copying", (2, 10), (4, 10), "closed"]


def test_help_of_the_group_loads_no_image_format() -> None:
    code = "import sys; from manor.cli.main import manor; import manor.cli.image.group; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not [name for name in loaded if name.startswith(("manor.backends", "manor.vmm.vm", "ssl", "rich"))]
