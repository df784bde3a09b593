"""Hashed directories: leaves sorted by the hash of their names, below one or two levels of index.

Source: Linux Documentation/filesystems/ext4/directory.rst, "Hash Tree Directories"; the hash is two thirds of MD4
(RFC 1320, section 3.4) over the name in pieces of 32 bytes, without MD4's padding and with a seed.
"""

from __future__ import annotations

import struct
from typing import Final

from manor.fs.crc32c import crc32c
from manor.fs.ext4.directory import TAIL_SIZE, Name, distribute, entry_size, leaf

_MASK: Final = 0xFFFF_FFFF
_HALF_MD4: Final = 1
_DIRECTORY: Final = 2
_ROOT_HEAD: Final = 32
"""Bytes before the index of a root block: two entries and its information."""
_NODE_HEAD: Final = 8
_END_HASH: Final = 0xFFFF_FFFE
_FIRST_CONSTANTS: Final = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)
_ROUNDS: Final = (
    (0, (0, 1, 2, 3, 4, 5, 6, 7), (3, 7, 11, 19)),
    (0x5A827999, (1, 3, 5, 7, 0, 2, 4, 6), (3, 5, 9, 13)),
    (0x6ED9EBA1, (3, 7, 2, 6, 1, 5, 0, 4), (3, 9, 11, 15)),
)
"""Constant, order of the words, rotations of each round."""


def blocks(
    names: list[Name], inode: int, parent: int, size: int, seed: int, hash_seed: bytes, least: int = 1
) -> tuple[list[bytes], bool]:
    """The blocks of a directory, and whether they are an index and its leaves: small directories have no index.

    seed: that of the inode's checksums. least: blocks to have at least.
    """
    room = size - TAIL_SIZE
    dots: list[Name] = [(b".", inode, _DIRECTORY), (b"..", parent, _DIRECTORY)]
    linear = distribute([*dots, *names], room)
    if len(linear) == 1:
        linear += [[] for _ in range(least - 1)]
        return [leaf(part, size, seed) for part in linear], False
    hashed = sorted((name_hash(name[0], hash_seed), name) for name in names)
    leaves: list[list[Name]] = []
    starts: list[int] = []
    used = room
    previous = -1
    for value, name in hashed:
        needed = entry_size(name[0])
        # Full to three quarters: what the guest adds later finds room without splitting leaf after leaf.
        if used + needed > room * 3 // 4:
            leaves.append([])
            # A run of equal hashes that goes on in the next leaf is marked by the lowest bit.
            starts.append(value | 1 if value == previous else value)
            used = 0
        leaves[-1].append(name)
        used += needed
        previous = value
    root_limit = (size - _ROOT_HEAD - 8) // 8
    node_limit = (size - _NODE_HEAD - 8) // 8
    nodes: list[bytes] = []
    if len(leaves) <= root_limit:
        index = [(start, 1 + number) for number, start in enumerate(starts)]
        levels = 0
    else:
        count = -(-len(leaves) // node_limit)
        if count > root_limit:
            return [leaf(part, size, seed) for part in linear], False
        index = []
        for number in range(count):
            first = number * node_limit
            part = [(starts[each], 1 + count + each) for each in range(first, min(first + node_limit, len(leaves)))]
            head = struct.pack("<IHBB", 0, size, 0, 0)
            nodes.append(_index(head, part, node_limit, size, seed))
            index.append((starts[first], 1 + number))
        levels = 1
    head = struct.pack("<IHBB4s", inode, 12, 1, _DIRECTORY, b".")
    head += struct.pack("<IHBB4s", parent, size - 12, 2, _DIRECTORY, b"..")
    head += struct.pack("<IBBBB", 0, _HALF_MD4, 8, levels, 0)
    return [_index(head, index, root_limit, size, seed), *nodes, *(leaf(part, size, seed) for part in leaves)], True


def _index(head: bytes, entries: list[tuple[int, int]], limit: int, size: int, seed: int) -> bytes:
    """A block of the index: the first entry's hash is the count's place, as it begins at 0 anyway."""
    data = head + struct.pack("<HHI", limit, len(entries), entries[0][1])
    data += b"".join(struct.pack("<II", *entry) for entry in entries[1:])
    checksum = crc32c(seed, data + bytes(8))
    return (data.ljust(len(head) + 8 * limit, b"\0") + struct.pack("<II", 0, checksum)).ljust(size, b"\0")


def name_hash(name: bytes, seed: bytes) -> int:
    """The hash of a name in a directory. seed: 16 bytes; zeros stand for MD4's own constants."""
    state: tuple[int, ...] = struct.unpack("<4I", seed) if any(seed) else _FIRST_CONSTANTS
    for start in range(0, len(name), 32):
        state = _transform(state, _words(name[start:], 8))
    value = state[1] & ~1
    return value - 2 if value == _END_HASH else value


def _words(text: bytes, count: int) -> list[int]:
    """`count` words of the text's first bytes, filled up with a pattern made of its length; bytes are signed."""
    pad = len(text) & 0xFF | (len(text) & 0xFF) << 8
    pad |= pad << 16
    words = []
    value = pad
    for number, byte in enumerate(text[: 4 * count]):
        value = (byte - (byte >> 7 << 8)) + (value << 8) & _MASK
        if number % 4 == 3:
            words.append(value)
            value = pad
    if len(words) < count:
        words.append(value)
    return words + [pad] * (count - len(words))


def _transform(state: tuple[int, ...], words: list[int]) -> tuple[int, int, int, int]:
    a, b, c, d = state
    for number, (constant, order, rotations) in enumerate(_ROUNDS):
        for step, word in enumerate(order):
            if number == 0:
                mixed = d ^ b & (c ^ d)
            elif number == 1:
                mixed = (b & c) + ((b ^ c) & d)
            else:
                mixed = b ^ c ^ d
            rotation = rotations[step % 4]
            value = a + mixed + words[word] + constant & _MASK
            a, b, c, d = d, (value << rotation | value >> 32 - rotation) & _MASK, b, c
    return (
        state[0] + a & _MASK, state[1] + b & _MASK, state[2] + c & _MASK, state[3] + d & _MASK,
    )  # fmt: skip
