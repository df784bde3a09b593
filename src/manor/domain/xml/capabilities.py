"""What the host and Manor's hypervisor can do, as libvirt's clients ask: capabilities and domain capabilities.

Source: libvirt, "Driver capabilities XML format" and "Domain capabilities XML format".
"""

from __future__ import annotations

from dataclasses import dataclass

MACHINE = "pc"
ARCH = "x86_64"


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What the service found out about its host. memory: bytes. emulator: path of the program that makes machines."""

    uuid: str
    memory: int
    cpus: int
    sockets: int
    cores: int
    threads: int
    cpu_model: str
    cpu_vendor: str
    emulator: str
    kvm: bool
    max_vcpus: int


def capabilities(host: HostFacts) -> str:
    """The capabilities document."""
    raise NotImplementedError


def domain_capabilities(host: HostFacts, domain_type: str = "", arch: str = "", machine: str = "",
                        emulator: str = "") -> str:  # fmt: skip
    """The domain capabilities document. "" chooses. Raises ConfigError for what this hypervisor is not."""
    raise NotImplementedError
