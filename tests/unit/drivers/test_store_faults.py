"""A host that refuses at any step of a change, and one whose power fails: what was acknowledged is there, and whole."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import uuid as uuid_module
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import HostError
from manor.drivers.store import Store

UUID = uuid_module.UUID("6695eb01-f6a4-8304-79aa-97f2502e193f")
CALLS = ("open", "fsync", "rename", "replace", "unlink", "symlink", "fchmod", "mkdir")
"""Of the module os: what changes the state directory goes through one of them."""


def xml(name: str, memory: int = 64) -> str:
    return (
        f"<domain type='kvm'>\n  <name>{name}</name>\n  <uuid>{UUID}</uuid>\n  <memory>{memory}</memory>\n"
        f"  <description>{'x' * 6000}</description>\n</domain>\n"
    )


Change = Callable[[Store], None]
CHANGES: dict[str, tuple[Change, set[tuple[str, str, bool]]]] = {
    "define": (lambda store: store.save("domains", UUID.bytes, "a", xml("a", 1), "t"), {("a", xml("a", 1), False)}),
    "autostart": (lambda store: store.set_autostart("domains", "a", True), {("a", xml("a", 1), True)}),
    "change": (lambda store: store.save("domains", UUID.bytes, "a", xml("a", 2), "t"), {("a", xml("a", 2), True)}),
    "rename": (
        lambda store: store.rename("domains", UUID.bytes, "a", "b", xml("b", 2), "t"), {("b", xml("b", 2), True)},
    ),
    "no autostart": (lambda store: store.set_autostart("domains", "b", False), {("b", xml("b", 2), False)}),
    "undefine": (lambda store: store.remove("domains", UUID.bytes, "b", xml("b", 2), "t"), set()),
}  # fmt: skip
"""In order: what is done, and what is there then."""


def state(store: Store) -> set[tuple[str, str, bool]]:
    return {(each.name, each.xml, each.autostart) for each in store.load("domains")}


def reopened(store: Store) -> set[tuple[str, str, bool]]:
    store.close()
    store.open()
    return state(store)


def _no_sync(descriptor: int) -> None:
    """The machine of the tests keeps its power."""


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, root: Path, limit: int, number: int) -> Iterator[list[int]]:
    """Call `limit` of those above, counted from 1, fails. The list's only element is the number of calls."""
    count = [0]

    def wrap(work: Callable[..., Any]) -> Callable[..., Any]:
        def inner(first: Any, *more: Any, **named: Any) -> Any:
            if isinstance(first, int) or str(root) in os.fspath(first):
                count[0] += 1
                if count[0] == limit:
                    raise OSError(number, os.strerror(number))
            return work(first, *more, **named)

        return inner

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, wrap(_no_sync if name == "fsync" else getattr(os, name)))
        yield count


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_refusal_at_any_step_is_an_error_that_leaves_all_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    tried = 0
    before: set[tuple[str, str, bool]] = set()
    store = Store(tmp_path / "state")
    store.open()
    for name, (change, after) in CHANGES.items():
        limit = 0
        while True:
            limit += 1
            with failing(monkeypatch, tmp_path, limit, number) as count:
                refusal: HostError | None = None
                try:
                    change(store)
                except HostError as error:
                    refusal = error
            tried += 1
            assert refusal is None or (refusal.errno == number and os.strerror(number) in str(refusal))
            if refusal is None and count[0] < limit:
                break  # it went through: no step is left that could fail
            # A step of tidying up may fail without harm; a step that matters leaves the old state, or the new one
            # where the disk alone is not sure of it. Never a mixture.
            assert state(store) in (before, after), (name, limit)
            assert reopened(store) in (before, after), (name, limit)
            assert not [path for path in (store.root / "domains").iterdir() if path.name.endswith(".tmp")]
            if state(store) != before:
                _go_back(store, before)
                assert state(store) == before
        assert state(store) == after == reopened(store), name
        before = after
    store.close()
    assert tried > 25


def _go_back(store: Store, wanted: set[tuple[str, str, bool]]) -> None:
    """As if the change had not been made."""
    for name, text, _ in state(store):
        store.remove("domains", UUID.bytes, name, text, "t")
    for name, text, autostart in wanted:
        store.save("domains", UUID.bytes, name, text, "t")
        if autostart:
            store.set_autostart("domains", name, True)


class Disk:
    """What would be left of a directory tree if the power failed now: names as of the last fsync of their directory,
    contents as of the last fsync of their file, zeros for what was written since.

    The worst that POSIX allows, but for names that are there without having been synced.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.contents: dict[int, bytes] = {}
        self.names: dict[Path, dict[str, int | str | None]] = {}

    def synced(self, descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        found = os.fstat(descriptor)
        if path.is_dir():
            self.names[path] = {
                one.name: os.readlink(one.path) if one.is_symlink() else None if one.is_dir() else one.inode()
                for one in os.scandir(path)
            }
        else:
            self.contents[found.st_ino] = os.pread(descriptor, found.st_size, 0)

    def restore(self, target: Path) -> None:
        for folder, names in self.names.items():
            if not folder.is_relative_to(self.root):
                continue
            there = target / folder.relative_to(self.root)
            there.mkdir(parents=True, exist_ok=True)
            for name, what in names.items():
                if isinstance(what, str):
                    os.symlink(what, there / name)
                elif what is None:
                    (there / name).mkdir(exist_ok=True)
                else:
                    (there / name).write_bytes(self.contents.get(what, bytes(4096)))


def test_a_power_cut_at_any_step_loses_nothing_that_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "state"
    disk = Disk(root)
    store = Store(root)
    cuts: list[Callable[[Path], None]] = []
    seen = 0

    one_at_a_time = threading.Lock()  # a name and its contents are synced by two threads

    def fsync(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(root):
            with one_at_a_time:
                check()  # just before the disk is sure of it
                disk.synced(descriptor)
                check()

    def check() -> None:
        nonlocal seen
        seen += 1
        target = tmp_path / f"after-{seen}"
        disk.restore(target)
        for each in cuts:
            each(target)
        shutil.rmtree(target, ignore_errors=True)

    def expect(*allowed: set[tuple[str, str, bool]]) -> None:
        def look(target: Path) -> None:
            for leftover in target.glob("history.sqlite*"):
                leftover.unlink()  # sqlite syncs by itself, and the descriptions do without it
            there = Store(target)
            there.open()
            try:
                assert state(there) in allowed
            finally:
                there.close()

        cuts[:] = [look]

    store.open()
    monkeypatch.setattr(os, "fsync", fsync)
    before: set[tuple[str, str, bool]] = set()
    for change, after in CHANGES.values():
        expect(before, after)
        change(store)
        expect(after)
        check()
        before = after
    store.close()
    assert seen > 20
