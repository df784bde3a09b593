"""Secrets: descriptions, and values that only their owner's account can read.

    secrets/UUID.xml      the description
    secrets/UUID.value    the value, mode 0600; an ephemeral one is kept in memory alone
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from manor.base.errors import ApiError, HostError
from manor.base.files import sync_directory, write_atomically
from manor.domain.xml import secret as secret_xml
from manor.domain.xml.secret import normal_secret
from manor.drivers.api import Kind, Notice, Notify
from manor.drivers.errors import Code, Origin, reading, uuid_text
from manor.rpc.protocol.records import Secret

logger = logging.getLogger(__name__)

MAX_VALUE: Final = 65536
"""Bytes of a value; the protocol carries no longer one."""
_DEFINED, _UNDEFINED = 0, 1


@dataclass(slots=True)
class _Kept:
    reference: Secret
    xml: str
    is_ephemeral: bool
    is_private: bool
    value: bytes | None = None


class SecretBook:
    """The secrets of one driver (api.Secrets). folder: None keeps nothing."""

    def __init__(self, folder: Path | None, notify: Notify) -> None:
        self._folder = folder
        self._notify = notify
        self._secrets: dict[bytes, _Kept] = {}

    async def open(self) -> None:
        """Read what is kept; what cannot be read is left out, and said so."""
        if self._folder is None:
            return
        for xml, value in await asyncio.to_thread(_load, self._folder):
            try:
                kept = _read(xml)
            except ApiError as error:
                logger.error("a secret is left out: %s", error)
                continue
            kept.value = value
            self._secrets[kept.reference.uuid] = kept

    async def all(self) -> Sequence[tuple[Secret, bool, bool]]:
        """(secret, whether it is ephemeral, whether it is private)."""
        return [(each.reference, each.is_ephemeral, each.is_private) for each in self._secrets.values()]

    async def find(self, uuid: bytes) -> Secret:
        return self._get(uuid).reference

    async def find_usage(self, usage_type: int, usage_id: str) -> Secret:
        for each in self._secrets.values():
            if each.reference[1:] == (usage_type, usage_id):
                return each.reference
        raise _missing(f"with matching usage '{usage_id}'")

    async def xml(self, uuid: bytes) -> str:
        return self._get(uuid).xml

    async def define(self, xml: str) -> Secret:
        made = _read(xml)
        uuid = made.reference.uuid
        holder = next(
            (each for each in self._secrets.values() if made.reference.usage_id
             and each.reference[1:] == made.reference[1:] and each.reference.uuid != uuid), None,
        )  # fmt: skip
        if holder is not None:
            raise ApiError(
                Code.OPERATION_FAILED, Origin.SECRET,
                f"operation failed: a secret with UUID {uuid_text(holder.reference.uuid)} is already defined for use "
                f"with {made.reference.usage_id}",
            )  # fmt: skip
        old = self._secrets.get(uuid)
        if old is not None:
            if old.is_private and not made.is_private:
                raise ApiError(
                    Code.OPERATION_DENIED, Origin.SECRET,
                    "operation forbidden: cannot change private flag on existing secret",
                )  # fmt: skip
            made.value = old.value
        if not made.is_ephemeral:
            await self._write(f"{uuid_text(uuid)}.xml", made.xml.encode())
            if made.value is not None:
                await self._write(f"{uuid_text(uuid)}.value", made.value)
        elif old is not None:
            await self._remove(uuid)
        self._secrets[uuid] = made
        self._tell(made, _DEFINED)
        return made.reference

    async def undefine(self, uuid: bytes) -> None:
        kept = self._get(uuid)
        await self._remove(uuid)
        self._secrets.pop(uuid, None)
        self._tell(kept, _UNDEFINED)

    async def set_value(self, uuid: bytes, value: bytes) -> None:
        kept = self._get(uuid)
        if len(value) > MAX_VALUE:
            raise ApiError(Code.INVALID_ARG, Origin.SECRET, f"invalid argument: a value has at most {MAX_VALUE} bytes")
        if not kept.is_ephemeral:
            await self._write(f"{uuid_text(uuid)}.value", value)
        kept.value = value
        self._notify(Notice(Kind.SECRET_VALUE, kept.reference))

    async def value(self, uuid: bytes) -> bytes:
        """What it is, for whoever may know. Raises ApiError for one that is private, or has no value yet."""
        kept = self._get(uuid)
        if kept.is_private:
            raise ApiError(Code.INVALID_SECRET, Origin.SECRET, "Invalid secret: secret is private")
        if kept.value is None:
            raise ApiError(
                Code.NO_SECRET, Origin.SECRET, f"Secret not found: secret '{uuid_text(uuid)}' does not have a value"
            )
        return kept.value

    def _get(self, uuid: bytes) -> _Kept:
        found = self._secrets.get(uuid)
        if found is None:
            raise _missing(f"with matching uuid '{uuid_text(uuid)}'")
        return found

    def _tell(self, kept: _Kept, event: int) -> None:
        self._notify(Notice(Kind.SECRET, kept.reference, (event, 0)))

    async def _write(self, name: str, data: bytes) -> None:
        if self._folder is not None:
            await asyncio.to_thread(_write, self._folder, name, data)

    async def _remove(self, uuid: bytes) -> None:
        if self._folder is not None:
            await asyncio.to_thread(_remove, self._folder, uuid_text(uuid))


def _read(text: str) -> _Kept:
    with reading(Origin.SECRET):
        document = normal_secret(secret_xml.parse(text))
    assert document.uuid is not None
    reference = Secret(UUID(document.uuid).bytes, *document.identity())
    return _Kept(reference, secret_xml.format(document), bool(document.ephemeral), bool(document.private))


def _missing(what: str) -> ApiError:
    return ApiError(Code.NO_SECRET, Origin.SECRET, f"Secret not found: no secret {what}")


def _load(folder: Path) -> list[tuple[str, bytes | None]]:
    found: list[tuple[str, bytes | None]] = []
    for path in folder.glob(".*.tmp"):  # half written by a daemon that died
        path.unlink(missing_ok=True)
    for path in sorted(folder.glob("*.xml")):
        try:
            value = path.with_suffix(".value")
            found.append((path.read_text("utf-8"), value.read_bytes() if value.exists() else None))
        except (OSError, UnicodeDecodeError) as error:
            logger.error("the secret in %s is left out: %s", path, error)
    return found


def _write(folder: Path, name: str, data: bytes) -> None:
    try:
        folder.mkdir(exist_ok=True, mode=0o700)
        write_atomically(folder / name, data)
    except OSError as error:
        raise HostError(
            f"writing a secret in {folder}: {error.strerror}; nothing was changed", error.errno, str(folder)
        ) from error


def _remove(folder: Path, name: str) -> None:
    try:
        for suffix in (".xml", ".value"):
            (folder / f"{name}{suffix}").unlink(missing_ok=True)
        if folder.exists():
            sync_directory(folder)
    except OSError as error:
        raise HostError(f"removing a secret in {folder}: {error.strerror}", error.errno, str(folder)) from error
