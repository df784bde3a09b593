"""Between a network device, which lives under the machine lock, and its backend, which lives under the network's.

    guest --kick--> device (machine lock) --frames--> port --later--> backend.send       network's lock
    guest <-buffers- device (machine lock) <--------- port <--------- backend.deliver     network's lock

"Later" is on the I/O loop. Where the guest sends little, as in a question or an acknowledgement, it is on the thread of
the vCPU that kicked, once that has left the device: an answer that needs no waiting is then there before the guest goes
on, and no thread is woken for it. Much, as in a stream, is better sent beside the guest.

What one side leaves undone and the other does not take is done here, where the machine lock is free.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

from manor.backends.net.api import Frame, NetBackend, Offloads
from manor.backends.net.offload import NOTHING, all_taken, finish
from manor.base.work import Work
from manor.trace.event import declare, guest_error

SHORT_FRAMES: Final = 4
SHORT_BYTES: Final = 2048
"""What a vCPU sends itself."""
RECEIVE_BATCH: Final = 64
"""Frames that are copied under one hold of the machine lock: vCPUs wait for it."""

net_send = declare("net_send", device=str, frames=int, bytes=int)
net_receive = declare("net_receive", device=str, offered=int, taken=int)


class FrameDevice(Protocol):
    """The device, as its port sees it. Thread: machine lock held, but for `accepts`."""

    @property
    def accepts(self) -> Offloads:
        """What the guest takes undone now. Thread: any; it changes at the guest's will."""

    def receive(self, frames: Sequence[Frame]) -> int:
        """Put frames into the guest's memory; how many of them, the first ones, are dealt with."""


class NetPort:
    """The NetReceiver of one device.

    lock: the machine lock. network_lock: the backend's, before the machine lock. post: runs a callback soon on the I/O
    loop, without the locks. work: for what a vCPU does itself; without, the loop does all.
    """

    def __init__(
        self,
        name: str,
        backend: NetBackend,
        lock: AbstractContextManager[object],
        network_lock: threading.RLock,
        post: Callable[[Callable[[], None]], None],
        work: Work | None = None,
    ) -> None:
        self.backend = backend
        self.device: FrameDevice | None = None
        self._name = name
        self._lock = lock
        self._network_lock = network_lock
        self._post = post
        self._work = work
        self._outgoing: list[Frame] = []
        self._is_posted = False
        self._has_room = False
        self._is_paused = False
        self._rest: list[Frame] = []
        self.malformed = 0
        """Frames from the guest whose headers did not fit to the work that was asked for."""

    # --- from the device: machine lock held -------------------------------------------------------------------------

    def transmit(self, frames: list[Frame]) -> bool:
        """Send frames soon. The list is the port's from now on. True: the calling vCPU does it, when it has left the
        device."""
        if self._outgoing:
            self._outgoing += frames
        else:
            self._outgoing = frames
        return self._wake()

    def room(self) -> None:
        """The guest added receive buffers after `receive` had found too few."""
        self._has_room = True
        self._wake()

    def pause(self) -> None:
        """Deliver nothing until `resume`: the backend keeps what comes, as far as it keeps anything."""
        self._is_paused = True

    def resume(self) -> None:
        self._is_paused = False
        self.room()

    def _wake(self) -> bool:
        if self._is_posted:
            return False
        self._is_posted = True
        if self._is_short() and self._work is not None and self._work.submit_short(self._run_short):
            return True
        self._post(self._run)
        return False

    def _is_short(self) -> bool:
        frames = self._outgoing
        if len(frames) == 1:
            return len(frames[0].data) <= SHORT_BYTES
        return 0 < len(frames) <= SHORT_FRAMES and sum([len(frame.data) for frame in frames]) <= SHORT_BYTES

    # --- the I/O loop's thread or a vCPU's, without the machine lock --------------------------------------------------

    @property
    def accepts(self) -> Offloads:
        """Also for frames that need work, which is done here; a backend that can do it better looks at this."""
        return NOTHING if self.device is None else self.device.accepts

    def _run_short(self) -> None:
        """On the vCPU's thread: do it here, unless the network is busy; then that goes on beside the guest."""
        if self._network_lock.acquire(blocking=False):
            try:
                self._run()
            finally:
                self._network_lock.release()
        else:
            self._post(self._run)

    def _run(self) -> None:
        with self._network_lock:
            with self._lock:
                self._is_posted = False
                frames, self._outgoing = self._outgoing, []
                has_room, self._has_room = self._has_room, False
            if frames:
                self._send(frames)
            if has_room:
                self._deliver_rest()
                if not self._rest:
                    self.backend.on_room()

    def _send(self, frames: list[Frame]) -> None:
        accepts = self.backend.accepts
        if not all_taken(frames, accepts):
            finished: list[Frame] = []
            for frame in frames:
                pieces = finish(frame, accepts)
                finished += pieces
                if not pieces:
                    self.malformed += 1
                    if guest_error.on:
                        guest_error(self._name, f"frame of {len(frame.data)} bytes is not what its header says")
            frames = finished
        if net_send.on:
            net_send(self._name, len(frames), sum(len(frame.data) for frame in frames))
        if frames:
            self.backend.send(frames)

    def deliver(self, frames: Sequence[Frame]) -> int:
        """NetReceiver: see there."""
        if self._rest:
            self._deliver_rest()
            if self._rest:
                return 0
        accepts = self.accepts
        taken = 0
        while taken < len(frames):
            batch = frames[taken : taken + RECEIVE_BATCH] if len(frames) > RECEIVE_BATCH or taken else frames
            if all_taken(batch, accepts):
                count = self._receive(batch)
            else:
                count = self._receive_finished(batch, accepts)
            taken += count
            if count < len(batch):
                break
        if net_receive.on:
            net_receive(self._name, len(frames), taken)
        return taken

    def _receive_finished(self, frames: Sequence[Frame], accepts: Offloads) -> int:
        """As `_receive`, after the work that the guest does not take; a frame counts once its first piece is in."""
        for index, frame in enumerate(frames):
            pieces = finish(frame, accepts)
            count = self._receive(pieces)
            if count < len(pieces):
                if count == 0:
                    return index
                self._rest = pieces[count:]
                return index + 1
        return len(frames)

    def _deliver_rest(self) -> None:
        """Pieces of a frame that began before the guest's buffers were used up."""
        if self._rest:
            del self._rest[: self._receive(self._rest)]

    def _receive(self, frames: Sequence[Frame]) -> int:
        if not frames:
            return 0
        with self._lock:
            if self._is_paused:
                return 0
            # A device that is being taken apart drops what comes.
            return len(frames) if self.device is None else self.device.receive(frames)

    def close(self) -> None:
        """Part from the device. Machine lock held."""
        self.device = None
        self._outgoing = []
