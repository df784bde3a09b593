"""`manor image serve`, with the other commands and qemu-img as clients."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from manor.base.units import MiB
from tests.unit.cli.image.programs import Run, needs_qemu, qemu, write


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
    with serving("-k", "nbd.sock", "--snapshot", "--once", "--stats", "top.qcow2") as (process, _):
        write("nbd:unix:nbd.sock", "write -P 9 0 64k", "flush", "read -P 9 0 64k")
        assert process.stderr is not None
        printed = process.stderr.read()
        process.wait(30)
    assert process.returncode == 0
    assert Path("top.qcow2").read_bytes() == before
    rows = {line.split()[0]: line.split()[1:5] for line in printed.splitlines()}
    assert rows["write"] == ["1", "requests", "64", "KiB"]
    assert rows["top.qcow2:"] == []


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


def test_port_that_others_can_reach_is_pointed_out() -> None:
    Path("a").write_bytes(bytes(4096))
    with serving("-p", 0, "--bind", "127.0.0.2", "-r", "-f", "raw", "a") as (process, address):
        assert address.startswith("nbd://127.0.0.2:")
        process.terminate()
        assert process.stderr is not None
        assert "whoever can reach 127.0.0.2" in process.stderr.read()
