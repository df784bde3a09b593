"""Can this host run guests on KVM, and should it? One verdict, for `--accel auto`, for `manor doctor` and for tests.

    verdict = probe()
    print(verdict)              # "emulated: /dev/kvm runs ring 0 at 0.4 MIPS, SYSCALL from ring 3 does not work"
    if verdict.is_usable: ...   # a guest runs on the processor
    if verdict.can_run: ...     # a small guest runs at all; SYSCALL, speed and floating point may be missing

What is cheap is looked at each time (rights, API version, extensions: under a millisecond); what a guest has to
measure is kept in the cache until the host's kernel changes (`probe_cache`). A measurement takes under 50 ms on a
good host.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from manor.accel.kvm import ioctl, probe_cache
from manor.accel.kvm.caps import API_VERSION, Capabilities, read_capabilities
from manor.accel.kvm.errors import (
    NEWER_KERNEL,
    USE_DBT,
    DeviceBusy,
    KvmError,
    NoDevice,
    NoPermission,
)
from manor.accel.kvm.handle import Handle, create_vm, open_system
from manor.accel.kvm.ioctl import HostKernel, Kernel
from manor.accel.kvm.probe_guest import Measurement, measure

FAST_MIPS: Final = 50
"""Processors with virtualization do thousands of MIPS, interpreters about one."""
_CPUINFO: Final = Path("/proc/cpuinfo")
_BETTER_HOST: Final = (
    "use --accel dbt (binary translation, which `auto` takes here), or a host with VT-x or AMD-V given to it"
)


class KvmState(Enum):
    """What KVM is on this host. The value is the word for people."""

    USABLE = "usable"
    """Guests run on the processor."""
    EMULATED = "emulated"
    """Guests run, but ring 0 is interpreted: slower than binary translation."""
    NO_DEVICE = "no device"
    NO_PERMISSION = "no permission"
    BUSY = "busy"
    """Another hypervisor has the processor's virtualization."""
    TOO_OLD = "too old"
    """It speaks another API version."""
    MISSING_EXTENSIONS = "missing extensions"
    BROKEN = "broken"
    """It is there, and a simple guest does not work on it."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `probe` found.

    reason: one clause for people, why the state is what it is. fix: one sentence with the command to run, empty where
    there is nothing to do. mips: instructions a second of a loop in ring 0, in millions. syscall_works: SYSCALL from
    ring 3 reaches ring 0. api_version: what KVM answered. missing: required extensions that are absent. is_nested:
    this host is itself a virtual machine. is_cached: the measurement comes from the cache. None: not looked at, as
    something before it failed.
    """

    state: KvmState
    reason: str
    fix: str = ""
    mips: float | None = None
    syscall_works: bool | None = None
    api_version: int | None = None
    missing: tuple[str, ...] = ()
    is_nested: bool = False
    is_cached: bool = False

    @property
    def is_usable(self) -> bool:
        """Whether `--accel auto` takes KVM."""
        return self.state is KvmState.USABLE

    @property
    def can_run(self) -> bool:
        """Whether a guest runs at all, however slow: what `--accel kvm` and the tests with micro-guests need."""
        return self.state in (KvmState.USABLE, KvmState.EMULATED)

    def __str__(self) -> str:
        return f"{self.state.value}: {self.reason}"


def probe(
    kernel: Kernel | None = None,
    *,
    device: str = ioctl.DEVICE,
    cache: Path | None = None,
    use_cache: bool = True,
) -> Verdict:
    """Look at the host's KVM. Never raises for what the host lacks: that is the verdict.

    kernel: a fake for tests. cache: the file for the measurement, by default in the user's cache directory.
    use_cache=False measures anew, and stores nothing.
    """
    nested = _is_nested()
    path = cache or probe_cache.default_path()
    try:
        system = open_system(kernel or HostKernel(), device)
    except KvmError as error:
        return Verdict(_state_of(error), _clause(error), _sentence(error.fix), is_nested=nested)
    try:
        return _probe_system(system, nested, path if use_cache else None)
    finally:
        system.close()


def _probe_system(system: Handle, nested: bool, cache: Path | None) -> Verdict:
    version: int | None = None
    try:
        capabilities = read_capabilities(system.kernel, system.fd)
        version = capabilities.api_version
        refused = _refuse(capabilities, nested)
        if refused is not None:
            return refused
        measurement = probe_cache.load(cache)
        is_cached = measurement is not None
        if measurement is None:
            measurement = measure(system, capabilities.run_size)
            probe_cache.store(cache, measurement)
        else:
            create_vm(system).close()  # whether another hypervisor came is not a matter for the cache
    except KvmError as error:
        return Verdict(_state_of(error), _clause(error), _sentence(error.fix), api_version=version, is_nested=nested)
    return _judge(measurement, version, nested, is_cached)


def _refuse(capabilities: Capabilities, nested: bool) -> Verdict | None:
    version = capabilities.api_version
    if version != API_VERSION:
        reason = f"/dev/kvm speaks API version {version}, not {API_VERSION}"
        return Verdict(KvmState.TOO_OLD, reason, _sentence(NEWER_KERNEL), api_version=version, is_nested=nested)
    if capabilities.missing:
        names = ", ".join(name.removeprefix("KVM_CAP_") for name in capabilities.missing)
        return Verdict(
            KvmState.MISSING_EXTENSIONS,
            f"/dev/kvm lacks {names}",
            _sentence(NEWER_KERNEL),
            api_version=version,
            missing=capabilities.missing,
            is_nested=nested,
        )
    return None


def _judge(measured: Measurement, version: int, nested: bool, is_cached: bool) -> Verdict:
    speed = f"{measured.mips:,.0f}" if measured.mips >= 10 else f"{measured.mips:.1f}"
    if not measured.runs:
        state, reason, fix = KvmState.BROKEN, f"/dev/kvm does not run a simple guest: {measured.detail}", USE_DBT
    elif measured.mips < FAST_MIPS:
        reason = f"/dev/kvm runs ring 0 at {speed} MIPS, so it is emulated on this host"
        if not measured.syscall_works:
            reason += ", and SYSCALL from ring 3 does not work"
        state, fix = KvmState.EMULATED, _BETTER_HOST
    elif not measured.syscall_works:
        state, reason, fix = KvmState.BROKEN, f"{measured.detail} under /dev/kvm", USE_DBT
    else:
        state, reason, fix = KvmState.USABLE, f"/dev/kvm runs guests on the processor ({speed} MIPS)", ""
    return Verdict(
        state,
        reason,
        _sentence(fix),
        mips=measured.mips if measured.runs else None,
        syscall_works=measured.syscall_works if measured.runs else None,
        api_version=version,
        is_nested=nested,
        is_cached=is_cached,
    )


def _state_of(error: KvmError) -> KvmState:
    match error:
        case NoDevice():
            return KvmState.NO_DEVICE
        case NoPermission():
            return KvmState.NO_PERMISSION
        case DeviceBusy():
            return KvmState.BUSY
        case _:
            return KvmState.BROKEN


def _clause(error: KvmError) -> str:
    """The error without its advice, which the verdict carries apart."""
    return str(error).removesuffix(f"; {error.fix}") if error.fix else str(error)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." if text else ""


def _is_nested() -> bool:
    """Whether this host's processor says that a hypervisor runs below. Source: SDM volume 2, CPUID leaf 1, ECX bit
    31."""
    try:
        for line in _CPUINFO.read_text("ascii", "replace").splitlines():
            if line.startswith("flags"):
                return "hypervisor" in line.split()
    except OSError:
        pass
    return False
