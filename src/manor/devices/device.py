"""What every device model offers to the machine."""

from __future__ import annotations

from abc import ABC, abstractmethod


class Device(ABC):
    """A device model: pure state and reactions.

    It does not know its address, its machine, the accelerator or threads. All calls, also of timers and
    backends, are made with the machine lock held unless the device's docstring says otherwise.
    """

    name: str
    """For traces and error messages; unique in a machine."""

    @abstractmethod
    def reset(self) -> None:
        """Go to power-on state: registers, timers, interrupt lines. Backends stay connected."""

    @abstractmethod
    def save(self) -> object:
        """The guest-visible state, as a frozen dataclass of plain values."""

    @abstractmethod
    def load(self, state: object) -> None:
        """Take over what `save` of an equal device returned.

        Raises SavedStateError, and changes nothing, if the state does not fit.
        """
