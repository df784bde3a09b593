"""<disk>: a disk, or a medium, of a domain."""

# Declarations are tables, laid out by hand.
# fmt: off
from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from manor.domain.xml.common import NAME, ONOFF, PATH, PLACED, VIRTIO_OPTIONS, Address, Device, SourceHost
from manor.domain.xml.property import Element, note, part, parts, prop
from manor.domain.xml.values import YES, Choice, Integer, Present, Text, ignored, refused

OTHER_BUSES: Final = ("ide", "sata", "scsi", "fdc", "usb", "xen", "sd", "uml")
BUSES: Final = Choice(
    "virtio", "nvme",
    judged=dict.fromkeys(
        OTHER_BUSES, ignored("CD-ROM drives are shown as read-only virtio disks; a disk on such a bus is refused")
    ),
)
FORMATS: Final = ("raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc")
_LIMIT: Final = Integer(0, (1 << 63) - 1)
_FINER: Final = ignored("a burst lasts until it is used up, and each disk has limits of its own")
_WHOLE: Final = refused("reads and writes are limited together", "use the total_ form")


@dataclass(frozen=True, slots=True, kw_only=True)
class IoTune(Element):
    """Limits of a disk, a second; 0 is none."""

    total_bytes: int | None = prop("total_bytes_sec", _LIMIT, "bytes")
    read_bytes: int | None = prop("read_bytes_sec", _LIMIT, "bytes read", verdict=_WHOLE)
    write_bytes: int | None = prop("write_bytes_sec", _LIMIT, "bytes written", verdict=_WHOLE)
    total_iops: int | None = prop("total_iops_sec", _LIMIT, "requests")
    read_iops: int | None = prop("read_iops_sec", _LIMIT, "reads", verdict=_WHOLE)
    write_iops: int | None = prop("write_iops_sec", _LIMIT, "writes", verdict=_WHOLE)
    total_bytes_max: int | None = prop("total_bytes_sec_max", _LIMIT, "bytes that may be used up at once")
    total_iops_max: int | None = prop("total_iops_sec_max", _LIMIT, "requests that may be used up at once")

    read_bytes_max: int | None = prop("read_bytes_sec_max", _LIMIT, "bytes read at once", verdict=_WHOLE)
    write_bytes_max: int | None = prop("write_bytes_sec_max", _LIMIT, "bytes written at once", verdict=_WHOLE)
    read_iops_max: int | None = prop("read_iops_sec_max", _LIMIT, "reads at once", verdict=_WHOLE)
    write_iops_max: int | None = prop("write_iops_sec_max", _LIMIT, "writes at once", verdict=_WHOLE)
    size_iops: int | None = prop("size_iops_sec", _LIMIT, "bytes that count as one request", verdict=_FINER)
    group: str | None = prop("group_name", NAME, "disks that share the limits", verdict=_FINER)
    total_bytes_length: int | None = prop("total_bytes_sec_max_length", _LIMIT, "seconds of a burst", verdict=_FINER)
    read_bytes_length: int | None = prop("read_bytes_sec_max_length", _LIMIT, "seconds of a burst", verdict=_WHOLE)
    write_bytes_length: int | None = prop("write_bytes_sec_max_length", _LIMIT, "seconds of a burst", verdict=_WHOLE)
    total_iops_length: int | None = prop("total_iops_sec_max_length", _LIMIT, "seconds of a burst", verdict=_FINER)
    read_iops_length: int | None = prop("read_iops_sec_max_length", _LIMIT, "seconds of a burst", verdict=_WHOLE)
    write_iops_length: int | None = prop("write_iops_sec_max_length", _LIMIT, "seconds of a burst", verdict=_WHOLE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk(Device):
    """A disk. What is not given: format by libvirt's rule (raw), bus by the target's name."""

    type: str = prop(
        "@type",
        Choice("file", "block", "network", "volume", judged=dict.fromkeys(
            ("dir", "nvme", "vhostuser", "vhostvdpa"),
            refused("a disk comes from a file, a block device, an NBD server or a volume", "use one of these"))),
        "what the source is", default="file")
    device: str = prop(
        "@device",
        Choice("disk", judged={
            "cdrom": ignored("the guest sees a read-only disk; an empty drive is left out"),
            "floppy": refused("there is no floppy drive", "use a disk"),
            "lun": refused("SCSI commands are not passed through", "write device='disk'")}),
        "what the guest sees", default="disk")
    snapshot: str | None = prop("@snapshot", Choice("internal", "external", "no", "manual"),
                                "default for snapshots of the domain")
    driver_name: str | None = prop("driver/@name", Choice("qemu", others=ignored("there is one driver")),
                                   "`qemu` for any format")
    format: str | None = prop("driver/@type", Choice(*FORMATS, "vhd", judged=dict.fromkeys(
        ("luks", "bochs", "cloop", "dmg", "iso", "vpc-fixed", "qed", "parallels", "cow", "fat"),
        refused("the format is not read here", "convert it with `manor image convert`"))),
        "format of the image")
    cache: str | None = prop("driver/@cache", Choice("default", "none", "writeback", "directsync", judged={
        "writethrough": ignored("a guest's flush reaches the medium, writes before it may wait in the host's cache"),
        "unsafe": ignored("flushes are still obeyed")}), "host page cache; `none` and `directsync` go around it")
    error_policy: str | None = prop("driver/@error_policy", Choice("report", judged=dict.fromkeys(
        ("stop", "ignore", "enospace"), ignored("errors are reported to the guest"))), "what happens on errors")
    io: str | None = prop("driver/@io", Choice("threads", "native", "io_uring"), "how requests are made",
                          verdict=ignored("the best way that the host has is taken"))
    discard: str | None = prop("driver/@discard", Choice("unmap", "ignore"),
                               "whether space that the guest gives up returns to the host")
    detect_zeroes: str | None = prop("driver/@detect_zeroes", Choice("off", "on", "unmap"), "look for zeros in writes",
                                     verdict=ignored("zeros are written as they come"))
    queues: int | None = prop("driver/@queues", Integer(1, 256), "request queues")
    iothread: int | None = prop("driver/@iothread", Integer(1, 0xFFFFFFFF), "which iothread serves it",
                                verdict=ignored("there is one thread for requests"))
    file: str | None = prop("source/@file", PATH, "path of the image")
    dev: str | None = prop("source/@dev", PATH, "path of the block device")
    protocol: str | None = prop("source/@protocol", Choice("nbd", judged=dict.fromkeys(
        ("rbd", "iscsi", "gluster", "sheepdog", "http", "https", "ftp", "ftps", "tftp", "ssh", "vxhs", "nfs"),
        refused("network disks are NBD", "export the image by NBD, or copy it"))), "protocol of a network disk")
    export: str | None = prop("source/@name", PATH, "name of the export on the server")
    tls: bool | None = prop("source/@tls", Choice("yes", "no", judged={
        "yes": refused("NBD with TLS is not used", "use a unix socket or ssh")}), "encrypted connection")
    pool: str | None = prop("source/@pool", NAME, "storage pool of a volume")
    volume: str | None = prop("source/@volume", NAME, "name of the volume in its pool")
    startup_policy: str | None = prop("source/@startupPolicy", Choice("mandatory", "requisite", "optional"),
                                      "what a missing file means")
    hosts: tuple[SourceHost, ...] = parts("source/host", SourceHost, "servers")
    target: str | None = prop("target/@dev", Text(32, r"[a-z]{1,6}[a-z0-9]*", "a name such as vda"), "name of the disk",
                              required=True)
    bus: str | None = prop("target/@bus", BUSES, "kind of disk")
    tray: str | None = prop("target/@tray", Choice("open", "closed"), "tray of a CD-ROM drive",
                            verdict=ignored("there is no tray"))
    removable: bool | None = prop("target/@removable", ONOFF, "removable USB disk", verdict=ignored("no USB"))
    iotune: IoTune | None = part("iotune", IoTune, "limits")
    readonly: bool = prop("readonly", Present(), "the guest cannot write", default=False)
    shareable: bool = prop("shareable", Present(), "several domains may write", default=False,
                           verdict=refused("two writers of one image destroy it unless a cluster file system knows",
                                           "give each domain a disk of its own, or make it read-only"))
    transient: bool = prop("transient", Present(), "writes are thrown away at the end", default=False)
    serial: str | None = prop("serial", Text(255), "serial number that the guest reads; 20 characters reach it")
    wwn: str | None = prop("wwn", Text(32), "World Wide Name", verdict=ignored("virtio and NVMe disks have none"))
    boot_order: int | None = prop("boot/@order", Integer(1, 65535), "position among what is booted from")
    address: Address | None = part("address", Address, "place on the bus", verdict=PLACED)

    NOTES = (
        note("@rawio", "raw SCSI commands", refused("SCSI commands are not passed through", "leave rawio out")),
        note("@sgio", "raw SCSI commands", ignored("SCSI commands are not passed through")),
        note("@model", "kind of virtio device", ignored("virtio devices are modern ones")),
        note("backingStore", "images below; found in the image itself", YES),
        note("mirror", "state of a copy job; written by the service", YES),
        note("geometry", "cylinders, heads and sectors", ignored("no guest that boots here asks")),
        note("blockio", "block sizes", ignored("sizes are those of the image")),
        note("vendor", "SCSI vendor", ignored("only SCSI disks have one")),
        note("product", "SCSI product", ignored("only SCSI disks have one")),
        note("encryption", "encryption of the image", refused("encrypted images are not opened", "decrypt the image")),
        note("auth", "log-in at the server", refused("NBD has no log-in", "remove <auth>")),
        note("source/auth", "log-in at the server", refused("NBD has no log-in", "remove <auth>")),
        note("source/encryption", "encryption of the image",
             refused("encrypted images are not opened", "decrypt the image")),
        note("source/reservations", "SCSI reservations", refused("they are not made", "remove <reservations>")),
        note("source/seclabel", "label of the file", ignored("labels of files are left alone")),
        note("source/slices", "part of a file", refused("a disk is a whole file", "cut the part out")),
        note("source/@index", "number of the image in a chain; written by the service", YES),
        note("driver/@copy_on_read", "fill the image from below while reading",
             ignored("data stays in the image below until it is written")),
        note("driver/@event_idx", "virtio option", ignored("the guest chooses")),
        note("driver/@ioeventfd", "how the host is told", ignored("the best way is taken")),
        note("driver/@queue_size", "length of queues", ignored("queues have their length")),
        note("driver/@rerror_policy", "what happens on read errors", ignored("errors are reported to the guest")),
        *VIRTIO_OPTIONS,
    )


