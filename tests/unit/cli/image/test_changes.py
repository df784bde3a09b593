"""`manor image`: commands that make and change images, judged by qemu-img."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.base.units import MiB
from manor.cli.image.resize import new_size
from tests.unit.cli.image.programs import Run, needs_qemu, qemu, write


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
    # A test run in the background of a shell ignores Ctrl-C, and so would its children.
    with subprocess.Popen(
        words, stderr=subprocess.PIPE, preexec_fn=lambda: signal.signal(number, signal.SIG_DFL)
    ) as process:
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
