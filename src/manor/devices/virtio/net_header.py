"""The header in front of every frame in a virtqueue, and what the guest may say in it.

Source: VIRTIO 1.2, 5.1.6 struct virtio_net_hdr, 5.1.6.2.1 (what a driver must do), 5.1.6.4.1 (what a device must do).
"""

from __future__ import annotations

import struct
from typing import Final

from manor.backends.net.api import Frame, Segmentation

VIRTIO_NET_HDR_F_NEEDS_CSUM: Final = 1
VIRTIO_NET_HDR_F_DATA_VALID: Final = 2
VIRTIO_NET_HDR_GSO_ECN: Final = 0x80

HEADER: Final = struct.Struct("<BBHHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset, num_buffers."""
HEADER_SIZE: Final = HEADER.size
ETHERNET_HEADER: Final = 14

_KINDS: Final = {int(kind): kind for kind in Segmentation}
_PLAIN: Final = HEADER.pack(0, 0, 0, 0, 0, 0, 1)
_PLAIN_VALID: Final = HEADER.pack(VIRTIO_NET_HDR_F_DATA_VALID, 0, 0, 0, 0, 0, 1)


def frame_of(
    header: tuple[int, int, int, int, int, int, int], data: bytes, allowed: frozenset[Segmentation]
) -> Frame | str:
    """The frame that a driver sends, or what is wrong with it.

    header: the values of HEADER. allowed: kinds of segmentation that were negotiated; empty without checksum offload,
    and without NONE in it the driver may not leave checksums undone either.
    """
    flags, gso_type, header_size, segment_size, start, offset, _ = header
    if not flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        # 5.1.6.2.1: segmentation needs the checksum offload too.
        return Frame(data) if gso_type == 0 else f"segmentation {gso_type:#x} without a checksum to be computed"
    if Segmentation.NONE not in allowed:
        return "checksum left undone without VIRTIO_NET_F_CSUM"
    if start < ETHERNET_HEADER or start + offset + 2 > len(data):
        return f"checksum at {start} + {offset} of a frame of {len(data)} bytes"
    if gso_type == 0:
        return Frame(data, start, offset)
    kind = _KINDS.get(gso_type)
    if kind is None or kind not in allowed:
        return f"segmentation {gso_type:#x} was not negotiated"
    if segment_size == 0:
        return "segmentation into empty pieces"
    if header_size > len(data):
        return f"headers of {header_size} bytes in a frame of {len(data)}"
    return Frame(data, start, offset, False, kind, segment_size)


def header_of(frame: Frame, buffers: int, may_vouch: bool) -> bytes:
    """What stands in front of `frame` in the guest's memory.

    buffers: chains that it takes. may_vouch: whether the guest understands that checksums were checked
    (VIRTIO_NET_F_GUEST_CSUM).
    """
    start = frame.checksum_start
    if not start:
        if buffers == 1:
            return _PLAIN_VALID if frame.is_checked and may_vouch else _PLAIN
        flags = VIRTIO_NET_HDR_F_DATA_VALID if frame.is_checked and may_vouch else 0
        return HEADER.pack(flags, 0, 0, 0, 0, 0, buffers)
    size = 0
    if frame.segmentation:
        # A hint: the headers up to the payload.
        data = frame.data
        is_udp = frame.segmentation is Segmentation.UDP_L4 or len(data) < start + 20
        size = min(start + 8 if is_udp else start + (data[start + 12] >> 4) * 4, len(data))
    return HEADER.pack(
        VIRTIO_NET_HDR_F_NEEDS_CSUM, frame.segmentation, size, frame.segment_size, start, frame.checksum_offset, buffers
    )
