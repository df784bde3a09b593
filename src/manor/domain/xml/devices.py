"""Devices of a domain with little to say, and the section that holds all devices."""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

from dataclasses import dataclass

from manor.domain.xml.character import Character
from manor.domain.xml.common import NAME, ONOFF, PATH, PLACED, VIRTIO_OPTIONS, Address, Device
from manor.domain.xml.disk import Disk
from manor.domain.xml.interface import Interface
from manor.domain.xml.property import Element, note, part, parts, prop
from manor.domain.xml.values import Choice, Flag, Integer, Present, Text, ignored, refused

_VIRTIO_MODELS = Choice("virtio", "virtio-non-transitional", judged={
    "virtio-transitional": refused("virtio devices are modern ones", "write model='virtio'")})
_USB = ignored("there is no USB; the console is the way in")


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller(Device):
    """A controller. The machine makes those that it needs; what a document says about others has no effect."""

    type: str = prop("@type", Choice("pci", "virtio-serial", "nvme", judged={
        **dict.fromkeys(("usb", "ccid"), _USB),
        **dict.fromkeys(("ide", "sata", "scsi", "fdc", "xenbus", "isa"), ignored("nothing is attached to it"))}),
        "kind of bus", required=True)
    index: int | None = prop("@index", Integer(0, 65535), "number of the controller")
    model: str | None = prop("@model", NAME, "model; `pci-root` for bus 0 of PCI")
    serial: str | None = prop("serial", NAME, "serial number of an NVMe controller")
    address: Address | None = part("address", Address, "place on the bus", verdict=PLACED)

    NOTES = (
        note("@ports", "number of ports", ignored("there are as many ports as are used")),
        note("@vectors", "interrupts", ignored("each queue has its own")),
        note("@maxEventChannels", "Xen", ignored("it is not Xen")),
        note("@maxGrantFrames", "Xen", ignored("it is not Xen")),
        note("master", "companion of a USB controller", _USB),
        note("target", "place in the PCI tree", ignored("the machine has one PCI bus")),
        note("model", "model of a PCI bridge", ignored("the machine has one PCI bus")),
        note("pcihole64", "size of the 64-bit window", ignored("it is 64 GiB")),
        note("driver", "queues of a controller", ignored("queues are those of the disks")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Filesystem(Device):
    """A folder of the host in the guest, by virtio-fs."""

    type: str = prop("@type", Choice("mount", judged=dict.fromkeys(
        ("template", "file", "block", "ram", "bind", "volume"), refused("a folder is shared", "write type='mount'"))),
        "what is shared", default="mount")
    accessmode: str | None = prop("@accessmode", Choice("passthrough", "mapped", "squash"), "how owners are shown",
                                  verdict=ignored("the guest sees owners of its own, kept with the files"))
    driver: str | None = prop("driver/@type", Choice("virtiofs", judged=dict.fromkeys(
        ("path", "handle", "loop", "nbd", "ploop", "mtp"),
        refused("folders are shared by virtio-fs", "write <driver type='virtiofs'/>"))), "how it is shared")
    dir: str | None = prop("source/@dir", PATH, "folder of the host")
    target: str | None = prop("target/@dir", Text(36), "tag by which the guest mounts it", required=True)
    readonly: bool = prop("readonly", Present(), "the guest cannot change anything", default=False)
    address: Address | None = part("address", Address, "place on the bus", verdict=PLACED)

    NOTES = (
        note("@model", "kind of virtio device", ignored("virtio devices are modern ones")),
        note("@multidevs", "several file systems below", ignored("each file has a number of its own")),
        note("@fmode", "mode of new files", ignored("the guest chooses")),
        note("@dmode", "mode of new folders", ignored("the guest chooses")),
        note("driver/@queue", "length of queues", ignored("queues have their length")),
        note("driver/@format", "format of the image", ignored("a folder is shared")),
        note("driver/@wrpolicy", "write policy", ignored("the host's cache decides")),
        note("binary", "program that serves", ignored("the machine serves it itself")),
        note("source/@socket", "server of the user's own",
             refused("the machine serves folders itself", "give the folder as source/@dir")),
        note("space_hard_limit", "limit of space", refused("space is not limited", "use a quota on the host")),
        note("space_soft_limit", "limit of space", ignored("space is not limited")),
        *VIRTIO_OPTIONS,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Balloon(Device):
    """The memory balloon."""

    model: str = prop("@model", Choice("virtio", "none", "virtio-non-transitional", judged={
        "xen": refused("it is not Xen", "write model='virtio'"),
        "virtio-transitional": refused("virtio devices are modern ones", "write model='virtio'")}),
        "device", default="virtio")
    autodeflate: bool | None = prop("@autodeflate", ONOFF, "give memory back when the guest runs out; always done")
    free_page_reporting: bool | None = prop("@freePageReporting", ONOFF, "return unused memory; always done")
    period: int | None = prop("stats/@period", Integer(0, 1 << 31), "seconds between statistics")
    address: Address | None = part("address", Address, "place on the bus", verdict=PLACED)

    NOTES = VIRTIO_OPTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Rng(Device):
    """The random number generator; the machine always has one."""

    model: str = prop("@model", _VIRTIO_MODELS, "device", default="virtio")
    backend: str = prop("backend/@model", Choice("random", "builtin", judged={
        "egd": refused("randomness is the host kernel's", "write <backend model='random'>/dev/urandom</backend>")}),
        "where randomness comes from", default="random")
    file: str | None = prop("backend", PATH, "device of the host; always the kernel's generator")
    rate_bytes: int | None = prop("rate/@bytes", Integer(1, 1 << 31), "bytes a period",
                                  verdict=ignored("requests are bounded, not their rate"))
    rate_period: int | None = prop("rate/@period", Integer(1, 1 << 31), "the period in ms",
                                   verdict=ignored("requests are bounded, not their rate"))
    address: Address | None = part("address", Address, "place on the bus", verdict=PLACED)

    NOTES = (
        note("backend/@type", "character device of EGD", ignored("EGD is not used")),
        note("backend/source", "server of EGD", ignored("EGD is not used")),
        note("backend/protocol", "protocol of EGD", ignored("EGD is not used")),
        *VIRTIO_OPTIONS,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Vsock(Device):
    """Sockets between the guest and the host."""

    model: str = prop("@model", _VIRTIO_MODELS, "device", default="virtio")
    auto: bool | None = prop("cid/@auto", Flag(), "choose the context ID")
    cid: int | None = prop("cid/@address", Integer(3, 0xFFFFFFFE), "context ID of the guest")
    address: Address | None = part("address", Address, "place on the bus", verdict=PLACED)

    NOTES = VIRTIO_OPTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class Devices(Element):
    """All devices, in the order in which libvirt writes them."""

    emulator: str | None = prop("emulator", PATH, "the program that makes the machine")
    disks: tuple[Disk, ...] = parts("disk", Disk, "disks")
    controllers: tuple[Controller, ...] = parts("controller", Controller, "controllers")
    filesystems: tuple[Filesystem, ...] = parts("filesystem", Filesystem, "shared folders")
    interfaces: tuple[Interface, ...] = parts("interface", Interface, "network interfaces")
    serials: tuple[Character, ...] = parts("serial", Character, "serial ports")
    consoles: tuple[Character, ...] = parts("console", Character, "consoles")
    channels: tuple[Character, ...] = parts("channel", Character, "channels between guest and host")
    balloon: Balloon | None = part("memballoon", Balloon, "the memory balloon")
    rngs: tuple[Rng, ...] = parts("rng", Rng, "random number generators")
    vsock: Vsock | None = part("vsock", Vsock, "sockets between guest and host")

    NOTES = (
        note("parallel", "parallel port", ignored("there is no parallel port")),
        note("input", "keyboard, mouse, tablet", ignored("there is no display to use it with")),
        note("graphics", "display server", ignored("the machine has no display; its console is the way in")),
        note("video", "graphics adapter", ignored("the machine has no display; its console is the way in")),
        note("sound", "sound card", ignored("there is no sound")),
        note("audio", "sound of the host", ignored("there is no sound")),
        note("hub", "USB hub", _USB),
        note("redirdev", "USB device of a client", _USB),
        note("redirfilter", "USB devices of clients", _USB),
        note("panic", "panic notifier", ignored("a crash is seen when the guest resets itself after it",
                                                "write panic=1 on the kernel's command line")),
        note("watchdog", "watchdog", refused("there is no watchdog, and it would be missed", "remove <watchdog>")),
        note("tpm", "trusted platform module", refused("there is no TPM", "remove <tpm>")),
        note("hostdev", "device of the host", refused("devices of the host are not passed through",
                                                      "remove <hostdev>")),
        note("smartcard", "smart card", refused("there is no smart card reader", "remove <smartcard>")),
        note("memory", "memory module", refused("memory modules are not plugged", "raise <memory> instead")),
        note("iommu", "IOMMU for the guest", refused("there is no IOMMU", "remove <iommu>")),
        note("shmem", "memory shared with others", refused("memory is not shared", "use vsock or a shared folder")),
        note("crypto", "crypto device", refused("there is no crypto device", "remove <crypto>")),
        note("lease", "lock lease", refused("leases are not taken", "remove <lease>")),
        note("nvram", "non-volatile memory of POWER", refused("it is not POWER", "remove <nvram>")),
        note("pstore", "store of crash logs", ignored("crashes are seen on the console")),
    )


KINDS = {
    "disk": "disks", "controller": "controllers", "filesystem": "filesystems", "interface": "interfaces",
    "serial": "serials", "console": "consoles", "channel": "channels", "memballoon": "balloon", "rng": "rngs",
    "vsock": "vsock",
}
"""Name of each device's element -> the field of `Devices` that holds it."""
