from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env
from manor.engine.host cimport fp_enter_host, fp_leave_host

cdef uint64_t callback_mmio_read(Env *env, uint64_t gpa, uint32_t size) noexcept nogil
cdef void callback_mmio_write(Env *env, uint64_t gpa, uint32_t size, uint64_t value) noexcept nogil
cdef uint64_t callback_pio_read(Env *env, uint32_t port, uint32_t size) noexcept nogil
cdef void callback_pio_write(Env *env, uint32_t port, uint32_t size, uint64_t value) noexcept nogil
cdef int callback_read_msr(Env *env, uint32_t index, uint64_t *value) noexcept nogil
cdef int callback_write_msr(Env *env, uint32_t index, uint64_t value) noexcept nogil
cdef uint64_t callback_get_tpr(Env *env) noexcept nogil
cdef void callback_set_tpr(Env *env, uint64_t value) noexcept nogil
cdef int callback_acknowledge(Env *env) noexcept nogil
cdef void callback_trace(Env *env, const char *kind, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
cdef void callback_trace_syscall(Env *env) noexcept nogil
