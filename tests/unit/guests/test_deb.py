"""The reader of Debian packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from manor.base.errors import ProtocolError
from manor.guests.deb import read_deb
from manor.testing.packages import COMPRESSORS, build_deb

FILES = {"boot/vmlinuz-1": b"kernel" * 1000, "usr/share/doc/x": b"text"}


def store(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "package.deb"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_every_compression(tmp_path: Path, suffix: str) -> None:
    path = store(tmp_path, build_deb(FILES, suffix))
    assert read_deb(path, lambda name: True) == FILES
    assert read_deb(path, lambda name: name.startswith("boot/")) == {"boot/vmlinuz-1": b"kernel" * 1000}


@pytest.mark.parametrize("suffix", COMPRESSORS)
def test_damage_is_one_error(tmp_path: Path, suffix: str) -> None:
    package = build_deb(FILES, suffix)
    data = package.index(b"data.tar") + 60
    for damaged in (
        b"",
        b"not a package",
        package[: data - 30],
        package[: data + 20],
        package[: data + 8] + bytes(40) + package[data + 48 :],
        package.replace(b"data.tar", b"xata.tar"),
    ):
        with pytest.raises(ProtocolError):
            read_deb(store(tmp_path, damaged), lambda name: True)


def test_unknown_compression(tmp_path: Path) -> None:
    package = build_deb(FILES, ".xz").replace(b"data.tar.xz ", b"data.tar.foo")
    with pytest.raises(ProtocolError, match=r"compressed as \.foo"):
        read_deb(store(tmp_path, package), lambda name: True)
