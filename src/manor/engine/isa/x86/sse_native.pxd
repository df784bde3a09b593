# SSE instructions that are helpers.
from libc.stdint cimport uint64_t, int64_t, uint32_t, int32_t, uint16_t, uint8_t
from manor.engine.env cimport Env

cdef extern from *:
    unsigned int crc_8 "__builtin_ia32_crc32qi"(unsigned int, unsigned char) noexcept nogil
    unsigned int crc_16 "__builtin_ia32_crc32hi"(unsigned int, unsigned short) noexcept nogil
    unsigned int crc_32 "__builtin_ia32_crc32si"(unsigned int, unsigned int) noexcept nogil
    unsigned long long crc_64 "__builtin_ia32_crc32di"(unsigned long long, unsigned long long) noexcept nogil
