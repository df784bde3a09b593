# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The part of a split virtqueue that runs for every chain: take one, copy its bytes, return it, ask for the interrupt.

WHY NATIVE: a request of a disk is a few such steps and one system call. As Python they were a third of the time that a
request of 4 KiB took with 16 in flight; `benchmarks.disk`.

SAFETY:
- Two addresses of the host are kept, those of the driver area and the device area. They come from buffers of exactly
  the size of a ring of `entries`, which `attach` checks and holds, so the mapping stays; every index into them is below
  `entries`. All other guest memory is reached through `RamTable.find`, which checks a range against the regions.
- The guest may change all of it at any moment. Each field is read once (`load16`, `RamTable.collect`), checked, and then
  used from the copy.
- What is rare or wrong is left to `queue.Queue`, in Python: `violate`, `collect_slowly`.

Source: VIRTIO 1.2 (OASIS, 2022), section 2.7 "Split Virtqueues". Thread: under the machine lock.
"""

from __future__ import annotations

import cython
from cython.cimports.cpython.buffer import Py_buffer, PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy
from cython.cimports.manor.mem.ring_native import full_fence, load16, store16, store32
from cython.cimports.manor.mem.scatter_native import Segments

from manor.mem.guest_memory import slices
from manor.mem.scatter_native import GuestBuffers
from manor.trace.event import declare

virtqueue_pop = declare("virtqueue_pop", queue=int, head=int, readable=int, writable=int)
virtqueue_used = declare("virtqueue_used", queue=int, head=int, written=int)

# VIRTIO 1.2, 2.7.6, 2.7.8: flags and index stand before the entries of both rings; sizes in bytes.
HEADER = cython.declare(cython.int, 4)
AVAILABLE = cython.declare(cython.int, 2)
USED = cython.declare(cython.int, 8)
NO_INTERRUPT = cython.declare(uint16_t, 1)


@cython.cclass
class Chain:
    """A descriptor chain the device holds: what it may read, then what it may write.

    Holds the host's copy of the descriptors; contents stay in guest memory, so read them once.
    readable_size, writable_size: bytes of either part.
    """

    def __init__(self, head: uint32_t, memory: object, readable: Segments, writable: Segments) -> None:
        self.head = head
        self.memory = memory
        self.table = memory.ram_table
        self.readable = readable
        self.writable = writable
        self.readable_size = readable.size
        self.writable_size = writable.size

    def readable_buffers(self, offset: uint64_t) -> object:
        """The readable part from `offset` bytes into it, for the host to read; no copy."""
        buffers = self.table.buffers(self.readable, offset, self.readable_size)
        return self.memory.buffers_of(self.readable, offset, self.readable_size) if buffers is None else buffers

    def writable_buffers(self, limit: uint64_t) -> object:
        """The first `limit` bytes of the writable part, for the host to write; no copy. Then call `filled`."""
        buffers = self.table.buffers(self.writable, 0, limit)
        return self.memory.buffers_of(self.writable, 0, limit) if buffers is None else buffers

    def filled(self, buffers: object) -> None:
        """Tell that the host wrote `buffers`, made by `writable_buffers`."""
        if isinstance(buffers, GuestBuffers):
            self.memory.written_segments(buffers)
        else:
            self.memory.written_all(slices(self.writable, 0, sum([piece.nbytes for piece in buffers])))

    def write_last(self, value: cython.uchar) -> None:
        """Set the last byte of the writable part, which must have one."""
        gpa = self.table.set_last(self.writable, value)
        if gpa is None:
            last = self.writable[-1]
            self.memory.write_u8(last.gpa + last.size - 1, value)
        else:
            self.memory.written(gpa, 1)

    def fill_last(self, value: cython.uchar) -> None:
        """The same where the host has written all before it, through `writable_buffers`; no `filled` is needed."""
        if self.table.set_last(self.writable, value) is None:
            self.write_last(value)
            self.memory.written_all(self.writable)
        else:
            self.memory.written_segments(self.writable)

    def read(self, limit: uint64_t, offset: uint64_t = 0) -> bytes:
        """Copy up to `limit` bytes of the readable part, from `offset` bytes into it."""
        segments: Segments = self.readable
        index: cython.Py_ssize_t
        region: cython.int
        size: uint64_t
        gpa: uint64_t
        if offset >= self.readable_size:
            return b""
        left: uint64_t = min(limit, self.readable_size - offset)
        copy: bytes = PyBytes_FromStringAndSize(cython.NULL, left)
        target: cython.p_char = PyBytes_AS_STRING(copy)
        for index in range(segments.count):
            if left == 0:
                break
            size = segments.pieces[index].size
            if offset >= size:
                offset -= size
                continue
            gpa = segments.pieces[index].gpa + offset
            size = min(size - offset, left)
            region = self.table.find(gpa, size)
            if region >= 0:
                memcpy(target, self.table.regions[region].host + (gpa - self.table.regions[region].start), size)
            else:
                part: bytes = self.memory.read(gpa, size)
                memcpy(target, PyBytes_AS_STRING(part), len(part))
            target += size
            left -= size
            offset = 0
        return copy

    def write(self, data: object, offset: uint64_t = 0) -> int:
        """Copy `data` into the writable part at `offset` bytes; the count of bytes that found room."""
        segments: Segments = self.writable
        index: cython.Py_ssize_t
        region: cython.int
        size: uint64_t
        gpa: uint64_t
        done: uint64_t = 0
        view: Py_buffer
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        try:
            left: uint64_t = view.len
            source: cython.p_char = cython.cast(cython.p_char, view.buf)
            on_write = self.memory.on_write
            for index in range(segments.count):
                if left == 0:
                    break
                size = segments.pieces[index].size
                if offset >= size:
                    offset -= size
                    continue
                gpa = segments.pieces[index].gpa + offset
                size = min(size - offset, left)
                region = self.table.find(gpa, size)
                if region >= 0:
                    memcpy(
                        self.table.regions[region].host + (gpa - self.table.regions[region].start), source + done, size
                    )
                    if on_write is not None:
                        on_write(gpa, size)
                else:
                    self.memory.write(gpa, PyBytes_FromStringAndSize(source + done, size))
                done += size
                left -= size
                offset = 0
        finally:
            PyBuffer_Release(cython.address(view))
        return done


@cython.cfunc
def make_chain(ring: Ring, head: uint32_t, readable: Segments, writable: Segments) -> Chain:
    """A Chain of `ring`, made without a call of Python's."""
    chain: Chain = Chain.__new__(Chain)
    chain.head = head
    chain.memory = ring.memory
    chain.table = ring.table
    chain.readable = readable
    chain.writable = writable
    chain.readable_size = readable.size
    chain.writable_size = writable.size
    return chain


@cython.cclass
class Ring:
    """Positions and memory of a split virtqueue; `queue.Queue` is the whole of it.

    next_avail: position of the next chain to take; the guest's copy is only a limit. seen_avail: avail.idx as last
    read and checked. next_used: our authority for used.idx. signalled_used: used.idx when the driver was last told.
    held: chains in the device's hands, by head.
    """

    def __init__(self, index: cython.int, memory: object, chain_limit: uint32_t) -> None:
        self.index = index
        self.memory = memory
        self.table = memory.ram_table
        self.chain_limit = chain_limit
        self.held = {}

    def attach(self, driver: cython.uchar[::1], device: cython.uchar[::1]) -> None:
        """Use these areas of a ring of `size` entries: (6 + 2 * size) and (6 + 8 * size) bytes. Raises ValueError."""
        entries: uint64_t = self.size
        if entries == 0 or entries > 32768 or entries & (entries - 1):
            raise ValueError(f"a ring of {entries} entries")
        if cython.cast(uint64_t, driver.shape[0]) != 6 + AVAILABLE * entries:
            raise ValueError(f"a driver area of {driver.shape[0]} bytes for {entries} entries")
        if cython.cast(uint64_t, device.shape[0]) != 6 + USED * entries:
            raise ValueError(f"a device area of {device.shape[0]} bytes for {entries} entries")
        self.views = (driver, device)
        self.driver = cython.address(driver[0])
        self.device = cython.address(device[0])
        self.entries = self.size

    def detach(self) -> None:
        """Use no areas."""
        self.driver = self.device = cython.NULL
        self.entries = 0
        self.views = None

    def pop(self) -> object:
        """Take the next available chain; None if there is none (the driver will kick when it adds one) or broken.

        Source: 2.7.13 "Receiving Used Buffers From The Device", 2.7.5, 2.7.10.
        """
        chain: Chain
        head: uint32_t
        position: uint32_t
        if self.driver == cython.NULL or self.broken or self.is_resetting or not self.look():
            return None
        position = self.next_avail & (self.entries - 1)
        head = load16(self.driver + HEADER + AVAILABLE * position)
        if head >= self.entries:
            self.violate(f"available entry {position} names descriptor {head} of {self.entries}")
            return None
        if head in self.held:
            self.violate(f"descriptor {head} made available while the device holds it")
            return None
        # What it does not take is looked at again, from the beginning, by `collect_slowly`: it says what is wrong.
        parts: tuple = self.table.collect_chain(
            self.descriptor_area, self.entries, head, min(self.entries, self.chain_limit), self.chain_limit, self.indirect
        )
        if parts is None:
            slow = self.collect_slowly(head)
            if slow is None:
                return None
            chain = slow
        else:
            chain = make_chain(self, head, parts[0], parts[1])
        self.next_avail += 1
        self.held[head] = chain
        if virtqueue_pop.on:
            virtqueue_pop(self.index, head, chain.readable_size, chain.writable_size)
        return chain

    def undo_pop(self, chain: Chain) -> None:
        """Put the chain taken last back; it will be taken again. Only right after its `pop`."""
        if self.held.get(chain.head) is not chain:
            return  # the queue was reset meanwhile
        del self.held[chain.head]
        self.next_avail -= 1

    def holds(self, chain: Chain) -> bool:
        """Whether `chain` is still in the device's hands: no reset has forgotten it."""
        return self.held.get(chain.head) is chain and not self.is_resetting

    def has_available(self) -> bool:
        """Whether `pop` would look at a chain; if not, the driver's next addition kicks."""
        if self.driver == cython.NULL or not self.enabled or self.broken or self.is_resetting:
            return False
        return self.look()

    def look(self) -> cython.bint:
        """Whether chains wait. There are areas."""
        if self.seen_avail != self.next_avail:
            return True
        if self.read_index():
            return True
        if self.broken or not self.event_idx:
            return False
        # Ask for a kick with the next chain, then look again: the driver may have added one before it could see the
        # request. Fence pairs with the driver's between avail.idx and avail_event (2.7.10.1).
        store16(self.device + HEADER + USED * self.entries, self.next_avail)
        self.tell(self.device_area + HEADER + USED * self.entries, 2)
        full_fence()
        return self.read_index()

    def read_index(self) -> cython.bint:
        """Refresh the checked copy of avail.idx; true if chains wait."""
        index: uint16_t = load16(self.driver + 2)
        waiting: uint16_t = cython.cast(uint16_t, index - self.next_avail)
        if waiting > self.entries:
            self.violate(
                f"available index {index} is {waiting} ahead of {self.next_avail}, queue size {self.entries}"
            )
            return False
        self.seen_avail = index
        return waiting != 0

    def add_used(self, chain: Chain, written: uint64_t, is_last: cython.bint = True) -> None:
        """Return a chain to the driver.

        written: bytes the device wrote from the start of the writable part; 0 for a read request. is_last: without it
        the driver does not see the chain yet, but together with the next ones up to the last.
        The driver learns of it by `take_interrupt` after the last one of a batch, which must follow.
        Source: 2.7.8 "The Virtqueue Used Ring".
        """
        at: cython.pointer(uint8_t)
        if self.held.get(chain.head) is not chain:
            return  # the queue was reset while the device worked on the chain
        assert written <= chain.writable_size
        del self.held[chain.head]
        if self.device == cython.NULL or not self.enabled or self.broken or self.is_resetting:
            return
        at = self.device + HEADER + USED * (self.next_used & (self.entries - 1))
        store32(at, chain.head)
        store32(at + 4, cython.cast(uint32_t, written))
        self.next_used += 1
        if is_last:
            # The elements must be visible before the index; pairs with the driver's read barrier after used.idx
            # (2.7.13).
            store16(self.device + 2, self.next_used)
            self.tell(self.device_area + 2, 2)
        if virtqueue_used.on:
            virtqueue_used(self.index, chain.head, written)

    def take_interrupt(self) -> bool:
        """Whether the driver wants to be told of the chains returned since the last call that said so.

        Source: 2.7.7 "Used Buffer Notification Suppression".
        """
        event: uint16_t
        wanted: cython.bint
        added: uint16_t = cython.cast(uint16_t, self.next_used - self.signalled_used)
        if self.device == cython.NULL or added == 0 or not self.enabled or self.broken or self.is_resetting:
            return False
        # The elements, once a batch: for what was translated from a page that the ring shares with code.
        self.tell(self.device_area, HEADER + USED * self.entries)
        # used.idx must be visible before the driver's wish is read; pairs with its barrier after enabling
        # notifications.
        full_fence()
        if self.event_idx:
            event = load16(self.driver + HEADER + AVAILABLE * self.entries)
            # Told if the index passed `event` since it was told last; the driver's formula, modulo 2**16.
            wanted = cython.cast(uint16_t, self.next_used - event - 1) < added
        else:
            wanted = not load16(self.driver) & NO_INTERRUPT
        self.signalled_used = self.next_used
        return wanted

    def tell(self, gpa: uint64_t, size: uint64_t) -> cython.int:
        """Guest memory was written."""
        on_write = self.memory.on_write
        if on_write is not None:
            on_write(gpa, size)
        return 0
