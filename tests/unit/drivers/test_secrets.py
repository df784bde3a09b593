"""Secrets on disk: values that only their owner's account can read, and what is never written."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ApiError, HostError
from manor.drivers.api import Kind, Notice
from manor.drivers.secrets import MAX_VALUE, SecretBook

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
KEPT = f"<secret><uuid>{UUID}</uuid><usage type='volume'><volume>/v</volume></usage></secret>"


def run(folder: Path | None, scenario: Callable[[SecretBook], Any]) -> list[Notice]:
    notices: list[Notice] = []

    async def work() -> None:
        book = SecretBook(folder, notices.append)
        await book.open()
        await scenario(book)

    asyncio.run(work())
    return notices


def test_a_value_is_kept_for_the_next_daemon_and_for_no_other_account(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"

    async def first(book: SecretBook) -> None:
        secret = await book.define(KEPT)
        await book.set_value(secret.uuid, b"word")

    async def second(book: SecretBook) -> None:
        secret = await book.find_usage(1, "/v")
        assert await book.value(secret.uuid) == b"word"
        assert await book.define(KEPT.replace("<uuid>", "<description>d</description><uuid>")) == secret
        assert await book.value(secret.uuid) == b"word"

    notices = run(folder, first)
    assert [each.kind for each in notices] == [Kind.SECRET, Kind.SECRET_VALUE]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert b"word" not in (folder / f"{UUID}.xml").read_bytes()
    run(folder, second)


def test_nothing_is_left_of_one_that_is_undefined_and_an_ephemeral_one_is_never_written(tmp_path: Path) -> None:
    async def scenario(book: SecretBook) -> None:
        secret = await book.define(KEPT)
        await book.set_value(secret.uuid, b"word")
        await book.undefine(secret.uuid)
        assert list(tmp_path.iterdir()) == []
        secret = await book.define(KEPT.replace("<secret>", "<secret ephemeral='yes'>"))
        await book.set_value(secret.uuid, b"word")
        assert await book.value(secret.uuid) == b"word"
        assert list(tmp_path.iterdir()) == []

    run(tmp_path, scenario)


def test_what_was_kept_and_becomes_ephemeral_leaves_the_disk(tmp_path: Path) -> None:
    async def scenario(book: SecretBook) -> None:
        secret = await book.define(KEPT)
        await book.set_value(secret.uuid, b"word")
        await book.define(KEPT.replace("<secret>", "<secret ephemeral='yes'>"))
        assert list(tmp_path.iterdir()) == []
        assert await book.value(secret.uuid) == b"word"

    run(tmp_path, scenario)


def test_a_private_secret_stays_so(tmp_path: Path) -> None:
    async def scenario(book: SecretBook) -> None:
        await book.define(KEPT.replace("<secret>", "<secret private='yes'>"))
        with pytest.raises(ApiError, match="cannot change private flag"):
            await book.define(KEPT)

    run(tmp_path, scenario)


def test_what_cannot_be_read_is_left_out_and_half_written_files_go(tmp_path: Path) -> None:
    (tmp_path / f"{UUID}.xml").write_text("<secret")
    (tmp_path / ".x.value.1.tmp").write_text("half")

    async def scenario(book: SecretBook) -> None:
        assert await book.all() == []

    run(tmp_path, scenario)
    assert [path.name for path in tmp_path.iterdir()] == [f"{UUID}.xml"]


def test_a_disk_that_takes_nothing_changes_nothing(tmp_path: Path) -> None:
    async def scenario(book: SecretBook) -> None:
        with pytest.raises(HostError, match="nothing was changed"):
            await book.define(KEPT)
        assert await book.all() == []

    (tmp_path / "file").write_text("")
    run(tmp_path / "file" / "secrets", scenario)


def test_too_long_a_value() -> None:
    async def scenario(book: SecretBook) -> None:
        secret = await book.define(KEPT)
        with pytest.raises(ApiError, match="at most 65536 bytes"):
            await book.set_value(secret.uuid, bytes(MAX_VALUE + 1))

    run(None, scenario)
