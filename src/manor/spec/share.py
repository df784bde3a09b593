"""A folder of the host in a virtual machine, as a user asks for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,35}")
"""A tag has at most 36 bytes (VIRTIO 1.2, 5.11.4); other characters would need quoting in the guest."""


@dataclass(frozen=True, slots=True)
class ShareSpec:
    """One folder.

    tag: by which the guest mounts it. read_only: the guest cannot change anything. uid, gid: whose, for the guest, the
    files of the host's user are; files of others are nobody's. An owner that the guest gives to a file is kept with it
    and shown to the guest alone.
    """

    path: Path
    tag: str = "share"
    read_only: bool = False
    uid: int = 0
    gid: int = 0
