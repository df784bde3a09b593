"""Make an empty image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

CREATE_OPTIONS: Final[dict[str, dict[str, str]]] = {
    "raw": {"preallocation": "off, falloc or full: space set aside at once"},
    "qcow2": {
        "cluster_size": "unit of allocation: a power of two from 512 to 2M (64K)",
        "compat": "0.10 for version 2 of the format, 1.1 for version 3 (1.1)",
        "lazy_refcounts": "on postpones reference counts; after a crash they are repaired (off)",
        "refcount_bits": "width of a reference count: 1, 2, 4, 8, 16, 32 or 64 (16)",
        "compression_type": "zlib or zstd, for compressed clusters (zlib)",
        "extended_l2": "on allocates in 32nds of a cluster (off)",
        "preallocation": "off, metadata, falloc or full (off)",
        "data_file": "name of a raw file that holds the data, while this one holds the tables",
        "data_file_raw": "on keeps the data file readable as a raw image (off)",
    },
}
"""Format -> option -> what it does (default), as `-o OPTION=VALUE` takes them."""


def create(
    path: str,
    size: int | None,
    *,
    format: str = "qcow2",
    options: Mapping[str, str] | None = None,
    backing_file: str | None = None,
    backing_format: str | None = None,
    overwrite: bool = False,
) -> None:
    """Create an image whose guest sees `size` bytes (rounded up to 512); None takes the backing image's size.

    options: keys and values of `CREATE_OPTIONS`, as text. backing_file: relative to the folder of `path`; its format must
    be given. overwrite: replace a file that exists (refused while somebody uses it). What was begun is removed again
    if it fails.
    """
    raise NotImplementedError
