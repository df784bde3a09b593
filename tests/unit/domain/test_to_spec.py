"""Domains become machines: every value arrives, and what cannot be is refused with its path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from manor.base.errors import ConfigError
from manor.base.units import GiB, MiB
from manor.domain.xml import domain, network
from manor.domain.xml.normal import normalise
from manor.domain.xml.to_spec import Launch, Resolvers, to_spec
from manor.spec.block import DiskSpec, Throttle
from manor.spec.check import check
from manor.spec.firmware import SmbiosSpec
from manor.spec.net import NicSpec, PortForward, Shaping
from manor.spec.share import ShareSpec
from manor.spec.vsock import VsockSpec

NETWORKS = {
    "default": "<network><name>default</name><forward mode='nat'/></network>",
    "lab": "<network><name>lab</name></network>",
    "office": "<network><name>office</name><forward mode='bridge'/><bridge name='br7'/></network>",
    "direct": "<network><name>direct</name><forward mode='bridge'><interface dev='eth3'/></forward></network>",
    "bare": "<network><name>bare</name><forward mode='bridge'/></network>",
}


def find_network(name: str) -> network.Network:
    if name not in NETWORKS:
        raise ConfigError("network", f"there is no network {name!r}")
    return network.parse(NETWORKS[name])


RESOLVERS = Resolvers(find_network, lambda pool, volume: Path("/pools") / pool / volume)


def launch(devices: str = "", *, head: str = "", kind: str = "kvm", disk: bool = True) -> Launch:
    first = "<disk><source file='/a.img'/><target dev='vda'/></disk>" if disk else ""
    text = f"""<domain type='{kind}'><name>web1</name><uuid>3f9a4c1e-5b77-4d7e-9d57-0c3a2b1e4f60</uuid>
        <memory unit='GiB'>1</memory>{head}<devices>{first}{devices}</devices></domain>"""
    found = to_spec(normalise(domain.parse(text), emulator="/usr/bin/manor"), RESOLVERS)
    check(found.spec, 255 * GiB)
    return found


def test_a_small_domain() -> None:
    found = launch()
    spec = found.spec
    assert (spec.name, spec.memory, spec.cpus, spec.console, spec.cpu) == ("web1", GiB, 1, "serial", "max")
    assert spec.disks == (DiskSpec("/a.img", "raw"),)
    assert spec.smbios == SmbiosSpec("3f9a4c1e-5b77-4d7e-9d57-0c3a2b1e4f60")
    assert (spec.kernel, spec.initrd, spec.append, spec.nics, spec.agent) == (None, None, "", (), False)
    assert spec.balloon
    assert (found.accel, found.current_memory) == ("kvm", GiB)
    assert (found.on_poweroff, found.on_reboot, found.on_crash) == ("destroy", "restart", "destroy")
    assert found.warnings == ()


def test_head() -> None:
    found = launch(
        kind="qemu",
        head="""<currentMemory unit='MiB'>512</currentMemory><vcpu current='2'>4</vcpu>
        <sysinfo type='smbios'><system><entry name='serial'>S1</entry></system>
          <oemStrings><entry>one</entry><entry>two</entry></oemStrings></sysinfo>
        <os><type>hvm</type><kernel>/k</kernel><initrd>/i</initrd><cmdline>quiet</cmdline><smbios mode='sysinfo'/></os>
        <cpu mode='custom'><model>x86-64-v3</model></cpu>
        <on_reboot>destroy</on_reboot><on_crash>coredump-restart</on_crash>""",
    )
    spec = found.spec
    assert (spec.kernel, spec.initrd, spec.append) == (Path("/k"), Path("/i"), "quiet")
    assert (spec.cpus, spec.cpu) == (2, "x86-64-v3")
    assert (spec.smbios.serial, spec.smbios.strings) == ("S1", ("one", "two"))
    assert (found.accel, found.current_memory) == ("dbt", 512 * MiB)
    assert (found.on_reboot, found.on_crash) == ("destroy", "restart")


@pytest.mark.parametrize(
    ("kind", "cpu", "model"),
    [
        ("kvm", "<cpu mode='host-passthrough'/>", "host"), ("qemu", "<cpu mode='host-passthrough'/>", "max"),
        ("kvm", "<cpu mode='host-model'/>", "host"), ("kvm", "<cpu mode='maximum'/>", "max"),
        ("kvm", "<cpu><model>x86-64-v2</model></cpu>", "x86-64-v2"), ("kvm", "<cpu><model>qemu64</model></cpu>", "max"),
    ],
)  # fmt: skip
def test_processors(kind: str, cpu: str, model: str) -> None:
    assert launch(head=cpu, kind=kind).spec.cpu == model


@pytest.mark.parametrize(
    ("xml", "spec"),
    [
        ("<disk type='block'><driver type='raw' cache='none' discard='ignore'/><source dev='/dev/x'/>"
         "<target dev='nvme0n1' bus='nvme'/><serial>N1</serial><readonly/></disk>",
         DiskSpec("/dev/x", "raw", "nvme", read_only=True, serial="N1", cache="direct", discard=False)),
        ("<disk type='network'><driver type='qcow2'/><source protocol='nbd' name='a b'><host name='::1'/></source>"
         "<target dev='vdb'/><transient/></disk>",
         DiskSpec("nbd://[::1]:10809/a%20b", "qcow2", snapshot=True)),
        ("<disk type='network'><source protocol='nbd'><host transport='unix' socket='/s k'/></source>"
         "<target dev='vdb'/></disk>", DiskSpec("nbd+unix:///?socket=/s%20k", "raw")),
        ("<disk type='volume'><driver type='vhd' queues='3'/><source pool='p' volume='v'/><target dev='vdb'/></disk>",
         DiskSpec("/pools/p/v", "vpc", queues=3)),
        ("<disk device='cdrom'><source file='/c.iso'/><target dev='sda' bus='sata'/></disk>",
         DiskSpec("/c.iso", "raw", read_only=True)),
        ("<disk><source file='/b'/><target dev='vdb'/><iotune><total_bytes_sec>9</total_bytes_sec>"
         "<total_iops_sec>8</total_iops_sec><total_bytes_sec_max>19</total_bytes_sec_max></iotune></disk>",
         DiskSpec("/b", "raw", throttle=Throttle(9, 8, 19, 0))),
    ],
)  # fmt: skip
def test_disks(xml: str, spec: DiskSpec) -> None:
    assert launch(xml).spec.disks[1] == spec


def test_an_empty_drive_is_left_out_and_the_first_to_boot_comes_first() -> None:
    found = launch(
        "<disk device='cdrom'><target dev='hda' bus='ide'/></disk>"
        "<disk><source file='/c'/><target dev='vdc'/><boot order='1'/></disk>"
        "<disk><source file='/b'/><target dev='vdb'/></disk>"
    )
    assert [disk.source for disk in found.spec.disks] == ["/c", "/a.img", "/b"]


MAC = "52:54:00:00:00:09"


@pytest.mark.parametrize(
    ("xml", "spec"),
    [
        ("<interface type='user'><mac address='{}'/><mtu size='1400'/><link state='down'/><driver queues='2'/>"
         "<portForward proto='tcp' address='127.0.0.1'><range start='8000' end='8002' to='80'/>"
         "<range start='8001' exclude='yes'/></portForward></interface>",
         NicSpec("user", mac=MAC, mtu=1400, queues=2, hostname="web1", link_up=False,
                 forwards=(PortForward("tcp", 8000, 80, "127.0.0.1"), PortForward("tcp", 8002, 82, "127.0.0.1")))),
        ("<interface type='network'><mac address='{}'/><source network='default'/></interface>",
         NicSpec("user", mac=MAC, hostname="web1")),
        ("<interface type='network'><mac address='{}'/><source network='lab'/></interface>",
         NicSpec("isolated", "lab", mac=MAC)),
        ("<interface type='network'><mac address='{}'/><source network='office'/></interface>",
         NicSpec("bridge", "br7", mac=MAC)),
        ("<interface type='network'><mac address='{}'/><source network='direct'/></interface>",
         NicSpec("macvtap", "eth3", mac=MAC)),
        ("<interface type='bridge'><mac address='{}'/><source bridge='br0'/><bandwidth><inbound average='100'/>"
         "<outbound average='50'/></bandwidth></interface>",
         NicSpec("bridge", "br0", mac=MAC, shaping=Shaping(50 * 1024 * 8))),
        ("<interface type='direct'><mac address='{}'/><source dev='eth1' mode='bridge'/></interface>",
         NicSpec("macvtap", "eth1", mac=MAC)),
        ("<interface type='ethernet'><mac address='{}'/><target dev='tap3' managed='no'/></interface>",
         NicSpec("tap", "tap3", mac=MAC)),
        ("<interface type='null'><mac address='{}'/></interface>", NicSpec("none", mac=MAC)),
    ],
)  # fmt: skip
def test_interfaces(xml: str, spec: NicSpec) -> None:
    assert launch(xml.format(MAC)).spec.nics == (spec,)


def test_services() -> None:
    spec = launch(
        "<filesystem><driver type='virtiofs'/><source dir='/srv'/><target dir='share'/><readonly/></filesystem>"
        "<vsock><cid address='9'/></vsock><memballoon model='none'/>"
        "<console type='pty'><target type='virtio'/></console>"
        "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    ).spec
    assert spec.shares == (ShareSpec(Path("/srv"), "share", read_only=True),)
    assert spec.vsock == VsockSpec(cid=9)
    assert (spec.balloon, spec.console, spec.agent) == (False, "virtio", True)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ("<tpm/>", "domain/devices/tpm: there is no TPM; remove <tpm>"),
        ("<interface type='network'><source network='none'/></interface>", "there is no network 'none'"),
        ("<interface type='network'><source network='bare'/></interface>", "names no bridge of the host"),
        ("<interface type='network'><source network='lab'/><portForward proto='tcp'><range start='1'/></portForward>"
         "</interface>", "domain/devices/interface/portForward: ports are forwarded by the user-mode network only"),
        ("<interface type='user'><portForward proto='tcp'><range start='1' end='60000'/></portForward></interface>",
         "more than 1024 ports"),
        ("<interface type='user'><portForward proto='tcp'><range start='9' end='8'/></portForward></interface>",
         "8 is before the start, 9"),
        ("<disk><source file='/b'/><target dev='hdb'/></disk>", "the machine has no ide disks; write bus='virtio'"),
    ],
)  # fmt: skip
def test_refused(devices: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        launch(devices)
    assert message in str(caught.value)


def test_all_that_is_refused_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        launch("<tpm/><hostdev/>")
    assert "domain/devices/hostdev" in str(caught.value)
    assert "there is no TPM" in str(caught.value)


def test_the_network_of_the_host_is_warned_of() -> None:
    found = launch("<interface type='network'><source network='default'/></interface>")
    assert [one.path for one in found.warnings] == ["domain/devices/interface/source/@network"]
    assert replace(found, warnings=()).spec.nics[0].kind == "user"
