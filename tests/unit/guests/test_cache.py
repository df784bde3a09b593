"""The checksummed cache."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, HostError
from manor.guests.cache import Cache, DamagedEntry, default_root


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def test_store_and_find(cache: Cache) -> None:
    assert cache.find("guest/kernel") is None
    path = cache.store("guest/kernel", b"contents")
    assert cache.find("guest/kernel") == path
    assert cache.read("guest/kernel") == b"contents"
    cache.store("guest/kernel", b"other")
    assert cache.read("guest/kernel") == b"other"
    assert sorted(p.name for p in path.parent.iterdir()) == ["kernel", "kernel.sha256"]


def test_damaged_entry_is_named(cache: Cache) -> None:
    path = cache.store("guest/kernel", b"contents")
    path.write_bytes(b"contentz")
    with pytest.raises(DamagedEntry, match="damaged") as caught:
        cache.find("guest/kernel")
    assert (caught.value.entry, caught.value.path) == ("guest/kernel", path)
    cache.remove("guest/kernel")
    assert cache.find("guest/kernel") is None
    cache.remove("guest/kernel")


def test_binary_rubbish_as_checksum(cache: Cache) -> None:
    path = cache.store("kernel", b"contents")
    path.with_name("kernel.sha256").write_bytes(b"\xff\xfe")
    with pytest.raises(DamagedEntry):
        cache.find("kernel")


def test_entry_without_checksum_does_not_exist(cache: Cache) -> None:
    path = cache.store("kernel", b"contents")
    path.with_name("kernel.sha256").unlink()
    assert cache.find("kernel") is None


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "x.sha256"])
def test_names_stay_inside(cache: Cache, name: str) -> None:
    with pytest.raises(ValueError, match="not a cache entry"):
        cache.path(name)


def test_root_that_is_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = Cache(tmp_path / "file")
    actions: tuple[Callable[[], object], ...] = (lambda: cache.store("x", b""), lambda: cache.find("x"))
    for action in actions:
        with pytest.raises(HostError, match="XDG_CACHE_HOME"):
            action()
    with pytest.raises(HostError, match="cannot write the cache"), cache.lock():
        pass
    with pytest.raises(HostError, match="cannot write the cache"), cache.scratch():
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_unreadable_entry_is_a_clear_error(cache: Cache) -> None:
    cache.store("kernel", b"contents").chmod(0)
    with pytest.raises(HostError, match="cannot read the cache .*Permission denied"):
        cache.find("kernel")


def test_lock_and_scratch(cache: Cache) -> None:
    with cache.lock(), cache.scratch() as directory:
        assert stat.S_ISDIR(directory.stat().st_mode)
        assert directory.is_relative_to(cache.root)
    assert not directory.exists()


def test_location(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "manor"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_root() == tmp_path / "home" / ".cache" / "manor"


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        default_root()
