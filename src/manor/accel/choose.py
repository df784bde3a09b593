"""Which accelerator runs the guest, and why."""

from __future__ import annotations

from dataclasses import dataclass

from manor.accel.api import Accel
from manor.accel.kvm.probe import Verdict, probe
from manor.base.errors import ConfigError, HostError
from manor.spec.machine import ACCEL_NAMES


@dataclass(frozen=True, slots=True)
class Choice:
    """An accelerator and the reason for it, one clause for people."""

    accel: Accel
    why: str

    def __str__(self) -> str:
        return f"accelerator {self.accel.name}: {self.why}"


def choose(name: str, verdict: Verdict | None = None) -> Choice:
    """The accelerator that `name` asks for; `auto` picks one.

    verdict: what the probe said, where it was asked already.
    Raises ConfigError for an unknown or unavailable name, HostError if the native parts are not built.
    """
    if name not in ACCEL_NAMES:
        raise ConfigError("accel", f"{name!r} is unknown; give one of {', '.join(ACCEL_NAMES)}")
    if name == "dbt":
        return Choice(_load_dbt(), "binary translation, as asked for")
    verdict = verdict or probe()
    if name == "kvm":
        if not verdict.can_run:
            advice = f"; {verdict.fix[:1].lower()}{verdict.fix[1:].rstrip('.')}" if verdict.fix else ""
            raise ConfigError("accel", f"kvm is {verdict.state.value} here: {verdict.reason}{advice}")
        return Choice(_load_kvm(), "as asked for" if verdict.is_usable else f"as asked for, but {verdict.reason}")
    if verdict.is_usable:
        return Choice(_load_kvm(), verdict.reason)
    return Choice(_load_dbt(), f"binary translation, as kvm is {verdict.state.value}: {verdict.reason}")


def _load_kvm() -> Accel:
    """Imported here and not above: a guest under dbt does not need it."""
    from manor.accel.kvm.accel import KvmAccel

    return KvmAccel()


def _load_dbt() -> Accel:
    """Imported here and not above: it loads the native engine, which most commands do not need."""
    try:
        from manor.accel.dbt.accel import DbtAccel
    except ImportError as error:
        raise HostError(f"the engine's native parts are not built ({error}); make setup builds them") from error
    return DbtAccel()
