from libc.stdint cimport uint8_t, uint16_t
from manor.engine.isa.x86.translator cimport Entry, Template, Item, HelperInfo

cdef uint16_t *dispatch
cdef uint16_t *rm_tables
cdef uint8_t *modrm_flags
cdef Entry *entries
cdef Template *templates
cdef Item *items
cdef HelperInfo *helper_info
