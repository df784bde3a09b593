"""The store of images: names, what backs on what, and what a killed process leaves behind."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, HostError
from manor.images import store as store_module
from manor.images.reference import Reference, parse_reference
from manor.images.store import Metadata, Store, StoredImage

LATEST = Reference("debian")


def metadata(size: int = 4, backing: str = "") -> Metadata:
    return Metadata("raw", size, size, 1.5, "a test", backing, "debian", {"note": [1]})


def put(store: Store, data: bytes = b"disk", name: Reference | None = LATEST, backing: str = "") -> StoredImage:
    with store.incoming("test") as folder:
        file = folder / "disk"
        file.write_bytes(data)
        return store.add(file, metadata(len(data), backing), name)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "images")


def test_image_is_found_by_name_and_digest(store: Store) -> None:
    image = put(store)
    digest = hashlib.sha256(b"disk").hexdigest()
    assert (image.digest, image.names, image.metadata) == (digest, (LATEST,), metadata())
    assert image.path.read_bytes() == b"disk"
    assert image.path.stat().st_mode & 0o777 == 0o444
    for text in ("debian", "debian:latest", digest, digest[:12], f"sha256:{digest[:8]}"):
        assert store.find(text) == image


def test_same_bytes_are_kept_once(store: Store) -> None:
    put(store)
    put(store, name=Reference("other"))
    (image,) = store.images()
    assert [str(name) for name in image.names] == ["debian", "other"]


def test_name_moves_to_a_newer_image(store: Store) -> None:
    old = put(store)
    new = put(store, b"newer")
    assert store.find("debian").digest == new.digest
    assert store.find(old.digest).names == ()
    assert [image.digest for image in store.images()] == [new.digest, old.digest]


def test_what_is_not_there_says_what_is(store: Store) -> None:
    with pytest.raises(ConfigError, match="no image 'debian'; the store is empty"):
        store.find("debian")
    put(store)
    with pytest.raises(ConfigError, match="no image 'fedora'; there are: debian"):
        store.find("fedora")


def test_ambiguous_digest_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = iter([f"{'ab' * 8}{number:048}" for number in range(2)])
    monkeypatch.setattr(store_module, "file_digest", lambda path: next(digests))
    put(store, b"a", Reference("a"))
    put(store, b"b", Reference("b"))
    with pytest.raises(ConfigError, match="beginning of 2 digests"):
        store.find("ab" * 5)


@pytest.mark.parametrize("text", ["", "Debian", "a/b", "../x", "a:", "a:b:c", "-a", "a--b:x y", "a" * 200, "x\n"])
def test_name_that_cannot_be_one(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_reference(text)


def test_image_that_a_disk_backs_on_is_not_removed(store: Store, tmp_path: Path) -> None:
    image = put(store)
    disk = tmp_path / "disk.qcow2"
    with store.use(image, disk) as base:
        disk.write_bytes(base.read_bytes())
    with pytest.raises(ConfigError, match=f"debian is in use: {disk} backs on it"):
        store.remove("debian")
    assert store.prune(unused_too=True) == ([], 0)
    disk.unlink()
    assert store.remove("debian") == ["debian", f"sha256:{image.digest}"]
    assert store.images() == []
    assert not image.path.exists()


def test_one_name_of_several_can_go_though_the_image_is_used(store: Store, tmp_path: Path) -> None:
    image = put(store)
    store.tag(image, Reference("debian", "12"))
    with store.use(image, tmp_path):
        pass
    assert store.remove("debian:12") == ["debian:12"]
    with pytest.raises(ConfigError, match="in use"):
        store.remove(image.digest)


def test_image_that_an_image_backs_on_is_not_removed(store: Store) -> None:
    base = put(store)
    put(store, b"top", Reference("top"), base.digest)
    with pytest.raises(ConfigError, match="image top backs on it"):
        store.remove("debian")
    store.remove("top")
    store.remove("debian")


def test_removing_waits_for_who_begins_to_use_it(store: Store, tmp_path: Path) -> None:
    image = put(store)
    disk = tmp_path / "disk"
    errors: list[Exception] = []
    inside = threading.Event()

    def remove() -> None:
        inside.wait(10)
        try:
            Store(store.root).remove("debian")
        except ConfigError as error:
            errors.append(error)

    thread = threading.Thread(target=remove)
    thread.start()
    with store.use(image, disk):
        inside.set()
        thread.join(0.2)
        assert thread.is_alive()
        disk.write_bytes(b"overlay")
    thread.join(10)
    assert "in use" in str(errors[0])


def test_prune_takes_what_has_no_name(store: Store) -> None:
    old = put(store)
    new = put(store, b"newer")
    removed, size = store.prune()
    assert removed == [old.digest[:12]]
    assert size > 0
    assert [image.digest for image in store.images()] == [new.digest]
    assert store.prune(unused_too=True)[0] == ["debian"]
    assert store.images() == []


def test_prune_takes_chains_from_the_top(store: Store) -> None:
    base = put(store)
    put(store, b"top", Reference("top"), base.digest)
    assert store.prune(unused_too=True)[0] == ["top", "debian"]


# --- killed -----------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours handles it but by `finally`."""


CALLS = ("replace", "fsync", "unlink", "rename", "mkdir", "open", "rmdir")


@pytest.fixture
def kill_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """kill_at(n): the n-th of the calls that change files, from now on, raises Killed, and so do all after it."""
    state = {"left": -1}
    originals = {name: getattr(os, name) for name in CALLS}

    def patched(name: str) -> Callable[..., object]:
        def call(*values: object, **named: object) -> object:
            if state["left"] == 0:
                raise Killed
            state["left"] -= 1
            return originals[name](*values, **named)

        return call

    for name in CALLS:
        monkeypatch.setattr(os, name, patched(name))

    def arm(count: int) -> None:
        state["left"] = count

    yield arm
    state["left"] = -1


def check(store: Store) -> None:
    """What every moment must leave: images that are listed are whole, names point to images, no note is wrong."""
    for image in store.images():
        assert hashlib.sha256(image.path.read_bytes()).hexdigest() == image.digest
        assert len(image.path.read_bytes()) == image.metadata.file_size


def steps(action: Callable[[], object], kill_at: Callable[[int], None]) -> Iterator[bool]:
    """Run `action` killed before its first call, its second, ... until it is done; after each, the caller looks."""
    for count in range(500):
        kill_at(count)
        try:
            action()
        except Killed:
            kill_at(-1)
            yield False
            continue
        kill_at(-1)
        yield True
        return
    raise AssertionError("it never ends")


def test_killed_while_adding_leaves_nothing_that_looks_finished(store: Store, kill_at: Callable[[int], None]) -> None:
    put(store, b"old")
    old = store.find("debian").digest
    new = hashlib.sha256(b"newer").hexdigest()
    count = 0
    for is_done in steps(lambda: put(store, b"newer"), kill_at):
        check(store)
        assert store.find("debian").digest in ((new,) if is_done else (old, new))
        count += 1
    assert count > 8
    removed, _ = store.prune()
    assert "unfinished" not in " ".join(removed)
    assert {path.name for path in (store.root / "blobs" / "sha256").iterdir()} == {new}
    assert not list(store.root.rglob("*.tmp"))


def test_killed_while_adding_is_swept_up(store: Store, kill_at: Callable[[int], None]) -> None:
    for count in range(60):
        kill_at(count)
        try:
            put(store, b"never")
        except Killed:
            kill_at(-1)
            store.prune()
            left = [path for path in store.root.rglob("*") if path.is_file() and path.name != "lock"]
            # A killed process may have finished the image and its name.
            assert left == [] or store.find("debian").path.read_bytes() == b"never"
            if store.images():
                store.remove("debian")
            continue
        kill_at(-1)
        return
    raise AssertionError("it never ends")


def test_killed_while_removing_leaves_all_or_nothing_that_a_name_points_to(
    store: Store, kill_at: Callable[[int], None]
) -> None:
    put(store)
    for _ in steps(lambda: store.remove("debian"), kill_at):
        check(store)
        if store.find_or_none("debian") is None:
            break
    store.prune()
    assert store.images() == []
    assert not list((store.root / "blobs" / "sha256").iterdir())


def test_process_killed_while_fetching_is_resumed_where_it_was(store: Store) -> None:
    code = (
        "import sys, os, signal\n"
        "from pathlib import Path\n"
        "from manor.images.store import Store\n"
        "with Store(Path(sys.argv[1])).incoming('url') as folder:\n"
        "    (folder / 'part').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    source = Path(__file__).resolve().parents[3] / "src"
    subprocess.run([sys.executable, "-c", code, str(store.root)], env={"PYTHONPATH": str(source)}, timeout=20)
    assert store.images() == []
    with store.incoming("url") as folder:
        assert (folder / "part").read_bytes() == b"half"
    with store.incoming("url") as folder:
        assert list(folder.iterdir()) == []


def test_prune_leaves_a_download_that_somebody_works_on(store: Store) -> None:
    with store.incoming("url") as folder:
        (folder / "part").write_bytes(b"half")
        assert store.prune() == ([], 0)
        assert (folder / "part").exists()


def test_two_that_add_the_same_at_once_end_with_one(store: Store) -> None:
    def add(number: int) -> None:
        mine = Store(store.root)
        with mine.incoming(f"url{number}") as folder:
            (folder / "disk").write_bytes(b"same")
            mine.add(folder / "disk", metadata(), LATEST)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    (image,) = store.images()
    assert image.path.read_bytes() == b"same"


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "format": 7}', '{"version": 9}', "x" * 10, "[" * 3000]
)
def test_damaged_metadata_names_the_file(store: Store, text: str) -> None:
    image = put(store)
    path = store.root / "meta" / f"{image.digest}.json"
    path.write_text(text)
    with pytest.raises(HostError, match=str(path)):
        store.images()


def test_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("a file")
    with pytest.raises(HostError, match="XDG_DATA_HOME"), Store(tmp_path / "images").incoming("x"):
        pass
