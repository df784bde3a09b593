"""What one does with images: the library below `manor image`.

Every function takes paths (or URIs where only reading is needed), opens and locks what it needs, and leaves nothing
open. Errors are `ConfigError` (say it otherwise), `HostError` (the host refused; `ImageInUse` names who has it),
`ProtocolError` (an image is malformed) and `BlockError` (I/O failed). A function that fails leaves each image as it
was, or as its docstring says. `progress(done, total)`, in bytes, is called on some thread, one call at a time.
"""

from __future__ import annotations

from manor.backends.block.operations.check import CheckResult, check
from manor.backends.block.operations.commit import commit
from manor.backends.block.operations.compact import compact
from manor.backends.block.operations.convert import compare, convert
from manor.backends.block.operations.create import CREATE_OPTIONS, create
from manor.backends.block.operations.info import ImageInfo, SnapshotInfo, chain_info, image_info, map_image
from manor.backends.block.operations.rebase import rebase
from manor.backends.block.operations.resize import resize
from manor.backends.block.operations.snapshot import (
    apply_snapshot,
    create_snapshot,
    delete_snapshot,
    list_snapshots,
)

__all__ = [
    "CREATE_OPTIONS",
    "CheckResult",
    "ImageInfo",
    "SnapshotInfo",
    "apply_snapshot",
    "chain_info",
    "check",
    "commit",
    "compact",
    "compare",
    "convert",
    "create",
    "create_snapshot",
    "delete_snapshot",
    "image_info",
    "list_snapshots",
    "map_image",
    "rebase",
    "resize",
]
