"""The package client, played by small shell scripts; no network."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from manor.base.errors import ConfigError
from manor.guests.packages import AptClient, FetchError, Package, parse_records, require_client, verify
from manor.guests.progress import Silent

CONTENT = b"package contents"
SUM = hashlib.sha256(CONTENT).hexdigest()
RECORD = f"""\
Package: linux-image-cloud-amd64
Version: 6.1.2-3
Depends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.2-3), kmod | module-init, adduser:any
Description: Linux
 A longer text.
 .
 Size: not a field
Size: {len(CONTENT)}
SHA256: {SUM.upper()}
"""


class Recorder(Silent):
    def __init__(self) -> None:
        self.steps: list[str] = []
        self.last = (0, 0)

    def step(self, message: str) -> None:
        self.steps.append(message)

    def advance(self, done: int, total: int) -> None:
        self.last = (done, total)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is first in PATH. Its apt-cache knows one record, its apt-get delivers CONTENT."""
    directory = tmp_path / "tools"
    directory.mkdir()
    (tmp_path / "record").write_text(RECORD)
    (tmp_path / "content").write_bytes(CONTENT)
    tool(directory, "apt-cache", f'echo "$@" >> {tmp_path}/log; cat {tmp_path}/record')
    tool(directory, "apt-get", f'echo "$@" >> {tmp_path}/log; cp {tmp_path}/content got.deb')
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    return directory


def tool(directory: Path, name: str, script: str) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_records() -> None:
    first, second = parse_records("A: 1\nB: x\n y\n\n\nA: 2\nrubbish\n")
    assert (first, second) == ({"a": "1", "b": "x\ny"}, {"a": "2"})


def test_find(tools: Path, tmp_path: Path) -> None:
    package = AptClient(tmp_path / "apt").find("linux-image-cloud-amd64")
    assert package == Package(
        "linux-image-cloud-amd64", "6.1.2-3", len(CONTENT), SUM, ("linux-image-6.1.0-9-cloud-amd64", "kmod", "adduser")
    )
    assert "linux-image-cloud-amd64:amd64" in (tmp_path / "log").read_text()


def test_find_ignores_what_cannot_be_downloaded(tools: Path, tmp_path: Path) -> None:
    client = AptClient(tmp_path / "apt")
    (tmp_path / "record").write_text(RECORD.replace("SHA256", "X"))
    assert client.find("linux-image-cloud-amd64") is None
    tool(tools, "apt-cache", "echo 'E: No packages found' >&2; exit 100")
    assert client.find("linux-image-cloud-amd64") is None
    with pytest.raises(ValueError, match="not a package name"):
        client.find("-o Evil=1")


def test_download(tools: Path, tmp_path: Path) -> None:
    client, progress = AptClient(tmp_path / "apt"), Recorder()
    package = Package("busybox-static", "1:2-3", len(CONTENT), SUM, ())
    target = tmp_path / "target"
    target.mkdir()
    assert client.download(package, target, progress).read_bytes() == CONTENT
    assert progress.steps == ["downloading busybox-static 1:2-3"]
    assert progress.last == (len(CONTENT), len(CONTENT))
    assert "download busybox-static:amd64=1:2-3" in (tmp_path / "log").read_text()


def test_failed_download_says_why(tools: Path, tmp_path: Path) -> None:
    tool(tools, "apt-get", "echo 'W: odd' >&2; echo 'E: Failed to fetch: 404 Not Found' >&2; exit 100")
    with pytest.raises(FetchError, match="busybox-static could not be downloaded: Failed to fetch: 404 Not Found"):
        AptClient(tmp_path / "apt").download(Package("busybox-static", "1", 1, SUM, ()), tmp_path, Silent())


def test_corrupted_download(tmp_path: Path) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(FetchError, match="corrupted"):
        verify(Package("x", "1", 1, SUM, ()), path)


def test_own_lists(tools: Path, tmp_path: Path) -> None:
    client, progress = AptClient(tmp_path / "apt"), Recorder()
    tool(tools, "apt-get", f'echo "$@" >> {tmp_path}/log')
    client.update_own_lists(progress)
    client.find("linux-image-cloud-amd64")
    update, show = (tmp_path / "log").read_text().splitlines()
    for line in (update, show):
        assert f"Dir::State::lists={tmp_path}/apt/lists" in line
    assert update.endswith("update")
    assert (tmp_path / "apt" / "lists" / "partial").is_dir()
    assert progress.steps == ["fetching package lists"]


def test_own_lists_unreachable(tools: Path, tmp_path: Path) -> None:
    tool(tools, "apt-get", "echo 'E: Temporary failure resolving' >&2; exit 100")
    with pytest.raises(FetchError, match="package lists could not be fetched: Temporary failure resolving"):
        AptClient(tmp_path / "apt").update_own_lists(Silent())


def test_no_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"--kernel FILE .*--initrd FILE"):
        require_client()
