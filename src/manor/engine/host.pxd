# What the compiled modules need of C and Python cannot say: atomics, guest memory cells, the
# floating-point environment, and constants above 2**31 (as Python literals they become objects).
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t

cdef extern from *:
    """
    #ifndef MANOR_HOST_H
    #define MANOR_HOST_H
    #include <stdint.h>
    #include <string.h>
    #include <time.h>
    #define MANOR_U64_MAX UINT64_C(0xffffffffffffffff)
    #define MANOR_U32_MAX UINT64_C(0xffffffff)

    static inline int manor_cas64(uint64_t *p, uint64_t old, uint64_t value)
    { return __atomic_compare_exchange_n(p, &old, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
    static inline int manor_cas32(uint32_t *p, uint32_t old, uint32_t value)
    { return __atomic_compare_exchange_n(p, &old, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); }
    static inline uint64_t manor_load64(const uint64_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline uint32_t manor_load32(const uint32_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline uint8_t manor_load8(const uint8_t *p) { return __atomic_load_n(p, __ATOMIC_ACQUIRE); }
    static inline void manor_store64(uint64_t *p, uint64_t v) { __atomic_store_n(p, v, __ATOMIC_RELEASE); }
    static inline void manor_or64(uint64_t *p, uint64_t v) { __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }
    static inline void manor_and64(uint64_t *p, uint64_t v) { __atomic_fetch_and(p, v, __ATOMIC_SEQ_CST); }
    static inline void manor_or8(uint8_t *p, uint8_t v) { __atomic_fetch_or(p, v, __ATOMIC_SEQ_CST); }
    static inline int32_t manor_exchange32(int32_t *p, int32_t v) { return __atomic_exchange_n(p, v, __ATOMIC_SEQ_CST); }
    static inline void manor_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

    /* One access for sizes 1, 2, 4 and 8, so that aligned guest accesses are atomic. */
    static inline uint64_t manor_guest_load(const uint8_t *p, uint32_t size)
    {
        uint16_t v2; uint32_t v4; uint64_t v8 = 0;
        switch (size) {
        case 1: return *p;
        case 2: memcpy(&v2, p, 2); return v2;
        case 4: memcpy(&v4, p, 4); return v4;
        case 8: memcpy(&v8, p, 8); return v8;
        default: memcpy(&v8, p, size < 8 ? size : 8); return v8;
        }
    }
    static inline void manor_guest_store(uint8_t *p, uint64_t value, uint32_t size)
    {
        uint16_t v2; uint32_t v4;
        switch (size) {
        case 1: *p = (uint8_t)value; break;
        case 2: v2 = (uint16_t)value; memcpy(p, &v2, 2); break;
        case 4: v4 = (uint32_t)value; memcpy(p, &v4, 4); break;
        case 8: memcpy(p, &value, 8); break;
        default: memcpy(p, &value, size < 8 ? size : 8);
        }
    }

    /* The guest's rounding mode and masks are live in the host's MXCSR while guest code runs. */
    #if defined(__x86_64__)
    static inline uint32_t manor_fp_enter_host(void)
    { uint32_t old = __builtin_ia32_stmxcsr(); __builtin_ia32_ldmxcsr(0x1f80); return old; }
    static inline void manor_fp_leave_host(uint32_t old) { __builtin_ia32_ldmxcsr(old); }
    #else
    static inline uint32_t manor_fp_enter_host(void) { return 0; }
    static inline void manor_fp_leave_host(uint32_t old) { (void)old; }
    #endif

    /* In a loop that waits for another thread's store. */
    #if defined(__x86_64__)
    static inline void manor_relax(void) { __builtin_ia32_pause(); }
    #else
    static inline void manor_relax(void) { __asm__ volatile("" ::: "memory"); }
    #endif

    static inline uint64_t manor_monotonic_ns(void)
    { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec; }
    #endif
    """
    const uint64_t U64_MAX "MANOR_U64_MAX"
    const uint64_t U32_MAX "MANOR_U32_MAX"
    int atomic_cas64 "manor_cas64"(uint64_t *p, uint64_t old, uint64_t value) noexcept nogil
    int atomic_cas32 "manor_cas32"(uint32_t *p, uint32_t old, uint32_t value) noexcept nogil
    uint64_t atomic_load64 "manor_load64"(const uint64_t *p) noexcept nogil
    uint32_t atomic_load32 "manor_load32"(const uint32_t *p) noexcept nogil
    uint8_t atomic_load8 "manor_load8"(const uint8_t *p) noexcept nogil
    void atomic_store64 "manor_store64"(uint64_t *p, uint64_t v) noexcept nogil
    void atomic_or64 "manor_or64"(uint64_t *p, uint64_t v) noexcept nogil
    void atomic_and64 "manor_and64"(uint64_t *p, uint64_t v) noexcept nogil
    void atomic_or8 "manor_or8"(uint8_t *p, uint8_t v) noexcept nogil
    int32_t atomic_exchange32 "manor_exchange32"(int32_t *p, int32_t v) noexcept nogil
    void fence "manor_fence"() noexcept nogil
    uint64_t guest_load "manor_guest_load"(const uint8_t *p, uint32_t size) noexcept nogil
    void guest_store "manor_guest_store"(uint8_t *p, uint64_t value, uint32_t size) noexcept nogil
    uint32_t fp_enter_host "manor_fp_enter_host"() noexcept nogil
    void fp_leave_host "manor_fp_leave_host"(uint32_t old) noexcept nogil
    void relax "manor_relax"() noexcept nogil
    uint64_t monotonic_ns "manor_monotonic_ns"() noexcept nogil
