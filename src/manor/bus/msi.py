"""Message-signalled interrupts: a write of `data` to an address in the interrupt window.

Source: Intel SDM volume 3, 11.11 "Message Signalled Interrupts"; PCI Local Bus 3.0, 6.8.
"""

from __future__ import annotations

from typing import Protocol


class MsiSink(Protocol):
    """Accepts interrupt messages. Thread: any."""

    def send(self, address: int, data: int) -> None: ...
