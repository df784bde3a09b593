from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from posix.types cimport off_t

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t preadv2(int fd, const iovec *vector, int count, off_t offset, int flags)
    ssize_t pwritev(int fd, const iovec *vector, int count, off_t offset)

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    struct manor_descriptor { uint64_t gpa; uint32_t size; uint16_t flags; uint16_t next; };
    /* A copy that is made once: behind the barrier the compiler cannot look at the guest's bytes again. */
    static inline void manor_load_descriptor(struct manor_descriptor *copy, const uint8_t *from)
    { memcpy(copy, from, sizeof *copy); __asm__ volatile("" : "+m"(*copy) : : "memory"); }
    """
    struct Descriptor "manor_descriptor":
        uint64_t gpa
        uint32_t size
        uint16_t flags
        uint16_t next
    void load_descriptor "manor_load_descriptor" (Descriptor *copy, const uint8_t *from_) noexcept nogil

cdef struct Piece:
    uint64_t gpa
    uint64_t size

cdef struct Ram:
    uint64_t start
    uint64_t end
    uint8_t *host

cdef class RamTable:
    cdef Ram *regions
    cdef int count
    cdef tuple mappings
    cdef int find(self, uint64_t gpa, uint64_t size) noexcept nogil
    cdef tuple collect_chain(
        self, uint64_t area, uint32_t count, uint32_t head, uint32_t limit, uint32_t chain_limit, bint allows_indirect)

cdef class Segments:
    cdef Piece *pieces
    cdef Py_ssize_t count
    cdef readonly uint64_t size
    cdef list shown
    cdef list show(self)

cdef class GuestBuffers:
    cdef RamTable table
    cdef iovec *vector
    cdef Piece *pieces
    cdef int *regions
    cdef Py_ssize_t count
    cdef readonly uint64_t nbytes
    cdef list shown
    cdef list show(self)
