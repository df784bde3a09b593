"""What the protocol passes around: references to objects, and the rows of lists.

Each class declares its fields' wire types in their order (the words are those of `catalog`'s notation). Records are
tuples: an encoder takes any sequence of the right length, a decoder returns the record. UUIDs are 16 bytes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

R = TypeVar("R", bound=type)

LAYOUTS: dict[str, tuple[type, tuple[tuple[str, str], ...]]] = {}
"""Record's name -> its class and (field, wire type) in order."""


def wire(*types: str) -> Callable[[R], R]:
    """Declare the wire types of a record's fields. Raises TypeError if there are more or fewer than fields."""

    def declare(record: R) -> R:
        names: Sequence[str] = record._fields  # type: ignore[attr-defined]
        if len(names) != len(types):
            raise TypeError(f"{record.__name__}: {len(names)} fields, {len(types)} wire types")
        LAYOUTS[record.__name__] = (record, tuple(zip(names, types, strict=True)))
        return record

    return declare


@wire("str", "uuid", "int")
class Domain(NamedTuple):
    """A domain. id: -1 while it is not running."""

    name: str
    uuid: bytes
    id: int = -1


@wire("str", "uuid")
class Network(NamedTuple):
    """A virtual network."""

    name: str
    uuid: bytes


@wire("Network", "uuid")
class NetworkPort(NamedTuple):
    """A port of a virtual network."""

    network: Network
    uuid: bytes


@wire("str", "str")
class Interface(NamedTuple):
    """A network interface of the host."""

    name: str
    mac: str


@wire("str", "uuid")
class StoragePool(NamedTuple):
    """A storage pool."""

    name: str
    uuid: bytes


@wire("str", "str", "str")
class StorageVol(NamedTuple):
    """A volume. pool: name of the pool; key: unique on the host, usually the path."""

    pool: str
    name: str
    key: str


@wire("str")
class NodeDevice(NamedTuple):
    """A device of the host."""

    name: str


@wire("uuid", "int", "str")
class Secret(NamedTuple):
    """A secret. usage_type: libvirt's enumeration (1 volume, 2 Ceph, 3 iSCSI, 4 TLS, 5 vTPM)."""

    uuid: bytes
    usage_type: int
    usage_id: str


@wire("str", "uuid")
class Nwfilter(NamedTuple):
    """A network filter."""

    name: str
    uuid: bytes


@wire("str", "str")
class NwfilterBinding(NamedTuple):
    """A network filter in use at a port."""

    port_dev: str
    filter_name: str


@wire("str", "Domain")
class Snapshot(NamedTuple):
    """A snapshot of a domain."""

    name: str
    domain: Domain


@wire("str", "Domain")
class Checkpoint(NamedTuple):
    """A checkpoint of a domain."""

    name: str
    domain: Domain


@wire("int", "int", "str?", "int", "Domain?", "str?", "str?", "str?", "int", "int", "Network?")
class ErrorRecord(NamedTuple):
    """Why a call failed. code, origin ("domain" in libvirt's own words), level: libvirt's enumerations (`errors`)."""

    code: int
    origin: int
    message: str | None
    level: int = 2
    domain: Domain | None = None
    str1: str | None = None
    str2: str | None = None
    str3: str | None = None
    int1: int = -1
    int2: int = -1
    network: Network | None = None


class ParamType(enum.IntEnum):
    """The type of a typed parameter's value. Source: libvirt API reference, virTypedParameterType."""

    INT = 1
    UINT = 2
    LLONG = 3
    ULLONG = 4
    DOUBLE = 5
    BOOLEAN = 6
    STRING = 7


class TypedParam(NamedTuple):
    """A named value of one of seven types. Its layout is a union, which the codec knows."""

    field: str
    type: int
    value: int | float | bool | str


@wire("Domain", "TypedParam[]")
class DomainStats(NamedTuple):
    """The statistics of one domain."""

    domain: Domain
    params: Sequence[TypedParam]


@wire("uint", "int", "ulong", "int")
class VcpuInfo(NamedTuple):
    """A virtual CPU. cpu_time: ns; cpu: host CPU it runs on, negative if none."""

    number: int
    state: int
    cpu_time: int
    cpu: int


@wire("str", "ulong")
class NodeStat(NamedTuple):
    """A statistic of the host. CPU times: ns; memory: KiB."""

    field: str
    value: int


@wire("int", "ulong")
class MemoryStat(NamedTuple):
    """A statistic of a domain's memory. tag: libvirt's virDomainMemoryStatTags; sizes: KiB."""

    tag: int
    value: int


@wire("str", "int")
class DiskError(NamedTuple):
    """A disk with an error. error: 1 unspecified, 2 no space."""

    disk: str
    error: int


@wire("uint", "bytes")
class IothreadInfo(NamedTuple):
    """An I/O thread and the host CPUs it may run on, one bit each, lowest first."""

    iothread_id: int
    cpu_map: bytes


@wire("int", "str", "str")
class GraphicsAddress(NamedTuple):
    """One end of a graphics connection. family: 0 IPv4, 1 IPv6, 2 unix."""

    family: int
    node: str
    service: str


@wire("str", "str")
class GraphicsIdentity(NamedTuple):
    """Who a graphics client is, by one means of authentication."""

    type: str
    name: str


@wire("str", "long", "int", "str?", "str?", "str", "uint", "str?", "str?")
class DhcpLease(NamedTuple):
    """A lease. expiry_time: seconds since 1970, 0 is never; type: 0 IPv4, 1 IPv6."""

    interface: str
    expiry_time: int
    type: int
    mac: str | None
    iaid: str | None
    address: str
    prefix: int
    hostname: str | None
    client_id: str | None


@wire("str", "str", "str", "str[]")
class Filesystem(NamedTuple):
    """A file system mounted in a guest, and the disks it is on."""

    mount_point: str
    name: str
    fs_type: str
    devices: Sequence[str]


@wire("int", "str", "uint")
class IpAddress(NamedTuple):
    """An address of a guest's interface. type: 0 IPv4, 1 IPv6."""

    type: int
    address: str
    prefix: int


@wire("str", "str?", "IpAddress[]")
class GuestInterface(NamedTuple):
    """A network interface of a guest as it is seen by one source of addresses."""

    name: str
    hardware_address: str | None
    addresses: Sequence[IpAddress]


@wire("text[]", "int")
class SecurityLabel(NamedTuple):
    """A security label and whether it is enforced."""

    label: str
    enforcing: int
