"""`manor image`: what is printed and the exit status, beside real qemu-img where it has the same command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.backends.block.operations import CheckResult, SnapshotInfo
from manor.base.units import KiB, MiB
from manor.cli.image import check as check_module
from manor.cli.image.progress import progress
from manor.cli.image.resize import new_size
from manor.cli.image.text import size_text, snapshot_table
from manor.cli.main import main

needs_qemu = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img and qemu-io")


@pytest.fixture(autouse=True)
def inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """In a folder of its own, so that names are short and the same in both programs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Ended:
    """What a command printed and its exit status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ended]


@pytest.fixture
def manor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `manor image WORDS` as the program does."""

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["manor", "image", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        found = capsys.readouterr()
        status = ended.value.code
        assert isinstance(status, int)
        return Ended(status, found.out, found.err)

    return run


def qemu(*words: object) -> Ended:
    done = subprocess.run(["qemu-img", *map(str, words)], check=False, capture_output=True, text=True, timeout=60)
    return Ended(done.returncode, done.stdout, done.stderr)


def write(image: str, *commands: str) -> None:
    words = [word for command in commands for word in ("-c", command)]
    subprocess.run(["qemu-io", *words, image], check=True, capture_output=True, timeout=60)


@pytest.fixture
def chain() -> None:
    """top.qcow2 with a snapshot, over base.qcow2: data, zeros and holes in both."""
    assert qemu("create", "-q", "-f", "qcow2", "base.qcow2", "64M").status == 0
    write("base.qcow2", "write -P 1 0 1M", "write -z 3M 1M", "write -P 2 20M 192k")
    assert qemu("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2").status == 0
    write("top.qcow2", "write -P 3 5M 128k", "write -z 20M 64k")
    assert qemu("snapshot", "-c", "before", "top.qcow2").status == 0
    write("top.qcow2", "write -P 4 40M 64k")


# ---------------------------------------------------------------------- beside qemu-img
@needs_qemu
@pytest.mark.parametrize("options", [(), ("--backing-chain",)], ids=["alone", "chain"])
def test_info_says_what_qemu_img_says(manor: Run, chain: None, options: tuple[str, ...]) -> None:
    ours = manor("info", *options, "top.qcow2")
    theirs = qemu("info", *options, "top.qcow2").out
    trimmed = "\n".join(line.removesuffix("     ICOUNT").rstrip("0 ").rstrip() for line in theirs.splitlines())
    assert [line.rstrip("0 ") for line in ours.out.splitlines()] == [line.rstrip("0 ") for line in trimmed.splitlines()]
    assert ours.status == 0


@needs_qemu
def test_info_in_json_has_the_names_of_qemu_img(manor: Run, chain: None) -> None:
    ours = manor("info", "--output=json", "--backing-chain", "top.qcow2").json
    theirs = json.loads(qemu("info", "--output=json", "--backing-chain", "top.qcow2").out)
    for one, other in zip(ours, theirs, strict=True):
        for snapshot in (*one.get("snapshots", ()), *other.get("snapshots", ())):
            snapshot.pop("icount", None)
            snapshot.pop("date-nsec")  # a float keeps microseconds of it
        assert one == other


@needs_qemu
def test_map_in_json_is_qemu_imgs(manor: Run, chain: None) -> None:
    ours = manor("map", "--json", "top.qcow2")
    assert ours.json == qemu("map", "--output=json", "top.qcow2").json
    part = ("--start-offset=1M", "--max-length", "20M")
    assert manor("map", "--json", *part, "top.qcow2").json == qemu("map", "--output=json", *part, "top.qcow2").json


@needs_qemu
def test_map_for_people_is_qemu_imgs(manor: Run, chain: None) -> None:
    assert manor("map", "top.qcow2").out == qemu("map", "top.qcow2").out


@needs_qemu
def test_map_of_compressed_clusters_has_no_place(manor: Run) -> None:
    Path("raw").write_bytes(b"x" * 65536)
    assert manor("convert", "-c", "-O", "qcow2", "raw", "a.qcow2").status == 0
    assert "offset" not in manor("map", "--json", "a.qcow2").json[0]
    assert manor("map", "a.qcow2").out.splitlines()[1].split() == ["0", "0x10000", "-", "a.qcow2"]


@needs_qemu
def test_snapshots_are_listed_as_qemu_img_lists_them(manor: Run, chain: None) -> None:
    ours = manor("snapshot", "-l", "top.qcow2").out.splitlines()
    theirs = qemu("snapshot", "-l", "top.qcow2").out.splitlines()
    assert ours[0] == theirs[0]
    assert ours[1] == theirs[1].removesuffix("     ICOUNT")
    assert theirs[2].startswith(ours[2])


@needs_qemu
def test_snapshots_are_made_restored_and_deleted(manor: Run, chain: None) -> None:
    assert manor("snapshot", "-c", "now", "top.qcow2").status == 0
    assert [one["name"] for one in manor("snapshot", "--json", "top.qcow2").json] == ["before", "now"]
    assert manor("snapshot", "-a", "before", "top.qcow2").status == 0
    write("top.qcow2", "read -P 0 40M 64k")
    assert manor("snapshot", "-a", "now", "top.qcow2").status == 0
    write("top.qcow2", "read -P 4 40M 64k")
    assert manor("snapshot", "-d", "before", "top.qcow2").status == 0
    assert [one["name"] for one in manor("snapshot", "--json", "top.qcow2").json] == ["now"]
    assert qemu("check", "top.qcow2").status == 0
    missing = manor("snapshot", "-a", "nosuch", "top.qcow2")
    assert missing.status in (1, 2)
    assert "no snapshot 'nosuch'" in missing.err
    assert manor("snapshot", "-c", "a", "-d", "b", "top.qcow2").status == 2
    assert manor("snapshot", "-c", "", "top.qcow2").status == 2
    assert manor("snapshot", "-U", "-c", "a", "top.qcow2").status == 2


@needs_qemu
def test_check_says_what_qemu_img_says(manor: Run, chain: None) -> None:
    ours, theirs = manor("check", "top.qcow2"), qemu("check", "top.qcow2")
    assert (ours.status, ours.out) == (theirs.status, theirs.out)
    assert manor("check", "--json", "top.qcow2").json == qemu("check", "--output=json", "top.qcow2").json


@needs_qemu
def test_check_of_what_cannot_be_checked(manor: Run) -> None:
    Path("raw").write_bytes(bytes(4096))
    assert manor("check", "raw").status == qemu("check", "raw").status == 63
    assert manor("check", "nosuch").status == qemu("check", "nosuch").status == 1
    assert manor("check", "--colour", "raw").status == qemu("check", "--colour", "raw").status == 1
    assert manor("check", "-U", "-r", "all", "raw").status == 1


@needs_qemu
def test_check_finds_leaks_and_damage_and_repairs_them(manor: Run, chain: None) -> None:
    # An image made by qemu-img has its first refcount block at 0x20000. One count is taken away, another one invented.
    image = bytearray(Path("base.qcow2").read_bytes())
    image += bytes(-len(image) % 65536)
    damaged = bytearray(image)
    damaged[0x20000 + 2 * 5 : 0x20000 + 2 * 6] = bytes(2)
    Path("damaged.qcow2").write_bytes(damaged)
    leaky = image + bytes(65536)
    leaked = len(image) // 65536
    leaky[0x20000 + 2 * leaked : 0x20000 + 2 * leaked + 2] = b"\0\1"
    Path("leaky.qcow2").write_bytes(leaky)
    for name, status, counted in (("damaged", 2, "corruptions"), ("leaky", 3, "leaks")):
        assert manor("check", f"{name}.qcow2").status == qemu("check", f"{name}.qcow2").status == status
        ours = manor("check", "--json", f"{name}.qcow2").json
        theirs = qemu("check", "--output=json", f"{name}.qcow2").json
        assert ours[counted] == theirs[counted] > 0
        text = manor("check", "-r", "all", f"{name}.qcow2").out
        assert "found and repaired" in text
        assert "No errors were found" in text
        assert qemu("check", f"{name}.qcow2").status == 0


def test_every_status_of_check_has_its_words() -> None:
    found = CheckResult("qcow2", corruptions=2, leaks=3, errors=1, messages=tuple(map(str, range(150))))
    text = check_module.result_text(found)
    for words in ("2 errors were found", "3 leaked clusters", "1 parts", "... and 50 more", "check -r leaks"):
        assert words in text
    assert check_module.status(found) == 1
    assert check_module.status(CheckResult("qcow2", corruptions=1, leaks=1)) == 2
    assert check_module.status(CheckResult("qcow2", leaks=1)) == 3
    assert check_module.status(CheckResult("qcow2", leaks_fixed=1)) == 0


@needs_qemu
def test_compare_ends_as_qemu_img_ends(manor: Run, chain: None) -> None:
    assert manor("convert", "-O", "raw", "top.qcow2", "raw").status == 0
    assert qemu("create", "-q", "-f", "raw", "small", "1M").status == 0
    Path("longer").write_bytes(Path("raw").read_bytes() + bytes(MiB))
    cases = (
        ("top.qcow2", "raw"), ("base.qcow2", "top.qcow2"), ("raw", "nosuch"), ("raw", "small"), ("raw", "longer"),
        ("-s", "raw", "longer"), ("-F", "qcow2", "raw", "raw"),
    )  # fmt: skip
    for words in cases:
        ours, theirs = manor("compare", *words), qemu("compare", *words)
        assert min(ours.status, 2) == min(theirs.status, 2), words
        assert ("Images are identical." in ours.out) == ("Images are identical." in theirs.out)
    assert manor("compare", "base.qcow2", "top.qcow2").out == qemu("compare", "base.qcow2", "top.qcow2").out
    assert manor("compare", "-q", "base.qcow2", "top.qcow2").out == ""


# ---------------------------------------------------------------------- changes
@needs_qemu
def test_create(manor: Run) -> None:
    assert "qcow2, 1 GiB" in manor("create", "a.qcow2", "1G").out
    assert manor("create", "-q", "a.raw", "1M").out == ""
    assert Path("a.raw").stat().st_size == MiB
    assert manor("create", "-b", "a.qcow2", "top.qcow2").status == 0
    found = json.loads(qemu("info", "--output=json", "top.qcow2").out)
    assert (found["virtual-size"], found["backing-filename"], found["backing-filename-format"]) == (
        1 << 30,
        "a.qcow2",
        "qcow2",
    )
    assert (
        manor(
            "create", "-f", "qcow2", "-o", "cluster_size=4k,compat=0.10", "-o", "lazy_refcounts=off", "b", "1M"
        ).status
        == 0
    )
    found = json.loads(qemu("info", "--output=json", "b").out)
    assert (found["cluster-size"], found["format-specific"]["data"]["compat"]) == (4096, "0.10")
    assert manor("create", "-u", "-b", "none.raw", "-F", "raw", "c.qcow2", "1M").status == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a.qcow2",), "needs a size"),
        (("a.qcow2", "1X"), "is not a size"),
        (("-f", "vdi", "a", "1M"), "is read and not written"),
        (("-f", "ext4", "a", "1M"), "is not known"),
        (("-F", "raw", "a", "1M"), "name one with -b"),
        (("-u", "-b", "x", "-F", "raw", "a.qcow2"), "give the size"),
        (("-u", "-b", "x", "a.qcow2", "1M"), "give its format with -F"),
        (("-f", "qcow2", "-o", "colour=red", "a", "1M"), "no such option; it has cluster_size"),
        (("-b", "nosuch", "a.qcow2"), "No such file"),
        (("", "1M"), "an image has a name"),
    ],
)
def test_create_explains_what_is_wrong(manor: Run, words: tuple[str, ...], said: str, tmp_path: Path) -> None:
    ended = manor("create", *words)
    assert ended.status in (1, 2)
    assert said in ended.err
    assert list(tmp_path.iterdir()) == []


def test_create_does_not_replace_without_force(manor: Run) -> None:
    Path("a").write_bytes(b"precious")
    assert manor("create", "a", "1M").status == 2
    assert Path("a").read_bytes() == b"precious"
    assert manor("create", "--force", "a", "1M").status == 0
    assert Path("a").stat().st_size == MiB


def test_options_of_a_format_are_listed(manor: Run) -> None:
    ended = manor("create", "-f", "qcow2", "-o", "help", "a")
    assert ended.status == 0
    assert "  cluster_size " in ended.out
    assert not Path("a").exists()


@needs_qemu
def test_convert_there_and_back(manor: Run, chain: None) -> None:
    for words in (("-O", "raw"), ("-O", "qcow2"), ("-O", "qcow2", "-c", "-o", "compression_type=zstd"), ("-S", "0")):
        assert manor("convert", *words, "top.qcow2", "copy").status == 0
        assert qemu("compare", "top.qcow2", "copy").status == 0
    assert manor("convert", "-O", "qcow2", "-B", "base.qcow2", "-F", "qcow2", "top.qcow2", "delta.qcow2").status == 0
    assert qemu("compare", "top.qcow2", "delta.qcow2").status == 0
    assert manor("convert", "-l", "before", "top.qcow2", "old").status == 0
    write("old", "read -P 0 40M 64k")
    assert manor("convert", "-n", "top.qcow2", "old").status == 0
    assert qemu("compare", "top.qcow2", "old").status == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-O", "vmdk", "a", "b"), "is read and not written"),
        (("-n", "-O", "qcow2", "-o", "compat=1.1", "a", "b"), "-o is for new images"),
        (("-O", "raw", "-B", "c", "a", "b"), "stands on no other one"),
        (("-S", "1000", "a", "b"), "not a multiple of 512"),
        (("nosuch", "b"), "No such file"),
        (("a", "nbd://localhost/disk"), "write into it with -n"),
        (("a", "nosuch/b"), "No such file"),
        (("a", "a"), "a"),
    ],
)
def test_convert_explains_what_is_wrong(manor: Run, words: tuple[str, ...], said: str) -> None:
    Path("a").write_bytes(b"x" * 65536)
    ended = manor("convert", *words)
    assert ended.status in (1, 2)
    assert said in ended.err
    assert not Path("b").exists()
    assert Path("a").read_bytes() == b"x" * 65536


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_convert_leaves_nothing_behind(number: int, tmp_path: Path) -> None:
    with open("big", "wb") as file:
        for _ in range(6):
            file.write(os.urandom(16 * MiB))
    words = [sys.executable, "-m", "manor", "image", "convert", "-c", "-O", "qcow2", "big", "copy.qcow2"]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert [path.name for path in tmp_path.iterdir()] == ["big"]


@needs_qemu
def test_resize(manor: Run) -> None:
    assert manor("create", "a.qcow2", "10M").status == 0
    for size, expected in (("20M", 20), ("+5M", 25)):
        assert manor("resize", "a.qcow2", size).out == "Image resized.\n"
        assert json.loads(qemu("info", "--output=json", "a.qcow2").out)["virtual-size"] == expected * MiB
    refused = manor("resize", "a.qcow2", "-5M")
    assert refused.status == 2
    assert "add --shrink" in refused.err
    assert manor("resize", "-q", "--shrink", "a.qcow2", "-5M").out == ""
    assert json.loads(qemu("info", "--output=json", "a.qcow2").out)["virtual-size"] == 20 * MiB
    assert qemu("check", "a.qcow2").status == 0
    for wrong in ("-20M", "0", "many", "+"):
        assert manor("resize", "--shrink", "a.qcow2", wrong).status == 2


@given(st.integers(1, 1 << 50), st.integers(1, 1 << 40))
def test_new_size(old: int, change: int) -> None:
    assert new_size(old, f"+{change}") == old + change
    assert new_size(old, str(change)) == change
    assert new_size(old + change, f"-{change}") == old


@needs_qemu
def test_commit_and_rebase(manor: Run, chain: None) -> None:
    assert manor("convert", "top.qcow2", "expected").status == 0
    assert manor("rebase", "-b", "", "top.qcow2").out == "Image rebased.\n"
    assert qemu("compare", "top.qcow2", "expected").status == 0
    assert "backing-filename" not in json.loads(qemu("info", "--output=json", "top.qcow2").out)
    assert manor("rebase", "-b", "base.qcow2", "top.qcow2").status == 0
    assert qemu("compare", "top.qcow2", "expected").status == 0
    assert manor("commit", "-p", "top.qcow2").out.endswith("(100.00/100%)\r\nImage committed.\n")
    assert qemu("compare", "base.qcow2", "expected").status == 0
    os.rename("base.qcow2", "moved.qcow2")
    assert manor("rebase", "-u", "-b", "moved.qcow2", "top.qcow2").status == 2
    assert manor("rebase", "-u", "-b", "moved.qcow2", "-F", "qcow2", "top.qcow2").status == 0
    assert qemu("compare", "top.qcow2", "expected").status == 0


@needs_qemu
def test_compact(manor: Run) -> None:
    assert manor("create", "a.qcow2", "64M").status == 0
    write("a.qcow2", "write -P 1 0 32M", "write -P 0 0 31M")
    found = manor("compact", "--json", "a.qcow2").json
    assert found["before"] - found["after"] > 30 * MiB
    assert "less than before" in manor("compact", "--rewrite", "a.qcow2").out
    assert Path("a.qcow2").stat().st_size < 2 * MiB
    write("a.qcow2", "read -P 0 0 31M", "read -P 1 31M 1M")
    assert qemu("check", "a.qcow2").status == 0


@needs_qemu
def test_image_in_use_is_refused_by_the_name_of_who_has_it(manor: Run, chain: None) -> None:
    with subprocess.Popen(["qemu-io", "top.qcow2"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.read(8)  # its prompt: the image is open
        ended = manor("resize", "top.qcow2", "+1M")
        assert ended.status == 1
        assert f"qemu-io (process {holder.pid})" in ended.err
        assert manor("info", "top.qcow2").status == 1
        assert manor("info", "-U", "top.qcow2").status == 0
        assert manor("convert", "-U", "top.qcow2", "copy").status == 0
        holder.communicate(b"quit\n")


@pytest.mark.parametrize("command", ["check", "commit", "compact", "create", "rebase -b x", "resize", "snapshot"])
def test_what_works_on_files_only_says_so_of_a_server(manor: Run, command: str) -> None:
    ended = manor(*command.split(), "nbd://localhost/disk", *(["1G"] if command in ("create", "resize") else []))
    assert ended.status == (1 if command == "check" else 2)
    assert "is a disk on a server; this works on files" in ended.err


@pytest.mark.parametrize(
    "words", ["info", "check", "compact", "resize -q +1M", "snapshot", "map", "commit", "rebase -u -F raw -b x"]
)
def test_image_that_is_not_there(manor: Run, words: str) -> None:
    command, *options = words.split()
    size = [option for option in options if option.startswith("+")]
    ended = manor(command, *(option for option in options if option not in size), "nosuch", *size)
    assert ended.status == 1
    assert "opening nosuch" in ended.err
    assert "Traceback" not in ended.err


# ---------------------------------------------------------------------- serve
@contextmanager
def serving(*words: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`manor image serve` as a program; its address."""
    command = [sys.executable, "-u", "-m", "manor", "image", "serve", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Serving "), process.communicate()
        try:
            yield process, line.removeprefix("Serving ").strip()
        finally:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=30)


@needs_qemu
def test_serve_and_every_command_that_reads(manor: Run, chain: None) -> None:
    with serving("-k", "nbd.sock", "-x", "disk", "top.qcow2") as (process, address):
        assert address == f"nbd+unix:///disk?socket={os.getcwd()}/nbd.sock"
        assert "top.qcow2" in manor("info", "top.qcow2").err, "the server has it"
        assert f"virtual size: 64 MiB ({64 * MiB} bytes)" in manor("info", address).out
        assert manor("convert", address, "copy").status == 0
        assert qemu("compare", "-U", "top.qcow2", "copy").status == 0
        assert manor("compare", address, "copy").status == 0
        ours = [(one["start"], one["zero"]) for one in manor("map", "--json", address).json]
        theirs = [
            (one["start"], one["zero"]) for one in json.loads(qemu("map", "-f", "raw", "--output=json", address).out)
        ]
        assert ours == theirs
        write("nbd:unix:nbd.sock:exportname=disk", "write -P 9 0 64k")
        process.send_signal(signal.SIGINT)
        process.wait(30)
    assert process.returncode == 0
    assert not Path("nbd.sock").exists()
    write("top.qcow2", "read -P 9 0 64k")
    assert qemu("check", "top.qcow2").status == 0


@needs_qemu
def test_convert_into_an_export(manor: Run, chain: None) -> None:
    assert manor("create", "target.raw", "64M").status == 0
    with serving("-p", 0, "target.raw") as (_, address):
        assert address.startswith("nbd://127.0.0.1:")
        assert manor("convert", "-n", "top.qcow2", address).status == 0
    assert qemu("compare", "top.qcow2", "target.raw").status == 0


@needs_qemu
def test_serve_snapshot_throws_writes_away_and_once_ends(manor: Run, chain: None) -> None:
    before = Path("top.qcow2").read_bytes()
    with serving("-k", "nbd.sock", "--snapshot", "--once", "top.qcow2") as (process, _):
        write("nbd:unix:nbd.sock", "write -P 9 0 64k", "flush", "read -P 9 0 64k")
        process.wait(30)
    assert process.returncode == 0
    assert Path("top.qcow2").read_bytes() == before


@needs_qemu
def test_serve_read_only_and_several_images(manor: Run, chain: None) -> None:
    with serving("-k", "nbd.sock", "-r", "top.qcow2", "base.qcow2") as (_, address):
        failed = subprocess.run(["qemu-io", "-c", "write 0 512", address], check=False, capture_output=True, text=True)
        assert "Permission denied" in failed.stdout + failed.stderr
        assert manor("compare", address.replace("top", "base"), "base.qcow2").status == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a",), "say where to serve"),
        (("-k", "s", "-p", "1", "a"), "say where to serve"),
        (("-k", "s", "-x", "1", "a", "a"), "2 images and 1 names"),
        (("-k", "s", "a", "a"), "the same name"),
        (("-k", "s", "-U", "a"), "use it with -r"),
        (("-k", "a", "a"), "choose another one"),
        (("-k", "s", "nosuch"), "No such file"),
        (("-k", "s", "--tls-certificates", "nowhere", "a"), "cannot be used"),
        (("-p", "0", "--bind", "not an address", "a"), "listening on"),
    ],
)
def test_serve_explains_what_is_wrong(manor: Run, words: tuple[str, ...], said: str) -> None:
    Path("a").write_bytes(bytes(4096))
    ended = manor("serve", *words)
    assert ended.status in (1, 2)
    assert said in ended.err
    assert not Path("s").exists()


# ---------------------------------------------------------------------- text and progress
def test_sizes_as_qemu_img_writes_them() -> None:
    expected = {
        0: "0 B", 999: "999 B", 1000: "0.977 KiB", 1023: "0.999 KiB", 1024: "1 KiB", 196 * KiB: "196 KiB",
        1310720: "1.25 MiB", 999 * MiB: "999 MiB", 1000 * MiB: "0.977 GiB", 5 << 40: "5 TiB", 1 << 63: "8 EiB",
    }  # fmt: skip
    assert {size: size_text(size) for size in expected} == expected


@needs_qemu
@pytest.mark.parametrize("size", [512, 1000 * KiB, 1023 * MiB, 7 * 1234567 * 512, 999 << 30, 1000 << 30])
def test_sizes_are_qemu_imgs(size: int) -> None:
    with open("raw", "wb") as file:
        file.truncate(size)
    assert f"virtual size: {size_text(size)} ({size} bytes)" in qemu("info", "-f", "raw", "raw").out


def test_long_names_of_snapshots_keep_their_distance() -> None:
    rows = snapshot_table([SnapshotInfo("1234567890", "a name of many letters", 5 * MiB, 0.0, 3_723_004_000_000)])
    assert rows[2].startswith("1234567890 a name of many letters    5 MiB ")
    assert rows[2].endswith("01:02:03.004")


def test_percentages(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("x", percent=True, quiet=False) as show:
        for done in range(1001):
            show(done, 1000)
    shown = capsys.readouterr().out
    assert shown.startswith("    (0.00/100%)\r    (1.00/100%)\r")
    assert shown.endswith("    (100.00/100%)\r\n")
    assert shown.count("\r") == 101
    with progress("x", percent=True, quiet=True) as show:
        show(1, 2)
    assert capsys.readouterr().out == ""


def test_bar_shows_what_takes_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manor.cli.image.progress.shows_bars", lambda: True)
    seconds = iter([0.0, 0.5, 1.5, 1.51, 2.0])
    monkeypatch.setattr("time.monotonic", lambda: next(seconds))
    calls: list[object] = []

    class FakeBar:
        def step(self, message: str) -> None:
            calls.append(message)

        def advance(self, done: int, total: int) -> None:
            calls.append((done, total))

        def close(self) -> None:
            calls.append("closed")

    monkeypatch.setattr("manor.cli.image.progress.Bar", FakeBar)
    with progress("Copying", percent=False, quiet=False) as show:
        for done in range(1, 5):
            show(done, 10)
    assert calls == ["Copying", (2, 10), (4, 10), "closed"]


def test_help_of_the_group_loads_no_image_format() -> None:
    code = "import sys; from manor.cli.main import manor; import manor.cli.image.group; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not [name for name in loaded if name.startswith(("manor.backends", "manor.vmm.vm", "ssl", "rich"))]
