"""What the files of the stencil back end are checked by when the engine starts.

Light on purpose: the uop tables are needed only while the engine is built.
"""

from __future__ import annotations

import hashlib
from typing import Final

from manor.engine.env import OFFSETS

STENCILS_MAGIC: Final = b"MANORST2"
OPS_MAGIC: Final = b"MANOROP2"


def layout_fingerprint() -> bytes:
    """32 bytes over the layout of env, which stencils have built in."""
    return hashlib.sha256(repr(sorted(OFFSETS.items())).encode()).digest()
