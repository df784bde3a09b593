"""Writes what passes a cable into a pcapng file, on and off at any time.

A frame that stands for several is written as it is, one record, as captures on Linux show it too: that is what the
guest's driver sent or got. Checksums that were left undone are filled in, so that a reader takes none for wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from manor.backends.net.api import Frame, NetBackend
from manor.backends.net.offload import TCP, TCP_CHECKSUM, UDP, UDP_CHECKSUM, find_layout, with_checksum
from manor.backends.net.pcapng import INWARD, OUTWARD, PcapngWriter
from manor.backends.net.user.checksum import pseudo_sum
from manor.backends.net.wrapper import NetWrapper
from manor.base.clock import Clock
from manor.trace.event import declare

net_capture_failed = declare("net_capture_failed", file=str, reason=str)


class CaptureNet(NetWrapper):
    """name, mac: of the interface, for the file."""

    def __init__(self, inner: NetBackend, clock: Clock, name: str, mac: bytes) -> None:
        super().__init__(inner)
        self._clock = clock
        self._name = name
        self._mac = mac
        self._writer: PcapngWriter | None = None
        self._failed = 0

    def start(self, path: Path) -> None:
        """Capture into `path` from now on, instead of where it went before. Raises ConfigError or HostError."""
        writer = PcapngWriter(path, self._name, self._mac)
        self.stop()
        self._writer = writer

    def stop(self) -> None:
        """Capture no more."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def send(self, frames: Sequence[Frame]) -> None:
        if self._writer is not None:
            self._record(frames, OUTWARD)
        self.inner.send(frames)

    def deliver(self, frames: Sequence[Frame]) -> int:
        taken = super().deliver(frames)
        if self._writer is not None and taken:
            self._record(frames[:taken], INWARD)
        return taken

    def statistics(self) -> dict[str, int]:
        counters = self.inner.statistics()
        writer = self._writer
        if writer is not None or self._failed:
            counters["captured_frames"] = 0 if writer is None else writer.frames
            counters["capture_failed"] = self._failed
        return counters

    def close(self) -> None:
        self.stop()
        self.inner.close()

    def _record(self, frames: Sequence[Frame], direction: int) -> None:
        assert self._writer is not None
        try:
            self._writer.write([_completed(frame) for frame in frames], direction, self._clock.wall_ns())
        except OSError as error:
            # A full disk is no reason to stop the guest; the file is whole up to here.
            self._failed += 1
            if net_capture_failed.on:
                net_capture_failed(str(self._writer.path), error.strerror or str(error))
            self.stop()


def _completed(frame: Frame) -> bytes:
    """The frame's bytes with checksums that hold."""
    if frame.checksum_start:
        return with_checksum(frame) or frame.data
    if not frame.is_checked:
        return frame.data
    layout = find_layout(frame.data)
    if layout is None or layout.protocol not in (TCP, UDP):
        return frame.data
    version, network, start, protocol = layout
    data = frame.data
    offset = TCP_CHECKSUM if protocol == TCP else UDP_CHECKSUM
    at = start + offset
    # The packet may be shorter than the frame, which is padded to 60 bytes on a wire.
    if version == 4:
        end = network + (data[network + 2] << 8 | data[network + 3])
        source, target = data[network + 12 : network + 16], data[network + 16 : network + 20]
    else:
        end = network + 40 + (data[network + 4] << 8 | data[network + 5])
        source, target = data[network + 8 : network + 24], data[network + 24 : network + 40]
    if at + 2 > end or end > len(data):
        return data
    pseudo = pseudo_sum(source, target, protocol, end - start)
    packet = b"".join((data[:at], pseudo.to_bytes(2, "big"), data[at + 2 : end]))
    done = with_checksum(Frame(packet, start, offset))
    return data if done is None else done + data[end:]
