"""Our XML against what nobody here wrote: virt-install writes it, libvirt's schemas and virsh read it."""

from __future__ import annotations

import json
import shutil
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from manor.domain import events, state
from manor.domain.xml import capabilities, domain, network, storage
from manor.domain.xml.live import live
from manor.domain.xml.normal import normalise
from manor.domain.xml.tree import read
from manor.domain.xml.values import Support
from tests.unit.domain.documents import ALL, kind

SCHEMAS = Path("/usr/share/libvirt/schemas")
VIRT_INSTALL = {
    "plain": "--disk DISK,bus=virtio --network network=default,model=virtio --graphics none",
    "desktop": "--disk DISK,bus=virtio --network user,model=virtio --graphics vnc --sound ich6 --video qxl",
    "many": "--vcpus 2,maxvcpus=4 --disk DISK,bus=virtio,cache=none,discard=unmap,serial=A1,iotune.total_iops_sec=100 "
            "--disk DISK,device=cdrom --network bridge=br0,model=virtio,mac=52:54:00:11:22:33 "
            "--network type=direct,source=eth0,source.mode=bridge,model=virtio --graphics none",
    "services": "--disk DISK,bus=virtio --network none --graphics none --vsock cid=7 --rng /dev/urandom "
                "--filesystem /srv,share,driver.type=virtiofs --memorybacking source.type=memfd,access.mode=shared "
                "--channel unix,target.type=virtio,target.name=org.qemu.guest_agent.0",
    "kernel": "--disk DISK,bus=virtio --network none --graphics none "
              "--boot kernel=/boot/vmlinuz,initrd=/boot/initrd,kernel_args=console=ttyS0",
    "tables": "--disk DISK,bus=virtio --network none --graphics none --cpu host-passthrough "
              "--sysinfo system.serial=abc --events on_reboot=destroy,on_crash=preserve "
              "--metadata title=A,description=B",
    "console": "--disk DISK,bus=virtio --network none --graphics none --console pty,target.type=virtio",
    "tuned": "--disk DISK,bus=virtio --network none --graphics none --iothreads 2 --cputune shares=512 "
             "--blkiotune weight=300 --numatune 0 --memory 512,currentMemory=256 --clock offset=localtime",
}  # fmt: skip
YOUNGER = ("domain-efi", "domain-full", "network-nat")
"""Examples with elements that libvirt 9.0 does not have."""
VIRSH = ["virsh", "-q", "-c", "test:///default"]


def needs(*programs: str) -> pytest.MarkDecorator:
    missing = [one for one in programs if shutil.which(one) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)}: not installed")


def run(*command: str | Path) -> str:
    done = subprocess.run([str(one) for one in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What virt-install writes, by the names above."""
    disk = tmp_path_factory.mktemp("disk") / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    base = ["virt-install", "--connect", "test:///default", "--print-xml", "--import", "--osinfo", "none",
            "--name", "web", "--memory", "512"]  # fmt: skip
    return {name: run(*base, *options.replace("DISK", str(disk)).split()) for name, options in VIRT_INSTALL.items()}


def validate(schema: str, text: str, path: Path) -> None:
    path.write_text(text, "utf-8")
    run("xmllint", "--noout", "--relaxng", SCHEMAS / f"{schema}.rng", path)


needs_schemas = pytest.mark.skipif(not SCHEMAS.exists(), reason="libvirt's schemas are not installed")


@needs("virt-install")
@pytest.mark.parametrize("name", VIRT_INSTALL)
def test_what_virt_install_writes_is_kept_and_can_be_started(name: str, installed: dict[str, str]) -> None:
    model = domain.parse(installed[name])
    text = domain.format(model)
    assert domain.parse(text) == model
    written = set(read(text, "domain").find("devices").elements())  # type: ignore[union-attr]
    for element in read(installed[name], "domain").find("devices").elements():  # type: ignore[union-attr]
        assert element.name in {one.name for one in written}
    complete = normalise(model, emulator="/usr/bin/manor")
    refused = [one for one in domain.check(complete) if one.verdict is Support.REFUSED]
    assert not refused
    assert normalise(complete, emulator="/usr/bin/other") == complete


@needs("virt-install", "xmllint")
@needs_schemas
@pytest.mark.parametrize("name", VIRT_INSTALL)
def test_completed_and_live_documents_fit_the_schema(name: str, installed: dict[str, str], tmp_path: Path) -> None:
    complete = normalise(domain.parse(installed[name]), emulator="/usr/bin/manor")
    validate("domain", domain.format(complete), tmp_path / "defined.xml")
    running = live(complete, 4, tty="/dev/pts/9", taps={"52:54:00:11:22:33": "tap3"}, agent_connected=True)
    validate("domain", domain.format(running), tmp_path / "live.xml")


@needs("virt-install", "virsh")
@pytest.mark.parametrize("name", VIRT_INSTALL)
def test_libvirt_reads_the_same_in_what_we_write(name: str, installed: dict[str, str], tmp_path: Path) -> None:
    complete = normalise(domain.parse(installed[name]), emulator="/usr/bin/manor")
    # The test driver has one architecture and its own type.
    complete = replace(complete, type="test", arch="i686", machine="pc")
    path = tmp_path / "domain.xml"
    text = domain.format(complete).replace(" machine='pc'", "")
    path.write_text(text, "utf-8")
    theirs = domain.parse(run(*VIRSH, f"define {path}; dumpxml --inactive web"))
    ours = complete
    same = ("name", "uuid", "title", "description", "memory", "current_memory", "vcpus", "current_vcpus", "kernel",
            "initrd", "cmdline", "on_poweroff", "on_reboot", "on_crash", "clock", "metadata", "blkiotune", "cputune",
            "sysinfo", "smbios_mode", "iothreads", "boot")  # fmt: skip
    for field in same:
        assert getattr(theirs, field) == getattr(ours, field), field
    for field in ("disks", "interfaces", "serials", "consoles", "filesystems", "rngs"):
        assert len(getattr(theirs.devices, field)) == len(getattr(ours.devices, field)), field
    for their_disk, our_disk in zip(theirs.devices.disks, ours.devices.disks, strict=True):
        assert replace(their_disk, address=None) == our_disk
    for their_nic, our_nic in zip(theirs.devices.interfaces, ours.devices.interfaces, strict=True):
        # The test driver invents interfaces of the host.
        assert replace(their_nic, address=None, target=None) == our_nic
    assert theirs.devices.serials == ours.devices.serials
    assert theirs.devices.consoles == ours.devices.consoles


@needs("xmllint")
@needs_schemas
@pytest.mark.parametrize("path", [one for one in ALL if one.stem not in YOUNGER], ids=lambda path: path.stem)
def test_examples_fit_the_schema(path: Path, tmp_path: Path) -> None:
    schema = {"pool": "storagepool", "volume": "storagevol"}.get(kind(path), kind(path))
    validate(schema, path.read_text("utf-8"), tmp_path / path.name)


@needs("virsh")
def test_libvirt_takes_networks_pools_and_volumes(tmp_path: Path) -> None:
    examples = {path.stem: path.read_text("utf-8") for path in ALL}
    net = network.parse(examples["network-nat"])
    net = replace(net, name="lab", uuid=str(uuid.uuid4()), title=None, description=None, metadata=None, inbound=None)
    net = replace(net, connections=None, interfaces=(network.ForwardInterface(dev="eth0"),))
    (tmp_path / "net.xml").write_text(network.format(net), "utf-8")
    theirs = network.parse(run(*VIRSH, f"net-define {tmp_path}/net.xml; net-dumpxml lab"))
    assert replace(theirs, mac=None) == replace(net, mac=None)
    pool = storage.parse(examples["pool-dir"])
    (tmp_path / "pool.xml").write_text(storage.format(pool), "utf-8")
    their_pool = storage.parse(run(*VIRSH, f"pool-define {tmp_path}/pool.xml; pool-dumpxml images"))
    assert (their_pool.name, their_pool.uuid, their_pool.path) == (pool.name, pool.uuid, pool.path)
    volume = replace(storage.parse_volume(examples["volume-qcow2"]), backing=None)
    (tmp_path / "volume.xml").write_text(storage.format_volume(volume), "utf-8")
    commands = f"vol-create default-pool {tmp_path}/volume.xml; vol-dumpxml web1.qcow2 --pool default-pool"
    their_volume = storage.parse_volume(run(*VIRSH, commands))
    assert (their_volume.name, their_volume.capacity) == (volume.name, volume.capacity)


HOST = capabilities.HostFacts(
    uuid=str(uuid.UUID(int=77)), memory=4 << 30, cpus=4, sockets=1, cores=2, threads=2, cpu_model="x86-64-v3",
    cpu_vendor="Intel", emulator="/usr/bin/manor", kvm=True,
)  # fmt: skip


@needs("xmllint")
@needs_schemas
def test_capabilities_fit_the_schemas(tmp_path: Path) -> None:
    for facts in (HOST, replace(HOST, kvm=False, threads=1)):
        validate("capability", capabilities.capabilities(facts), tmp_path / "capabilities.xml")
        validate("domaincaps", capabilities.domain_capabilities(facts), tmp_path / "domain-capabilities.xml")


PYTHON = "/usr/bin/python3"
"""Debian's Python, which has Debian's python3-libvirt."""
CONSTANTS = "import json, libvirt; print(json.dumps({k: v for k, v in vars(libvirt).items() if isinstance(v, int)}))"


@pytest.fixture(scope="module")
def constants() -> dict[str, int]:
    done = subprocess.run([PYTHON, "-c", CONSTANTS], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip("python3-libvirt is not installed")
    return dict(json.loads(done.stdout))


SPELLING = {"NO_STATE": "NOSTATE", "IO_ERROR": "IOERROR", "PM_SUSPENDED": "PMSUSPENDED", "CRASH_LOADED": "CRASHLOADED"}


def published(name: str) -> str:
    return SPELLING.get(name, name)


def test_states_and_reasons_have_the_published_numbers(constants: dict[str, int]) -> None:
    for one in state.DomainState:
        assert constants[f"VIR_DOMAIN_{published(one.name)}"] == one
        prefix = f"VIR_DOMAIN_{published(one.name)}_"
        members = state.REASONS[one]
        for reason in members:
            if one is state.DomainState.PAUSED and reason is state.PausedReason.API_ERROR:
                continue  # younger than libvirt 9.0
            assert constants[prefix + published(reason.name)] == reason, reason


def test_events_have_the_published_numbers(constants: dict[str, int]) -> None:
    for event in events.LifecycleEvent:
        assert constants[f"VIR_DOMAIN_EVENT_{published(event.name)}"] == event
        for detail in events.DETAILS[event]:
            assert constants[f"VIR_DOMAIN_EVENT_{published(event.name)}_{published(detail.name)}"] == detail, detail
    for kind_ in events.EventId:
        assert constants[f"VIR_DOMAIN_EVENT_ID_{kind_.name}"] == kind_
