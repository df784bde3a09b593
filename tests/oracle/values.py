"""Operand values worth testing: boundaries first, then plain random ones. All take the caller's Random."""

from __future__ import annotations

import struct
from random import Random

from tests.oracle.state import FSW_C0, FSW_C1, FSW_C2, FSW_C3

_F32 = (
    0x00000000, 0x80000000, 0x3F800000, 0xBF800000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00000, 0x7F800001,
    0xFFA12345, 0x7FFFFFFF, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x80800000, 0x7F7FFFFF, 0xFF7FFFFF,
    0x3F000000, 0x3FC00000, 0x40200000, 0xBF000000, 0x4F000000, 0xCF000000, 0x4EFFFFFF, 0x5F000000, 0xDF000000,
    0x4B000001, 0x4AFFFFFF, 0x33800000, 0x34000000, 0x7F000000, 0x40400000, 0x3EAAAAAB,
)  # fmt: skip
_F64 = (
    0x0000000000000000, 0x8000000000000000, 0x3FF0000000000000, 0xBFF0000000000000, 0x7FF0000000000000,
    0xFFF0000000000000, 0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000001, 0xFFF4123456789ABC,
    0x0000000000000001, 0x8000000000000001, 0x000FFFFFFFFFFFFF, 0x0010000000000000, 0x7FEFFFFFFFFFFFFF,
    0x3FE0000000000000, 0x3FF8000000000000, 0x4004000000000000, 0x41E0000000000000, 0xC1E0000000000000,
    0x41DFFFFFFFC00000, 0x41DFFFFFFFE00000, 0xC1E0000000200000, 0x43E0000000000000, 0xC3E0000000000000,
    0x4330000000000001, 0x432FFFFFFFFFFFFF, 0x36A0000000000000, 0x380FFFFFE0000000, 0x47EFFFFFF0000000,
    0x3810000000000000, 0x369FFFFFFFFFFFFF, 0x3FD5555555555555, 0x4008000000000000,
)  # fmt: skip
_F80 = (
    (0, 0), (0x8000, 0), (0x3FFF, 1 << 63), (0xBFFF, 1 << 63), (0x7FFF, 1 << 63), (0xFFFF, 1 << 63),
    (0x7FFF, 3 << 62), (0xFFFF, 3 << 62), (0x7FFF, 1 << 63 | 1), (0xFFFF, 1 << 63 | 0x1234567),
    (0, 1), (0x8000, (1 << 63) - 1), (0, 1 << 63), (1, 1 << 63), (0x7FFE, (1 << 64) - 1), (0xFFFE, (1 << 64) - 1),
    (0x3FFE, 1 << 63), (0x3FFF, 3 << 62), (0x4000, 5 << 61), (0x401E, 1 << 63), (0xC01E, 1 << 63),
    (0x403E, 1 << 63), (0xC03E, 1 << 63), (0x403D, (1 << 64) - 1), (0x400E, 1 << 63), (0x4000, 0xC90FDAA22168C235),
    (0x3F81, 1 << 63), (0x3C00, (1 << 64) - 1), (0x407F, 1 << 63), (0x43FF, 1 << 63), (0x3BCD, 1 << 63),
    (0x3FFD, 0xAAAAAAAAAAAAAAAB), (0x4038, 0x9C8A4E3B7D1F0000),
    # Encodings that the 387 and later call unsupported: unnormal, pseudo-infinity, pseudo-NaN.
    (0x3FFF, 1 << 62), (0x7FFF, 0), (0x7FFF, 1 << 62),
)  # fmt: skip


def integer(rng: Random, bits: int) -> int:
    """0 <= value < 2**bits, boundaries favoured."""
    top = (1 << bits) - 1
    kind = rng.randrange(8)
    if kind < 3:
        return rng.getrandbits(bits)
    if kind == 3:
        return rng.randrange(0, 40) & top
    if kind == 4:
        return -rng.randrange(1, 40) & top
    if kind == 5:
        return ((1 << rng.randrange(bits)) + rng.randrange(-1, 2)) & top
    if kind == 6:
        return rng.choice((0, 1, top, top >> 1, (top >> 1) + 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000)) & top
    width = rng.choice((8, 16, 32, 64))
    part = integer(rng, width) if width < bits else rng.getrandbits(bits)
    return (rng.getrandbits(bits) & ~((1 << width) - 1) | part) & top


def f32(rng: Random) -> int:
    kind = rng.randrange(4)
    if kind < 2:
        return rng.choice(_F32)
    if kind == 2:
        return rng.getrandbits(32)
    return int.from_bytes(
        struct.pack("<f", rng.choice((rng.uniform(-10, 10), rng.randrange(-1 << 33, 1 << 33)))), "little"
    )


def f64(rng: Random) -> int:
    kind = rng.randrange(4)
    if kind < 2:
        return rng.choice(_F64)
    if kind == 2:
        return rng.getrandbits(64)
    value = rng.choice((rng.uniform(-10, 10), rng.randrange(-1 << 65, 1 << 65), rng.uniform(-1e40, 1e40)))
    return int.from_bytes(struct.pack("<d", value), "little")


def f80(rng: Random) -> int:
    """80 bits: significand in the low 64."""
    kind = rng.randrange(6)
    if kind < 3:
        exponent, significand = rng.choice(_F80)
    elif kind == 3:
        exponent, significand = rng.getrandbits(16), rng.getrandbits(64)
    else:
        exponent = rng.randrange(0x3FFF - 40, 0x3FFF + 70) | rng.getrandbits(1) << 15
        significand = 1 << 63 | rng.getrandbits(63) & ~((1 << rng.choice((0, 11, 40, 50, 60))) - 1)
    return exponent << 64 | significand


def bcd(rng: Random) -> int:
    """80-bit packed decimal."""
    digits = int("".join(rng.choice("0123456789") for _ in range(18)), 16)
    return digits | rng.choice((0, 0x80)) << 72


def vector(rng: Random, data: str, size: int) -> bytes:
    """`size` bytes of lanes of the kind `data`."""
    if data == "f32":
        raw = b"".join(f32(rng).to_bytes(4, "little") for _ in range(max(1, size // 4)))
    elif data == "f64":
        raw = b"".join(f64(rng).to_bytes(8, "little") for _ in range(max(1, size // 8)))
    elif data == "f80":
        raw = f80(rng).to_bytes(10, "little")
    elif data == "bcd":
        raw = bcd(rng).to_bytes(10, "little")
    elif data == "count":
        count = rng.choice((rng.randrange(70), rng.randrange(17), rng.getrandbits(64)))
        raw = count.to_bytes(8, "little") + rng.randbytes(8)
    elif data == "text":
        raw = bytes(rng.choice(b"\0abAB\xff\x80") for _ in range(size))
    else:
        width = rng.choice((1, 2, 4, 8))
        raw = b"".join(integer(rng, 8 * width).to_bytes(width, "little") for _ in range(max(1, -(-size // width))))
    return (raw + rng.randbytes(size))[:size]


def mxcsr(rng: Random) -> int:
    """Mostly all exceptions masked; any rounding; sometimes FTZ, DAZ, sticky flags, unmasked exceptions."""
    value = 0x1F80 | rng.choice((0, 0, 0, 1, 2, 3)) << 13
    if rng.random() < 0.1:
        value |= 0x8000
    if rng.random() < 0.1:
        value |= 0x0040
    if rng.random() < 0.3:
        value |= rng.getrandbits(6)
    if rng.random() < 0.06:
        value &= ~(rng.getrandbits(6) << 7)
    return value


def fcw(rng: Random) -> int:
    """x87 control word: any precision and rounding, rarely an unmasked exception."""
    value = 0x0040 | 0x3F | rng.choice((3, 3, 3, 2, 0)) << 8 | rng.choice((0, 0, 1, 2, 3)) << 10
    if rng.random() < 0.1:
        value &= ~rng.getrandbits(6)
    return value


def fsw(rng: Random, control: int) -> int:
    """x87 status word: any TOP and condition codes; a pending exception only rarely, ES and B consistent."""
    value = rng.getrandbits(3) << 11 | rng.getrandbits(16) & (FSW_C0 | FSW_C1 | FSW_C2 | FSW_C3)
    if rng.random() < 0.3:
        value |= rng.getrandbits(7)
    if rng.random() > 0.03:
        value &= ~(~control & 0x3F)
    if value & ~control & 0x3F:
        value |= 0x8080
    return value


def x87_image(rng: Random, full: bool) -> bytes:
    """FXSAVE64 image (x87 part). full: registers mostly valid; else any mix of empty and valid."""
    control = fcw(rng)
    tags = rng.choice((0xFF, 0xFF, 0xFF, rng.getrandbits(8))) if full else rng.choice((0, 0xFF, rng.getrandbits(8)))
    image = bytearray(512)
    struct.pack_into("<HHB", image, 0, control, fsw(rng, control), tags)
    for index in range(8):
        image[32 + 16 * index : 42 + 16 * index] = f80(rng).to_bytes(10, "little")
    return bytes(image)
