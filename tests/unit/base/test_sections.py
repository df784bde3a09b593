"""Files of checked sections: whole or refused, whatever happened to them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.errors import HostError, ProtocolError
from manor.base.sections import SectionReader, SectionWriter

MAGIC = b"TESTFILE"
PARTS = [(b"ONE ", b"first"), (b"TWO ", b""), (b"TWO ", bytes(range(256)) * 40)]


def write(path: Path, parts: list[tuple[bytes, bytes]] = PARTS) -> bytes:
    writer = SectionWriter(path, MAGIC, 3)
    for kind, payload in parts:
        writer.add(kind, payload)
    writer.reserve(10)
    assert not path.exists()
    writer.finish()
    assert list(path.parent.iterdir()) == [path]
    assert path.stat().st_size == writer.size
    return path.read_bytes()


def read(path: Path) -> list[tuple[bytes, bytes]]:
    reader = SectionReader(path, MAGIC, 3, "a test file")
    try:
        return list(reader.sections())
    finally:
        reader.close()


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path)
    assert read(path) == PARTS
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_last_section_without_the_others(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write(path)
    reader = SectionReader(path, MAGIC, 3, "a test file")
    assert reader.last() == PARTS[-1]
    assert list(reader.sections()) == PARTS
    reader.close()


def test_every_truncation_is_found(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = write(path)
    for size in [*range(120), *range(120, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ProtocolError, match="is not a test file" if size < 16 else "damaged: it ends at"):
            read(path)


@settings(max_examples=40)
@given(data=st.data())
def test_every_changed_byte_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("sections") / "file"
    whole = bytearray(write(path))
    at = data.draw(st.integers(0, len(whole) - 1) | st.integers(0, 100))
    if 12 <= at < 16:
        return  # reserved
    whole[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    with pytest.raises(ProtocolError):
        read(path)


def test_sections_that_are_missing_or_come_twice(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = write(path)
    first = 16 + 12 + len(PARTS[0][1])
    for changed in (whole[:16] + whole[first:], whole[:first] + whole[16:]):
        path.write_bytes(changed)
        with pytest.raises(ProtocolError, match="sections are missing"):
            read(path)
    path.write_bytes(whole + b"x")
    with pytest.raises(ProtocolError, match="goes on behind its end"):
        read(path)


def test_a_huge_size_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    whole = bytearray(write(path))
    whole[20:24] = (0xFFFF_FFFF).to_bytes(4, "little")
    path.write_bytes(whole)
    with pytest.raises(ProtocolError, match="a section of 4294967295 bytes"):
        read(path)


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot read .*missing: No such file"):
        read(tmp_path / "missing")
    path = tmp_path / "file"
    write(path)
    with pytest.raises(ProtocolError, match="of version 3, this Manor reads version 4"):
        SectionReader(path, MAGIC, 4, "a test file")


def test_nothing_is_left_of_a_file_that_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("the old one")
    writer = SectionWriter(path, MAGIC, 1)
    writer.add(b"ONE ", b"x")
    writer.abandon()
    writer.abandon()
    assert [one.name for one in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "the old one"


def test_two_writers_and_one_that_died(tmp_path: Path) -> None:
    path = tmp_path / "file"
    (tmp_path / ".file.part").write_bytes(bytes(100_000))  # of a process that was killed
    writer = SectionWriter(path, MAGIC, 3)
    with pytest.raises(HostError, match="is being written by another process"):
        SectionWriter(path, MAGIC, 3)
    writer.add(*PARTS[0])
    writer.finish()
    assert read(path) == PARTS[:1]


def test_what_others_put_there(tmp_path: Path) -> None:
    path, part, victim = tmp_path / "file", tmp_path / ".file.part", tmp_path / "victim"
    victim.write_text("precious")
    part.symlink_to(victim)
    with pytest.raises(HostError, match="cannot write"):
        SectionWriter(path, MAGIC, 3)
    part.unlink()
    os.link(victim, part)
    with pytest.raises(HostError, match="somebody else's"):
        SectionWriter(path, MAGIC, 3)
    part.unlink()
    os.mkfifo(part)
    with pytest.raises(HostError, match="somebody else's"):
        SectionWriter(path, MAGIC, 3)
    part.unlink()
    part.touch(0o644)
    writer = SectionWriter(path, MAGIC, 3)
    writer.add(*PARTS[0])
    writer.finish()
    assert path.stat().st_mode & 0o777 == 0o600
    assert victim.read_text() == "precious"
    with pytest.raises(HostError, match="is there already, and is no file"):
        SectionWriter(Path("/dev/null"), MAGIC, 3)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = SectionWriter(tmp_path / "file", MAGIC, 3)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(HostError, match="cannot write .*file: No space left on device"):
        writer.add(b"ONE ", b"x")
    writer.abandon()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(HostError, match="cannot write"):
        SectionWriter(tmp_path / "no" / "folder", MAGIC, 3)
