"""The log of a VM in the background."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manor.base import console_log
from manor.base.console_log import ConsoleLog, read_log
from manor.base.errors import HostError


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
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.starts"]
    kept = (tmp_path / "log.1").read_bytes() + (tmp_path / "log").read_bytes()
    assert len(kept) <= 210
    assert kept.endswith(b"line 098\nline 099\n")


def test_folder_that_is_gone_ends_the_log_alone(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "none" / "log")
    log.write(b"lost")
    log.close()


def text_from(path: Path, since: int) -> bytes:
    """All from a position, in small pieces."""
    found = b""
    while (piece := read_log(path, since + len(found), 7)).data:
        assert piece.start == since + len(found)
        found += piece.data
    return found


def test_positions_go_on_over_rotations_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_log, "MAX_LOG", 100)
    path, written = tmp_path / "log", b""
    for run in range(5):
        log = ConsoleLog(path)
        for number in range(17):
            line = b"run %d line %03d\n" % (run, number)
            log.write(line)
            written += line
            piece = read_log(path, len(written) - len(line), 1000)
            assert piece.data == line
            assert piece.end == len(written)
            assert text_from(path, piece.first) == written[piece.first :]
        log.close()
    assert read_log(path, 0, 10).start == piece.first > 0  # what is gone is left out, and said
    assert read_log(path, -5, 10).data == written[-5:]
    assert read_log(path, len(written) + 99, 10).data == b""
    assert len(written) - piece.first <= 220


@pytest.mark.parametrize("step", [1, 2, 3])
def test_death_in_a_rotation_loses_no_position(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(console_log, "MAX_LOG", 50)
    path = tmp_path / "log"
    log = ConsoleLog(path)
    count, replace = 0, os.replace

    def die(source: Path, target: Path) -> None:
        nonlocal count
        count += 1
        if count == step:
            raise OSError(5, "dead")
        replace(source, target)

    monkeypatch.setattr(os, "replace", die)
    log.write(b"x" * 60)
    monkeypatch.setattr(os, "replace", replace)
    again = ConsoleLog(path)
    again.write(b"y")
    assert read_log(path, 55, 100)[1:] == (55, 61, b"xxxxxy")


def test_a_log_without_positions_is_read_from_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"old text")
    assert read_log(tmp_path / "log", 4, 3).data == b"text"[:3]
    (tmp_path / "log.starts").write_text("[nonsense")
    assert read_log(tmp_path / "log", -4, 9).data == b"text"
    assert read_log(tmp_path / "none", 0, 9) == (0, 0, 0, b"")
    (tmp_path / "dir").mkdir()
    with pytest.raises(HostError, match="reading .*dir"):
        read_log(tmp_path / "dir", 0, 9)
