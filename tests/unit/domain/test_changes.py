"""Devices that come and go, the completed and live forms, and what a new definition changes when."""

from __future__ import annotations

import pytest

from manor.base.errors import ConfigError
from manor.base.units import MiB
from manor.domain.xml import domain
from manor.domain.xml.changes import (
    AT_ONCE,
    When,
    attach,
    detach,
    detach_alias,
    differences,
    format_device,
    parse_device,
    update,
)
from manor.domain.xml.live import live
from manor.domain.xml.normal import inactive, normalise, secure
from tests.unit.domain.documents import EXAMPLES

SMALL = (EXAMPLES / "domain-small.xml").read_text("utf-8")
FULL = (EXAMPLES / "domain-full.xml").read_text("utf-8")


def complete(text: str = SMALL) -> domain.Domain:
    uuid = "3f9a4c1e-5b77-4d7e-9d57-0c3a2b1e4f60"
    return normalise(domain.parse(text), emulator="/usr/bin/manor", new_uuid=lambda: uuid)


# ---------------------------------------------------------------------- forms
def test_the_completed_form_has_what_clients_look_for() -> None:
    assert domain.format(complete()) == """\
<domain type='qemu'>
  <name>small</name>
  <uuid>3f9a4c1e-5b77-4d7e-9d57-0c3a2b1e4f60</uuid>
  <memory unit='KiB'>262144</memory>
  <currentMemory unit='KiB'>262144</currentMemory>
  <vcpu placement='static'>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <boot dev='hd'/>
  </os>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/manor</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='/srv/small.img'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <controller type='pci' index='0' model='pci-root'/>
    <interface type='user'>
      <mac address='52:54:00:8c:1e:9e'/>
      <model type='virtio'/>
    </interface>
    <serial type='pty'>
      <target type='isa-serial' port='0'>
        <model name='isa-serial'/>
      </target>
    </serial>
    <console type='pty'>
      <target type='serial' port='0'/>
    </console>
    <memballoon model='virtio'/>
  </devices>
</domain>
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("'MiB'>256", "'MiB'>0", "domain/memory: it is 0"),
        ("<os>", "<vcpu current='3'>2</vcpu><os>", "domain/vcpu/@current: 3 is more than the 2"),
        ("dev='vda'", "dev='disk1'", "'disk1' is not the name of a disk"),
        ("<source file='/srv/small.img'/>", "", "domain/devices/disk/source/@file: it is missing"),
        ("type='user'", "type='bridge'", "domain/devices/interface/source/@bridge: it is missing"),
        ("</disk>", "<boot order='1'/></disk><disk><source file='/b'/><target dev='vdb'/><boot order='1'/></disk>",
         "two devices have the same boot order"),
        ("</disk>", "</disk><disk><source file='/b'/><target dev='vda'/></disk>", "another disk is 'vda' too"),
    ],
)  # fmt: skip
def test_what_cannot_be_completed(old: str, new: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        complete(SMALL.replace(old, new))
    assert message in str(caught.value)


def test_currentmemory_is_at_most_memory() -> None:
    text = SMALL.replace("<os>", "<currentMemory unit='GiB'>9</currentMemory><os>")
    assert complete(text).current_memory == 256 * MiB


def test_live_form_and_back() -> None:
    plain = complete()
    running = live(plain, 5, tty="/dev/pts/3", agent_connected=True)
    text = domain.format(running)
    assert "<domain type='qemu' id='5'>" in text
    assert "<console type='pty' tty='/dev/pts/3'>" in text
    assert [one.alias for one in running.devices.serials + running.devices.consoles] == ["serial0", "serial0"]
    disk, nic, balloon = running.devices.disks[0], running.devices.interfaces[0], running.devices.balloon
    assert (disk.alias, nic.alias) == ("virtio-disk0", "net0")
    assert balloon is not None
    # The order in which the machine gives out slots: console, generator, balloon, interfaces, ..., disks.
    slots = [one.address.slot for one in (balloon, nic, disk) if one.address]
    assert slots == [3, 4, 5]
    back = inactive(domain.parse(text))
    assert back.id is None
    assert back.devices.disks[0].alias is None
    assert back.devices.consoles == plain.devices.consoles


def test_names_that_users_gave_stay_and_secrets_go() -> None:
    full = domain.parse(FULL)
    assert inactive(full).devices.disks[0].alias == "ua-root"
    assert inactive(full).devices.vsock.alias is None  # type: ignore[union-attr]
    assert "passwd='secret'" in domain.format(full)
    assert "secret" not in domain.format(secure(full))


# ---------------------------------------------------------------------- devices
def test_a_disk_comes_and_goes() -> None:
    disk = parse_device("<disk type='file'><source file='/b.img'/><target dev='vdb'/></disk>")
    more = attach(complete(), disk)
    assert [(one.target, one.bus, one.format) for one in more.devices.disks] == [
        ("vda", "virtio", "raw"), ("vdb", "virtio", "raw")
    ]  # fmt: skip
    assert detach(more, disk) == complete()
    with pytest.raises(ConfigError, match="target vdb already exists"):
        attach(more, disk)
    with pytest.raises(ConfigError, match=r"no such device \(vdb\)"):
        detach(complete(), disk)


def test_an_interface_comes_and_goes() -> None:
    nic = parse_device("<interface type='bridge'><source bridge='br0'/></interface>")
    more = attach(complete(), nic)
    assert len({one.mac for one in more.devices.interfaces}) == 2
    assert detach(more, nic) == complete()
    twice = attach(more, nic)
    with pytest.raises(ConfigError, match="2 devices are meant"):
        detach(twice, nic)
    taken = parse_device(f"<interface type='user'><mac address='{more.devices.interfaces[1].mac}'/></interface>")
    with pytest.raises(ConfigError, match="already"):
        attach(more, taken)


def test_a_medium_and_a_cable_change() -> None:
    disk = parse_device("<disk type='file'><source file='/other.img'/><target dev='vda'/></disk>")
    changed = update(complete(), disk)
    assert [one.file for one in changed.devices.disks] == ["/other.img"]
    mac = complete().devices.interfaces[0].mac
    nic = parse_device(f"<interface type='user'><mac address='{mac}'/><link state='down'/></interface>")
    assert update(complete(), nic).devices.interfaces[0].link == "down"


def test_by_alias_and_single_devices() -> None:
    running = live(complete(), 1)
    assert detach_alias(running, "net0").devices.interfaces == ()
    with pytest.raises(ConfigError, match="no device has the alias 'net7'"):
        detach_alias(running, "net7")
    vsock = parse_device("<vsock><cid address='5'/></vsock>")
    more = attach(complete(), vsock)
    assert detach(more, vsock) == complete()
    with pytest.raises(ConfigError, match="there can be no second"):
        attach(more, vsock)
    assert parse_device(format_device(vsock)) == vsock


@pytest.mark.parametrize("text", ["", "<video/>", "<!DOCTYPE disk><disk/>", "<disk>", "<?xml version='1.0'?><domain/>"])
def test_what_is_no_device(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_device(text)


# ---------------------------------------------------------------------- definitions
def test_differences_say_when() -> None:
    before = complete()
    after = complete(
        SMALL.replace("<name>small</name>", "<name>small</name><title>T</title>")
        .replace("/srv/small.img", "/srv/large.img")
        .replace("<os>", "<currentMemory unit='MiB'>128</currentMemory><vcpu>2</vcpu><os>")
        .replace("</devices>", "<vsock/></devices>")
    )
    found = {one.path: (one.before, one.after, one.when) for one in differences(before, after)}
    assert found == {
        "domain/title": (None, "T", When.LIVE),
        "domain/currentMemory": ("262144", "131072", When.LIVE),
        "domain/vcpu": ("1", "2", When.NEXT_BOOT),
        "domain/devices/disk[vda]/source/@file": ("/srv/small.img", "/srv/large.img", When.NEXT_BOOT),
        "domain/devices/vsock": (None, "<vsock model='virtio'/>\n", When.NEXT_BOOT),
    }
    able = differences(before, after, live=(*AT_ONCE, "domain/devices/disk"))
    assert [one.when for one in able if "disk" in one.path] == [When.LIVE]
    assert differences(before, before) == ()


def test_identity_and_unknown_elements_in_differences() -> None:
    before = domain.parse(FULL)
    after = domain.parse(
        FULL.replace("3f9a4c1e", "4f9a4c1e")
        .replace("<name>web1<", "<name>web2<")
        .replace("type='tablet'", "type='mouse'")
    )
    found = [(one.path, one.when) for one in differences(before, after)]
    assert found == [
        ("domain/name", When.OFF),
        ("domain/uuid", When.REFUSED),
        ("domain/devices/input", When.NEXT_BOOT),
        ("domain/devices/input", When.NEXT_BOOT),
    ]
