"""A cable into the host's kernel: the descriptor of a tap or macvtap interface (see `host_link.py` for how one is had).

One read or write is one frame, behind a header like virtio's own: so checksums and segmentation that the guest leaves
undone stay undone until a real network card, or another guest, has to do them.
Source: Linux Documentation/networking/tuntap.rst; include/uapi/linux/if_tun.h and virtio_net.h (the header without
num_buffers, 10 bytes).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from typing import Final

from manor.backends.loop import Loop
from manor.backends.net.api import Frame, NetReceiver, Offloads, Segmentation
from manor.backends.net.offload import FRAME_LIMIT

READ_BATCH: Final = 64
"""Frames of one turn; other work of the loop comes between turns."""
_HEADER: Final = struct.Struct("<BBHHHH")
_NEEDS_CSUM: Final = 1
_DATA_VALID: Final = 2
_PLAIN: Final = bytes(_HEADER.size)
_READ_SIZE: Final = _HEADER.size + FRAME_LIMIT
_KINDS: Final = {int(kind): kind for kind in Segmentation}


class TapNet:
    """fd: non-blocking, with headers of 10 bytes; this object's from now on. on_close: after it is closed."""

    def __init__(self, fd: int, loop: Loop, accepts: Offloads, mtu: int, on_close: Callable[[], None]) -> None:
        self.mtu = mtu
        self._fd = fd
        self._accepts = accepts
        self._on_close = on_close
        self._watch = loop.watch(fd, self._on_readable)
        self._receiver: NetReceiver | None = None
        self._waiting: list[Frame] = []
        self._is_up = True
        self._counters = {"host_sent": 0, "host_received": 0, "host_send_dropped": 0, "host_receive_dropped": 0}

    @property
    def accepts(self) -> Offloads:
        return self._accepts

    def attach(self, receiver: NetReceiver | None) -> None:
        self._receiver = receiver
        self._waiting.clear()
        self._watch.want(read=True)

    def send(self, frames: Sequence[Frame]) -> None:
        if not self._is_up:
            return
        counters = self._counters
        for frame in frames:
            header = _PLAIN
            if frame.checksum_start:
                size = _headers_size(frame) if frame.segmentation else 0
                header = _HEADER.pack(
                    _NEEDS_CSUM, frame.segmentation, size, frame.segment_size, frame.checksum_start,
                    frame.checksum_offset,
                )  # fmt: skip
            try:
                os.writev(self._fd, (header, frame.data))
                counters["host_sent"] += 1
            except OSError:
                # The interface is down, its queue is full, or the kernel finds fault with the frame.
                counters["host_send_dropped"] += 1

    def on_room(self) -> None:
        self._deliver()
        if not self._waiting:
            self._watch.want(read=True)

    def set_link(self, is_up: bool) -> None:
        self._is_up = is_up

    def addresses(self) -> Sequence[str]:
        return ()

    def statistics(self) -> dict[str, int]:
        return dict(self._counters)

    def close(self) -> None:
        if self._fd < 0:
            return
        self._watch.close()
        os.close(self._fd)
        self._fd = -1
        self._on_close()

    def _on_readable(self) -> None:
        frames: list[Frame] = []
        while len(frames) < READ_BATCH:
            try:
                data = os.read(self._fd, _READ_SIZE)
            except BlockingIOError:
                break
            except OSError:
                self._watch.want()  # the interface was deleted: nothing will come any more
                break
            frame = _parse(data)
            if frame is not None:
                frames.append(frame)
        self._counters["host_received"] += len(frames)
        if self._receiver is None or not self._is_up:
            self._counters["host_receive_dropped"] += len(frames)
            return
        self._waiting += frames
        self._deliver()

    def _deliver(self) -> None:
        """Give the guest what waits; while something is left, the kernel's queue holds the rest."""
        if self._receiver is not None and self._waiting:
            del self._waiting[: self._receiver.deliver(self._waiting)]
        if self._waiting:
            self._watch.want()


def _parse(data: bytes) -> Frame | None:
    """The frame behind a header of the kernel's; None if it is too short to be one or a kind that was not asked for."""
    if len(data) < _HEADER.size + 14:
        return None
    flags, gso_type, _, segment_size, start, offset = _HEADER.unpack_from(data)
    frame = data[_HEADER.size :]
    if not flags & _NEEDS_CSUM:
        return Frame(frame, is_checked=bool(flags & _DATA_VALID)) if gso_type == 0 else None
    kind = _KINDS.get(gso_type)
    if kind is None or start < 14 or start + offset + 2 > len(frame):
        return None
    return Frame(frame, start, offset, False, kind, segment_size)


def _headers_size(frame: Frame) -> int:
    """Bytes of all headers of a frame that is to be segmented, a hint for the kernel."""
    at = frame.checksum_start
    if frame.segmentation is Segmentation.UDP_L4 or len(frame.data) < at + 20:
        return at + 8
    return at + (frame.data[at + 12] >> 4) * 4
