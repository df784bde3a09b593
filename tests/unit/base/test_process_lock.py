"""Who has something: taking, looking, inheriting, dying."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from manor.base import process_lock

HOLD = """
import sys
from manor.base import process_lock
lock = process_lock.open_lock(sys.argv[1])
assert process_lock.try_lock(lock)
process_lock.note_pid(lock)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_nobody_has_what_is_not_there_or_not_locked(path: Path) -> None:
    assert process_lock.holder(path) is None
    os.close(process_lock.open_lock(path))
    assert process_lock.holder(path) is None
    assert path.stat().st_mode & 0o077 == 0


def test_second_description_is_refused_and_the_first_may_ask_again(path: Path) -> None:
    one, two = process_lock.open_lock(path), process_lock.open_lock(path)
    assert process_lock.try_lock(one)
    assert process_lock.try_lock(one)
    assert not process_lock.try_lock(two)
    assert process_lock.holder(path) == 0, "held, by whom is not said"
    process_lock.note_pid(one)
    assert process_lock.holder(path) == os.getpid()
    os.close(one)
    assert process_lock.holder(path) is None
    assert process_lock.try_lock(two)
    os.close(two)


def test_looking_is_in_nobodys_way(path: Path) -> None:
    """A start while somebody lists what runs was refused now and then."""
    lock, looking = process_lock.open_lock(path), os.open(path, os.O_RDONLY)
    assert not process_lock.is_locked(looking)
    assert process_lock.try_lock(lock)
    assert process_lock.is_locked(looking)
    os.close(looking)
    os.close(lock)


@pytest.mark.parametrize("text", [b"", b"nobody", b"-1", b"x" * 100])
def test_number_that_is_none(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    lock = process_lock.open_lock(path)
    assert process_lock.noted_pid(lock) is None
    os.close(lock)


def test_lock_ends_with_its_process_and_what_inherited_it(path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(process_lock.__file__).parents[2])},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert process_lock.holder(path) == process.pid
        process.kill()
    assert process_lock.holder(path) is None

    lock = process_lock.open_lock(path)
    assert process_lock.try_lock(lock)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(lock,)):
        os.close(lock)
        assert process_lock.holder(path) is not None, "the child has it still"
    assert process_lock.holder(path) is None
