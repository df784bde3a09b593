from manor.engine.isa.x86.translator cimport Translator

cdef void decode_prefixes(Translator *t) noexcept nogil
cdef void decode_modrm(Translator *t) noexcept nogil
cdef void decode_immediates(Translator *t, int kind, int opsize) noexcept nogil
