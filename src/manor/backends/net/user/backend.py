"""The user-mode network as a NetBackend: frames of the device in and out, turns of the loop, timers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from manor.backends.loop import Callback, Loop
from manor.backends.net.api import Frame, NetReceiver, Offloads
from manor.backends.net.user import memory
from manor.backends.net.user.core import UserNetwork
from manor.backends.net.user.host import HostSide
from manor.backends.net.user.host_socket import Address
from manor.backends.net.user.plan import Plan
from manor.backends.net.user.resolver import RESOLV_CONF
from manor.base.clock import Clock
from manor.base.timers import TimerHandle
from manor.spec.net import PortForward
from manor.spec.record import plain, read

MAX_BACKLOG: Final = 1024
"""Frames that wait for a guest that takes none; more are lost, as on a wire. TCP stops reading from the host at the
first one."""

_ACCEPTS: Final = Offloads(checksum=True, tcpv4=True, tcpv6=True)
_NOTHING: Final = Offloads()


class UserBackend:
    """A NetBackend. Thread: the owner's, but for `addresses` and `statistics`; the constructor before the loop starts
    or on it."""

    def __init__(
        self,
        plan: Plan,
        loop: Loop,
        clock: Clock,
        forwards: Sequence[PortForward] = (),
        *,
        other_names: Callable[[str], Sequence[bytes] | None] = lambda name: None,
        resolvers: Path | list[Address] = RESOLV_CONF,
    ) -> None:
        """Listens on the forwarded ports at once. Raises ConfigError or HostError if one cannot be had.

        other_names: addresses of other machines for the DNS. resolvers: a resolv.conf, or addresses.
        """
        self._loop = loop
        self._clock = clock
        self._receiver: NetReceiver | None = None
        self._last_receiver: NetReceiver | None = None
        self._backlog: list[Frame] = []
        self._is_up = True
        self._is_closed = False
        self._in_turn = False
        self._timer: TimerHandle | None = None
        self._timer_at = 0
        self._counters = dict.fromkeys(
            ("frames_from_guest", "bytes_from_guest", "frames_to_guest", "bytes_to_guest"), 0
        )
        self._lost = 0
        self._host = HostSide(loop, clock, self._turn, self._is_full, resolvers)
        self._core = self._host.core = UserNetwork(plan, self._host, other_names=other_names)
        self._core.enter(_NOTHING, clock.now_ns())
        try:
            for forward in forwards:
                self._host.forwards.add(forward)
        except BaseException:
            self._host.close()
            raise

    @property
    def plan(self) -> Plan:
        return self._core.plan

    # --- NetBackend -----------------------------------------------------------------------------------------

    @property
    def accepts(self) -> Offloads:
        return _ACCEPTS

    @property
    def mtu(self) -> int:
        return self._core.plan.mtu

    def attach(self, receiver: NetReceiver | None) -> None:
        """Another receiver than the last is another machine: what the old one had open is closed. The same one
        again, after a reset by its driver, keeps its connections."""
        self._receiver = receiver
        self._backlog.clear()
        self._core.tcp.is_stalled = receiver is None
        if receiver is not None and receiver is not self._last_receiver:
            if self._last_receiver is not None:
                self._core.new_guest()
            self._last_receiver = receiver
        if receiver is not None:
            self.on_room()

    def send(self, frames: Sequence[Frame]) -> None:
        if not self._is_up or self._is_closed:
            return
        counters = self._counters
        counters["frames_from_guest"] += len(frames)
        for frame in frames:
            counters["bytes_from_guest"] += len(frame.data)
        self._in_turn = True
        try:
            self._core.receive(frames, self._offloads(), self._clock.now_ns())
        finally:
            self._in_turn = False
        self._deliver()

    def on_room(self) -> None:
        if self._backlog:
            self._deliver()
        if not self._backlog and self._receiver is not None:
            self._core.tcp.is_stalled = False
            if self._host.has_paused:
                self._turn(self._host.resume)

    def set_link(self, is_up: bool) -> None:
        self._is_up = is_up
        self._backlog.clear()
        if is_up:
            self.on_room()

    def addresses(self) -> Sequence[str]:
        return self._core.known_addresses

    def statistics(self) -> dict[str, int]:
        core = self._core
        return self._counters | {
            "frames_lost": self._lost,
            "frames_refused": core.dropped,
            "tcp_open": len(core.tcp),
            "tcp_opened": core.tcp.opened,
            "tcp_refused": core.tcp.refused,
            "tcp_evicted": core.tcp.evicted,
            "udp_open": len(core.udp.udp),
            "udp_evicted": core.udp.udp.evicted,
            "echo_open": len(core.udp.echo),
            "dns_answered": core.dns.answered,
            "dns_forwarded": core.dns.forwarded,
            "dns_failed": core.dns.failed,
            "out_of_descriptors": self._host.exhausted,
        }

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._receiver = None
        self._core.new_guest()
        self._host.close()
        self._core.out.clear()
        self._backlog.clear()
        if self._timer is not None:
            self._timer.cancel()

    def remember(self) -> Any:
        """RemembersGuest: leases, neighbours, connections."""
        return plain(memory.remember(self._core, self._clock.now_ns()))

    def recall(self, known: Any) -> None:
        """RemembersGuest: connections are reset."""
        found = read(memory.NetMemory, known, "network")
        memory.check(found)
        self._turn(lambda: memory.recall(self._core, found, self._clock.now_ns()))

    # --- forwards -------------------------------------------------------------------------------------------

    def add_forward(self, forward: PortForward) -> PortForward:
        """Forward one more port; returns it with the host port that it got. Raises ConfigError or HostError."""
        return self._host.forwards.add(forward)

    def remove_forward(self, protocol: str, host_port: int, host_address: str = "") -> PortForward:
        """Forward a port no more; connections that are open stay. Raises HostError if it is not forwarded."""
        return self._host.forwards.remove(protocol, host_port, host_address)

    def forwards(self) -> tuple[PortForward, ...]:
        """The forwarded ports, with the numbers that the host chose."""
        return self._host.forwards.all()

    # --- turns ----------------------------------------------------------------------------------------------

    def _is_full(self) -> bool:
        """Whether nobody takes frames at present."""
        return bool(self._backlog) or self._receiver is None

    def _offloads(self) -> Offloads:
        return _NOTHING if self._receiver is None else self._receiver.accepts

    def _turn(self, callback: Callback) -> None:
        """Run `callback` as one entry into the core, then deliver. A turn inside another is part of it."""
        if self._is_closed:
            return
        if self._in_turn:
            callback()
            return
        self._in_turn = True
        try:
            self._core.enter(self._offloads(), self._clock.now_ns())
            callback()
            self._core.leave()
        finally:
            self._in_turn = False
        self._deliver()

    def _expire(self) -> None:
        self._timer = None
        if self._is_closed:
            return
        self._in_turn = True
        try:
            self._core.expire(self._offloads(), self._clock.now_ns())
        finally:
            self._in_turn = False
        self._deliver()

    def _deliver(self) -> None:
        """Hand what the core left to the device, in order behind what it did not take before."""
        out = self._core.out
        if out or self._backlog:
            frames = self._backlog + out if self._backlog else out[:]
            out.clear()
            receiver = self._receiver
            if receiver is None or not self._is_up:
                self._lost += len(frames)
                frames = []
            else:
                taken = receiver.deliver(frames)
                counters = self._counters
                counters["frames_to_guest"] += taken
                left = frames[taken:]
                if left:
                    del frames[taken:]
                for frame in frames:
                    counters["bytes_to_guest"] += len(frame.data)
                frames = left
                if len(frames) > MAX_BACKLOG:
                    self._lost += len(frames) - MAX_BACKLOG
                    del frames[MAX_BACKLOG:]
            self._backlog = frames
            self._core.tcp.is_stalled = bool(frames) or receiver is None
            if self._host.has_paused and not frames:
                self._loop.call_soon_threadsafe(self.on_room)  # a turn for those who had none in this one
        self._arm()

    def _arm(self) -> None:
        """See to it that `_expire` runs at the core's deadline. A timer that is too early re-arms itself when it
        runs."""
        deadline = self._core.deadline
        if deadline is None or (self._timer is not None and self._timer_at <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        self._timer = self._loop.at(deadline, self._expire)
