"""`manor image` prints what qemu-img prints, and ends with its status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from manor.backends.block.operations import CheckResult
from manor.base.units import MiB
from manor.cli.image import check as check_module
from tests.unit.cli.image.programs import Run, needs_qemu, qemu, write


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
