"""What of a domain becomes which words of QEMU's command line, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ConfigError
from manor.domain.xml import domain as domain_xml
from manor.domain.xml.live import named
from manor.domain.xml.network import Network
from manor.domain.xml.normal import normalise
from manor.domain.xml.to_spec import Resolvers
from manor.drivers.qemu.command import Plan, plan
from manor.drivers.qemu.layout import Files

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
NETWORKS = {
    "default": Network(name="default", forward="nat"),
    "lan": Network(name="lan"),
    "br": Network(name="br", forward="bridge", bridge="br0"),
}
RESOLVERS = Resolvers(network=NETWORKS.__getitem__, volume=lambda pool, volume: Path(f"/{pool}/{volume}"))


def made(devices: str = "", rest: str = "", os: str = "<type machine='q35'>hvm</type>", accel: str = "tcg") -> Plan:
    text = (
        f"<domain type='qemu'><name>q</name><uuid>{UUID}</uuid><memory unit='MiB'>64</memory><vcpu>2</vcpu>"
        f"<os>{os}</os>{rest}<devices>{devices}</devices></domain>"
    )
    document = normalise(domain_xml.parse(text), emulator="/usr/bin/qemu-system-x86_64", machine=None)
    return plan(named(document), accel, Files(Path("/run/vm")), RESOLVERS)


def values(found: Plan, option: str) -> list[str]:
    words = found.arguments
    return [words[index + 1] for index, word in enumerate(words) if word == f"-{option}"]


def parts(found: Plan, option: str = "device") -> list[dict[str, Any]]:
    return [json.loads(value) for value in values(found, option) if value.startswith("{")]


def device(found: Plan, driver: str) -> dict[str, Any]:
    (one,) = [each for each in parts(found) if each["driver"] == driver]
    return one


def test_the_machine() -> None:
    found = made(
        rest="<cpu mode='host-passthrough'><topology sockets='1' cores='2' threads='1'/></cpu>"
        "<clock offset='localtime'/><on_reboot>destroy</on_reboot>"
    )
    assert values(found, "machine") == ["q35,usb=off,dump-guest-core=off"]
    assert values(found, "accel") == ["tcg"]
    assert values(found, "cpu") == ["max"]
    assert values(found, "m") == ["size=65536k"]
    assert values(found, "smp") == ["cpus=2,maxcpus=2,sockets=1,cores=2,threads=1"]
    assert values(found, "rtc") == ["base=localtime,driftfix=slew"]
    assert values(found, "uuid") == [UUID]
    assert values(found, "name") == ["guest=q,debug-threads=on"]
    assert values(found, "action") == ["shutdown=pause,panic=pause,reboot=shutdown"]
    assert "-S" in found.arguments
    assert values(found, "mon") == ["chardev=monitor,mode=control"]
    assert values(found, "chardev")[0] == "socket,id=monitor,path=monitor,server=on,wait=off"
    assert values(found, "sandbox") == ["on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"]
    assert [each["id"] for each in parts(found) if each["driver"] == "pcie-root-port"] == [
        f"hotplug{n}" for n in range(8)
    ]
    assert not [each for each in parts(made(os="<type machine='pc'>hvm</type>")) if "port" in each["driver"]]


@pytest.mark.parametrize(
    ("cpu", "accel", "words"),
    [
        ("", "tcg", "max"),
        ("<cpu mode='maximum'/>", "kvm", "max"),
        ("<cpu mode='host-passthrough'/>", "kvm", "host"),
        ("<cpu mode='host-model'/>", "tcg", "max"),
        ("<cpu mode='custom'><model>Nehalem</model></cpu>", "tcg", "Nehalem"),
        ("<cpu><model>x86-64-v2</model></cpu>", "tcg", "Nehalem"),
        (
            "<cpu mode='custom'><model>qemu64</model><feature policy='require' name='aes'/>"
            "<feature policy='disable' name='svm'/><feature policy='optional' name='avx'/></cpu>",
            "tcg", "qemu64,+aes,-svm",
        ),
    ],
)  # fmt: skip
def test_the_processor(cpu: str, accel: str, words: str) -> None:
    assert values(made(rest=cpu, accel=accel), "cpu") == [words]


def test_what_is_booted() -> None:
    found = made(os="<type>hvm</type><kernel>/k</kernel><initrd>/i</initrd><cmdline>a=b,c</cmdline>")
    assert (values(found, "kernel"), values(found, "initrd"), values(found, "append")) == (["/k"], ["/i"], ["a=b,c"])
    disks = (
        "<disk type='file' device='cdrom'><source file='/c.iso'/><target dev='sda' bus='sata'/></disk>"
        "<disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>"
        "<disk type='file'><source file='/b'/><target dev='vdb' bus='virtio'/></disk>"
        "<interface type='user'/>"
    )
    order = "<type>hvm</type><boot dev='network'/><boot dev='hd'/><boot dev='cdrom'/>"
    found = made(disks, os=order)
    assert {each["id"]: each.get("bootindex") for each in parts(found) if "id" in each} == {
        "sata0": None, "sata-disk0": 3, "virtio-disk0": 2, "virtio-disk1": None, "net0": 1, "balloon0": None,
        "serial0": None,
    }  # fmt: skip
    found = made(disks.replace("<target dev='vdb' bus='virtio'/>", "<target dev='vdb'/><boot order='1'/>"))
    indices = [each.get("bootindex") for each in parts(found) if each["driver"] == "virtio-blk-pci"]
    assert indices == [None, 1]


def test_firmware_in_flash() -> None:
    found = made(
        os="<type machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/OVMF.fd</loader><nvram>/vars.fd</nvram>"
    )
    assert values(found, "machine") == ["q35,usb=off,dump-guest-core=off,pflash0=flash0-format,pflash1=flash1-format"]
    nodes = {each["node-name"]: each for each in parts(found, "blockdev")}
    assert nodes["flash0-storage"]["filename"] == "/OVMF.fd"
    assert nodes["flash0-format"]["read-only"] is True
    assert nodes["flash1-format"]["read-only"] is False
    assert values(made(os="<type>hvm</type><loader>/bios.bin</loader>"), "bios") == ["/bios.bin"]


def test_a_disk_is_a_chain_of_nodes() -> None:
    found = made(
        "<disk type='file'><driver name='qemu' type='qcow2' cache='none' discard='unmap' detect_zeroes='unmap' "
        "queues='2'/><source file='/a,b.qcow2'/><target dev='vda' bus='virtio'/><iotune><total_iops_sec>100"
        "</total_iops_sec><read_bytes_sec>5</read_bytes_sec></iotune><serial>S1</serial></disk>"
    )
    assert parts(found, "object") == [
        {"qom-type": "throttle-group", "id": "virtio-disk0-limits", "limits": {"iops-total": 100, "bps-read": 5}}
    ]
    assert parts(found, "blockdev") == [
        {
            "node-name": "virtio-disk0-storage", "auto-read-only": True, "discard": "unmap",
            "cache": {"direct": True, "no-flush": False}, "driver": "file", "filename": "/a,b.qcow2",
        },
        {
            "driver": "qcow2", "node-name": "virtio-disk0-format", "file": "virtio-disk0-storage", "read-only": False,
            "discard": "unmap", "cache": {"direct": True, "no-flush": False}, "detect-zeroes": "unmap",
        },
        {
            "driver": "throttle", "node-name": "virtio-disk0-throttle", "throttle-group": "virtio-disk0-limits",
            "file": "virtio-disk0-format",
        },
    ]  # fmt: skip
    assert device(found, "virtio-blk-pci") == {
        "driver": "virtio-blk-pci", "id": "virtio-disk0", "drive": "virtio-disk0-throttle", "serial": "S1",
        "bootindex": 1, "num-queues": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("disk", "node"),
    [
        ("type='block'><source dev='/dev/x'/>", {"driver": "host_device", "filename": "/dev/x"}),
        ("type='block' device='cdrom'><source dev='/dev/sr0'/>", {"driver": "host_cdrom", "filename": "/dev/sr0"}),
        ("type='volume'><source pool='p' volume='v'/>", {"driver": "file", "filename": "/p/v"}),
        (
            "type='network'><source protocol='nbd' name='e'><host name='h' port='1'/></source>",
            {"driver": "nbd", "server": {"type": "inet", "host": "h", "port": "1"}, "export": "e"},
        ),
        (
            "type='network'><source protocol='nbd'><host transport='unix' socket='/s'/></source>",
            {"driver": "nbd", "server": {"type": "unix", "path": "/s"}, "export": ""},
        ),
    ],
)
def test_where_disks_come_from(disk: str, node: dict[str, Any]) -> None:
    storage = parts(made(f"<disk {disk}<target dev='vda' bus='virtio'/></disk>"), "blockdev")[0]
    assert {name: storage[name] for name in node} == node


@pytest.mark.parametrize(
    ("machine", "bus", "drivers"),
    [
        ("q35", "sata", [("ide-hd", "ide.0"), ("ide-cd", "ide.1")]),
        ("pc", "sata", [("ide-hd", "sata0.0"), ("ide-cd", "sata0.1")]),
        ("pc", "ide", [("ide-hd", "ide.0"), ("ide-cd", "ide.0")]),
        ("q35", "scsi", [("scsi-hd", "scsi0.0"), ("scsi-cd", "scsi0.0")]),
        ("q35", "nvme", [("nvme", None), ("nvme", None)]),
        ("q35", "virtio", [("virtio-blk-pci", None), ("virtio-blk-pci", None)]),
    ],
)
def test_where_disks_are_attached(machine: str, bus: str, drivers: list[tuple[str, str | None]]) -> None:
    found = made(
        f"<disk type='file'><source file='/a'/><target dev='vda' bus='{bus}'/></disk>"
        f"<disk type='file' device='cdrom'><source file='/b'/><target dev='vdb' bus='{bus}'/><readonly/></disk>",
        os=f"<type machine='{machine}'>hvm</type>",
    )
    disks = [each for each in parts(found) if "drive" in each]
    assert [(each["driver"], each.get("bus")) for each in disks] == drivers
    controllers = [each["driver"] for each in parts(found)]
    assert ("ich9-ahci" in controllers) == ((machine, bus) == ("pc", "sata"))
    assert ("virtio-scsi-pci" in controllers) == (bus == "scsi")
    assert parts(found, "blockdev")[3]["read-only"] is True


def test_a_drive_can_be_empty() -> None:
    found = made("<disk type='file' device='cdrom'><target dev='sda' bus='sata'/><readonly/></disk>")
    assert device(found, "ide-cd") == {"driver": "ide-cd", "bus": "ide.0", "id": "sata-disk0"}
    assert values(found, "blockdev") == []


@pytest.mark.parametrize(
    ("nic", "netdev"),
    [
        ("type='user'>", "user,id=hostnet0"),
        ("type='network'><source network='default'/>", "user,id=hostnet0"),
        ("type='network'><source network='br'/>", "bridge,br=br0,id=hostnet0"),
        ("type='bridge'><source bridge='br1'/>", "bridge,br=br1,id=hostnet0"),
        ("type='ethernet'><target dev='tap7'/>", "tap,ifname=tap7,script=no,downscript=no,id=hostnet0"),
        ("type='null'>", "hubport,id=hostnet0,hubid=0"),
        (
            "type='user'><portForward proto='tcp'><range start='80' end='82' to='8080'/>"
            "<range start='81' exclude='yes'/></portForward>"
            "<portForward proto='udp' address='192.0.2.1'><range start='53'/></portForward>",
            "user,id=hostnet0,hostfwd=tcp:127.0.0.1:80-:8080,hostfwd=tcp:127.0.0.1:82-:8082,"
            "hostfwd=udp:192.0.2.1:53-:53",
        ),
    ],
)  # fmt: skip
def test_where_interfaces_lead(nic: str, netdev: str) -> None:
    found = made(f"<interface {nic}<mac address='52:54:00:00:00:01'/></interface>")
    assert values(found, "netdev") == [netdev]
    assert device(found, "virtio-net-pci") == {
        "driver": "virtio-net-pci", "netdev": "hostnet0", "id": "net0", "mac": "52:54:00:00:00:01",
    }  # fmt: skip
    spawn = "allow" if netdev.startswith("bridge") else "deny"
    assert f"spawn={spawn}" in values(found, "sandbox")[0]


def test_models_and_cables() -> None:
    found = made(
        "<interface type='user'><model type='e1000e'/><link state='down'/></interface>"
        "<interface type='user'><model type='rtl8139'/><mtu size='1400'/></interface>"
        "<interface type='user'><mtu size='1400'/></interface>"
    )
    assert [each["driver"] for each in parts(found) if "netdev" in each] == ["e1000e", "rtl8139", "virtio-net-pci"]
    assert device(found, "virtio-net-pci")["host_mtu"] == 1400
    assert found.down == ["net0"]


def test_ports() -> None:
    found = made(
        "<serial type='pty'><target port='0'/></serial>"
        "<serial type='unix'><source mode='bind' path='/x,y'/><target port='1'/></serial>"
        "<serial type='null'><target port='2'/></serial><serial type='file'><source path='/log'/></serial>"
        "<console type='pty'><target type='serial'/></console><console type='pty'><target type='virtio'/></console>"
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
        "<channel type='unix'><target type='virtio' name='other'/></channel>"
    )
    assert values(found, "chardev")[1:] == [
        "socket,id=charserial0,path=serial0.sock,server=on,wait=off",
        "socket,id=charserial1,path=/x,,y,server=on,wait=off",
        "null,id=charserial2",
        "file,id=charserial3,path=/log,append=off",
        "socket,id=charconsole1,path=console1.sock,server=on,wait=off",
        "socket,id=charchannel0,path=agent,server=on,wait=off",
        "socket,id=charchannel1,path=channel1.sock,server=on,wait=off",
    ]
    assert [each["driver"] for each in parts(found) if "chardev" in each] == [
        "isa-serial", "isa-serial", "isa-serial", "isa-serial", "virtconsole", "virtserialport", "virtserialport",
    ]  # fmt: skip
    assert found.consoles == ["serial0", "console1"]
    assert found.has_agent


def test_other_devices() -> None:
    found = made(
        "<memballoon model='virtio' freePageReporting='on'/>"
        "<rng model='virtio'><backend model='random'>/dev/random</backend><rate bytes='5' period='7'/></rng>"
        "<rng model='virtio'><backend model='builtin'/></rng>"
        "<filesystem type='mount'><driver type='path'/><source dir='/d,e'/><target dir='tag'/><readonly/></filesystem>"
        "<vsock model='virtio'><cid address='5'/></vsock><panic model='isa'/>"
        "<watchdog model='i6300esb' action='pause'/>"
        "<input type='tablet' bus='usb'/><input type='keyboard' bus='ps2'/><input type='mouse' bus='virtio'/>"
        "<sound model='ich9'/>"
    )
    assert device(found, "virtio-balloon-pci")["free-page-reporting"] is True
    assert parts(found, "object") == [
        {"qom-type": "rng-random", "id": "objrng0", "filename": "/dev/random"},
        {"qom-type": "rng-builtin", "id": "objrng1"},
    ]
    assert [each.get("max-bytes") for each in parts(found) if each["driver"] == "virtio-rng-pci"] == [5, None]
    assert values(found, "fsdev") == ["local,id=fsdev-fs0,path=/d,,e,security_model=mapped-xattr,readonly=on"]
    assert device(found, "virtio-9p-pci")["mount_tag"] == "tag"
    assert device(found, "vhost-vsock-pci")["guest-cid"] == 5
    assert device(found, "pvpanic") == {"driver": "pvpanic"}
    assert values(found, "action")[1] == "watchdog=pause"
    assert [each["driver"] for each in parts(found)][-3:] == ["qemu-xhci", "usb-tablet", "virtio-mouse-pci"]
    assert "virtio-balloon-pci" not in [each["driver"] for each in parts(made("<memballoon model='none'/>"))]


@pytest.mark.parametrize(
    ("devices", "vnc", "drivers"),
    [
        ("<graphics type='vnc' port='-1' autoport='yes'/>", ["unix:vnc"], ["VGA"]),
        ("<graphics type='vnc'/><video><model type='virtio'/></video>", ["unix:vnc"], ["virtio-vga"]),
        ("<graphics type='vnc' port='5903'/><video><model type='none'/></video>", ["127.0.0.1:3"], []),
        ("<graphics type='vnc' port='5900' listen='::1'/>", ["[::1]:0"], ["VGA"]),
        ("<video><model type='qxl'/></video>", [], ["qxl-vga"]),
    ],
)
def test_displays(devices: str, vnc: list[str], drivers: list[str]) -> None:
    found = made(devices)
    assert values(found, "vnc") == vnc
    assert [each["driver"] for each in parts(found) if each.get("id", "").startswith("video")] == drivers
    assert values(found, "display") == ["none"]


def test_a_password_is_not_on_the_command_line() -> None:
    found = made("<graphics type='vnc' passwd='geheim'/>")
    assert found.vnc_password == "geheim"
    assert "geheim" not in " ".join(found.arguments)
    assert values(found, "vnc") == ["unix:vnc,password-secret=vnc"]
    assert parts(found, "object") == [{"qom-type": "secret", "id": "vnc", "file": "/run/vm/vnc-password"}]


def test_texts_of_the_firmware() -> None:
    found = made(
        os="<type>hvm</type><smbios mode='sysinfo'/>",
        rest="<sysinfo type='smbios'><system><entry name='serial'>a,b</entry></system><oemStrings>"
        "<entry>x=1</entry><entry>y</entry></oemStrings></sysinfo>",
    )
    assert values(found, "smbios") == ["type=1,serial=a,,b", "type=11,value=x=1,value=y"]


@pytest.mark.parametrize(
    ("devices", "wrong"),
    [
        ("<tpm model='tpm-tis'/>", "domain/devices/tpm: it is not made with QEMU here; remove <tpm>"),
        ("<hostdev mode='subsystem'/>", "domain/devices/hostdev"),
        ("<graphics type='spice'/>", "domain/devices/graphics/@type: 'spice' is not served; write type='vnc'"),
        ("<graphics type='vnc'/><graphics type='vnc'/>", "there is one display"),
        ("<graphics type='vnc' port='80'/>", "'80' is no port"),
        ("<graphics type='vnc' port='5900' listen='x,password=off'/>", "is no address"),
        ("<video><model type='xen'/></video>", "domain/devices/video/model/@type"),
        ("<input type='evdev'/>", "domain/devices/input"),
        ("<watchdog model='x'/>", "domain/devices/watchdog/@model"),
        ("<watchdog model='i6300esb' action='dump'/>", "domain/devices/watchdog/@action"),
        ("<disk type='file' device='floppy'><source file='/a'/><target dev='fda'/></disk>", "device='floppy'"),
        ("<disk type='file'><source file='/a'/><target dev='sda' bus='usb'/></disk>", "bus='usb' is not made"),
        ("<disk type='file'><source file='/a'/><target dev='hda' bus='ide'/></disk>", "the machine q35 has no IDE"),
        ("<disk type='file'><source file='/a'/><target dev='vda'/><transient/></disk>", "writes are kept"),
        ("<disk type='file'><driver type='luks'/><source file='/a'/><target dev='vda'/></disk>", "'luks' is no format"),
        ("<disk type='network'><source protocol='rbd' name='x'/><target dev='vda'/></disk>", "network disks are NBD"),
        ("<interface type='network'><source network='lan'/></interface>", "joins VMs of Manor alone"),
        ("<interface type='direct'><source dev='eth0'/></interface>", "a network of kind direct"),
        ("<interface type='ethernet'/>", "name the tap"),
        ("<interface type='user'><model type='usb-net'/></interface>", "'usb-net' is not made"),
        (
            "<interface type='bridge'><source bridge='b'/><portForward proto='tcp'><range start='1'/></portForward>"
            "</interface>", "ports are forwarded by type='user' only",
        ),
        (
            "<interface type='user'><portForward proto='tcp' address='1:2'><range start='1'/></portForward>"
            "</interface>", "is no IPv4 address",
        ),
        (
            "<interface type='user'><portForward proto='tcp'><range start='1' end='65535'/></portForward></interface>",
            "more than 1024 ports",
        ),
        ("<filesystem><driver type='virtiofs'/><source dir='/a'/><target dir='t'/></filesystem>", "write type='path'"),
        ("<vsock model='virtio'><cid auto='yes'/></vsock>", "give the guest's context ID"),
    ],
)  # fmt: skip
def test_what_is_refused_by_name(devices: str, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(devices)
    assert wrong in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("<type arch='aarch64'>hvm</type>", "'aarch64' guests are not run here"),
        ("<type machine='pc,accel=x'>hvm</type>", "is no machine of QEMU"),
        ("<type>hvm</type><firmware/>", ""),
    ],
)
def test_machines_that_are_refused(text: str, wrong: str) -> None:
    if not wrong:
        made(os=text)  # known, and of no effect
        return
    with pytest.raises(ConfigError, match=wrong):
        made(os=text)


def test_words_of_a_processor_stay_words() -> None:
    with pytest.raises(ConfigError, match="is no model or feature"):
        made(rest="<cpu mode='custom'><model>qemu64,enforce</model></cpu>")
    with pytest.raises(ConfigError, match="is no model or feature"):
        made(rest="<cpu mode='custom'><model>max</model><feature policy='require' name='a,b'/></cpu>")
    with pytest.raises(ConfigError, match="launchSecurity: it is not supported"):
        made(rest="<launchSecurity type='sev'/>")
