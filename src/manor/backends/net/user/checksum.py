"""The Internet checksum (RFC 1071), over whole packets at once.

2**16 is 1 modulo 65535, so the one's complement sum of the 16-bit words of a packet is the packet, as one big
number, modulo 65535. Python divides a big number by a small one in C, four times as fast as it adds the words up.
"""

from __future__ import annotations

Buffer = bytes | bytearray | memoryview


def ones_sum(data: Buffer) -> int:
    """One's complement sum of big-endian words, 0 to 0xFFFF; a last odd byte counts as if a zero followed."""
    number = int.from_bytes(data, "big")
    if len(data) & 1:
        number <<= 8
    # A sum that is a multiple of 65535 is 0xFFFF in one's complement, unless nothing but zeros was added.
    return number % 0xFFFF or (0xFFFF if number else 0)


def fold(total: int) -> int:
    """A sum of sums as one word."""
    return total % 0xFFFF or (0xFFFF if total else 0)


def checksum(data: Buffer, start: int = 0) -> int:
    """What goes into the checksum field of `data`, whose field is zero. start: a sum to begin with."""
    return 0xFFFF - fold(ones_sum(data) + start)


def is_valid(data: Buffer, start: int = 0) -> bool:
    """Whether `data`, with its checksum field, adds up."""
    return fold(ones_sum(data) + start) == 0xFFFF


def pseudo_sum(source: bytes, destination: bytes, protocol: int, size: int) -> int:
    """Sum of the pseudo header: RFC 9293, 3.1 over IPv4, RFC 8200, 8.1 over IPv6. size: bytes of the upper layer."""
    return fold(ones_sum(source) + ones_sum(destination) + protocol + (size >> 16) + (size & 0xFFFF))
