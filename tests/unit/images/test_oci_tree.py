"""A container's files as a disk: layers over each other, whiteouts, links; e2fsprogs are the judges."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.errors import ManorError, ProtocolError
from manor.guests.progress import Silent
from manor.images.acquire import Wanted, import_file
from manor.images.oci_tree import Tree
from manor.images.reference import Reference
from manor.images.store import Store

Member = tuple[str, bytes | str | None]
"""(name, contents; a link's target as text; None for a folder). A hard link's target begins with =."""


def layer(*members: Member) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(layer_bytes(*members)), mode="r:")


def layer_bytes(*members: Member) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, contents in members:
            info = tarfile.TarInfo(name)
            info.mtime = 1_000_000_000
            if contents is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(contents, str):
                is_hard = contents.startswith("=")
                info.type, info.linkname = (tarfile.LNKTYPE if is_hard else tarfile.SYMTYPE), contents.lstrip("=")
            else:
                info.size = len(contents)
            tar.addfile(info, io.BytesIO(contents) if isinstance(contents, bytes) else None)
    return buffer.getvalue()


def seen(*layers: tarfile.TarFile) -> dict[str, bytes | str]:
    """path -> contents; `->target` of symbolic links, `=path` of hard ones; folders are left out."""
    tree = Tree()
    for each in layers:
        tree.add_layer(each)
    found: dict[str, bytes | str] = {}
    for entry in tree.entries():
        kind = entry.mode >> 12
        if entry.link is not None:
            found[entry.path] = f"={entry.link}"
        elif kind == 0o12:
            found[entry.path] = "->" + entry.open().read().decode()
        elif kind == 0o10:
            found[entry.path] = entry.open().read()
    return found


def test_later_layer_goes_over_the_earlier() -> None:
    assert seen(layer(("etc/a", b"1"), ("etc/b", b"1")), layer(("./etc/a", b"2"), ("/etc/c", b"2"))) == {
        "etc/a": b"2", "etc/b": b"1", "etc/c": b"2",
    }  # fmt: skip


def test_whiteouts_take_away_what_is_below_alone() -> None:
    low = layer(("a/x", b"1"), ("a/y/z", b"1"), ("b/x", b"1"), ("b/y", b"1"), ("c", b"1"))
    high = layer(("a/.wh.y", b""), ("b/new", b"2"), ("b/.wh..wh..opq", b""), (".wh.c", b""), (".wh.none", b""))
    assert seen(low, high) == {"a/x": b"1", "b/new": b"2"}


def test_opaque_folder_keeps_what_its_own_layer_has_whatever_comes_first() -> None:
    low = layer(("d/old", b"1"), ("d/sub/old", b"1"))
    for order in ((("d/sub/new", b"2"), ("d/.wh..wh..opq", b"")), (("d/.wh..wh..opq", b""), ("d/sub/new", b"2"))):
        low = layer(("d/old", b"1"), ("d/sub/old", b"1"))
        assert seen(low, layer(*order)) == {"d/sub/new": b"2"}


def test_file_replaces_folder_and_folder_file() -> None:
    assert seen(layer(("a/b/c", b"1"), ("d", b"1")), layer(("a/b", b"2"), ("d/e", b"2"))) == {"a/b": b"2", "d/e": b"2"}


def test_files_go_where_links_of_folders_lead_inside_the_tree() -> None:
    low = layer(("usr/lib", None), ("lib", "usr/lib"), ("abs", "/usr/lib"), ("up", "../../usr"))
    high = layer(("lib/a", b"1"), ("abs/b", b"2"), ("up/c", b"3"))
    assert seen(low, high) == {
        "usr/lib/a": b"1", "usr/lib/b": b"2", "usr/c": b"3",
        "lib": "->usr/lib", "abs": "->/usr/lib", "up": "->../../usr",
    }  # fmt: skip


def test_hard_links_come_after_their_file() -> None:
    assert seen(layer(("z", b"1"), ("a", "=z"), ("b", "=a"))) == {"z": b"1", "a": "=z", "b": "=z"}


@pytest.mark.parametrize(
    "members",
    [
        (("../etc/passwd", b"x"),), (("a/../../b", b"x"),), (("a", "b"), ("b", "a"), ("a/c", b"x")), (("a", "=none"),),
        (("d", None), ("a", "=d")), (("a", "=b"), ("b", "=a")),
    ],
)  # fmt: skip
def test_layer_that_makes_no_sense_is_refused(members: tuple[Member, ...]) -> None:
    with pytest.raises(ProtocolError):
        seen(layer(*members))


NAMES = st.lists(st.sampled_from(["a", "b", "..", ".", ".wh.a", ".wh..wh..opq", "lib"]), min_size=1, max_size=4)


CONTENTS = st.one_of(st.binary(max_size=3), st.none(), NAMES.map("/".join))
LAYER = st.lists(st.tuples(NAMES.map("/".join), CONTENTS), max_size=6)


@settings(deadline=None)
@given(st.lists(LAYER, max_size=3))
def test_any_layers_are_a_tree_or_an_error(layers: list[list[Member]]) -> None:
    try:
        found = seen(*(layer(*members) for members in layers))
    except ManorError:
        return
    assert all(part not in ("", ".", "..") for path in found for part in path.split("/"))


def test_disk_of_a_containers_files(tmp_path: Path) -> None:
    tools = [shutil.which(name, path="/usr/sbin:/sbin:/usr/bin:/bin") for name in ("e2fsck", "debugfs")]
    if None in tools:
        pytest.skip("there are no e2fsprogs on this machine")
    low = layer_bytes(("bin", None), ("bin/sh", b"#!\n" * 1000), ("etc/gone", b"x"), ("bin/bash", "=bin/sh"))
    high = gzip.compress(layer_bytes(("etc/.wh.gone", b""), ("etc/motd", b"hello\n"), ("lib", "usr/lib")))
    files = {"oci-layout": b"{}"}

    def blob(data: bytes) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        return {"digest": f"sha256:{digest}", "size": len(data)}

    manifest = blob(json.dumps({"layers": [blob(low), blob(high)]}).encode())
    manifest["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
    files["index.json"] = json.dumps({"manifests": [manifest]}).encode()
    (tmp_path / "image.tar").write_bytes(layer_bytes(*files.items()))
    store = Store(tmp_path / "images")
    image = import_file(store, tmp_path / "image.tar", Wanted(Reference("box")), Silent())
    assert (image.metadata.format, image.metadata.virtual_size, image.metadata.user) == ("raw", 1 << 30, "root")
    assert image.path.stat().st_blocks * 512 < 200 << 20
    checker, reader = tools
    assert checker is not None
    assert reader is not None
    subprocess.run([checker, "-fn", str(image.path)], check=True, capture_output=True)
    listing = subprocess.run([reader, "-R", "ls -p /etc", str(image.path)], capture_output=True, text=True, check=True)
    assert "/motd/" in listing.stdout
    assert "gone" not in listing.stdout
    shown = subprocess.run([reader, "-R", "cat /bin/bash", str(image.path)], capture_output=True, check=True)
    assert shown.stdout == b"#!\n" * 1000
    assert not list(store.root.glob("incoming/*/*"))
