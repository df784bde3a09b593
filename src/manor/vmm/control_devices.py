"""Commands of the control socket about disks and network interfaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Final, Protocol, runtime_checkable

from manor.backends.net.api import NetBackend
from manor.base.errors import ConfigError
from manor.spec.block import DiskSpec
from manor.spec.control import Json
from manor.spec.disk_text import parse_disk
from manor.spec.machine_json import part_from_json
from manor.spec.net import NicSpec, PortForward
from manor.spec.net_text import parse_nic, parse_port
from manor.vmm.control import Client, Command, Reply
from manor.vmm.nics import Nic
from manor.vmm.vm import Vm

CHANGE_S: Final = 10.0
"""How long the guest may take to give the old medium back, unless the client says otherwise; in seconds."""


@runtime_checkable
class Forwarder(Protocol):
    """A network backend that listens on the host for the guest. Thread: the loop's."""

    def add_forward(self, forward: PortForward) -> PortForward: ...
    def remove_forward(self, protocol: str, host_port: int, host_address: str = "") -> PortForward: ...
    def forwards(self) -> tuple[PortForward, ...]: ...


class DeviceControl:
    """What clients can do with disks and interfaces of a VM."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    def commands(self) -> Mapping[str, Command]:
        """The table for a ControlServer."""
        return {
            "nics": Command(self._nics),
            "port-add": Command(self._port_add, {"port": str}),
            "port-remove": Command(self._port_remove, {"protocol": str, "host_port": int}, {"host_address": str}),
            "link": Command(self._link, {"nic": (int, str), "up": bool}, is_slow=True),
            "resize-disk": Command(self._resize_disk, {"disk": (int, str), "size": int}, is_slow=True),
            "devices": Command(self._list, is_slow=True),
            "device-add": Command(self._add, {}, {"disk": (str, dict), "nic": (str, dict), "id": str}, is_slow=True),
            "device-remove": Command(self._remove, {"device": str}, is_slow=True),
            "device-change": Command(
                self._change, {"device": str}, {"disk": (str, dict), "seconds": (int, float)}, is_slow=True
            ),
            "cpus": Command(self._cpus, {}, {"count": int}, is_slow=True),
        }

    def addresses(self) -> list[str]:
        """Of the guest, over all interfaces, those of leases first."""
        return list(dict.fromkeys(address for nic in self._vm.nics for address in nic.addresses()))

    def ports(self) -> list[str]:
        """Forwarded ports in words, as `--port` takes them."""
        return [show_forward(each) for nic in self._vm.nics for each in _forwards(nic)]

    def _nics(self, client: Client, arguments: Json, reply: Reply) -> Json:
        return {
            "nics": [
                {
                    "name": nic.name,
                    "kind": nic.spec.kind,
                    "mac": nic.mac_text,
                    "up": nic.is_link_up,
                    "addresses": nic.addresses(),
                    "ports": [_as_json(each) for each in _forwards(nic)],
                    "statistics": nic.statistics(),
                }
                for nic in self._vm.nics
            ]
        }

    def _port_add(self, client: Client, arguments: Json, reply: Reply) -> Json:
        """Forward a port on the first interface that can. Host port 0: the host chooses."""
        forward = parse_port(arguments["port"])
        return _as_json(self._forwarder().add_forward(forward))

    def _port_remove(self, client: Client, arguments: Json, reply: Reply) -> Json:
        gone = self._forwarder().remove_forward(
            arguments["protocol"], arguments["host_port"], arguments.get("host_address", "")
        )
        return _as_json(gone)

    def _forwarder(self) -> Forwarder:
        for nic in self._vm.nics:
            found = _forwarder_of(nic)
            if found is not None:
                return found
        raise ConfigError("port", "the VM has no user-mode interface to forward ports through; add --net user")

    def _link(self, client: Client, arguments: Json, reply: Reply) -> Json:
        self._nic(arguments["nic"]).set_link(arguments["up"])
        return {}

    def _nic(self, which: int | str) -> Nic:
        nics = self._vm.nics
        if isinstance(which, str):
            for nic in nics:
                if nic.name == which:
                    return nic
            there = ", ".join(nic.name for nic in nics) or "none"
            raise ConfigError("nic", f"{which!r} is no interface; there are: {there}")
        if not 0 <= which < len(nics):
            raise ConfigError("nic", f"there is no interface {which}; the VM has {len(nics)}, counted from 0")
        return nics[which]

    def _resize_disk(self, client: Client, arguments: Json, reply: Reply) -> Json:
        self._vm.resize_disk(arguments["disk"], arguments["size"])
        return {}

    def _list(self, client: Client, arguments: Json, reply: Reply) -> Json:
        """Devices that may go."""
        return {"devices": [asdict(device) for device in self._vm.devices.all()]}

    def _add(self, client: Client, arguments: Json, reply: Reply) -> Json:
        """Plug in a disk or an interface, described by a line as for the command line, or by an object."""
        given = [kind for kind in ("disk", "nic") if kind in arguments]
        if len(given) != 1:
            raise ConfigError("disk", "describe one device: either a disk or a nic")
        value, name = arguments[given[0]], arguments.get("id", "")
        if given == ["disk"]:
            disk = _disk_of(value)
            name = self._vm.devices.add_disk(replace(disk, id=name or disk.id))
        else:
            nic = parse_nic(value) if isinstance(value, str) else part_from_json(NicSpec, value, "nic")
            name = self._vm.devices.add_nic(replace(nic, id=name or nic.id))
        slots = {device.name: device.slot for device in self._vm.devices.all()}
        return {"device": name, "slot": slots.get(name, 0)}

    def _remove(self, client: Client, arguments: Json, reply: Reply) -> Json:
        """Ask the guest; an event of topic "devices" tells when it is gone."""
        self._vm.devices.remove(arguments["device"])
        return {}

    def _change(self, client: Client, arguments: Json, reply: Reply) -> Json:
        """Another medium for a drive, or none."""
        seconds = float(arguments.get("seconds", CHANGE_S))
        if not 0 < seconds <= 600:
            raise ConfigError("seconds", f"{seconds:g} seconds; give more than 0 and at most 600")
        disk = _disk_of(arguments["disk"]) if "disk" in arguments else None
        self._vm.devices.change_disk(arguments["device"], disk, seconds)
        return {}

    def _cpus(self, client: Client, arguments: Json, reply: Reply) -> Json:
        """Set how many vCPUs the guest shall have, if that is given; how many there are, and may be."""
        if "count" in arguments:
            self._vm.devices.set_cpus(arguments["count"])
        return {"count": self._vm.devices.cpus, "max": self._vm.spec.possible_cpus}


def show_forward(forward: PortForward) -> str:
    """As `--port` takes it."""
    host = f"[{forward.host_address}]" if ":" in forward.host_address else forward.host_address
    suffix = "" if forward.protocol == "tcp" else f"/{forward.protocol}"
    return f"{host + ':' if host else ''}{forward.host_port}:{forward.guest_port}{suffix}"


def _disk_of(value: str | Json) -> DiskSpec:
    """A disk as a line of text or as an object. Raises ConfigError."""
    return parse_disk(value) if isinstance(value, str) else part_from_json(DiskSpec, value, "disk")


def _forwarder_of(nic: Nic) -> Forwarder | None:
    backend: NetBackend | None = nic.backend
    while backend is not None and not isinstance(backend, Forwarder):
        backend = getattr(backend, "inner", None)
    return backend


def _forwards(nic: Nic) -> tuple[PortForward, ...]:
    found = _forwarder_of(nic)
    return () if found is None else found.forwards()


def _as_json(forward: PortForward) -> Json:
    return {
        "protocol": forward.protocol,
        "host_address": forward.host_address,
        "host_port": forward.host_port,
        "guest_port": forward.guest_port,
        "text": show_forward(forward),
    }
