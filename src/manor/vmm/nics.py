"""The network interfaces of a running VM, as its owner sees them.

The far ends of the cables outlive the machine: a reboot builds new devices, connections through the host go on.
"""

from __future__ import annotations

import itertools
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
from manor.spec.names import nic_name
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

    def __init__(
        self, spec: NicSpec, host: NetHost, call: Call, network_lock: threading.RLock, name: str
    ) -> None:
        """call: runs something on the loop's thread, with the network's lock, and waits for it. name: in the VM. Raises
        ConfigError or HostError."""
        self.spec = spec
        self.name = name
        self.network_lock = network_lock
        self.mac = host.mac
        self.number = host.position
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
        backend = _innermost(self.backend)
        if self.spec.kind != "user":
            return None
        from manor.backends.net.user.backend import UserBackend

        return backend if isinstance(backend, UserBackend) else None

    def addresses_of(self, name: str) -> Sequence[bytes] | None:
        """Of another VM on the isolated network behind this interface; None if nobody there is called so. Thread:
        any."""
        network = _innermost(self.backend)
        if self.spec.kind != "isolated":
            return None
        from manor.backends.net.isolated import IsolatedNet

        return network.addresses_of(name) if isinstance(network, IsolatedNet) else None

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
        backend = _innermost(self.backend)
        return self.call(backend.remember) if isinstance(backend, RemembersGuest) else None

    def recall(self, known: Any) -> None:
        """Take over what `remember` gave in another process; the machine is connected. Raises ProtocolError."""
        backend = _innermost(self.backend)
        if known is not None and isinstance(backend, RemembersGuest):
            self.call(partial(backend.recall, known))

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


def _innermost(backend: NetBackend) -> NetBackend:
    """What is behind all that captures, shapes and watches."""
    while isinstance(backend, NetWrapper):
        backend = backend.inner
    return backend


class Nics:
    """All interfaces of a VM, and how to reach the loop that they live on."""

    def __init__(self, loop: Loop, clock: Clock) -> None:
        self._loop = loop
        self._clock = clock
        self._is_running = False
        self._numbers: set[int] = set()
        """Of the interfaces that are open; MAC addresses are derived from them."""
        self.all: tuple[Nic, ...] = ()

    def open(self, spec: MachineSpec) -> None:
        """Open the far ends. Before the loop runs. Raises ConfigError or HostError, with nothing left open."""
        opened: list[Nic] = []
        try:
            for index, nic in enumerate(spec.nics):
                opened.append(self._open(nic, nic_name(nic, index), index, spec.name))
        except BaseException:
            for done in opened:
                done.backend.close()
            raise
        self.all = tuple(opened)
        self._numbers = set(range(len(opened)))

    def open_one(self, spec: NicSpec, name: str, vm_name: str) -> Nic:
        """The far end of one more interface; `add` it then. Raises ConfigError or HostError."""
        number = next(number for number in itertools.count() if number not in self._numbers)
        self._numbers.add(number)
        try:
            nic = self.call(partial(self._open, spec, name, number, vm_name))
        except BaseException:
            self._numbers.discard(number)
            raise
        return nic

    def _open(self, spec: NicSpec, name: str, number: int, vm_name: str) -> Nic:
        mac = parse_mac(spec.mac) if spec.mac else derive_mac(vm_name, number)
        lock = threading.RLock()
        host = NetHost(NetLoop(self._loop, lock), self._clock, mac, number, vm_name, self._addresses_of)
        return Nic(spec, host, partial(self._call_locked, lock), lock, name)

    def add(self, nic: Nic) -> None:
        """From now on it is one of the VM's."""
        self.all = (*self.all, nic)

    def take_out(self, nic: Nic) -> None:
        """It is none of the VM's any more; `drop` it then."""
        self.all = tuple(one for one in self.all if one is not nic)

    def drop(self, nic: Nic) -> None:
        """Release the far end of an interface that is none of the VM's, or not yet. While the loop runs."""
        nic.disconnect()
        nic.call(nic.backend.close)
        self._numbers.discard(nic.number)

    def _addresses_of(self, name: str) -> Sequence[bytes] | None:
        """Of another VM that shares an isolated network with this one."""
        found = [addresses for nic in self.all if (addresses := nic.addresses_of(name)) is not None]
        return [address for addresses in found for address in addresses] if found else None

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
