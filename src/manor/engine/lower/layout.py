"""What the files of the stencil back end are checked by when the engine starts.

Light on purpose: the uop tables are needed only while the engine is built.
"""

from __future__ import annotations

import hashlib
from typing import Final

from manor.engine.env import OFFSETS

STENCILS_MAGIC: Final = b"MANORST2"
OPS_MAGIC: Final = b"MANOROP2"
SLOW_PATHS: Final = ("load_slow", "store_slow", "rmw_slow", "cmpxchg_slow", "loadx_slow", "storex_slow")
"""What generated code calls where the softMMU's look-up fails, in the order of `env.thunks` from 1.

Each is uint64_t f(Env *, uint64_t gva, uint64_t value, uint64_t meta). rmw: returns the old value. cmpxchg: value is
the new one, the expected one is in env.scratch[0]. loadx, storex: value is the byte offset of the 16-byte cell in env.
"""


def layout_fingerprint() -> bytes:
    """32 bytes over the layout of env, which stencils have built in."""
    return hashlib.sha256(repr(sorted(OFFSETS.items())).encode()).digest()
