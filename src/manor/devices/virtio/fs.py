"""virtio-fs: a file system of the host, as FUSE requests in a queue.

Source: VIRTIO 1.2, section 5.11 "File System Device".

The device carries bytes; the server behind it reads requests out of guest memory and makes the answers on a thread of
its own. Answers are put into guest memory here, under the machine lock, and only if the driver has not taken the queue
back.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from manor.backends.share.api import ShareBackend
from manor.devices.virtio.device import Defer, VirtioDevice
from manor.devices.virtio.queue import Chain, Queue
from manor.mem.guest_memory import GuestMemory
from manor.regs.access import RO
from manor.regs.block import RegisterBlock
from manor.regs.field import Reg, RegisterTable

HIGH_PRIORITY_QUEUE: Final = 0
REQUEST_QUEUE: Final = 1
QUEUE_SIZE: Final = 128
TAG_SIZE: Final = 36
"""Bytes of a tag, padded with zeros (5.11.4)."""
REQUEST_LIMIT: Final = 1 << 20
"""Bytes of one request; a server agrees with its client on less. Bounds what is copied for one entry of the queue."""

_S = "VIRTIO 1.2, 5.11.4"
TAG = Reg("tag", 0x00, 32, RO, stored=False, count=TAG_SIZE // 4, stride=4, source=_S)
NUM_REQUEST_QUEUES = Reg("num_request_queues", 0x24, 32, RO, stored=False, source=_S)
CONFIG_TABLE = RegisterTable("virtio-fs config", 0x28, (TAG, NUM_REQUEST_QUEUES), split=True)


class _Request:
    """backends.share.api.ShareRequest on a chain."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.room = chain.writable_size

    def read(self) -> bytes:
        return self._chain.read(REQUEST_LIMIT)


class VirtioFs(VirtioDevice):
    """File system device with one request queue: the server works through them one by one."""

    DEVICE_ID = 26

    def __init__(self, name: str, memory: GuestMemory, defer: Defer, backend: ShareBackend) -> None:
        self._backend = backend
        self._tag = backend.tag.encode()[:TAG_SIZE].ljust(TAG_SIZE, b"\0")
        super().__init__(name, memory, defer, [QUEUE_SIZE, QUEUE_SIZE])
        self._config = RegisterBlock(CONFIG_TABLE, self, name)

    def on_reset(self) -> None:
        self._backend.reset()

    def handle_queue(self, queue: Queue) -> bool:
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None:
                return False
            self._backend.submit(_Request(chain), partial(self._done, queue, chain))
        return queue.has_available()

    def _done(self, queue: Queue, chain: Chain, answer: bytes) -> None:
        """Thread: the backend's."""
        self._defer(partial(self._complete, queue, chain, answer))

    def _complete(self, queue: Queue, chain: Chain, answer: bytes) -> None:
        if not queue.holds(chain) or not queue.is_active:
            return  # reset meanwhile: its memory is the driver's again
        queue.add_used(chain, chain.write(answer))
        self.finish(queue)

    # -- configuration --

    @property
    def config_size(self) -> int:
        return CONFIG_TABLE.size

    def read_config(self, offset: int, size: int) -> int:
        return self._config.read(offset, size)

    def write_config(self, offset: int, size: int, value: int) -> None:
        self._config.write(offset, size, value)

    def on_read_tag(self, index: int) -> int:
        return int.from_bytes(self._tag[4 * index : 4 * index + 4], "little")

    def on_read_num_request_queues(self) -> int:
        return 1
