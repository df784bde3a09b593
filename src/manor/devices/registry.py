"""Kinds of devices and where they live; modules are imported on demand."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from manor.base.errors import ConfigError

KINDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "lapic": "manor.devices.intc.lapic:LocalApic",
        "ioapic": "manor.devices.intc.ioapic:IoApic",
        "serial": "manor.devices.serial.ns16550:Ns16550",
        "pit": "manor.devices.timer.i8254:I8254",
        "rtc": "manor.devices.rtc.mc146818:Mc146818",
        "power": "manor.devices.misc.power:PowerControl",
        "virtio-rng": "manor.devices.virtio.rng:VirtioRng",
        "nvme": "manor.devices.nvme.controller:NvmeController",
        "virtio-blk": "manor.devices.virtio.blk:VirtioBlk",
        "virtio-balloon": "manor.devices.virtio.balloon:VirtioBalloon",
        "virtio-fs": "manor.devices.virtio.fs:VirtioFs",
        "virtio-vsock": "manor.devices.virtio.vsock:VirtioVsock",
        "virtio-console": "manor.devices.virtio.console:VirtioConsole",
        "virtio-net": "manor.devices.virtio.net:VirtioNet",
    }
)
"""kind -> "module:Class"."""


def device_class(kind: str) -> type:
    """The class for `kind`. Raises ConfigError if there is no such kind."""
    try:
        module, _, name = KINDS[kind].partition(":")
    except KeyError:
        known = ", ".join(sorted(KINDS))
        raise ConfigError("devices", f"unknown device kind {kind!r}; known: {known}") from None
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, type):
        raise TypeError(f"{KINDS[kind]} is not a class")
    return found
