# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Lists of pieces of guest RAM: taken from descriptors, and read and written by the host with one system call.

WHY NATIVE: a guest's request of 1 MiB is 256 pages that lie anywhere. As Python objects (a tuple and a `memoryview` for
each, all of them looked at again by every layer) they took three times as long as the copy itself, with the lock of the
interpreter held; `benchmarks.disk`, "reading in a row". Here they are two arrays of C, and the system call is made
from them without that lock.

SAFETY:
- An address of the host is made in one place, `RamTable.buffers`, from a range that lies in one region of RAM, checked
  there against the table of regions with sums that cannot wrap. What the guest wrote is a copy by then.
- The mappings behind the addresses stay: every `GuestBuffers` holds the `RamTable`, which holds an exported buffer of
  each, and Python does not unmap memory with exports.
- Guest memory changes at any moment: a descriptor is copied once (`load_descriptor`), then checked, then used.
- Objects do not change after they were made, so threads may share them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import cython
from cython.cimports.cpython.bytes import PyBytes_FromStringAndSize
from cython.cimports.cpython.mem import PyMem_Free, PyMem_Malloc
from cython.cimports.libc.errno import EINTR, errno
from cython.cimports.libc.stdint import uint8_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.posix.types import off_t

# VIRTIO 1.2, 2.7.5: flags of a descriptor; its size in bytes.
F_NEXT = cython.declare(cython.int, 1)
F_WRITE = cython.declare(cython.int, 2)
F_INDIRECT = cython.declare(cython.int, 4)
DESCRIPTOR = cython.declare(uint64_t, 16)
# Room for a chain on the stack: the longest one that `collect` takes.
MOST = cython.declare(uint32_t, 1024)
# The most descriptors of an indirect table: the largest queue size (2.7).
INDIRECT_MOST = cython.declare(uint32_t, 32768)
# Pieces that one system call takes: UIO_MAXIOV, Linux include/uapi/linux/uio.h. Of too many bytes it takes fewer.
MOST_PIECES = cython.declare(cython.Py_ssize_t, 1024)


class Buffer(NamedTuple):
    """`size` bytes of guest RAM at guest-physical `gpa`."""

    gpa: int
    size: int


@cython.no_gc  # refers to nothing that could refer to it
@cython.cclass
class Segments:
    """Pieces of guest-physical memory laid end to end: a sequence of `Buffer`. size: bytes of all."""

    def __cinit__(self, pieces: object = ()) -> None:
        index: cython.Py_ssize_t
        given: list = list(pieces)
        allocate_pieces(self, len(given))
        for index in range(len(given)):
            gpa, size = given[index]
            self.pieces[index].gpa = gpa
            self.pieces[index].size = size
            self.size += self.pieces[index].size

    def __dealloc__(self) -> None:
        PyMem_Free(self.pieces)

    @cython.cfunc
    def show(self) -> list:
        """The pieces as Python's objects, made when somebody asks."""
        index: cython.Py_ssize_t
        if self.shown is None:
            shown = []
            for index in range(self.count):
                shown.append(Buffer(self.pieces[index].gpa, self.pieces[index].size))
            self.shown = shown
        return self.shown

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: object) -> object:
        return self.show()[index]

    def __iter__(self) -> object:
        return iter(self.show())

    def ranges(self) -> bytes:
        """Address and size of each piece, as 64-bit words."""
        return PyBytes_FromStringAndSize(
            cython.cast(cython.p_char, self.pieces), cython.cast(cython.Py_ssize_t, cython.sizeof(Piece)) * self.count
        )


@cython.cfunc
def allocate_pieces(segments: Segments, count: cython.Py_ssize_t) -> cython.int:
    """Room for `count` pieces."""
    segments.pieces = cython.cast(cython.pointer(Piece), PyMem_Malloc(cython.sizeof(Piece) * max(count, 1)))
    if segments.pieces == cython.NULL:
        raise MemoryError
    segments.count = count
    return 0


@cython.cfunc
def make_segments(pieces: cython.pointer(Piece), count: cython.Py_ssize_t, size: uint64_t) -> Segments:
    """A copy of `count` pieces of `size` bytes together."""
    made: Segments = Segments.__new__(Segments)
    if count > 0:
        PyMem_Free(made.pieces)
        made.pieces = cython.NULL
        allocate_pieces(made, count)
        memcpy(made.pieces, pieces, cython.sizeof(Piece) * count)
        made.size = size
    return made


@cython.cclass
class RamTable:
    """The regions of a guest's RAM: (first address, size, the host's memory) each. Thread: any."""

    def __cinit__(self, regions: object) -> None:
        index: cython.Py_ssize_t
        size: uint64_t
        view: cython.uchar[::1]
        given: list = list(regions)
        self.mappings = tuple([mapping for _, _, mapping in given])
        self.regions = cython.cast(cython.pointer(Ram), PyMem_Malloc(cython.sizeof(Ram) * max(len(given), 1)))
        if self.regions == cython.NULL:
            raise MemoryError
        for index in range(len(given)):
            size = given[index][1]
            view = given[index][2]
            if size == 0 or size != cython.cast(uint64_t, view.shape[0]):
                raise ValueError(f"{size} bytes in a mapping of {view.shape[0]}")
            self.regions[index].start = given[index][0]
            self.regions[index].end = self.regions[index].start + size
            self.regions[index].host = cython.address(view[0])
        self.count = len(given)

    def __dealloc__(self) -> None:
        PyMem_Free(self.regions)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def find(self, gpa: uint64_t, size: uint64_t) -> cython.int:
        """The region that holds all of [gpa, gpa + size), or -1."""
        index: cython.int
        region: cython.pointer(Ram)
        for index in range(self.count):
            region = cython.address(self.regions[index])
            if region.start <= gpa and gpa <= region.end and size <= region.end - gpa:
                return index
        return -1

    def collect(
        self, area: uint64_t, count: uint32_t, head: uint32_t, limit: uint32_t, chain_limit: uint32_t,
        allows_indirect: cython.bint,
    ) -> object:  # fmt: skip
        """The readable and the writable part of the chain at `head` of the descriptors at `area`.

        None if anything about it is not as it should be, or rare: `devices.virtio.queue` says what, and decides.
        count: descriptors there. limit: of a chain in them; chain_limit: of one in an indirect table.
        Source: VIRTIO 1.2, 2.7.5.
        """
        return self.collect_chain(area, count, head, limit, chain_limit, allows_indirect)

    @cython.cfunc
    def collect_chain(
        self, area: uint64_t, count: uint32_t, head: uint32_t, limit: uint32_t, chain_limit: uint32_t,
        allows_indirect: cython.bint,
    ) -> tuple:  # fmt: skip
        """As `collect`."""
        pieces: Piece[1024]
        found: cython.Py_ssize_t = 0
        readable: cython.Py_ssize_t = 0
        readable_size: uint64_t = 0
        writable_size: uint64_t = 0
        visited: uint32_t = 0
        position: uint32_t = head
        is_indirect: cython.bint = False
        is_writing: cython.bint = False
        descriptor: Descriptor
        region: cython.int = self.find(area, DESCRIPTOR * count)
        table: cython.pointer(uint8_t)
        limit = min(limit, MOST)
        if region < 0 or head >= count:
            return None
        table = self.regions[region].host + (area - self.regions[region].start)
        while True:
            load_descriptor(cython.address(descriptor), table + DESCRIPTOR * position)
            visited += 1
            if visited > limit:
                return None
            region = self.find(descriptor.gpa, descriptor.size)
            if region < 0:
                return None
            if descriptor.flags & F_INDIRECT:
                if not allows_indirect or is_indirect or descriptor.flags & F_NEXT:
                    return None
                if descriptor.size == 0 or descriptor.size % DESCRIPTOR:
                    return None
                count = descriptor.size // DESCRIPTOR
                if count > INDIRECT_MOST:
                    return None
                limit = min(min(count, chain_limit), MOST)
                visited = position = 0
                is_indirect = True
                table = self.regions[region].host + (descriptor.gpa - self.regions[region].start)
                continue
            if descriptor.flags & F_WRITE:
                is_writing = True
                writable_size += descriptor.size
            elif is_writing:
                return None
            else:
                readable_size += descriptor.size
                readable += 1 if descriptor.size else 0
            if descriptor.size:
                if found == MOST:
                    return None
                pieces[found].gpa = descriptor.gpa
                pieces[found].size = descriptor.size
                found += 1
            if not descriptor.flags & F_NEXT:
                break
            if descriptor.next >= count:
                return None
            position = descriptor.next
        return (
            make_segments(cython.address(pieces[0]), readable, readable_size),
            make_segments(cython.address(pieces[0]) + readable, found - readable, writable_size),
        )

    def set_last(self, segments: Segments, value: cython.uchar) -> object:
        """Set the last byte of `segments`. Returns its address; None, and nothing happened, if its piece is empty or not
        in one region."""
        piece: cython.pointer(Piece)
        region: cython.int
        if segments.count == 0:
            return None
        piece = cython.address(segments.pieces[segments.count - 1])
        region = self.find(piece.gpa, piece.size)
        if region < 0 or piece.size == 0:
            return None
        self.regions[region].host[piece.gpa - self.regions[region].start + piece.size - 1] = value
        return piece.gpa + piece.size - 1

    def buffers(self, segments: Segments, offset: uint64_t, limit: uint64_t) -> object:
        """At most `limit` bytes of `segments` from `offset` on as the host's memory; None if one is not in one region."""
        made: GuestBuffers = GuestBuffers.__new__(GuestBuffers)
        index: cython.Py_ssize_t
        size: uint64_t
        gpa: uint64_t
        region: cython.int
        made.table = self
        allocate_vector(made, segments.count)
        for index in range(segments.count):
            if limit == 0:
                break
            size = segments.pieces[index].size
            if offset >= size:
                offset -= size
                continue
            gpa = segments.pieces[index].gpa + offset
            size = min(size - offset, limit)
            offset = 0
            limit -= size
            region = self.find(gpa, size)
            if region < 0:
                return None
            add_piece(made, gpa, size, region)
        return made


@cython.no_gc  # refers to nothing that could refer to it
@cython.cclass
class GuestBuffers:
    """Pieces of guest RAM laid end to end: a sequence of `memoryview`, and what system calls take.

    Neighbours in memory are one piece. nbytes: bytes of all. Thread: any.
    """

    def __dealloc__(self) -> None:
        PyMem_Free(self.vector)
        PyMem_Free(self.pieces)
        PyMem_Free(self.regions)

    @cython.cfunc
    def show(self) -> list:
        """The pieces as Python's objects, made when somebody asks."""
        index: cython.Py_ssize_t
        start: uint64_t
        if self.shown is None:
            shown = []
            for index in range(self.count):
                start = self.pieces[index].gpa - self.table.regions[self.regions[index]].start
                shown.append(self.table.mappings[self.regions[index]][start : start + self.pieces[index].size])
            self.shown = shown
        return self.shown

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: object) -> object:
        return self.show()[index]

    def __iter__(self) -> object:
        return iter(self.show())

    def part(self, start: uint64_t, size: uint64_t) -> GuestBuffers:
        """Bytes [start, start + size), in place. There must be as many."""
        made: GuestBuffers
        index: cython.Py_ssize_t
        count: uint64_t
        if start > self.nbytes or size > self.nbytes - start:
            raise IndexError(f"bytes {start} to {start + size} of {self.nbytes}")
        if size == self.nbytes:
            return self
        made = GuestBuffers.__new__(GuestBuffers)
        made.table = self.table
        allocate_vector(made, self.count)
        for index in range(self.count):
            if size == 0:
                break
            count = self.pieces[index].size
            if start >= count:
                start -= count
                continue
            count = min(count - start, size)
            add_piece(made, self.pieces[index].gpa + start, count, self.regions[index])
            size -= count
            start = 0
        return made

    def ranges(self) -> bytes:
        """Where the pieces are: guest-physical address and size of each, as 64-bit words."""
        return PyBytes_FromStringAndSize(
            cython.cast(cython.p_char, self.pieces), cython.cast(cython.Py_ssize_t, cython.sizeof(Piece)) * self.count
        )

    def read_from(self, fd: cython.int, offset: off_t, flags: cython.int = 0) -> int:
        """preadv2(2): fill from the file at `offset`. Returns the bytes read, as many as one call took. Raises
        OSError."""
        count: cython.Py_ssize_t
        error: cython.int = 0
        pieces: cython.int = min(self.count, MOST_PIECES)
        with cython.nogil:
            while True:
                count = preadv2(fd, self.vector, pieces, offset, flags)
                if count >= 0:
                    break
                error = errno
                if error != EINTR:
                    break
        if count < 0:
            raise OSError(error, os.strerror(error))
        return count

    def write_to(self, fd: cython.int, offset: off_t) -> int:
        """pwritev(2): write to the file at `offset`. Returns the bytes written, as many as one call took. Raises
        OSError."""
        count: cython.Py_ssize_t
        error: cython.int = 0
        pieces: cython.int = min(self.count, MOST_PIECES)
        with cython.nogil:
            while True:
                count = pwritev(fd, self.vector, pieces, offset)
                if count >= 0:
                    break
                error = errno
                if error != EINTR:
                    break
        if count < 0:
            raise OSError(error, os.strerror(error))
        return count


@cython.cfunc
def allocate_vector(buffers: GuestBuffers, count: cython.Py_ssize_t) -> cython.int:
    """Room for `count` pieces."""
    count = max(count, 1)
    buffers.vector = cython.cast(cython.pointer(iovec), PyMem_Malloc(cython.sizeof(iovec) * count))
    buffers.pieces = cython.cast(cython.pointer(Piece), PyMem_Malloc(cython.sizeof(Piece) * count))
    buffers.regions = cython.cast(cython.pointer(cython.int), PyMem_Malloc(cython.sizeof(cython.int) * count))
    if buffers.vector == cython.NULL or buffers.pieces == cython.NULL or buffers.regions == cython.NULL:
        raise MemoryError
    return 0


@cython.cfunc
@cython.exceptval(check=False)
def add_piece(buffers: GuestBuffers, gpa: uint64_t, size: uint64_t, region: cython.int) -> cython.void:
    """Append a piece that lies in `region`, or make the last one longer. There is room for it."""
    last: cython.Py_ssize_t = buffers.count - 1
    ram: cython.pointer(Ram) = cython.address(buffers.table.regions[region])
    buffers.nbytes += size
    if last >= 0 and buffers.regions[last] == region and buffers.pieces[last].gpa + buffers.pieces[last].size == gpa:
        buffers.pieces[last].size += size
        buffers.vector[last].iov_len += size
        return
    last += 1
    buffers.pieces[last].gpa = gpa
    buffers.pieces[last].size = size
    buffers.vector[last].iov_base = ram.host + (gpa - ram.start)
    buffers.vector[last].iov_len = size
    buffers.regions[last] = region
    buffers.count = last + 1


Sequence.register(Segments)
Sequence.register(GuestBuffers)
