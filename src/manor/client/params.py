"""Typed parameters as dictionaries. A daemon insists on each one's type, so the types are here.

Source: libvirt API reference, the VIR_DOMAIN_*, VIR_NODE_*, VIR_MIGRATE_PARAM_* and VIR_NETWORK_PORT_* fields.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from manor.base.errors import ConfigError
from manor.rpc.protocol.records import ParamType, TypedParam

Value = int | float | bool | str
Params = Mapping[str, Value]

_TYPES: dict[str, ParamType] = {
    **dict.fromkeys(
        (
            "weight", "cap", "inbound.average", "inbound.peak", "inbound.burst", "inbound.floor", "outbound.average",
            "outbound.peak", "outbound.burst", "poll-grow", "poll-shrink", "granularity", "shm_pages_to_scan",
            "shm_sleep_millisecs", "shm_merge_across_nodes", "launch-security-policy",
        ),
        ParamType.UINT,
    ),
    **dict.fromkeys(
        (
            "cpu_shares", "vcpu_period", "emulator_period", "global_period", "iothread_period", "hard_limit",
            "soft_limit", "swap_hard_limit", "min_guarantee", "poll-max-ns", "bandwidth", "buf-size",
            "total_bytes_sec", "read_bytes_sec", "write_bytes_sec", "total_iops_sec", "read_iops_sec",
            "write_iops_sec", "total_bytes_sec_max", "read_bytes_sec_max", "write_bytes_sec_max",
            "total_iops_sec_max", "read_iops_sec_max", "write_iops_sec_max", "size_iops_sec",
            "total_bytes_sec_max_length", "read_bytes_sec_max_length", "write_bytes_sec_max_length",
            "total_iops_sec_max_length", "read_iops_sec_max_length", "write_iops_sec_max_length",
            "sev-secret-set-address", "compression.xbzrle.cache",
        ),
        ParamType.ULLONG,
    ),
    **dict.fromkeys(("vcpu_quota", "emulator_quota", "global_quota", "iothread_quota"), ParamType.LLONG),
    **dict.fromkeys(
        (
            "numa_mode", "thread_pool_min", "thread_pool_max", "disks_port", "auto_converge.initial",
            "auto_converge.increment", "parallel.connections", "compression.mt.level", "compression.mt.threads",
        ),
        ParamType.INT,
    ),
}  # fmt: skip


def to_params(params: Params | Iterable[TypedParam]) -> list[TypedParam]:
    """Raises ConfigError for a value that is of no type, or not of its parameter's."""
    if not isinstance(params, Mapping):
        return list(params)
    return [TypedParam(name, *_typed(name, value)) for name, value in params.items()]


def _typed(name: str, value: Any) -> tuple[ParamType, Value]:
    kind = _TYPES.get(name)
    if kind is not None:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(name, f"it is a whole number, not {value!r}")
        return kind, value
    if isinstance(value, bool):
        return ParamType.BOOLEAN, value
    if isinstance(value, str):
        return ParamType.STRING, value
    if isinstance(value, float):
        return ParamType.DOUBLE, value
    if isinstance(value, int):
        return ParamType.LLONG if value < 0 else ParamType.ULLONG, value
    raise ConfigError(name, f"{value!r} is no number, string or truth value")


def from_params(params: Iterable[TypedParam]) -> dict[str, Value]:
    """By name. A name that occurs several times keeps its last value."""
    return {param.field: param.value for param in params}
