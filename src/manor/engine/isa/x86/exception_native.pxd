from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env
from manor.engine.isa.x86.descriptor_native cimport Stack

cdef void raise_exception(Env *env, uint32_t vector, uint32_t error) noexcept nogil
cdef void raise_debug(Env *env, uint64_t dr6_bits) noexcept nogil
cdef void deliver(Env *env, uint32_t vector, int software, uint32_t error, int has_error, uint64_t next_rip) noexcept nogil
cdef int inner_stack(Env *env, Stack *s, uint32_t level, uint32_t ext, uint32_t *selector, uint64_t *d) noexcept nogil
cdef void deliver_event(Env *env) noexcept nogil
cdef void deliver_interrupt(Env *env, uint32_t vector) noexcept nogil
cdef void deliver_nmi(Env *env) noexcept nogil
cdef int service_events(Env *env) noexcept nogil

cdef uint64_t help_raise(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_invalid_opcode(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_int_n(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_int3(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_int1(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_into(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
cdef uint64_t help_bound(Env *env, uint64_t a, uint64_t b, uint64_t imm) noexcept nogil
