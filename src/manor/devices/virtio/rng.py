"""virtio-rng: gives the guest random bytes of the host.

Source: VIRTIO 1.2, section 5.4 "Entropy Device".
"""

from __future__ import annotations

from collections.abc import Callable

from manor.devices.virtio.device import Defer, VirtioDevice
from manor.devices.virtio.queue import Queue
from manor.mem.guest_memory import GuestMemory

QUEUE_SIZE = 64

# One request gets no more than this; the driver asks again (5.4.6.2 lets the device fill less). Bounds the
# time the machine lock is held and the memory used for a request that spans gigabytes.
REQUEST_LIMIT = 4096


class VirtioRng(VirtioDevice):
    """Entropy device.

    entropy: gives the asked count of random bytes without blocking, for example os.urandom.
    """

    DEVICE_ID = 4

    def __init__(self, name: str, memory: GuestMemory, defer: Defer, entropy: Callable[[int], bytes]) -> None:
        super().__init__(name, memory, defer, [QUEUE_SIZE])
        self._entropy = entropy

    def handle_queue(self, queue: Queue) -> bool:
        for _ in range(queue.size):
            chain = queue.pop()
            if chain is None:
                return False
            size = min(chain.writable_size, REQUEST_LIMIT)
            if size == 0:
                self.report("request without room for random bytes")
            queue.add_used(chain, chain.write(self._entropy(size)))
        return queue.has_available()
