"""Files that are complete or not there, and the user's directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from manor.base.errors import HostError
from manor.base.files import config_directory, data_directory, runtime_directory, state_directory, write_atomically


def test_written_file_has_its_contents_and_mode(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a", b"one")
    write_atomically(tmp_path / "a", b"two", 0o644)
    assert (tmp_path / "a").read_bytes() == b"two"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("call", ["fsync", "replace", "fchmod"])
def test_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*values: object) -> None:
        raise OSError(28, "No space left on device")

    write_atomically(tmp_path / "a", b"old")
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_directories_are_where_the_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"DATA": data_directory, "STATE": state_directory, "CONFIG": config_directory}
    for name, directory in found.items():
        monkeypatch.setenv(f"XDG_{name}_HOME", "/x")
        assert directory() == Path("/x/manor")
    monkeypatch.setenv("HOME", "/home/ann")
    for name, directory in found.items():
        monkeypatch.setenv(f"XDG_{name}_HOME", "relative")
        assert directory().is_relative_to("/home/ann/.")


def test_runtime_directory_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert runtime_directory() == tmp_path / "manor"
    assert (tmp_path / "manor").stat().st_mode & 0o777 == 0o700


def test_without_the_variable_it_is_in_the_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    place = tmp_path / f"manor-{os.geteuid()}"
    assert runtime_directory() == place
    place.chmod(0o777)
    with pytest.raises(HostError, match="that you alone can use"):
        runtime_directory()
    place.rmdir()
    place.symlink_to(tmp_path)
    with pytest.raises(HostError, match="that you alone can use"):
        runtime_directory()
