from libc.stdint cimport uint64_t, uint8_t
from manor.engine.env cimport Env
from manor.engine.lower.emitter cimport Emitter
from manor.engine.vm cimport Vm

cdef int create_emitter(Vm *vm, uint64_t size) noexcept nogil
cdef void destroy_emitter(Vm *vm) noexcept nogil
cdef void trim_emitter(Emitter *e) noexcept nogil
cdef void join_pages(Emitter *e) noexcept nogil
cdef uint64_t code_used(Vm *vm) noexcept nogil
cdef void reset_emitter(Vm *vm) noexcept nogil
cdef void prepare_env(Vm *vm, Env *env) noexcept nogil
cdef uint8_t *executable_address(Emitter *e, uint8_t *place) noexcept nogil
