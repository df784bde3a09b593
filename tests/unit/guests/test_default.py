"""The default guest from a package client of shell scripts: cache, repair, errors; no network."""

from __future__ import annotations

import hashlib
import lzma
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, ManorError
from manor.guests import cpio
from manor.guests.cache import Cache
from manor.guests.default import cached_version, default_guest
from manor.guests.packages import CorruptedDownload
from manor.guests.progress import Silent
from manor.testing.packages import build_deb

MODULE_DIRECTORY = "lib/modules/6.1.0-9/kernel/drivers/virtio"


def module(*needed: str) -> bytes:
    return b"\x7fELF\0depends=" + ",".join(needed).encode() + b"\0"


PACKAGES = {
    "linux-image-6.1.0-9-cloud-amd64": build_deb(
        {
            "boot/vmlinuz-6.1.0-9-cloud-amd64": b"KERNEL",
            "boot/config-6.1.0-9-cloud-amd64": b"CONFIG",
            f"{MODULE_DIRECTORY}/virtio_pci.ko": module("virtio"),
            f"{MODULE_DIRECTORY}/virtio.ko.xz": lzma.compress(module()),
            f"{MODULE_DIRECTORY}/virtio_mem.ko": module("virtio"),
        }
    ),
    "busybox-static": build_deb({"usr/bin/busybox": b"BUSYBOX"}),
    "linux-image-cloud-amd64": build_deb({}),
}


class Recorder(Silent):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory, with a working package client in PATH."""
    tools, repository = tmp_path / "tools", tmp_path / "repository"
    tools.mkdir()
    repository.mkdir()
    for name, data in PACKAGES.items():
        (repository / f"{name}.deb").write_bytes(data)
        depends = "Depends: linux-image-6.1.0-9-cloud-amd64 (= 1)\n" if name == "linux-image-cloud-amd64" else ""
        (repository / f"{name}.record").write_text(
            f"Package: {name}\nVersion: 1\n{depends}Size: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n"
        )
    # The last argument is the package; apt-get's has the version behind it.
    last = f'for last; do :; done; last="${{last%%=*}}"; last="{repository}/${{last%%:amd64}}"'
    for name, script in (("apt-cache", f'{last}; cat "$last.record"'), ("apt-get", f'{last}; cp "$last.deb" .')):
        (tools / name).write_text(f"#!/bin/sh\n{script}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    return tmp_path / "cache"


def go_offline(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package client that fails, as without a network."""
    for name in ("apt-cache", "apt-get"):
        (root.parent / "tools" / name).write_text("#!/bin/sh\necho 'E: no network' >&2\nexit 100\n")


def test_first_start_assembles_the_guest(root: Path) -> None:
    guest = default_guest(Silent(), root=root)
    assert guest.kernel.read_bytes() == b"KERNEL"
    assert (guest.cmdline, guest.version) == ("console=ttyS0", "1")
    files = {entry.name: entry.data for entry in cpio.read_archive(guest.initrd.read_bytes())}
    assert files["bin/busybox"] == b"BUSYBOX"
    assert files["lib/modules/order"] == b"virtio.ko\nvirtio_pci.ko\n"
    assert files["lib/modules/virtio.ko"] == module()
    assert "lib/modules/virtio_mem.ko" not in files


def test_cached_version_is_known_without_the_client(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cached_version(root=root) is None
    assert not root.exists()
    default_guest(Silent(), root=root)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert cached_version(root=root) == "1"
    assert cached_version("generic", root) is None


def test_second_start_runs_no_client(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = default_guest(Silent(), root=root)
    monkeypatch.setenv("PATH", "/nonexistent")
    assert default_guest(Silent(), root=root) == first


@pytest.mark.parametrize("entry", ["vmlinuz-6.1.0-9-cloud-amd64", "parts.cpio", "manifest.json"])
def test_damaged_file_is_reported_and_fetched_again(root: Path, entry: str) -> None:
    first = default_guest(Silent(), root=root)
    (root / "guest" / "cloud" / entry).write_bytes(b"rubbish")
    progress = Recorder()
    assert default_guest(progress, root=root) == first
    assert first.kernel.read_bytes() == b"KERNEL"
    assert len(progress.warnings) == 1
    assert entry in progress.warnings[0]
    assert "damaged" in progress.warnings[0]


def test_incomplete_manifest_is_fetched_again(root: Path) -> None:
    first = default_guest(Silent(), root=root)
    Cache(root).store("guest/cloud/manifest.json", b'{"format": 1}')
    assert default_guest(Silent(), root=root) == first


def test_damaged_initrd_is_built_again_without_the_client(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = default_guest(Silent(), root=root)
    good = first.initrd.read_bytes()
    first.initrd.write_bytes(b"rubbish")
    go_offline(root, monkeypatch)
    assert default_guest(Silent(), root=root).initrd.read_bytes() == good


def test_damaged_file_offline_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    default_guest(Silent(), root=root).kernel.write_bytes(b"rubbish")
    go_offline(root, monkeypatch)
    with pytest.raises(ManorError, match="no network"):
        default_guest(Silent(), root=root)


def test_corrupted_download_is_an_error(root: Path) -> None:
    (root.parent / "repository" / "busybox-static.deb").write_bytes(b"rubbish")
    with pytest.raises(CorruptedDownload, match="busybox-static 1 is corrupted"):
        default_guest(Silent(), root=root)


def test_missing_package_lists_are_fetched_into_the_cache(root: Path) -> None:
    cache_tool = root.parent / "tools" / "apt-cache"
    working = cache_tool.read_text().split("\n", 1)[1]
    # The machine's own lists know nothing; with our state directory everything is there.
    cache_tool.write_text(f'#!/bin/sh\ncase "$*" in *Dir::State=*) ;; *) exit 100;; esac\n{working}')
    get_tool = root.parent / "tools" / "apt-get"
    get_tool.write_text(f'#!/bin/sh\ncase "$*" in *update) exit 0;; esac\n{get_tool.read_text()}')
    assert default_guest(Silent(), root=root).kernel.read_bytes() == b"KERNEL"


def test_no_client(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConfigError, match="--kernel"):
        default_guest(Silent(), root=root)
