"""The vocabulary in which vector and floating-point uops are written.

A vector is a list of lanes, lowest first; a lane is a value of `context.Context`, so every
integer operation of that vocabulary applies to it. Floating-point lanes are bit patterns;
operations on them are named calls (`call`), which a back end maps to functions that round, signal and
propagate NaNs as the guest's MXCSR and the architecture say (`float_native` for the interpreter).

Bodies run once per back end while the engine is built. They unroll over lanes.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from manor.engine.uop.context import Context

V = TypeVar("V")


class VectorContext(Context[V], Protocol[V]):
    """What a back end offers to the bodies of vector uops."""

    def call(self, function: str, bits: int, *arguments: V) -> V:
        """Result (of `bits` width) of a floating-point or host function, by its name in `float_native`."""


class Operand(Protocol[V]):
    """An xmm operand of a body."""

    def lanes(self, bits: int) -> list[V]:
        """All 128 / bits lanes, lowest first."""
