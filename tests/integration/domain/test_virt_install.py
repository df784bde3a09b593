"""What virt-install writes, over its options and over operating systems: nothing of it is lost, all of it is
understood, and what no machine here can be is refused by its path.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from manor.domain.xml import domain
from manor.domain.xml.checker import UNKNOWN
from manor.domain.xml.live import live
from manor.domain.xml.normal import inactive, normalise
from manor.domain.xml.tree import Node, read
from manor.domain.xml.values import Support

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("virt-install") is None, reason="virt-install: not installed"),
]
BASE = "--name web --memory 512 --disk DISK,bus=virtio --network none --graphics none --import --osinfo none"
SPICE = "--channel spicevmc --channel unix,target.type=virtio,target.name=org.qemu.guest_agent.0 --channel qemu-vdagent"
CASES: dict[str, tuple[str, set[str]]] = {
    "topology": ("--vcpus 4,sockets=1,cores=2,threads=2 --cpu x86-64-v2,+aes,-avx", set()),
    "host model": ("--cpu host-model,migratable=on", set()),
    "numa": ("--vcpus 2 --cpu x86-64-v2,numa.cell0.cpus=0-1,numa.cell0.memory=512", {"cpu/numa"}),
    "cputune": ("--cputune vcpupin0.vcpu=0,vcpupin0.cpuset=0-1,emulatorpin.cpuset=0,period=100000,quota=-1,shares=9",
                set()),
    "memtune": ("--memtune hard_limit=1048576,soft_limit=524288,swap_hard_limit=2097152", set()),
    "numatune": ("--numatune 0,mode=preferred", set()),
    "blkiotune": ("--blkiotune weight=200,device0.path=/dev/sda,device0.weight=300", set()),
    "memory backing": ("--memorybacking hugepages=on,nosharepages=on,locked=on", set()),
    "iothreads": ("--iothreads 2,iothreadids.iothread0.id=1,iothreadids.iothread1.id=4", set()),
    "features": ("--features kvm.hidden.state=on,pmu.state=off,vmport.state=off,hyperv.relaxed.state=on", set()),
    "clock": ("--clock offset=utc,rtc_tickpolicy=catchup,pit_tickpolicy=delay,hpet_present=no,kvmclock_present=yes",
              set()),
    "power": ("--pm suspend_to_mem.enabled=on,suspend_to_disk.enabled=off", set()),
    "events": ("--events on_poweroff=restart,on_reboot=restart,on_crash=preserve", set()),
    "forbidden events": ("--events on_poweroff=restart,on_reboot=destroy", {"on_reboot"}),
    "resource": ("--resource partition=/machine", set()),
    "sysinfo": ("--sysinfo bios.vendor=V,system.manufacturer=M,system.serial=1,baseBoard.product=B,chassis.asset=C",
                set()),
    "perf": ("--xml ./perf/event/@name=cmt --xml ./perf/event/@enabled=yes", set()),
    "labels": ("--seclabel type=dynamic,model=selinux", set()),
    "boot order": ("--boot hd,cdrom,network,menu=on", set()),
    "loader": ("--boot loader=/usr/share/OVMF/OVMF_CODE.fd,loader.readonly=yes,loader.type=pflash", {"os/loader"}),
    "disk": ("--disk DISK,bus=virtio,cache=none,io=native,discard=unmap,detect_zeroes=unmap,serial=abc,boot.order=1,"
             "driver.queues=4,driver.iothread=1,iotune.read_bytes_sec=100,shareable=on",
             {"devices/disk[2]/iotune/read_bytes_sec", "devices/disk[2]/shareable"}),
    "nbd": ("--disk source.protocol=nbd,source.host0.name=h,source.host0.port=10809,source.name=exp,bus=virtio", set()),
    "transient": ("--disk DISK,transient=on,startup_policy=optional,bus=virtio", set()),
    "interfaces": ("--network user,model=virtio,mac=52:54:00:12:34:56,link.state=down,mtu.size=9000 "
                   "--network bridge=br0,model=e1000 --network default,model=virtio,boot.order=2 "
                   "--network type=ethernet,target.dev=tap0,model=virtio", {"devices/interface[2]/model/@type"}),
    "filter": ("--network network=default,model=virtio,filterref=clean-traffic,virtualport.type=openvswitch",
               {"devices/interface/virtualport", "devices/interface/filterref"}),
    "queues": ("--network user,model=virtio,driver.name=vhost,driver.queues=4", set()),
    "displays": ("--graphics vnc,password=secret,port=5901,listen=127.0.0.1 --graphics spice,gl=on,listen=none "
                 "--video qxl --video virtio", set()),
    "input": ("--input tablet,bus=usb --input keyboard,bus=virtio", set()),
    "sound": ("--sound ich9 --audio type=spice", set()),
    "serials": ("--serial tcp,host=127.0.0.1:2222,mode=bind,protocol=telnet --serial file,path=/tmp/x --parallel none",
                {"devices/serial[2]"}),
    "serial socket": ("--serial unix,path=/tmp/s,mode=bind,log.file=/tmp/l", set()),
    "consoles": ("--console pty,target.type=virtio --console pty,target.type=serial", {"devices/console[2]"}),
    "channels": (SPICE, set()),
    "tpm": ("--tpm model=tpm-crb,backend.type=emulator,backend.version=2.0", {"devices/tpm"}),
    "rng": ("--rng /dev/random,rate.bytes=1024,rate.period=1000", set()),
    "egd": ("--rng egd,backend.source.host=127.0.0.1,backend.source.service=8000,backend.source.mode=connect",
            {"devices/rng/backend/@model"}),
    "watchdog": ("--watchdog i6300esb,action=poweroff", {"devices/watchdog"}),
    "panic": ("--panic default", set()),
    "balloon": ("--memballoon virtio,autodeflate=on,stats.period=10", set()),
    "no balloon": ("--memballoon none", set()),
    "vsock": ("--vsock auto_cid=on", set()),
    "9p": ("--filesystem /srv,share", {"devices/filesystem"}),
    "virtiofs": ("--filesystem /srv,share,driver.type=virtiofs,readonly=on --memorybacking access.mode=shared", set()),
    "host device": ("--xml ./devices/hostdev/@mode=subsystem --xml ./devices/hostdev/@type=pci", {"devices/hostdev"}),
    "shared memory": ("--shmem name=s,size=4,model.type=ivshmem-plain", {"devices/shmem"}),
    "iommu": ("--iommu model=intel", {"devices/iommu"}),
    "smart card": ("--smartcard passthrough,type=spicevmc", {"devices/smartcard"}),
    "redirection": ("--redirdev usb,type=spicevmc", set()),
    "qemu": ("--qemu-commandline='-device foo'", {"qemu:commandline"}),
    "memory module": ("--memdev dimm,target.size=256,target.node=0 --memory 512,maxmemory=1024", {"devices/memory"}),
    "room for vcpus": ("--vcpus 1,maxvcpus=4,vcpu.placement=static,cpuset=0-1", set()),
    "generation": ("--metadata genid_enable=on", {"genid"}),
}  # fmt: skip
"""Options beside BASE -> paths that are refused, below `domain/`."""
SYSTEMS = ("debian11", "ubuntu22.04", "fedora37", "centos-stream9", "win10", "win2k22", "freebsd13.1", "generic",
           "linux2022", "alpinelinux3.17", "opensuse15.4", "winxp", "msdos6.22")  # fmt: skip


def written(path: Path, options: str) -> str:
    disk = path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    command = ["virt-install", "--connect", "test:///default", "--print-xml", *shlex.split(options)]
    done = subprocess.run(
        [word.replace("DISK", str(disk)) for word in command], capture_output=True, text=True, timeout=60, check=False
    )
    if "Unknown OS name" in done.stderr:
        pytest.skip("osinfo-db does not know this system")
    assert done.returncode == 0, done.stderr
    return done.stdout


def elements(node: Node, path: str = "") -> list[str]:
    """Paths of all elements and attributes."""
    here = f"{path}/{node.name}"
    found = [here, *(f"{here}/@{name}={value}" for name, value in node.attributes if name != "unit")]
    for child in node.elements():
        found += elements(child, here)
    return found


def understood(text: str) -> set[str]:
    """Paths that are refused. Raises AssertionError if something of the document is lost, or not known."""
    model = domain.parse(text)
    again = domain.format(model)
    assert domain.parse(again) == model
    left = elements(read(again, "domain"))
    for one in elements(read(text, "domain")):
        assert one in left, f"{one} is lost"
        left.remove(one)
    complete = normalise(model, emulator="/usr/bin/manor")
    assert normalise(complete, emulator="/usr/bin/other") == complete
    assert normalise(inactive(live(complete, 7)), emulator="").name == complete.name
    found = domain.check(complete)
    assert [one.path for one in found if one.text == UNKNOWN] == []
    return {one.path.removeprefix("domain/") for one in found if one.verdict is Support.REFUSED}


@pytest.mark.parametrize("name", CASES)
def test_an_option(name: str, tmp_path: Path) -> None:
    options, refused = CASES[name]
    assert understood(written(tmp_path, f"{BASE} {options}")) == refused


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_operating_system(system: str, tmp_path: Path) -> None:
    text = written(tmp_path, f"--name web --memory 2048 --disk DISK --import --osinfo {system}")
    # libvirt's test driver is a 32-bit host without virtio, and virt-install chooses for that.
    assert understood(text) <= {"devices/interface/model/@type", "devices/disk/target/@bus"}
    modern = written(tmp_path, f"--name web --memory 2048 --disk DISK,bus=virtio --network default,model=virtio "
                               f"--import --osinfo {system}")  # fmt: skip
    assert understood(modern) == set()
