# Wide integers and compare-exchange, which neither Python nor Cython can say.
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef extern from *:
    """
    #include <stdint.h>
    static inline uint64_t manor_cmpxchg8(void *p, uint8_t old, uint8_t new_)
    { __atomic_compare_exchange_n((uint8_t *)p, &old, new_, 0, 5, 5); return old; }
    static inline uint64_t manor_cmpxchg16(void *p, uint16_t old, uint16_t new_)
    { __atomic_compare_exchange_n((uint16_t *)p, &old, new_, 0, 5, 5); return old; }
    static inline uint64_t manor_cmpxchg32(void *p, uint32_t old, uint32_t new_)
    { __atomic_compare_exchange_n((uint32_t *)p, &old, new_, 0, 5, 5); return old; }
    static inline uint64_t manor_cmpxchg64(void *p, uint64_t old, uint64_t new_)
    { __atomic_compare_exchange_n((uint64_t *)p, &old, new_, 0, 5, 5); return old; }
    __attribute__((target("cx16"))) static int manor_cmpxchg128(void *p, uint64_t *low, uint64_t *high, uint64_t new_low, uint64_t new_high)
    {
        unsigned __int128 expected = ((unsigned __int128)*high << 64) | *low;
        unsigned __int128 new_ = ((unsigned __int128)new_high << 64) | new_low;
        unsigned __int128 old = __sync_val_compare_and_swap((unsigned __int128 *)p, expected, new_);
        *low = (uint64_t)old; *high = (uint64_t)(old >> 64);
        return old == expected;
    }
    """
    ctypedef unsigned long long uint128_t "unsigned __int128"
    ctypedef long long int128_t "__int128"
    uint64_t compare_exchange8 "manor_cmpxchg8"(void *p, uint64_t old, uint64_t new) nogil
    uint64_t compare_exchange16 "manor_cmpxchg16"(void *p, uint64_t old, uint64_t new) nogil
    uint64_t compare_exchange32 "manor_cmpxchg32"(void *p, uint64_t old, uint64_t new) nogil
    uint64_t compare_exchange64 "manor_cmpxchg64"(void *p, uint64_t old, uint64_t new) nogil
    int compare_exchange128 "manor_cmpxchg128"(void *p, uint64_t *low, uint64_t *high, uint64_t new_low, uint64_t new_high) nogil
