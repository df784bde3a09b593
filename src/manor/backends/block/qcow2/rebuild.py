"""Write a refcount table and its blocks anew, from what is used, when those of the image cannot be trusted."""

from __future__ import annotations

from array import array

from manor.backends.block.file import File
from manor.backends.block.qcow2 import layout
from manor.backends.block.qcow2.header import Header
from manor.backends.block.qcow2.refcounts import encode_counts, encode_words, read_table
from manor.backends.block.qcow2.usage import Usage
from manor.base.errors import ProtocolError


def rebuild_counts(file: File, header: Header, usage: Usage) -> None:
    """Put new counts behind everything that is used, then let the header point to them.

    The old table and blocks are free afterwards, unless something else uses them. Raises ProtocolError if a cluster
    is used more often than the width of counts can say.
    """
    geometry = header.geometry
    bits = geometry.cluster_bits
    entries = geometry.refcount_entries
    start = max(usage.last + 1, geometry.clusters(file.size()))
    blocks, table_clusters = 1, 1
    while True:
        needed = -(-(start + blocks + table_clusters) // entries)
        needed_table = geometry.clusters(8 * needed)
        if needed <= blocks and needed_table <= table_clusters:
            break
        blocks, table_clusters = max(blocks, needed), max(table_clusters, needed_table)
    table = array("Q", [(start + index) << bits for index in range(blocks)])
    table.extend([0] * ((table_clusters << bits) // 8 - blocks))
    new = range(start, start + blocks + table_clusters)
    old = _old_clusters(file, header)
    code = {16: "H", 32: "I", 64: "Q"}.get(geometry.refcount_bits, "B")
    limit = (1 << geometry.refcount_bits) - 1
    for number in range(blocks):
        counts = array(code, [0]) * entries
        first = number * entries
        for index in range(min(entries, new.stop - first)):
            cluster = first + index
            used = 1 if cluster in new else usage.get(cluster) - old.get(cluster, 0)
            if used > limit:
                raise ProtocolError(
                    f"{file.name}: a cluster is used {used} times, counts end at {limit}", cluster << bits
                )
            counts[index] = max(0, used)
        file.write((start + number) << bits, [memoryview(encode_counts(counts, geometry.refcount_bits))])
    at = (start + blocks) << bits
    file.write(at, [memoryview(encode_words(table))])
    file.flush()
    header.refcount_table_offset, header.refcount_table_clusters = at, table_clusters
    pointer = at.to_bytes(8, "big") + table_clusters.to_bytes(4, "big")
    file.write(layout.AT_REFCOUNT_TABLE, [memoryview(pointer)])
    file.flush()


def _old_clusters(file: File, header: Header) -> dict[int, int]:
    """How often the old table and its blocks were counted as users of each cluster."""
    geometry = header.geometry
    end = (file.size() + geometry.cluster_mask) & ~geometry.cluster_mask
    first = header.refcount_table_offset >> geometry.cluster_bits
    old = dict.fromkeys(range(first, first + header.refcount_table_clusters), 1)
    for entry in read_table(file, geometry, header.refcount_table_offset, header.refcount_table_clusters):
        offset = entry & layout.REFCOUNT_OFFSET_MASK
        if entry and entry == offset and not offset & geometry.cluster_mask and offset < end:
            cluster = offset >> geometry.cluster_bits
            old[cluster] = old.get(cluster, 0) + 1
    return old
