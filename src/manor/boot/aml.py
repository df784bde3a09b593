"""A small builder for ACPI Machine Language: each function returns the bytes of one construct.

Source: ACPI 6.5, 20.2 "AML Grammar Definition" and 6.4 "Resource Data Types for ACPI".
"""

from __future__ import annotations

import struct
from typing import Final

_ZERO_OP: Final = b"\x00"
_ONE_OP: Final = b"\x01"
_NAME_OP: Final = b"\x08"
_BYTE_PREFIX: Final = b"\x0a"
_WORD_PREFIX: Final = b"\x0b"
_DWORD_PREFIX: Final = b"\x0c"
_STRING_PREFIX: Final = b"\x0d"
_QWORD_PREFIX: Final = b"\x0e"
_SCOPE_OP: Final = b"\x10"
_BUFFER_OP: Final = b"\x11"
_PACKAGE_OP: Final = b"\x12"
_DUAL_NAME_PREFIX: Final = b"\x2e"
_MULTI_NAME_PREFIX: Final = b"\x2f"
_DEVICE_OP: Final = b"\x5b\x82"
_METHOD_OP: Final = b"\x14"
_OP_REGION_OP: Final = b"\x5b\x80"
_FIELD_OP: Final = b"\x5b\x81"
_STORE_OP: Final = b"\x70"
_AND_OP: Final = b"\x7b"
_NOTIFY_OP: Final = b"\x86"
_IF_OP: Final = b"\xa0"
_RETURN_OP: Final = b"\xa4"
_LNOT_OP: Final = b"\x92"
_LEQUAL_OP: Final = b"\x93"
_NO_TARGET: Final = b"\x00"
_SERIALIZED: Final = 1 << 3
_SYSTEM_IO: Final = 1
_DWORD_ACCESS: Final = 3
_MAX_PKG_LENGTH: Final = 1 << 28
_NAME_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789")


def name_string(path: str) -> bytes:
    """A name such as `_SB_`, `\\_SB_.PCI0` or `\\_S5_`; segments are padded with `_` to four characters."""
    root = path.startswith("\\")
    segments = [_name_segment(segment) for segment in path.lstrip("\\").split(".")]
    match len(segments):
        case 1:
            prefix = b""
        case 2:
            prefix = _DUAL_NAME_PREFIX
        case count:
            prefix = _MULTI_NAME_PREFIX + bytes([count])
    return (b"\\" if root else b"") + prefix + b"".join(segments)


def _name_segment(segment: str) -> bytes:
    padded = segment.ljust(4, "_")
    if len(padded) != 4 or not _NAME_CHARACTERS.issuperset(padded) or padded[0].isdigit():
        raise ValueError(f"{segment!r} is not an ACPI name segment")
    return padded.encode("ascii")


def integer(value: int) -> bytes:
    """The shortest encoding of an integer of up to 64 bits."""
    if value < 0 or value >> 64:
        raise ValueError(f"{value:#x} does not fit an ACPI integer")
    if value == 0:
        return _ZERO_OP
    if value == 1:
        return _ONE_OP
    if value < 1 << 8:
        return _BYTE_PREFIX + bytes([value])
    if value < 1 << 16:
        return _WORD_PREFIX + struct.pack("<H", value)
    if value < 1 << 32:
        return _DWORD_PREFIX + struct.pack("<I", value)
    return _QWORD_PREFIX + struct.pack("<Q", value)


def string(text: str) -> bytes:
    return _STRING_PREFIX + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """A compressed EISA identifier such as `PNP0A08`. Source: ACPI 6.5, 19.6.37 "EISAID"."""
    if len(text) != 7 or not all("A" <= letter <= "Z" for letter in text[:3]):
        raise ValueError(f"{text!r} is not an EISA identifier")
    a, b, c = (ord(letter) - 0x40 for letter in text[:3])
    # Integers are little-endian, the identifier is big-endian.
    number = (a << 10 | b << 5 | c) << 16 | int(text[3:], 16)
    return _DWORD_PREFIX + struct.pack(">I", number)


def with_length(body: bytes) -> bytes:
    """`body` behind its PkgLength, which counts itself. Source: ACPI 6.5, 20.2.4."""
    if len(body) + 1 < 1 << 6:
        return bytes([len(body) + 1]) + body
    for extra in (1, 2, 3):
        total = len(body) + 1 + extra
        if total < 1 << (4 + 8 * extra):
            rest = (total >> 4).to_bytes(extra, "little")
            return bytes([extra << 6 | total & 0xF]) + rest + body
    raise ValueError(f"{len(body)} bytes are more than {_MAX_PKG_LENGTH} that an AML object can hold")


def name(path: str, value: bytes) -> bytes:
    """Name(path, value)."""
    return _NAME_OP + name_string(path) + value


def scope(path: str, *contents: bytes) -> bytes:
    return _SCOPE_OP + with_length(name_string(path) + b"".join(contents))


def device(path: str, *contents: bytes) -> bytes:
    return _DEVICE_OP + with_length(name_string(path) + b"".join(contents))


def package(*elements: bytes) -> bytes:
    if len(elements) > 255:
        raise ValueError(f"{len(elements)} elements need a VarPackage")
    return _PACKAGE_OP + with_length(bytes([len(elements)]) + b"".join(elements))


def buffer(data: bytes) -> bytes:
    return _BUFFER_OP + with_length(integer(len(data)) + data)


# --- code ---------------------------------------------------------------------------------------------------------


def method(path: str, arguments: int, *body: bytes) -> bytes:
    """Method (path, arguments, Serialized) { body }."""
    return _METHOD_OP + with_length(name_string(path) + bytes([arguments | _SERIALIZED]) + b"".join(body))


def io_region(path: str, start: int, size: int) -> bytes:
    """OperationRegion (path, SystemIO, start, size)."""
    return _OP_REGION_OP + name_string(path) + bytes([_SYSTEM_IO]) + integer(start) + integer(size)


def fields(region: str, *parts: tuple[str, int]) -> bytes:
    """Field (region, DWordAcc, NoLock, Preserve) { parts }: names and their bits, in order; "" skips so many."""
    body = name_string(region) + bytes([_DWORD_ACCESS])
    for part, bits in parts:
        body += (_name_segment(part) if part else b"\0") + _bit_count(bits)
    return _FIELD_OP + with_length(body)


def _bit_count(bits: int) -> bytes:
    """The size of a field: encoded as a PkgLength that does not count itself. Source: ACPI 6.5, 20.2.5.2."""
    if not 0 < bits < 1 << 12:
        raise ValueError(f"a field of {bits} bits")
    return bytes([bits]) if bits < 1 << 6 else bytes([1 << 6 | bits & 0xF, bits >> 4])


def local(number: int) -> bytes:
    """Local0 to Local7."""
    return bytes([0x60 + number])


def argument(number: int) -> bytes:
    """Arg0 to Arg6."""
    return bytes([0x68 + number])


def store(value: bytes, target: bytes) -> bytes:
    """Store (value, target)."""
    return _STORE_OP + value + target


def and_(left: bytes, right: bytes) -> bytes:
    """And (left, right): the bits that are in both."""
    return _AND_OP + left + right + _NO_TARGET


def equal(left: bytes, right: bytes) -> bytes:
    """LEqual (left, right)."""
    return _LEQUAL_OP + left + right


def not_(value: bytes) -> bytes:
    """LNot (value)."""
    return _LNOT_OP + value


def if_(predicate: bytes, *body: bytes) -> bytes:
    """If (predicate) { body }."""
    return _IF_OP + with_length(predicate + b"".join(body))


def notify(path: str, value: int) -> bytes:
    """Notify (path, value)."""
    return _NOTIFY_OP + name_string(path) + integer(value)


def return_(value: bytes) -> bytes:
    """Return (value)."""
    return _RETURN_OP + value


# --- resources ----------------------------------------------------------------------------------------------------

_END_TAG: Final = b"\x79\x00"
"""Checksum 0 means: treat as correct. Source: ACPI 6.5, 6.4.2.9."""
_MEMORY: Final = 0
_IO: Final = 1
_BUS: Final = 2
_FIXED_PRODUCER: Final = 0x0C
"""General flags: the minimum and maximum are fixed; positive decode; the device passes the range on to its bus."""
_ENTIRE_IO: Final = 0x03
_READ_WRITE: Final = 0x01
_CACHEABLE_PREFETCHABLE: Final = 0x06


def resource_template(*descriptors: bytes) -> bytes:
    """ResourceTemplate () { descriptors }."""
    return buffer(b"".join(descriptors) + _END_TAG)


def io_ports(start: int, size: int) -> bytes:
    """IO (Decode16, start, start, 1, size): ports that the device itself decodes."""
    return struct.pack("<BBHHBB", 0x47, 1, start, start, 1, size)


def memory32_fixed(start: int, size: int) -> bytes:
    """Memory32Fixed (ReadWrite, start, size)."""
    return struct.pack("<BHBII", 0x86, 9, 1, start, size)


def interrupt(gsi: int, *, level: bool = False, active_low: bool = False) -> bytes:
    """Interrupt (ResourceConsumer, …, Exclusive) { gsi }."""
    flags = 0x01 | (0 if level else 0x02) | (0x04 if active_low else 0)
    return struct.pack("<BHBBI", 0x89, 6, flags, 1, gsi)


def bus_numbers(first: int, last: int) -> bytes:
    """WordBusNumber for the range that a root bridge passes on."""
    return _address_space("<BHBBBHHHHH", 0x88, _BUS, 0, first, last)


def io_window(start: int, size: int) -> bytes:
    """WordIO for a range of ports that a root bridge passes on."""
    return _address_space("<BHBBBHHHHH", 0x88, _IO, _ENTIRE_IO, start, start + size - 1)


def memory_window32(start: int, size: int) -> bytes:
    """DWordMemory, not cacheable, for a range that a root bridge passes on."""
    return _address_space("<BHBBBIIIII", 0x87, _MEMORY, _READ_WRITE, start, start + size - 1)


def memory_window64(start: int, size: int) -> bytes:
    """QWordMemory, prefetchable, for a range that a root bridge passes on."""
    flags = _READ_WRITE | _CACHEABLE_PREFETCHABLE
    return _address_space("<BHBBBQQQQQ", 0x8A, _MEMORY, flags, start, start + size - 1)


def _address_space(layout: str, tag: int, kind: int, flags: int, first: int, last: int) -> bytes:
    """Source: ACPI 6.5, 6.4.3.5 "Address Space Resource Descriptors"."""
    size = struct.calcsize(layout) - 3
    return struct.pack(layout, tag, size, kind, _FIXED_PRODUCER, flags, 0, first, last, 0, last - first + 1)
