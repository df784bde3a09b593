# State of SSE and x87: the host's MXCSR while guest code runs, FXSAVE and XSAVE areas.
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef extern from *:
    unsigned int host_stmxcsr "__builtin_ia32_stmxcsr"() noexcept nogil
    void host_ldmxcsr "__builtin_ia32_ldmxcsr"(unsigned int) noexcept nogil

cdef void fpu_enter(Env *env) noexcept nogil
cdef void fpu_leave(Env *env) noexcept nogil
cdef void fxsave_image(Env *env, uint8_t *image, int form64, int xmm_count) noexcept nogil
cdef void fxrstor_image(Env *env, const uint8_t *image, int form64, int xmm_count, int parts) noexcept nogil
