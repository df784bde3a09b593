# General registers by x86's rules, for helpers.
from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint32_t, uint64_t
from manor.engine.env cimport FLAG_MMU_SHIFT, Env


cdef inline int64_t sign(uint64_t value, int width) noexcept nogil:
    """Sign-extend from `width` bits."""
    if width == 8:
        return <int8_t>value
    if width == 16:
        return <int16_t>value
    if width == 32:
        return <int32_t>value
    return <int64_t>value


cdef inline void write_reg(Env *env, int reg, uint64_t value, int size) noexcept nogil:
    """Write a general register at a size in bytes: 4 clear the upper half, 1 and 2 leave the rest alone."""
    if size == 8:
        env.regs[reg] = value
    elif size == 4:
        env.regs[reg] = <uint32_t>value
    elif size == 2:
        env.regs[reg] = (env.regs[reg] & ~<uint64_t>0xFFFF) | (value & 0xFFFF)
    else:
        env.regs[reg] = (env.regs[reg] & ~<uint64_t>0xFF) | (value & 0xFF)


cdef inline uint32_t data_mode(Env *env) noexcept nogil:
    """The MMU mode of data accesses: part of a TLB's choice."""
    return (env.block_flags >> FLAG_MMU_SHIFT) & 3
