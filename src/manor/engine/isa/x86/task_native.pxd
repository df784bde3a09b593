from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef enum:
    TASK_JUMP = 0
    TASK_CALL = 1
    TASK_RETURN = 2
    TASK_EVENT = 3

cdef int task_switch(Env *env, uint32_t selector, int how, uint64_t next_rip, uint32_t ext) noexcept nogil
