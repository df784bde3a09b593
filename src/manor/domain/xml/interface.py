"""<interface>: a network interface of a domain."""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

from dataclasses import dataclass

from manor.domain.xml.common import NAME, PLACED, VIRTIO_OPTIONS, Address, Device
from manor.domain.xml.property import Element, note, part, parts, prop
from manor.domain.xml.values import YES, Choice, Flag, Integer, Mac, Text, ignored, refused

IFNAME = Text(15, r"[^\s/:]{1,15}", "the name of a network interface (at most 15 characters)")
_PORT = Integer(1, 65535)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits(Element):
    """Token bucket of one direction. Source: libvirt, "Network XML format", Quality of service."""

    average: int | None = prop("@average", Integer(0, 1 << 40), "KiB a second, on average")
    peak: int | None = prop("@peak", Integer(0, 1 << 40), "KiB a second, at most",
                            verdict=ignored("the average is the limit"))
    burst: int | None = prop("@burst", Integer(0, 1 << 40), "KiB at the peak",
                             verdict=ignored("the average is the limit"))
    floor: int | None = prop("@floor", Integer(0, 1 << 40), "KiB a second that are promised",
                             verdict=ignored("nothing is promised"))


@dataclass(frozen=True, slots=True, kw_only=True)
class PortRange(Element):
    """Ports of the host, and where they lead."""

    start: int = prop("@start", _PORT, "first port of the host", required=True)
    end: int | None = prop("@end", _PORT, "last port; the first if it is missing")
    to: int | None = prop("@to", _PORT, "first port of the guest; the same as the host's if it is missing")
    exclude: bool | None = prop("@exclude", Flag(), "these are not forwarded")


@dataclass(frozen=True, slots=True, kw_only=True)
class PortForward(Element):
    """Ports of the host that lead into the guest."""

    protocol: str = prop("@proto", Choice("tcp", "udp"), "protocol", required=True)
    address: str | None = prop("@address", Text(64), "address of the host that listens; loopback if it is missing")
    dev: str | None = prop("@dev", IFNAME, "interface of the host",
                           verdict=refused("ports are forwarded by address", "give address instead of dev"))
    ranges: tuple[PortRange, ...] = parts("range", PortRange, "ports")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface(Device):
    """A network interface."""

    type: str = prop("@type", Choice("network", "bridge", "user", "direct", "ethernet", "null", judged=dict.fromkeys(
        ("internal", "vhostuser", "udp", "mcast", "server", "client", "hostdev", "vdpa", "vds"),
        refused("this kind of network is not made here",
                "use user, network, bridge, direct (macvtap) or ethernet (tap)"))),
        "where frames go", required=True)
    mac: str | None = prop("mac/@address", Mac(), "address; generated if it is missing")
    network: str | None = prop("source/@network", NAME, "network, for type network")
    bridge: str | None = prop("source/@bridge", IFNAME, "bridge of the host, for type bridge")
    dev: str | None = prop("source/@dev", IFNAME, "lower interface of the host, for type direct")
    mode: str | None = prop("source/@mode", Choice("bridge", judged=dict.fromkeys(
        ("vepa", "private", "passthrough"), refused("macvtap is made in bridge mode", "write mode='bridge'"))),
        "macvtap's mode")
    portgroup: str | None = prop("source/@portgroup", NAME, "group of ports of the network",
                                 verdict=ignored("networks here have no groups"))
    target: str | None = prop("target/@dev", IFNAME, "tap on the host; for type ethernet the one to use")
    managed: bool | None = prop("target/@managed", Flag(), "whether the tap is made here, or is there already")
    model: str | None = prop("model/@type", Choice("virtio", judged={
        "virtio-non-transitional": YES,
        **dict.fromkeys(("e1000", "e1000e", "rtl8139", "ne2k_pci", "pcnet", "vmxnet3", "igb", "i82551", "i82557b",
                         "i82559er", "usb-net", "virtio-transitional"),
                        refused("interfaces are modern virtio", "write <model type='virtio'/>"))}),
        "device that the guest sees")
    driver_name: str | None = prop("driver/@name", Choice("qemu", "vhost"), "who moves frames",
                                   verdict=ignored("frames are moved by the machine"))
    queues: int | None = prop("driver/@queues", Integer(1, 256), "queue pairs")
    link: str | None = prop("link/@state", Choice("up", "down"), "whether the cable is in")
    mtu: int | None = prop("mtu/@size", Integer(68, 65521), "largest packet, bytes")
    inbound: Limits | None = part("bandwidth/inbound", Limits, "limit of what the guest receives")
    outbound: Limits | None = part("bandwidth/outbound", Limits, "limit of what the guest sends")
    backend: str | None = prop("backend/@type", Choice("default", judged={
        "passt": ignored("Manor's own user-mode network does the same")}), "program behind type user")
    forwards: tuple[PortForward, ...] = parts("portForward", PortForward, "ports that lead into the guest")
    boot_order: int | None = prop("boot/@order", Integer(1, 65535), "position among what is booted from",
                                  verdict=ignored("nothing is booted from the network"))
    address: Address | None = part("address", Address, "place on the bus", verdict=PLACED)

    NOTES = (
        note("@trustGuestRxFilters", "trust in the guest's filters", ignored("the guest's filters stay in the guest")),
        note("@managed", "host device", ignored("only host devices are managed")),
        note("source/@portid", "port of the network; written by the service", YES),
        note("source/ip", "address on the host", ignored("addresses of the host are left alone")),
        note("source/route", "route on the host", ignored("routes of the host are left alone")),
        note("ip", "address in the guest", ignored("the guest gets its address by DHCP")),
        note("route", "route in the guest", ignored("the guest gets its routes by DHCP")),
        note("guest", "name in the guest", ignored("the guest names its interfaces")),
        note("script", "script for the tap", refused("scripts are not run", "make the tap, and give managed='no'")),
        note("downscript", "script for the tap", ignored("scripts are not run")),
        note("backend/@tap", "device of taps", ignored("/dev/net/tun is used")),
        note("backend/@vhost", "device of vhost", ignored("vhost is not used")),
        note("backend/@logFile", "log of passt", ignored("passt is not used")),
        note("tune", "send buffer", ignored("buffers have their size")),
        note("coalesce", "coalescing on the tap", ignored("it is left as it is")),
        note("rom", "boot ROM", ignored("nothing is booted from the network")),
        note("acpi", "index for names in the guest", ignored("the guest names interfaces by slot")),
        note("filterref", "network filter", refused("filters are not applied, and would be missed",
                                                    "remove <filterref>, and filter in the guest or on the bridge")),
        note("vlan", "VLAN tag", refused("frames are not tagged", "tag on the bridge, or in the guest")),
        note("virtualport", "port of a switch", refused("no switch is told", "remove <virtualport>")),
        note("port", "isolated port of a bridge", refused("ports are not isolated", "remove <port>")),
        note("teaming", "pair for migration", refused("there is no host device to pair with", "remove <teaming>")),
        note("driver/@txmode", "how frames are sent", ignored("the best way is taken")),
        note("driver/@ioeventfd", "how the host is told", ignored("the best way is taken")),
        note("driver/@event_idx", "virtio option", ignored("the guest chooses")),
        note("driver/@rx_queue_size", "length of queues", ignored("queues have their length")),
        note("driver/@tx_queue_size", "length of queues", ignored("queues have their length")),
        note("driver/@rss", "receive side scaling", ignored("flows are spread by the guest")),
        note("driver/host", "offers to the guest", ignored("all offloads are offered")),
        note("driver/guest", "offers to the guest", ignored("all offloads are offered")),
        *VIRTIO_OPTIONS,
    )
