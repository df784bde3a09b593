"""Making another thread's KVM_RUN return: a signal that is blocked everywhere but inside the guest.

The vCPU's thread blocks the signal; KVM unblocks it while the guest runs (KVM_SET_SIGNAL_MASK). So it is never
delivered: no handler is installed, the process's own handlers are not touched, and a kick that comes between two
KVM_RUN stays pending and ends the next one. Source: Linux KVM API, section 4.21.
"""

from __future__ import annotations

import signal
import threading
from typing import Final

from manor.accel.kvm import abi

KICK_SIGNAL: Final = signal.SIGRTMIN + 3
"""A real-time signal that the C library and Python leave alone."""
_SIGNALS: Final = frozenset((KICK_SIGNAL,))
_KERNEL_SIGSET_SIZE: Final = 8


def signal_mask() -> abi.SignalMask:
    """The mask while the guest runs: what this thread blocks, without the kick.

    Signals that the thread blocks for its own reasons stay blocked. Thread: the vCPU's, after `Kicker.enter`.
    """
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    bits = 0
    for number in blocked:
        if number != KICK_SIGNAL:
            bits |= 1 << (number - 1)
    return abi.SignalMask(_KERNEL_SIGSET_SIZE, bits)


class Kicker:
    """The thread that is inside the guest now, if any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: int | None = None

    def enter(self) -> None:
        """This thread goes to the guest. Blocks the signal for the thread."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        with self._lock:
            self._thread = threading.get_ident()

    def leave(self) -> None:
        """This thread is back for good; kicks sent meanwhile are forgotten."""
        with self._lock:
            self._thread = None
        drain()

    def kick(self) -> None:
        """Interrupt the thread, if there is one. Thread: any."""
        with self._lock:
            # Under the lock: the thread cannot end before the signal is sent.
            if self._thread is not None:
                signal.pthread_kill(self._thread, KICK_SIGNAL)


def drain() -> None:
    """Forget kicks that are pending for this thread."""
    while signal.sigtimedwait(_SIGNALS, 0) is not None:
        pass
