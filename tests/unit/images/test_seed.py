"""The first boot's seed: the file system as others read it, and what is refused before a boot."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.errors import ConfigError
from manor.images.iso9660 import SECTOR, write_iso
from manor.images.seed import SeedSpec, check_user_data, read_user_data, write_seed

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE manor"
HASH = "$6$salt$IxDD3jeSOb5eB1CX5LBsqZFVkJdido3OUILO5Ifz5iwMuTS4XMS130MTSuDDl3aCI6WouIL9AjRbLCelDCy.g."


def unpack(image: bytes, folder: Path) -> dict[str, bytes]:
    """The files as isoinfo reads them, which nobody here wrote."""
    (folder / "iso").write_bytes(image)
    names = isoinfo(folder, "-R", "-f").decode().split()
    return {name.removeprefix("/"): isoinfo(folder, "-R", "-x", name) for name in names}


def isoinfo(folder: Path, *options: str) -> bytes:
    tool = shutil.which("isoinfo")
    if tool is None:
        pytest.skip("there is no isoinfo on this machine")
    return subprocess.run([tool, "-i", str(folder / "iso"), *options], capture_output=True, check=True).stdout


def test_files_come_back_by_their_own_names(tmp_path: Path) -> None:
    files = {
        "meta-data": b"{}\n",
        "user-data": b"#cloud-config\n" + b"x" * 5000,
        "network-config": b"",
        "vendor-data": b"v",
    }
    assert unpack(write_iso("cidata", files), tmp_path) == files


def test_many_files_fill_several_sectors_of_the_folder(tmp_path: Path) -> None:
    files = {f"file-{number:03}.txt": bytes([number]) * number for number in range(60)}
    assert unpack(write_iso("many", files), tmp_path) == files


def test_isoinfo_knows_label_and_names(tmp_path: Path) -> None:
    (tmp_path / "iso").write_bytes(write_iso("cidata", {"user-data": b"hello"}))
    about = isoinfo(tmp_path, "-d").decode()
    assert "Volume id: cidata" in about
    assert "Rock Ridge signatures version 1 found" in about


def test_blkid_finds_the_label(tmp_path: Path) -> None:
    tool = shutil.which("blkid") or shutil.which("blkid", path="/usr/sbin:/sbin")
    if tool is None:
        pytest.skip("there is no blkid on this machine")
    (tmp_path / "iso").write_bytes(write_seed(SeedSpec("i-1", "web")))
    found = subprocess.run(
        [tool, "-p", "-o", "export", str(tmp_path / "iso")], capture_output=True, text=True, check=True
    )
    assert {"LABEL=cidata", "TYPE=iso9660"} <= set(found.stdout.split())


@settings(deadline=None)
@given(
    st.dictionaries(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,29}", fullmatch=True), st.binary(max_size=5000), max_size=8)
)
def test_image_is_whole_sectors_and_the_same_each_time(files: dict[str, bytes]) -> None:
    image = write_iso("x", files)
    assert len(image) % SECTOR == 0
    assert image == write_iso("x", dict(reversed(files.items())))
    assert all(data in image for data in files.values())


@pytest.mark.parametrize(("label", "name"), [("", "a"), ("a b", "a"), ("ok", "../a"), ("ok", "A"), ("ok", "a" * 40)])
def test_names_that_have_no_place(label: str, name: str) -> None:
    with pytest.raises(ValueError, match=r"label|place"):
        write_iso(label, {name: b""})


def test_seed_makes_the_account_with_its_key(tmp_path: Path) -> None:
    files = unpack(write_seed(SeedSpec("i-1", "web", "ann", (KEY,), HASH)), tmp_path)
    assert json.loads(files["meta-data"]) == {"instance-id": "i-1", "local-hostname": "web"}
    first, _, text = files["user-data"].partition(b"\n")
    assert first == b"#cloud-config"
    config = json.loads(text)
    root, ann = config["users"]
    assert root == {"name": "root", "ssh_authorized_keys": [KEY]}
    assert (ann["name"], ann["ssh_authorized_keys"], ann["passwd"], ann["lock_passwd"]) == ("ann", [KEY], HASH, False)
    assert config["hostname"] == "web"


def test_users_own_file_goes_over_ours(tmp_path: Path) -> None:
    mine = b"#cloud-config\npackages: [vim]\n"
    files = unpack(write_seed(SeedSpec("i-1", "web", "ann", (KEY,), user_data=mine)), tmp_path)
    assert files["user-data"] == mine
    assert b'"ann"' in files["vendor-data"]


def test_cloud_init_itself_accepts_it(tmp_path: Path) -> None:
    tool = shutil.which("cloud-init")
    if tool is None:
        pytest.skip("there is no cloud-init on this machine")
    files = unpack(write_seed(SeedSpec("i-1", "web", "ann", (KEY,), HASH)), tmp_path)
    (tmp_path / "user-data").write_bytes(files["user-data"])
    subprocess.run([tool, "schema", "-c", str(tmp_path / "user-data")], check=True)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"packages: [vim]\n", "begins with 'packages: \\[vim\\]'"),
        (b"#cloud-config\nusers:\n\t- ann\n", "line 3 is indented with a tab"),
        (b"#cloud-config\nname: \xff\n", "line 2 is not UTF-8"),
        (b"\x7fELF", "begins with"),
        (b"#cloud-config\nusers: [ann\n", "line 3 is not YAML: expected ',' or ']'"),
        (b"#cloud-config\na: b: c\n", "line 2 is not YAML: mapping values are not allowed here"),
        (b"#cloud-config\na: !!python/object:os.system x\n", "line 2 is not YAML: could not determine a constructor"),
        (b"#cloud-config\na: \x01\n", "it is not YAML: unacceptable character"),
        (b"#cloud-config\n- packages\n", "it is a list, not settings"),
        (b"#cloud-config\n" + b"[" * 100_000, "it is not YAML"),
    ],
)
def test_user_data_that_cloud_init_would_not_take(data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_user_data(data)
    assert caught.value.path == "user-data"


@pytest.mark.parametrize(
    "data",
    [
        b"", b"#cloud-config\na: b\n", b"#!/bin/sh\necho\n", b"Content-Type: multipart/mixed; boundary=x\n",
        b"#cloud-config\n", b"#cloud-config\nwrite_files:\n- content: |\n    all:\n    \tmake\n",
        b"## template: jinja\n#cloud-config\n", b"#cloud-config\n# a\ttab in a line\n", b"#include\nhttp://x\n",
    ],
)  # fmt: skip
def test_user_data_of_every_kind(data: bytes) -> None:
    check_user_data(data)


@pytest.mark.parametrize(
    "seed",
    [
        SeedSpec("i", "h", user="Ann"), SeedSpec("i", "h", user="a b"), SeedSpec("i", "h", ssh_keys=("my key",)),
        SeedSpec("i", "h", ssh_keys=("ssh-rsa AAAA\nssh-rsa BBBB",)), SeedSpec("i", "h", "a", password_hash="secret"),
        SeedSpec("i", "h", network_config=b"version: 2\n\tethernets:\n"),
        SeedSpec("i", "h", network_config=b"version: 3\n"), SeedSpec("i", "h", network_config=b"ethernets: {}\n"),
    ],
)  # fmt: skip
def test_mistake_is_found_before_the_boot(seed: SeedSpec) -> None:
    with pytest.raises(ConfigError):
        write_seed(seed)


@pytest.mark.parametrize(
    "config", [b"version: 2\n", b"network:\n  version: 1\n  config: disabled\n", b"network: disabled\n"]
)
def test_network_config_of_every_version(config: bytes, tmp_path: Path) -> None:
    assert unpack(write_seed(SeedSpec("i", "h", network_config=config)), tmp_path)["network-config"] == config


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_user_data(tmp_path / "none")
