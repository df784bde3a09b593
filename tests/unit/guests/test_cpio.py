"""The initramfs archive format, both ways, and against the system's cpio where there is one."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from manor.base.errors import ProtocolError
from manor.guests import cpio

ENTRIES = [
    cpio.directory("dev"),
    cpio.character_device("dev/console", 5, 1),
    cpio.regular("init", b"#!/bin/sh\n", 0o755),
    cpio.regular("odd", b"12345"),
    cpio.symlink("sh", "init"),
    cpio.regular("empty", b""),
]


def test_round_trip() -> None:
    assert cpio.read_archive(cpio.write_archive(ENTRIES)) == ENTRIES


def test_output_depends_on_the_input_only() -> None:
    assert cpio.write_archive(ENTRIES) == cpio.write_archive(list(ENTRIES))
    assert len(cpio.write_archive(ENTRIES)) % 4 == 0


@pytest.mark.parametrize("name", ["", "TRAILER!!!", "a\0b", "x" * 4096])
def test_impossible_names(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a name"):
        cpio.write_archive([cpio.regular(name, b"")])


def test_damaged_archive_is_refused() -> None:
    archive = cpio.write_archive(ENTRIES)
    for length in range(0, len(archive) - 124, 7):
        with pytest.raises(ProtocolError):
            cpio.read_archive(archive[:length])
    with pytest.raises(ProtocolError, match="not a number"):
        cpio.read_archive(archive[:54] + b"ZZZZZZZZ" + archive[62:])


def test_system_cpio_lists_the_same_names() -> None:
    program = shutil.which("cpio")
    if program is None:
        pytest.skip("cpio is not installed (Debian package cpio)")
    archive = cpio.write_archive(ENTRIES)
    done = subprocess.run([program, "-it"], input=archive, capture_output=True, check=True, timeout=10)
    assert done.stdout.decode().split() == [entry.name for entry in ENTRIES]
