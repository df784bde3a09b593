"""The network interfaces of a running VM, as its owner sees them.

The far ends of the cables outlive the machine: a reboot builds new devices, connections through the host go on.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from manor.backends.loop import Loop
from manor.backends.net.api import NetBackend, RemembersGuest
from manor.backends.net.open import NetHost, open_network
from manor.backends.net.wrapper import NetWrapper
from manor.base.clock import Clock
from manor.base.errors import ConfigError, HostError
from manor.spec.check_net import check_forward
from manor.spec.mac import derive_mac, parse_mac, show_mac
from manor.spec.machine import MachineSpec
from manor.spec.net import NicSpec, PortForward
from manor.spec.net_text import parse_port
from manor.vmm.net_loop import NetLoop

if TYPE_CHECKING:
    from manor.backends.net.user.backend import UserBackend
    from manor.devices.virtio.net import VirtioNet
    from manor.devices.virtio.net_port import NetPort

_CALL_S: Final = 60.0
"""Many times what the loop ever takes, for a machine that is busy."""
T = TypeVar("T")


class Call(Protocol):
    """Runs something on the loop's thread and waits for it."""

    def __call__(self, work: Callable[[], T]) -> T: ...


class Forwards:
    """Ports of the host that lead into the guest through one user-mode interface. Thread: any but the I/O loop's."""

    def __init__(self, nic: Nic) -> None:
        self._nic = nic

    def list(self) -> tuple[PortForward, ...]:
        """Those in force, with the host's ports that were chosen; none for other kinds of interfaces."""
        backend = self._nic.forwarding
        return () if backend is None else self._nic.call(backend.forwards)

    def add(self, forward: PortForward | str) -> PortForward:
        """Forward one more, also given as text such as "8080:80"; returns it with the host's port that was chosen.

        Raises ConfigError or HostError.
        """
        wanted = parse_port(forward) if isinstance(forward, str) else forward
        check_forward(wanted, "port")
        return self._nic.call(lambda: self._backend().add_forward(wanted))

    def remove(self, forward: PortForward) -> None:
        """Forward it no more; open connections stay. Raises HostError if it is not forwarded."""
        self._nic.call(
            lambda: self._backend().remove_forward(forward.protocol, forward.host_port, forward.host_address)
        )

    def _backend(self) -> UserBackend:
        backend = self._nic.forwarding
        if backend is None:
            raise ConfigError("port", f"only user-mode interfaces forward ports; this one is {self._nic.spec.kind}")
        return backend


class Nic:
    """One interface. Thread: any but the I/O loop's, unless a method says otherwise."""

    def __init__(self, spec: NicSpec, host: NetHost, call: Call, network_lock: threading.RLock) -> None:
        """call: runs something on the loop's thread, with the network's lock, and waits for it. Raises ConfigError or
        HostError."""
        self.spec = spec
        self.network_lock = network_lock
        self.mac = host.mac
        self.backend = open_network(spec, host)
        self.is_link_up = spec.link_up and spec.kind != "none"
        self.call = call
        self.forwards = Forwards(self)
        self._device: VirtioNet | None = None
        self._port: NetPort | None = None
        self._lock: threading.RLock | None = None
        self._totals: dict[str, int] = {}
        if not self.is_link_up:
            self.backend.set_link(False)

    @property
    def forwarding(self) -> UserBackend | None:
        """The user-mode network behind this interface, if it is one."""
        backend = self._innermost
        if self.spec.kind != "user":
            return None
        from manor.backends.net.user.backend import UserBackend

        return backend if isinstance(backend, UserBackend) else None

    @property
    def mac_text(self) -> str:
        """The address as people write it."""
        return show_mac(self.mac)

    def addresses(self) -> list[str]:
        """IP addresses of the guest as far as known: its lease first, then what its frames say, the latest first."""
        return list(self.backend.addresses())

    def set_link(self, is_up: bool) -> None:
        """Plug the cable in or pull it; the guest sees that at once."""
        self.is_link_up = is_up
        device, lock = self._device, self._lock
        if device is not None and lock is not None:
            with lock:
                device.set_link(is_up)
        self.call(partial(self.backend.set_link, is_up))

    def start_capture(self, path: str | PathLike[str]) -> None:
        """Write all frames into a pcapng file from now on. Raises ConfigError or HostError."""
        self.call(partial(self.backend.start, Path(path)))

    def stop_capture(self) -> None:
        """Write no more; the file is complete."""
        self.call(self.backend.stop)

    def announce(self) -> None:
        """Ask the guest to tell the network where it is, as after it moved."""
        device, lock = self._device, self._lock
        if device is not None and lock is not None:
            with lock:
                device.announce()

    def remember(self) -> Any:
        """What the network knows of the guest, for JSON; None if nothing."""
        backend = self._innermost
        return self.call(backend.remember) if isinstance(backend, RemembersGuest) else None

    def recall(self, known: Any) -> None:
        """Take over what `remember` gave in another process; the machine is connected. Raises ProtocolError."""
        backend = self._innermost
        if known is not None and isinstance(backend, RemembersGuest):
            self.call(partial(backend.recall, known))

    @property
    def _innermost(self) -> NetBackend:
        backend: NetBackend = self.backend
        while isinstance(backend, NetWrapper):
            backend = backend.inner
        return backend

    def statistics(self) -> dict[str, int]:
        """Counters since the VM was started; those of the guest's side go on over reboots."""
        counters = dict(self._totals)
        if self._device is not None:
            for name, value in self._device.counters.items():
                counters[name] = counters.get(name, 0) + value
        if self._port is not None:
            counters["send_malformed"] = counters.get("send_malformed", 0) + self._port.malformed
        return counters | self.backend.statistics()

    # --- for the VM -------------------------------------------------------------------------------------------------

    def connect(self, device: VirtioNet, port: NetPort, lock: threading.RLock) -> None:
        """The machine runs: frames flow. The loop is running."""
        self._device, self._port, self._lock = device, port, lock
        with lock:
            device.set_link(self.is_link_up)
        self.call(partial(self.backend.attach, port))

    def disconnect(self) -> None:
        """The machine is taken apart: frames for it are dropped until the next one runs."""
        if self._port is None:
            return
        self.call(partial(self.backend.attach, None))
        self._totals = {
            name: value for name, value in self.statistics().items() if name not in self.backend.statistics()
        }
        self._device = self._port = self._lock = None


class Nics:
    """All interfaces of a VM, and how to reach the loop that they live on."""

    def __init__(self, loop: Loop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._is_running = False
        self.all: tuple[Nic, ...] = ()

    def open(self, spec: MachineSpec) -> None:
        """Open the far ends. Before the loop runs. Raises ConfigError or HostError, with nothing left open."""
        opened: list[Nic] = []
        try:
            for index, nic in enumerate(spec.nics):
                mac = parse_mac(nic.mac) if nic.mac else derive_mac(spec.name, index)
                lock = threading.RLock()
                host = NetHost(NetLoop(self._loop, lock), self._clock, mac, index, spec.name)
                opened.append(Nic(nic, host, partial(self._call_locked, lock), lock))
        except BaseException:
            for done in opened:
                done.backend.close()
            raise
        self.all = tuple(opened)

    def loop_runs(self) -> None:
        """From now on calls go to the loop's thread."""
        self._is_running = True

    def connect(self, devices: Sequence[VirtioNet], ports: Sequence[NetPort], lock: threading.RLock) -> None:
        for nic, device, port in zip(self.all, devices, ports, strict=True):
            nic.connect(device, port, lock)

    def disconnect(self) -> None:
        for nic in self.all:
            nic.disconnect()

    def close(self) -> None:
        """Release everything on the host. While the loop still runs, or if it never did."""
        for nic in self.all:
            nic.call(nic.backend.close)

    def _call_locked(self, lock: threading.RLock, work: Callable[[], T]) -> T:
        """As `call`, with a network's lock held."""

        def run() -> T:
            with lock:
                return work()

        return self.call(run)

    def call(self, work: Callable[[], T]) -> T:
        """Run `work` on the loop's thread and wait; here, if the loop does not run. Raises what it raises."""
        if not self._is_running:
            return work()
        done = threading.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:  # noqa: BLE001 -- handed over to the caller's thread
                errors.append(error)
            finally:
                done.set()

        self._loop.call_soon_threadsafe(run)
        if not done.wait(_CALL_S):
            raise HostError("the I/O loop does not answer")
        if errors:
            raise errors[0]
        return results[0]

    def stopped(self) -> None:
        """The loop does not run any more."""
        self._is_running = False
