"""A NetBackend around another: what captures, shapes and watches is built on this."""

from __future__ import annotations

from collections.abc import Sequence

from manor.backends.net.api import Frame, NetBackend, NetReceiver, Offloads


class NetWrapper:
    """Passes everything on. What differs overrides `send` (from the guest) and `deliver` (to the guest)."""

    def __init__(self, inner: NetBackend) -> None:
        self.inner = inner
        self.receiver: NetReceiver | None = None

    @property
    def accepts(self) -> Offloads:
        return self.inner.accepts

    @property
    def mtu(self) -> int:
        return self.inner.mtu

    def attach(self, receiver: NetReceiver | None) -> None:
        self.receiver = receiver
        self.inner.attach(None if receiver is None else _Inward(self, receiver))

    def send(self, frames: Sequence[Frame]) -> None:
        self.inner.send(frames)

    def deliver(self, frames: Sequence[Frame]) -> int:
        """As NetReceiver.deliver."""
        return len(frames) if self.receiver is None else self.receiver.deliver(frames)

    def on_room(self) -> None:
        self.inner.on_room()

    def set_link(self, is_up: bool) -> None:
        self.inner.set_link(is_up)

    def addresses(self) -> Sequence[str]:
        return self.inner.addresses()

    def statistics(self) -> dict[str, int]:
        return self.inner.statistics()

    def close(self) -> None:
        self.inner.close()


class _Inward:
    """The receiver of the inner backend: `accepts` means something else on this side."""

    def __init__(self, wrapper: NetWrapper, receiver: NetReceiver) -> None:
        self._wrapper = wrapper
        self._receiver = receiver

    @property
    def accepts(self) -> Offloads:
        return self._receiver.accepts

    def deliver(self, frames: Sequence[Frame]) -> int:
        return self._wrapper.deliver(frames)
