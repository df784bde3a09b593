"""Who is inside an image: lets operations run side by side, waits for those that could still use a freed cluster, and
lets a maintenance operation have the image alone.

An operation on its way in or out takes no lock: it leaves its mark in a dict, which is one step under CPython. The
order makes it safe: an operation marks itself *before* it looks up where its data is; who frees a cluster takes it out
of the tables first and looks at the marks *afterwards*. So whoever found the cluster is seen.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident


class Gate:
    """Marks of the operations inside. `inside` maps a thread to the epoch in which its operation began."""

    def __init__(self) -> None:
        self.inside: dict[int, int] = {}
        self.epoch = 0
        self.owner: int | None = None
        """The thread that has the image alone; others wait in `wait`."""
        self._changed = threading.Condition()

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Be inside. Hot paths do the same by hand: mark, look at `owner`, work, `leave`."""
        ident = get_ident()
        is_nested = ident in self.inside or self.owner == ident
        try:
            if not is_nested:
                self.inside[ident] = self.epoch
                if self.owner is not None:
                    self.wait(ident)
            yield
        finally:
            if not is_nested:
                self.leave(ident)

    def wait(self, ident: int) -> None:
        """Step out again until the owner is done, then mark anew."""
        if self.owner == ident:
            return
        with self._changed:
            while True:
                self.inside.pop(ident, None)
                self._changed.notify_all()
                while self.owner is not None:
                    self._changed.wait()
                self.inside[ident] = self.epoch
                if self.owner is None:
                    return

    def leave(self, ident: int) -> None:
        self.inside.pop(ident, None)
        if self.owner is not None:
            with self._changed:
                self._changed.notify_all()

    def next_epoch(self) -> int:
        """Begin a new epoch; returns the one that ends."""
        ended = self.epoch
        self.epoch = ended + 1
        return ended

    def oldest(self) -> int:
        """The epoch of the oldest operation inside; the present one if nobody is."""
        return min(self.inside.copy().values(), default=self.epoch)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until everybody is out and keep them out. Reentrant; not from inside an operation."""
        ident = get_ident()
        if self.owner == ident:
            yield
            return
        with self._changed:
            while self.owner is not None:
                self._changed.wait()
            self.owner = ident
        try:
            with self._changed:
                while self.inside:
                    self._changed.wait()
            yield
        finally:
            with self._changed:
                self.owner = None
                self._changed.notify_all()
