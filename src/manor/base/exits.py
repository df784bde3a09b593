"""Why `Vcpu.run` returned: one frozen value per reason."""

from __future__ import annotations

from dataclasses import dataclass

from manor.base.errors import ManorError


@dataclass(frozen=True, slots=True)
class Halt:
    """The guest executed HLT; nothing to do until an interrupt is pending."""


@dataclass(frozen=True, slots=True)
class WaitForSipi:
    """The vCPU waits for a start-up IPI (it was reset by INIT or never started)."""


@dataclass(frozen=True, slots=True)
class Kicked:
    """Another thread asked the vCPU to leave guest mode."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Triple fault: the processor entered the shutdown state. `reason` is for people. rip: where, if known."""

    reason: str
    rip: int | None = None


@dataclass(frozen=True, slots=True)
class Debug:
    """A breakpoint or single step of the host's debugger was reached at `rip`."""

    rip: int


@dataclass(frozen=True, slots=True)
class Fault:
    """The accelerator cannot go on; `reason` says why and where. The VM must stop. error: the same as a type, if
    any. rip: where, if known."""

    reason: str
    error: ManorError | None = None
    rip: int | None = None


Exit = Halt | WaitForSipi | Kicked | Shutdown | Debug | Fault
