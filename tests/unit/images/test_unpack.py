"""Unpacking: what dpkg would have made of the packages, as dpkg itself sees it."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from manor.base.errors import ProtocolError
from manor.fs.entry import Entry
from manor.guests.packages import parse_records
from manor.images.second_stage import is_kept, normalised, script
from manor.images.tree import read_archive, read_directory, write_archive, write_directory
from manor.images.unpack import Unpacked, Unpacking, merged

CONTROL = "Package: {}\nVersion: 1.0-1\nArchitecture: {}\nMaintainer: Nobody <nobody@example>\nDescription: a test\n"


def tar(members: dict[str, bytes | str | None], mtime: int = 1_600_000_000) -> bytes:
    """bytes: a file; text: a symbolic link, or after `=` another name; None: a directory."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:xz", format=tarfile.GNU_FORMAT) as archive:
        for name, value in members.items():
            member = tarfile.TarInfo(f"./{name}")
            member.mtime, member.mode = mtime, 0o755 if value is None else 0o644
            if value is None:
                member.type = tarfile.DIRTYPE
            elif isinstance(value, str):
                member.type = tarfile.LNKTYPE if value.startswith("=") else tarfile.SYMTYPE
                member.linkname = "./" + value[1:] if value.startswith("=") else value
            else:
                member.size = len(value)
            archive.addfile(member, io.BytesIO(value) if isinstance(value, bytes) else None)
    return stream.getvalue()


def deb(path: Path, control: dict[str, bytes], data: dict[str, bytes | str | None]) -> Path:
    def member(name: str, contents: bytes) -> bytes:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(contents):<10}`\n".encode()
        return head + contents + b"\n" * (len(contents) % 2)

    parts = {"debian-binary": b"2.0\n", "control.tar.xz": tar(dict(control)), "data.tar.xz": tar(data)}
    path.write_bytes(b"!<arch>\n" + b"".join(member(*part) for part in parts.items()))
    return path


@pytest.fixture
def packages(tmp_path: Path) -> list[Path]:
    first = deb(
        tmp_path / "first.deb",
        {
            "control": CONTROL.format("first", "all").encode(), "preinst": b"#!/bin/sh\n", "postinst": b"#!/bin/sh\n",
            "conffiles": b"/etc/first.conf\n", "triggers": b"# none\ninterest-noawait /usr/share/x\ninterest named\n",
            "md5sums": b"",
        },
        {"": None, "bin": None, "bin/tool": b"tool", "bin/same": "=bin/tool", "etc": None, "etc/first.conf": b"conf",
         "lib": None, "lib/link": "../usr/lib/x"},
    )  # fmt: skip
    second = deb(
        tmp_path / "second.deb",
        {"control": (CONTROL.format("second", "amd64") + "Multi-Arch: same\nPriority: required\n").encode()},
        {"": None, "usr": None, "usr/bin": None, "usr/bin/other": b"other", "opt": None, "opt/deep": None,
         "opt/deep/file": b"f"},
    )  # fmt: skip
    return [first, second]


def unpack(packages: list[Path], chosen: tuple[str, ...] = ()) -> tuple[Unpacking, dict[str, tuple[Entry, bytes]]]:
    unpacking = Unpacking(packages, frozenset(chosen))
    found = {}
    for entry in unpacking.entries():
        assert entry.path not in found
        with entry.open() as stream:
            found[entry.path] = (entry, stream.read(entry.size))
    return unpacking, found


def test_files_are_where_a_merged_usr_has_them(packages: list[Path]) -> None:
    unpacking, found = unpack(packages)
    assert found["usr/bin/tool"][1] == b"tool"
    assert found["usr/bin/same"][0].link == "usr/bin/tool"
    assert found["usr/lib/link"][1] == b"../usr/lib/x"
    assert found["bin"][1] == b"usr/bin"
    assert stat.S_ISLNK(found["bin"][0].mode)
    paths = list(found)
    assert all(path.rpartition("/")[0] in paths[:number] or "/" not in path for number, path in enumerate(paths))
    assert unpacking.newest == 1_600_000_000


def test_the_database_says_what_dpkg_would(packages: list[Path]) -> None:
    unpacking, found = unpack(packages, ("first",))
    status = parse_records(found["var/lib/dpkg/status"][1].decode())
    assert [record["package"] for record in status] == ["first", "second"]
    assert all(record["status"] == "install ok unpacked" for record in status)
    digest = hashlib.md5(b"conf", usedforsecurity=False).hexdigest()
    assert status[0]["conffiles"] == f"\n/etc/first.conf {digest}"
    assert found["var/lib/dpkg/info/first.list"][1].decode().splitlines()[:3] == ["/.", "/bin", "/bin/tool"]
    assert "var/lib/dpkg/info/second:amd64.list" in found
    assert stat.S_IMODE(found["var/lib/dpkg/info/first.postinst"][0].mode) == 0o755
    assert found["var/lib/dpkg/triggers/File"][1] == b"/usr/share/x first/noawait\n"
    assert found["var/lib/dpkg/triggers/named"][1] == b"first\n"
    assert found["var/lib/apt/extended_states"][1] == b""
    assert [package.has_preinst for package in unpacking.packages] == [True, False]
    by_itself = unpack(packages)[1]["var/lib/apt/extended_states"][1]
    assert b"Package: first\nArchitecture: amd64\nAuto-Installed: 1" in by_itself


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="dpkg is not installed")
def test_dpkg_itself_reads_the_database(packages: list[Path], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give files away")
    root = tmp_path / "root"
    root.mkdir()
    write_directory(Unpacking(packages, frozenset()).entries(), root)
    query = ["dpkg-query", f"--admindir={root}/var/lib/dpkg"]
    shown = subprocess.run([*query, "-W", "-f", "${Package} ${Status}\n"], capture_output=True, text=True, check=True)
    assert shown.stdout == "first install ok unpacked\nsecond install ok unpacked\n"
    listed = subprocess.run([*query, "-L", "second:amd64"], capture_output=True, text=True, check=True)
    assert "/opt/deep/file" in listed.stdout
    configured = subprocess.run(
        ["dpkg", f"--root={root}", "--force-script-chrootless", "--configure", "second:amd64"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert configured.returncode == 0, configured.stderr
    shown = subprocess.run([*query, "-W", "-f", "${db:Status-Status} "], capture_output=True, text=True, check=True)
    assert shown.stdout == "unpacked installed "


def test_two_packages_with_one_file(tmp_path: Path) -> None:
    paths = [
        deb(tmp_path / f"{name}.deb", {"control": CONTROL.format(name, "all").encode()}, {path: b"x"})
        for name, path in (("one", "bin/x"), ("two", "usr/bin/x"))
    ]
    with pytest.raises(ProtocolError, match="two and one both have the file /usr/bin/x"):
        unpack(paths)


@pytest.mark.parametrize("name", ["../outside", "usr/../../outside"])
def test_a_package_that_leaves_the_file_system(tmp_path: Path, name: str) -> None:
    path = deb(tmp_path / "evil.deb", {"control": CONTROL.format("evil", "all").encode()}, {name: b"x"})
    with pytest.raises(ProtocolError, match="outside the file system"):
        unpack([path])


def test_a_package_without_a_name(tmp_path: Path) -> None:
    path = deb(tmp_path / "odd.deb", {"control": b"Version: 1\n"}, {})
    with pytest.raises(ProtocolError, match="does not say what it is"):
        unpack([path])


def test_merged_paths() -> None:
    assert merged("bin/sh") == "usr/bin/sh"
    assert merged("bin") == "bin"
    assert merged("etc/bin/x") == "etc/bin/x"


def test_trees_survive_the_archive_and_the_directory(packages: list[Path], tmp_path: Path) -> None:
    kept = io.BytesIO()
    write_archive(Unpacking(packages, frozenset()).entries(), kept)
    again = io.BytesIO()
    kept.seek(0)
    write_archive(read_archive(kept), again)
    assert kept.getvalue() == again.getvalue()
    if os.geteuid() == 0:
        root = tmp_path / "root"
        root.mkdir()
        kept.seek(0)
        write_directory(read_archive(kept), root)
        back = {entry.path: entry for entry in read_directory(root, lambda path: path != "opt")}
        assert back["usr/bin/tool"].link == "usr/bin/same"
        assert back["usr/bin/same"].mtime == 1_600_000_000 * 10**9
        assert "opt/deep/file" not in back


def test_a_damaged_archive_is_said() -> None:
    kept = io.BytesIO()
    write_archive([Entry("file", stat.S_IFREG | 0o644, data=bytes(range(256)) * 1000)], kept)
    for data in (kept.getvalue()[:50], b"no archive at all"):
        with pytest.raises(ProtocolError, match="damaged"):
            list(read_archive(io.BytesIO(data)))


def test_the_script_runs_preinsts_first_and_the_accounts_before_all() -> None:
    packages = [
        Unpacked("dpkg", "1.2", "amd64", "dpkg", False), Unpacked("a", "1", "amd64", "a:amd64", True),
        Unpacked("base-passwd", "3", "amd64", "base-passwd", True),
    ]  # fmt: skip
    text = script(packages, 5).decode()
    assert "SOURCE_DATE_EPOCH=5" in text
    calls = ("preinst base-passwd amd64 base-passwd 1.2", "preinst a amd64 a:amd64 1.2")
    first, second = map(text.index, calls)
    assert first < second < text.index("--configure base-passwd") < text.index("--configure -a")
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("dev/null", False), ("dev", True), ("etc/ssh/ssh_host_rsa_key.pub", False), ("etc/passwd-", False),
        ("etc/passwd", True), ("var/lib/dpkg/status-old", False), ("var/lib/dpkg/status", True),
        ("usr/lib/python3/__pycache__", False), ("var/cache/apt/archives", True), ("var/cache/apt/pkgcache.bin", False),
        ("manor-second-stage", False), ("usr/sbin/policy-rc.d", False),
    ],
)  # fmt: skip
def test_what_belongs_into_an_image(path: str, kept: bool) -> None:
    assert is_kept(path) is kept


def test_times_end_at_the_epoch_and_have_whole_seconds() -> None:
    entries = [Entry("old", stat.S_IFREG, mtime=3 * 10**9 + 7), Entry("new", stat.S_IFREG, mtime=99 * 10**9)]
    assert [entry.mtime for entry in normalised(entries, 50)] == [3 * 10**9, 50 * 10**9]
