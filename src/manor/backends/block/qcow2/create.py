"""Make an empty qcow2 image in a file.

Layout of a new image, in clusters: header, refcount table, refcount blocks, L1 table; then, preallocated, L2 tables
each followed by the data clusters that it maps.
"""

from __future__ import annotations

import os
from array import array
from dataclasses import dataclass
from typing import Final, Literal

from manor.backends.block.file import File, fill_with_zeros
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.header import COMPRESSION_TYPES, Header, feature_names
from manor.backends.block.qcow2.layout import COPIED, Geometry
from manor.backends.block.qcow2.refcounts import CHUNK, encode_counts, encode_words
from manor.base.errors import ConfigError
from manor.base.units import format_size

Preallocation = Literal["off", "metadata", "falloc", "full"]
PREALLOCATIONS: Final = ("off", "metadata", "falloc", "full")


@dataclass(frozen=True, slots=True)
class Qcow2Options:
    """How a new image is laid out. data_file: its name as the image will have it. Sizes in bytes."""

    cluster_size: int = 65536
    version: Literal[2, 3] = 3
    lazy_refcounts: bool = False
    refcount_bits: int = 16
    compression_type: Literal["zlib", "zstd"] = "zlib"
    extended_l2: bool = False
    preallocation: Preallocation = "off"
    data_file: str | None = None
    data_file_raw: bool = False


def check_options(size: int, options: Qcow2Options, backing_file: str | None, backing_format: str | None) -> None:
    """Raise ConfigError, with what to change, for what the format cannot hold."""
    bits = options.cluster_size.bit_length() - 1
    if options.cluster_size != 1 << bits or not layout.MIN_CLUSTER_BITS <= bits <= layout.MAX_CLUSTER_BITS:
        raise ConfigError("cluster_size", f"{options.cluster_size} is not a power of two from 512 to 2M")
    if options.refcount_bits not in (1, 2, 4, 8, 16, 32, 64):
        raise ConfigError("refcount_bits", f"{options.refcount_bits} is not 1, 2, 4, 8, 16, 32 or 64")
    if options.version == 2:
        wanted = {
            "lazy_refcounts": options.lazy_refcounts,
            "refcount_bits": options.refcount_bits != 16,
            "compression_type": options.compression_type != "zlib",
            "extended_l2": options.extended_l2,
            "data_file": options.data_file is not None,
        }
        for name, is_wanted in wanted.items():
            if is_wanted:
                raise ConfigError(name, "this needs version 3 of the format; use compat=1.1")
    if options.extended_l2 and bits < layout.MIN_EXTENDED_CLUSTER_BITS:
        raise ConfigError("extended_l2", "this needs clusters of at least 16K; 128K are usual: cluster_size=128K")
    if options.data_file_raw and options.data_file is None:
        raise ConfigError("data_file_raw", "this needs data_file")
    if options.data_file_raw and backing_file is not None:
        raise ConfigError("data_file_raw", "a raw data file cannot hold what a backing file has; leave one of them out")
    if backing_file is not None and not backing_format:
        raise ConfigError("backing file", f"say what format {backing_file} has (-F FORMAT); guessing it is not safe")
    if backing_file is not None and options.preallocation != "off" and not options.extended_l2:
        raise ConfigError("preallocation", "with a backing file this needs extended_l2=on")
    if options.preallocation != "off" and options.data_file is not None and options.preallocation != "metadata":
        raise ConfigError("preallocation", "with a data file only metadata can be preallocated")
    geometry = Geometry(bits, options.refcount_bits.bit_length() - 1, options.extended_l2)
    if geometry.l1_entries(size) * 8 > layout.MAX_L1_SIZE:
        limit = (layout.MAX_L1_SIZE // 8) << geometry.l2_shift
        raise ConfigError(
            "size", f"{format_size(size)} is too large for this cluster_size, which allows {format_size(limit)}"
        )


def create_qcow2(
    file: File,
    size: int,
    options: Qcow2Options | None = None,
    *,
    backing_file: str | None = None,
    backing_format: str | None = None,
    data: File | None = None,
) -> None:
    """Write an empty image of `size` bytes into `file`, which is empty or a device, and flush. Raises ConfigError,
    BlockError.

    data: the data file, if the options name one; it gets the disk's size.
    """
    options = options or Qcow2Options()
    check_options(size, options, backing_file, backing_format)
    header = _header(size, options, backing_file, backing_format)
    is_blank = file.size() == 0
    geometry = header.geometry
    header.encode()  # refuses names that do not fit before anything is written
    is_preallocated = options.preallocation != "off" and size > 0
    data_clusters = geometry.clusters(size) if is_preallocated and options.data_file is None else 0
    l2_tables = geometry.l1_entries(size) if is_preallocated else 0
    l1_clusters = geometry.clusters(header.l1_size * 8)
    table_clusters, blocks = _refcount_sizes(geometry, 1 + l1_clusters + l2_tables + data_clusters)
    header.refcount_table_offset = geometry.cluster_size
    header.refcount_table_clusters = table_clusters
    first_block = 1 + table_clusters
    first_l1 = first_block + blocks
    header.l1_offset = first_l1 << geometry.cluster_bits
    used = first_l1 + l1_clusters + l2_tables + data_clusters
    if data is not None:
        data.truncate(size)
    bits = geometry.cluster_bits
    table = array("Q", [(first_block + index) << bits for index in range(blocks)])
    table.extend([0] * ((table_clusters << bits) // 8 - blocks))
    file.write(header.refcount_table_offset, [memoryview(encode_words(table))])
    for index in range(blocks):
        in_use = min(geometry.refcount_entries, used - index * geometry.refcount_entries)
        _write_counts(file, geometry, (first_block + index) << bits, in_use, is_blank)
    l1 = array("Q", bytes(8 * header.l1_size))
    if is_preallocated:
        _preallocate(file, geometry, l1, first_l1 + l1_clusters, size, options)
    file.truncate(used << bits)
    file.write(header.l1_offset, [memoryview(encode_words(l1))])
    file.flush()
    # Last: until the header is there, this is no image.
    data_bytes = header.encode()
    file.write(0, [memoryview(data_bytes + bytes(geometry.cluster_size - len(data_bytes)))])
    file.flush()


def _header(size: int, options: Qcow2Options, backing_file: str | None, backing_format: str | None) -> Header:
    header = Header(options.version, options.cluster_size.bit_length() - 1, size)
    header.refcount_order = options.refcount_bits.bit_length() - 1
    header.backing_file = backing_file
    if options.version == 3:
        header.set_extension(layout.EXT_FEATURE_NAMES, feature_names())
        header.compatible = layout.LAZY_REFCOUNTS if options.lazy_refcounts else 0
        header.incompatible = layout.EXTENDED_L2 if options.extended_l2 else 0
        header.compression_type = COMPRESSION_TYPES.index(options.compression_type)
        if header.compression_type:
            header.incompatible |= layout.COMPRESSION
        if options.data_file is not None:
            header.incompatible |= layout.DATA_FILE
            header.set_extension(layout.EXT_DATA_FILE, os.fsencode(options.data_file))
            header.autoclear = layout.DATA_FILE_RAW if options.data_file_raw else 0
    if backing_file is not None and backing_format:
        header.set_extension(layout.EXT_BACKING_FORMAT, backing_format.encode("ascii"))
    if options.version == 3 and options.cluster_size < 1024:
        header.set_extension(layout.EXT_FEATURE_NAMES, None)  # leaves the first cluster to the names of files
    header.l1_size = header.geometry.l1_entries(size)
    return header


def _refcount_sizes(geometry: Geometry, others: int) -> tuple[int, int]:
    """(clusters of the refcount table, refcount blocks) that count themselves and `others` clusters."""
    table, blocks = 1, 1
    while True:
        needed_blocks = -(-(others + table + blocks) // geometry.refcount_entries)
        needed_table = geometry.clusters(needed_blocks * 8)
        if (needed_table, needed_blocks) == (table, blocks):
            return table, blocks
        table, blocks = max(table, needed_table), max(blocks, needed_blocks)


def _write_counts(file: File, geometry: Geometry, offset: int, in_use: int, is_blank: bool) -> None:
    """A refcount block whose first `in_use` entries are 1. is_blank: the file is zero where nothing is written."""
    code = {16: "H", 32: "I", 64: "Q"}.get(geometry.refcount_bits, "B")
    step = geometry.refcount_entries
    if is_blank:
        step = min(step, CHUNK * 8 // geometry.refcount_bits)
    written = (in_use + step - 1) // step * step
    counts = array(code, [1]) * in_use + array(code, [0]) * (written - in_use)
    file.write(offset, [memoryview(encode_counts(counts, geometry.refcount_bits))])


def _preallocate(file: File, geometry: Geometry, l1: array[int], first: int, size: int, options: Qcow2Options) -> None:
    """L2 tables from cluster `first` on, each followed by the clusters that it maps."""
    bits = geometry.cluster_bits
    clusters = geometry.clusters(size)
    cluster = first
    for index in range(len(l1)):
        mapped = min(geometry.l2_size, clusters - index * geometry.l2_size)
        l1[index] = cluster << bits | COPIED
        place = (index * geometry.l2_size if options.data_file is not None else cluster + 1) << bits
        words = array("Q", bytes(geometry.cluster_size))
        entries = array("Q", range(place | COPIED, (place | COPIED) + (mapped << bits), 1 << bits))
        words[0 : mapped * geometry.words : geometry.words] = entries
        if geometry.is_extended and options.data_file is not None:
            words[1 : mapped * 2 : 2] = array("Q", [layout.ALL_ALLOCATED]) * mapped
        file.write(cluster << bits, [memoryview(encode_words(words))])
        if options.data_file is None:
            if options.preallocation == "full":
                fill_with_zeros(file, place, mapped << bits)
            elif options.preallocation == "falloc":
                file.allocate(place, mapped << bits)
        cluster += 1 + (mapped if options.data_file is None else 0)
