"""Limits and weights of a domain as typed parameters, and where its description keeps them.

What a VM gets of the host is left to the host's kernel; so most of these are kept for other tools and have no effect
here, as docs/reference/libvirt.md says of each element.
Source of the names: libvirt API reference, VIR_DOMAIN_*; of the elements: libvirt, "Domain XML format".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from xml.etree.ElementTree import Element

from manor.drivers.errors import invalid_argument
from manor.drivers.xml import child
from manor.rpc.protocol.records import ParamType, TypedParam

INT, UINT, LLONG, ULLONG, STRING = (
    int(each) for each in (ParamType.INT, ParamType.UINT, ParamType.LLONG, ParamType.ULLONG, ParamType.STRING)
)
UNLIMITED: Final = 9007199254740991
"""Source: libvirt API reference, VIR_DOMAIN_MEMORY_PARAM_UNLIMITED."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """path: of the element below the group's, or `element@attribute`. none: the value that takes it out of the
    description, and that is answered while it is not there; None: it is left out of the answer then."""

    name: str
    type: int
    path: str
    none: int | str | None = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Parameters below one element. element: "" for the place that the caller gives (a disk, an interface)."""

    element: str
    parameters: tuple[Parameter, ...]

    def read(self, parent: Element) -> list[TypedParam]:
        """The values."""
        place = parent.find(self.element)
        found = []
        for each in self.parameters:
            text = None if place is None else _text(place, each.path)
            value: int | str | None = each.none
            if text is not None:
                value = text if each.type == STRING else int(text)
            if value is not None:
                found.append(TypedParam(each.name, each.type, value))
        return found

    def write(self, parent: Element, params: Iterable[TypedParam]) -> None:
        """Change the values in `params`. Raises ApiError for one that is not of this group, or of another type."""
        known = {each.name: each for each in self.parameters}
        place = child(parent, self.element)
        for param in params:
            found = known.get(param.field)
            if found is None:
                raise invalid_argument(f"parameter '{param.field}' not supported; there are {', '.join(known)}")
            if param.type != found.type:
                raise invalid_argument(f"invalid type for parameter '{param.field}'")
            if found.type != STRING and isinstance(param.value, int) and param.value < 0 and found.type != LLONG:
                raise invalid_argument(f"'{param.field}' is a number from 0, not {param.value}")
            _put(place, found.path, None if param.value == found.none else str(param.value))
        if not len(place) and not place.attrib:
            parent.remove(place)


def _text(place: Element, path: str) -> str | None:
    tag, _, attribute = path.partition("@")
    found = place.find(tag) if tag else place
    if found is None:
        return None
    text = found.get(attribute) if attribute else (found.text or "").strip()
    return text or None


def _put(place: Element, path: str, text: str | None) -> None:
    tag, _, attribute = path.partition("@")
    found = place if not tag else child(place, tag)
    if attribute:
        if text is None:
            found.attrib.pop(attribute, None)
        else:
            found.set(attribute, text)
    else:
        found.text = text
    if tag and not found.attrib and not found.text and not len(found):
        place.remove(found)


MEMORY: Final = Group("memtune", (
    *(Parameter(name, ULLONG, name, UNLIMITED) for name in ("hard_limit", "soft_limit", "swap_hard_limit")),
    Parameter("min_guarantee", ULLONG, "min_guarantee", None),
))  # fmt: skip
"""KiB."""
SCHEDULER: Final = Group("cputune", (
    Parameter("cpu_shares", ULLONG, "shares"),
    *(Parameter(f"{who}_{what}", ULLONG if what == "period" else LLONG, tag)
      for who, prefix in (("vcpu", ""), ("emulator", "emulator_"), ("global", "global_"), ("iothread", "iothread_"))
      for what, tag in (("period", f"{prefix}period"), ("quota", f"{prefix}quota"))),
))  # fmt: skip
"""Periods and quotas in us."""
BLOCK: Final = Group("blkiotune", (Parameter("weight", UINT, "weight"),))
_LIMITS: Final = tuple(
    f"{who}_{what}_sec{more}"
    for more in ("", "_max")
    for what in ("bytes", "iops")
    for who in ("total", "read", "write")
)
DISK: Final = Group("iotune", (
    *(Parameter(name, ULLONG, name) for name in (*_LIMITS, "size_iops_sec")),
    Parameter("group_name", STRING, "group_name", ""),
    *(Parameter(f"{name}_length", ULLONG, f"{name}_length") for name in _LIMITS if name.endswith("_max")),
))  # fmt: skip
NIC: Final = Group("bandwidth", tuple(
    Parameter(f"{way}.{what}", UINT, f"{way}@{what}")
    for way in ("inbound", "outbound") for what in ("average", "peak", "burst", "floor")
    if (way, what) != ("outbound", "floor")
))  # fmt: skip
"""KiB/s, KiB for a burst."""
DEVICE_PARAMETERS: Final = {
    "device_weight": "weight", "device_read_iops_sec": "read_iops_sec", "device_write_iops_sec": "write_iops_sec",
    "device_read_bytes_sec": "read_bytes_sec", "device_write_bytes_sec": "write_bytes_sec",
}  # fmt: skip
"""Parameter -> element of blkiotune/device. Their values are strings: path,number,path,number."""
NUMA_MODES: Final = ("strict", "preferred", "interleave", "restrictive")
"""Source: libvirt API reference, virDomainNumatuneMemMode."""


def read_devices(root: Element) -> list[TypedParam]:
    """The block weights of single devices."""
    found = []
    for name, tag in DEVICE_PARAMETERS.items():
        words = [
            word
            for device in root.iterfind("blkiotune/device")
            if device.findtext(tag)
            for word in (device.findtext("path", ""), device.findtext(tag, ""))
        ]
        found.append(TypedParam(name, STRING, ",".join(words)))
    return found


def write_devices(root: Element, param: TypedParam) -> None:
    """Change one of them. Raises ApiError."""
    words = str(param.value).split(",") if param.value else []
    if len(words) % 2 or not all(words[::2]) or not all(word.isdecimal() for word in words[1::2]):
        raise invalid_argument(f"unable to parse {param.field} '{param.value}'; write path,number,path,number")
    tune = child(root, "blkiotune")
    for path, number in zip(words[::2], words[1::2], strict=True):
        device = next((each for each in tune.iterfind("device") if each.findtext("path") == path), None)
        if device is None:
            device = Element("device")
            child(device, "path", path)
            tune.append(device)
        tag = DEVICE_PARAMETERS[param.field]
        _put(device, tag, number if int(number) else None)
        if len(device) == 1:
            tune.remove(device)


def read_numa(root: Element) -> list[TypedParam]:
    """Where memory shall come from."""
    memory = root.find("numatune/memory")
    mode = "strict" if memory is None else memory.get("mode", "strict")
    nodes = "" if memory is None else memory.get("nodeset", "")
    number = NUMA_MODES.index(mode) if mode in NUMA_MODES else 0
    return [TypedParam("numa_mode", INT, number), TypedParam("numa_nodeset", STRING, nodes)]


def write_numa(root: Element, params: Iterable[TypedParam]) -> None:
    """Change it. Raises ApiError."""
    memory = child(child(root, "numatune"), "memory")
    memory.set("mode", memory.get("mode", "strict"))
    for param in params:
        if param.field == "numa_mode" and isinstance(param.value, int) and 0 <= param.value < len(NUMA_MODES):
            memory.set("mode", NUMA_MODES[param.value])
        elif param.field == "numa_nodeset" and isinstance(param.value, str):
            parse_set(param.value)
            memory.set("nodeset", param.value)
        else:
            raise invalid_argument(f"unsupported value '{param.value}' of parameter '{param.field}'")
    if not memory.get("nodeset"):
        raise invalid_argument("a placement of memory needs a nodeset, such as 0")


def parse_set(text: str) -> int:
    """Bits of a set written as `0-3,^2,7`. Raises ApiError."""
    found = 0
    for part in text.split(","):
        is_left_out = part.startswith("^")
        low, dash, high = part.removeprefix("^").partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()) or len(low) > 5 or len(high) > 5:
            raise invalid_argument(f"Failed to parse bitmap '{text}'; write it as 0-3,^2,7")
        last = int(high) if dash else int(low)
        bits = ((1 << (last + 1)) - 1) & ~((1 << int(low)) - 1)
        found = found & ~bits if is_left_out else found | bits
    return found


def format_set(bits: int) -> str:
    """The shortest way to write a set."""
    parts = []
    at = 0
    while bits >> at:
        if bits >> at & 1:
            last = at
            while bits >> (last + 1) & 1:
                last += 1
            parts.append(str(at) if last == at else f"{at}-{last}")
            at = last
        at += 1
    return ",".join(parts)


def limited(params: list[TypedParam], count: int) -> tuple[list[TypedParam], int]:
    """(parameters, their number) as a client wants them: it asks with 0 for their number first."""
    return ([], len(params)) if count == 0 else (params[:count], min(count, len(params)))
