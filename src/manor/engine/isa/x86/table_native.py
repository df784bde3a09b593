# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The tables of x86 instructions, as `tables.serialize()` wrote them: pointers into one blob, shared by the translator.

WHY NATIVE: the translator reads them without the GIL. SAFETY: the blob is kept; it comes from the build, not from a
user. Threads: filled once, before any block is translated.
"""

import cython
from cython.cimports.libc.stdint import uint8_t, uint16_t, uint64_t
from cython.cimports.manor.engine.isa.x86.translator import Entry, HelperInfo, Item, Template

cython.declare(blob=object)


def load_tables(data: bytes) -> None:
    """Point the decoder at a blob made by `tables.serialize`; keeps a reference to it."""
    global blob, dispatch, rm_tables, modrm_flags, entries, templates, items, helper_info
    blob = data
    base: cython.p_uchar = data
    header: cython.pointer(uint64_t) = cython.cast(cython.pointer(uint64_t), base)
    dispatch = cython.cast(cython.pointer(uint16_t), base + header[0])
    rm_tables = cython.cast(cython.pointer(uint16_t), base + header[1])
    modrm_flags = cython.cast(cython.pointer(uint8_t), base + header[2])
    entries = cython.cast(cython.pointer(Entry), base + header[3])
    templates = cython.cast(cython.pointer(Template), base + header[4])
    items = cython.cast(cython.pointer(Item), base + header[5])
    helper_info = cython.cast(cython.pointer(HelperInfo), base + header[6])
