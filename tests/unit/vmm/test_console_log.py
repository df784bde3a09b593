"""The log of a VM in the background."""

from __future__ import annotations

from pathlib import Path

import pytest

from manor.vmm import console_log
from manor.vmm.console_log import ConsoleLog


def test_log_is_appended_to_over_runs(tmp_path: Path) -> None:
    for data in (b"one\n", b"two\n"):
        log = ConsoleLog(tmp_path / "log")
        log.write(data)
        log.close()
        log.write(b"after the end\n")
    assert (tmp_path / "log").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_log_keeps_the_last_bytes_and_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_log, "MAX_LOG", 100)
    log = ConsoleLog(tmp_path / "log")
    for number in range(100):
        log.write(b"line %03d\n" % number)
    log.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1"]
    kept = (tmp_path / "log.1").read_bytes() + (tmp_path / "log").read_bytes()
    assert len(kept) <= 210
    assert kept.endswith(b"line 098\nline 099\n")


def test_folder_that_is_gone_ends_the_log_alone(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "none" / "log")
    log.write(b"lost")
    log.close()
