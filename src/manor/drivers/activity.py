"""Which networks and pools are active: over restarts of the daemon, until the host starts anew.

What uses them outlives the daemon, so they do as well, also those that were never defined.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

from manor.base.errors import HostError
from manor.base.files import write_atomically
from manor.base.host_boot import BOOT_ID

logger = logging.getLogger(__name__)


class Activity:
    """path: of the file; None for a driver that keeps nothing. Thread: the event loop's."""

    def __init__(self, path: Path | None, boot: Path = BOOT_ID) -> None:
        self._path = path
        self._boot = boot
        self._active: dict[str, dict[str, str]] = {}
        self._writing = asyncio.Lock()

    async def open(self) -> None:
        """Read what was active. What cannot be read, or is of an earlier start of the host, was not."""
        if self._path is None:
            return
        found = await asyncio.to_thread(_read, self._path)
        if found.get("boot") == self._boot_id():
            self._active = {
                kind: {uuid: xml for uuid, xml in found[kind].items() if _is_uuid(uuid) and isinstance(xml, str)}
                for kind in ("networks", "pools")
                if isinstance(found.get(kind), dict)
            }

    def of(self, kind: str) -> Mapping[bytes, str]:
        """UUID -> description, of the kind `networks` or `pools`."""
        return {UUID(uuid).bytes: xml for uuid, xml in self._active.get(kind, {}).items()}

    async def note(self, kind: str, uuid: bytes, xml: str | None) -> None:
        """It is active from now on, with that description; None: it is not any more.

        A file that cannot be written is logged: what was asked for has happened.
        """
        objects = self._active.setdefault(kind, {})
        if xml is None:
            objects.pop(str(UUID(bytes=uuid)), None)
        else:
            objects[str(UUID(bytes=uuid))] = xml
        if self._path is None:
            return
        async with self._writing:
            text = json.dumps({"boot": self._boot_id(), **self._active}, indent=1)
            try:
                await asyncio.to_thread(write_atomically, self._path, f"{text}\n".encode())
            except (OSError, HostError) as error:
                logger.warning("%s cannot be written, so a restart may forget what is active: %s", self._path, error)

    def _boot_id(self) -> str:
        try:
            return self._boot.read_text().strip()
        except OSError:
            return ""


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        logger.warning("%s cannot be read, so nothing in it is active: %s", path, error)
        return {}
    return found if isinstance(found, dict) else {}


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
