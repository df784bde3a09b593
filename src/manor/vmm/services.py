"""What a VM offers its guest beside disks and networks: sockets, an agent's port, shared folders.

The host's ends outlive the machine: a reboot builds new devices. Modules are loaded only for what the VM has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from manor.backends.loop import Loop
from manor.base.clock import Clock
from manor.spec.machine import MachineSpec

if TYPE_CHECKING:
    from manor.backends.agent.client import AgentClient
    from manor.backends.agent.transport import PortTransport
    from manor.backends.share.worker import SharedFolder
    from manor.backends.vsock.host import VsockHost
    from manor.machine.pc import Machine


class Services:
    """The host's ends of one VM. on_error gets a bug of a server, on its thread."""

    def __init__(self, spec: MachineSpec, loop: Loop, clock: Clock, on_error: Callable[[BaseException], None]) -> None:
        self.vsock: VsockHost | None = None
        self.agent: AgentClient | None = None
        self.agent_port: PortTransport | None = None
        self.shares: list[SharedFolder] = []
        self._spec = spec
        self._on_error = on_error
        if spec.vsock is not None:
            from manor.backends.vsock.host import VsockHost

            self.vsock = VsockHost(loop, clock, spec.vsock.cid, spec.vsock.path)
        if spec.agent:
            from manor.backends.agent.client import AgentClient
            from manor.backends.agent.transport import PortTransport

            self.agent_port = PortTransport()
            self.agent = AgentClient(self.agent_port)

    def open(self) -> None:
        """Open sockets and folders. Raises ConfigError, HostError; then `close` is still to be called."""
        if self.vsock is not None:
            self.vsock.open()
        if self._spec.shares:
            from manor.backends.share.worker import SharedFolder

            for share in self._spec.shares:
                self.shares.append(SharedFolder(share, self._on_error))

    def connect(self, machine: Machine) -> None:
        """A newly built machine, not yet running."""
        if self.agent_port is not None and machine.agent is not None:
            self.agent_port.connect(machine.agent, machine.lock)

    def disconnect(self) -> None:
        """The machine is being taken apart."""
        if self.agent_port is not None:
            self.agent_port.disconnect()

    def close(self) -> None:
        """Give everything back. Thread: the I/O loop's, or it does not run."""
        if self.vsock is not None:
            self.vsock.close()
        for share in self.shares:
            share.close()

    @property
    def has_agent(self) -> bool:
        """Whether a program of the guest has opened the agent's port."""
        return self.agent_port is not None and self.agent_port.is_open
