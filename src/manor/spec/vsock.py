"""Sockets between a virtual machine and its host, as a user asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

FIRST_CID: Final = 3
LAST_CID: Final = 0xFFFF_FFFE
"""Context IDs that a guest may have: 0, 1 and 2**32 - 1 are reserved, 2 is the host. Source: VIRTIO 1.2, 5.10.4."""


@dataclass(frozen=True, slots=True)
class VsockSpec:
    """A socket device.

    path: the unix socket through which programs of the host reach the guest's ports; None: only this process does.
    cid: the guest's context ID. Other virtual machines may have the same: no kernel of the host is involved.
    """

    path: Path | None = None
    cid: int = FIRST_CID
