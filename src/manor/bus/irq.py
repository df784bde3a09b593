"""Interrupt lines: wires from a device into an interrupt controller."""

from __future__ import annotations

from typing import Protocol


class IrqSink(Protocol):
    """An interrupt controller's inputs. Called only when the level changes."""

    def set_level(self, number: int, level: bool) -> None: ...


class IrqLine:
    """One wire: `number` is the controller's input. The device drives it, the controller decides edge or
    level.

    Thread: machine lock held.
    """

    __slots__ = ("_sink", "level", "number")

    def __init__(self, sink: IrqSink, number: int) -> None:
        self._sink = sink
        self.number = number
        self.level = False

    def set(self, level: bool) -> None:
        """Drive the wire to `level`; nothing happens if it is there already."""
        if level != self.level:
            self.level = level
            self._sink.set_level(self.number, level)

    def raise_(self) -> None:
        """Assert the line."""
        self.set(True)

    def lower(self) -> None:
        """Deassert the line."""
        self.set(False)

    def pulse(self) -> None:
        """Assert and deassert: one edge."""
        self.set(True)
        self.set(False)


class SharedIrq:
    """Several devices on one wire: asserted while any of them asserts (PCI INTx).

    Each device gets its own IrqLine from `line`.
    """

    def __init__(self, sink: IrqSink, number: int) -> None:
        self._output = IrqLine(sink, number)
        self._asserted: set[int] = set()
        self._inputs = 0

    def line(self) -> IrqLine:
        """A new input."""
        self._inputs += 1
        return IrqLine(self, self._inputs)

    def set_level(self, number: int, level: bool) -> None:
        """IrqSink for the inputs."""
        if level:
            self._asserted.add(number)
        else:
            self._asserted.discard(number)
        self._output.set(bool(self._asserted))
