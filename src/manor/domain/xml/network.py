"""The network document.

Source: libvirt, "Network XML format", https://libvirt.org/formatnetwork.html.
"""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace

from manor.base.errors import ConfigError
from manor.domain import names
from manor.domain.names import DOMAIN_NAME_RULE, DOMAIN_NAMES
from manor.domain.xml import checker, reader, tree, writer
from manor.domain.xml.interface import IFNAME, Limits
from manor.domain.xml.property import Element, Finding, note, part, parts, prop, raw
from manor.domain.xml.tree import Node
from manor.domain.xml.values import Choice, Flag, Integer, Kind, Mac, Present, Text, Uuid, ignored, refused

ROOT = "network"
_NAME = Text(255)


class Ip(Kind[str]):
    """An IPv4 or IPv6 address."""

    def read(self, text: str, unit: str | None = None) -> str:
        try:
            return str(ipaddress.ip_address(text.strip()))
        except ValueError:
            raise ValueError(f"{text[:60]!r} is not an IP address; write it like 192.168.100.1") from None

    def describe(self) -> str:
        return "IP address"


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpRange(Element):
    start: str = prop("@start", Ip(), "first address", required=True)
    end: str = prop("@end", Ip(), "last address", required=True)

    NOTES = (note("lease", "length of leases", ignored("leases last an hour")),)


@dataclass(frozen=True, slots=True, kw_only=True)
class DhcpHost(Element):
    mac: str | None = prop("@mac", Mac(), "whose address it is")
    id: str | None = prop("@id", _NAME, "client identifier (IPv6)", verdict=ignored("clients are known by MAC"))
    name: str | None = prop("@name", _NAME, "host name")
    ip: str = prop("@ip", Ip(), "the address", required=True)

    NOTES = (note("lease", "length of the lease", ignored("leases last an hour")),)


@dataclass(frozen=True, slots=True, kw_only=True)
class IpConfig(Element):
    """An address of the network's gateway, and DHCP behind it."""

    family: str | None = prop("@family", Choice("ipv4", "ipv6"), "kind of address")
    address: str | None = prop("@address", Ip(), "address of the gateway")
    netmask: str | None = prop("@netmask", Ip(), "mask of the network")
    prefix: int | None = prop("@prefix", Integer(0, 128), "length of the network's prefix")
    ranges: tuple[DhcpRange, ...] = parts("dhcp/range", DhcpRange, "addresses given out")
    hosts: tuple[DhcpHost, ...] = parts("dhcp/host", DhcpHost, "addresses kept for somebody")

    NOTES = (
        note("@localPtr", "reverse names", ignored("reverse names are not answered")),
        note("tftp", "files for boot from the network", ignored("nothing is booted from the network")),
        note("dhcp/bootp", "boot from the network", ignored("nothing is booted from the network")),
    )

    def network(self) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
        """None without an address. Raises ValueError if mask and address do not fit."""
        if self.address is None:
            return None
        width = self.netmask or self.prefix
        return ipaddress.ip_interface(self.address if width is None else f"{self.address}/{width}").network


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardInterface(Element):
    dev: str | None = prop("@dev", IFNAME, "interface of the host")
    connections: int | None = prop("@connections", Integer(0, 1 << 31), "how many use it; written by the service")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network(Element):
    """A network of domains. forward: nat is the user-mode NAT, none an isolated network, bridge one of the host's."""

    ipv6: bool | None = prop("@ipv6", Flag(), "IPv6 between guests without an address of the gateway")
    connections: int | None = prop("@connections", Integer(0, 1 << 31), "how many use it; written by the service")
    name: str = prop("name", Text(255, DOMAIN_NAMES, DOMAIN_NAME_RULE), "what others call it", required=True)
    uuid: str | None = prop("uuid", Uuid(), "identity; generated if it is missing")
    title: str | None = prop("title", Text(4096), "a title for people")
    description: str | None = prop("description", Text(), "a text for people")
    metadata: Node | None = raw("metadata", "what applications keep with the network")
    forwards: bool = prop("forward", Present(), "whether guests reach the world at all", default=False)
    forward_dev: str | None = prop("forward/@dev", IFNAME, "interface of the host by which they do",
                                   verdict=ignored("the host's routes decide"))
    forward: str | None = prop("forward/@mode", Choice("nat", "bridge", judged={
        "route": refused("no route to guests is made", "write mode='nat', or use a bridge"),
        "open": refused("no route to guests is made", "write mode='nat', or use a bridge"),
        **dict.fromkeys(("private", "vepa", "passthrough", "hostdev"),
                        refused("this kind of network is not made here", "write mode='nat' or mode='bridge'"))}),
        "how guests reach the world; `nat` where <forward> does not say")
    interfaces: tuple[ForwardInterface, ...] = parts("forward/interface", ForwardInterface, "interfaces of the host")
    bridge: str | None = prop("bridge/@name", IFNAME, "bridge of the host")
    zone: str | None = prop("bridge/@zone", _NAME, "zone of the firewall", verdict=ignored("no firewall is told"))
    stp: str | None = prop("bridge/@stp", Choice("on", "off"), "spanning tree; kept for clients that look at it")
    delay: int | None = prop("bridge/@delay", Integer(0, 1 << 31), "forward delay; kept for clients that look at it")
    mtu: int | None = prop("mtu/@size", Integer(68, 65521), "largest packet, bytes")
    mac: str | None = prop("mac/@address", Mac(), "address of the gateway; kept for clients that look at it")
    domain: str | None = prop("domain/@name", _NAME, "domain of the guests' names")
    local_only: bool | None = prop("domain/@localOnly", Flag(), "names of the domain are not asked elsewhere")
    dns: bool | None = prop("dns/@enable", Flag(), "whether names are answered")
    inbound: Limits | None = part("bandwidth/inbound", Limits, "limit of the whole network",
                                  verdict=ignored("limits are those of the interfaces"))
    outbound: Limits | None = part("bandwidth/outbound", Limits, "limit of the whole network",
                                   verdict=ignored("limits are those of the interfaces"))
    ips: tuple[IpConfig, ...] = parts("ip", IpConfig, "addresses")

    NOTES = (
        note("@trustGuestRxFilters", "trust in guests' filters", ignored("guests' filters stay in the guest")),
        note("forward/nat", "addresses of the NAT", ignored("the NAT is the host's own sockets")),
        note("forward/pf", "SR-IOV", refused("devices of the host are not passed through", "remove <pf>")),
        note("forward/address", "SR-IOV", refused("devices of the host are not passed through", "remove <address>")),
        note("forward/driver", "SR-IOV", refused("devices of the host are not passed through", "remove <driver>")),
        note("bridge/@macTableManager", "who fills the table", ignored("the bridge does")),
        note("dns/@forwardPlainNames", "plain names", ignored("names go to the host's resolver")),
        note("dns/forwarder", "servers for names", ignored("names go to the host's resolver")),
        note("dns/host", "names", ignored("guests' names are answered, others go to the host's resolver")),
        note("dns/txt", "texts", ignored("texts are not answered")),
        note("dns/srv", "services", ignored("services are not answered")),
        note("route", "routes", ignored("the host's routes decide")),
        note("portgroup", "groups of ports", ignored("networks here have no groups")),
        note("virtualport", "port of a switch", refused("no switch is told", "remove <virtualport>")),
        note("vlan", "VLAN tag", refused("frames are not tagged", "tag on the bridge")),
        note("port", "isolated ports", refused("ports are not isolated", "remove <port>")),
        note("dnsmasq:options", "options of dnsmasq", ignored("dnsmasq is not used")),
    )


def normal_network(network: Network, new_uuid: Callable[[], str] = names.new_uuid) -> Network:
    """The definition as it is kept. Raises ConfigError for what contradicts itself."""
    names.check_name(network.name, ROOT)
    for number, ip in enumerate(network.ips, 1):
        _check_ip(ip, f"{ROOT}/ip[{number}]" if len(network.ips) > 1 else f"{ROOT}/ip")
    uuid = network.uuid or new_uuid()
    forward = network.forward or ("nat" if network.forwards else None)
    network = replace(network, uuid=uuid, forward=forward, connections=None)
    if network.forward == "bridge":
        return network
    # No such interface is made: it names the network where clients want one word for it.
    bridge = network.bridge or f"virm{hashlib.sha256(uuid.encode()).hexdigest()[:6]}"
    delay = 0 if network.delay is None else network.delay
    return replace(network, bridge=bridge, stp=network.stp or "on", delay=delay)


def _check_ip(ip: IpConfig, where: str) -> None:
    try:
        network = ip.network()
    except ValueError as error:
        raise ConfigError(where, f"{error}; give address and netmask, or prefix, that fit") from error
    for item in ip.ranges:
        for name, address in (("start", item.start), ("end", item.end)):
            if network is None or ipaddress.ip_address(address) not in network:
                raise ConfigError(f"{where}/dhcp/range/@{name}", f"{address} is not in the network {network}")
    for host in ip.hosts:
        if network is None or ipaddress.ip_address(host.ip) not in network:
            raise ConfigError(f"{where}/dhcp/host/@ip", f"{host.ip} is not in the network {network}")


def parse(text: str) -> Network:
    """Raises ConfigError with the path of what is wrong."""
    return reader.read_element(Network, tree.read(text, ROOT), ROOT)


def format(network: Network) -> str:
    return tree.write(writer.write_element(network, ROOT))


def check(network: Network) -> list[Finding]:
    """What will not be as the document asks. Empty: all will."""
    return list(checker.findings(network, ROOT))
