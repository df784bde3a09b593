from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from manor.mem.scatter_native cimport RamTable, Segments

cdef extern from *:
    """
    #include <stdint.h>
    /* Fields that the guest shares with us: single accesses, which the compiler neither repeats nor splits. */
    static inline uint16_t manor_ring_load16(const uint8_t *at)
    { return __atomic_load_n((const uint16_t *)at, __ATOMIC_ACQUIRE); }
    static inline void manor_ring_store16(uint8_t *at, uint16_t value)
    { __atomic_store_n((uint16_t *)at, value, __ATOMIC_RELEASE); }
    static inline void manor_ring_store32(uint8_t *at, uint32_t value)
    { __atomic_store_n((uint32_t *)at, value, __ATOMIC_RELAXED); }
    static inline void manor_ring_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
    """
    uint16_t load16 "manor_ring_load16" (const uint8_t *at) noexcept nogil
    void store16 "manor_ring_store16" (uint8_t *at, uint16_t value) noexcept nogil
    void store32 "manor_ring_store32" (uint8_t *at, uint32_t value) noexcept nogil
    void full_fence "manor_ring_fence" () noexcept nogil

cdef class Chain:
    cdef readonly uint32_t head
    cdef readonly object memory
    cdef readonly Segments readable
    cdef readonly Segments writable
    cdef readonly uint64_t readable_size
    cdef readonly uint64_t writable_size
    cdef RamTable table

cdef class Ring:
    cdef readonly object memory
    cdef readonly int index
    cdef public uint32_t size
    cdef public bint event_idx
    cdef public bint indirect
    cdef public bint enabled
    cdef public bint broken
    cdef public bint is_resetting
    cdef public uint64_t descriptor_area
    cdef public uint64_t driver_area
    cdef public uint64_t device_area
    cdef public uint16_t next_avail
    cdef public uint16_t seen_avail
    cdef public uint16_t next_used
    cdef public uint16_t signalled_used
    cdef public dict held
    cdef RamTable table
    cdef uint32_t entries
    cdef uint32_t chain_limit
    cdef uint8_t *driver
    cdef uint8_t *device
    cdef object views
    cdef bint look(self) except -1
    cdef bint read_index(self) except -1
    cdef int tell(self, uint64_t gpa, uint64_t size) except -1
