"""Named VMs: made whole or not at all, run by one process, and what a killed process leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from manor.base.errors import ConfigError, HostError
from manor.images.reference import Reference
from manor.images.seed import SeedSpec
from manor.images.store import Metadata, Store, StoredImage
from manor.instances.config import InstanceConfig, check_name, load_config, new_config, save_config
from manor.instances.create import create, remove
from manor.instances.instance import Instance, Instances, VmRunning
from manor.instances.machine import complete, with_root
from manor.spec.block import DiskSpec
from manor.spec.machine import MachineSpec
from manor.spec.net import NicSpec

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE manor"


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    (tmp_path / "XDG_RUNTIME_DIR").mkdir(mode=0o700)


@pytest.fixture
def image() -> StoredImage:
    store = Store()
    with store.incoming("x") as folder:
        (folder / "disk").write_bytes(b"\1" * 4096)
        metadata = Metadata("raw", 4096, 4096, 0.0)
        return store.add(folder / "disk", metadata, Reference("debian"))


def make(name: str, image: StoredImage | None = None, size: int | None = None) -> Instance:
    config = new_config(name)
    if image is not None:
        config = replace(config, image=str(image), digest=image.digest, disk=True, user="ann")
    return create(Instances(), Store(), config, image, size, SeedSpec("i", name, "ann", (KEY,)))


def test_vm_of_an_image_has_a_disk_and_a_seed(image: StoredImage) -> None:
    vm = make("web", image, 1 << 20)
    assert [each.name for each in Instances().all()] == ["web"]
    assert vm.config().image == "debian"
    assert vm.disk.read_bytes()[:4] == b"QFI\xfb"
    assert b"cidata" in vm.seed.read_bytes()
    assert Store().users(image) == [str(vm.disk)]
    assert vm.path.stat().st_mode & 0o077 == 0


def test_clone_reads_what_the_image_has_and_writes_for_itself(image: StoredImage) -> None:
    from manor.backends.block.open import OpenOptions, open_image

    vm = make("web", image, 8192)
    disk = open_image(str(vm.disk), OpenOptions())
    data = bytearray(8192)
    disk.read(0, [memoryview(data)])
    assert data == b"\1" * 4096 + bytes(4096)
    disk.write(0, [memoryview(bytearray(b"\2" * 512))])
    disk.close()
    assert image.path.read_bytes() == b"\1" * 4096


def test_removed_vm_lets_its_image_go(image: StoredImage) -> None:
    vm = make("web", image)
    with pytest.raises(ConfigError, match="in use"):
        Store().remove("debian")
    remove(Instances(), Store(), vm)
    assert Instances().all() == []
    assert not vm.path.exists()
    assert Store().remove("debian")[0] == "debian"


def test_disk_smaller_than_the_image_is_refused_and_nothing_stays(image: StoredImage) -> None:
    with pytest.raises(ConfigError, match="at least 4 KiB"):
        make("web", image, 512)
    with pytest.raises(ConfigError, match="multiple of 512"):
        make("web", image, 5000)
    assert list(Instances().root.iterdir()) == []
    assert Store().users(image) == []


def test_second_vm_of_a_name_is_refused() -> None:
    make("web")
    with pytest.raises(ConfigError, match="there is a VM web already"):
        make("web")
    assert [path.name for path in Instances().root.iterdir()] == ["web"]


def test_two_that_make_the_same_vm_at_once_make_one(image: StoredImage) -> None:
    results: list[str] = []

    def work() -> None:
        try:
            results.append(make("web", image).name)
        except ConfigError as error:
            results.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == ["there is a VM web already"] * 5 + ["web"]
    assert [path.name for path in Instances().root.iterdir()] == ["web"]


def test_vm_that_is_run_cannot_be_run_again_or_removed() -> None:
    vm = make("web")
    vm.lock()
    other = Instances().get("web")
    assert other.running_pid() == os.getpid()
    with pytest.raises(VmRunning, match=rf"web runs already \(process {os.getpid()}\); end it with: manor stop web"):
        other.lock()
    with pytest.raises(VmRunning):
        remove(Instances(), Store(), other)
    vm.unlock()
    assert other.running_pid() is None
    other.lock()
    other.unlock()


def test_killed_process_is_not_taken_for_a_running_one() -> None:
    vm = make("web")
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from manor.instances.instance import Instance\n"
        "vm = Instance(Path(sys.argv[1])); vm.lock(); print('locked', flush=True); sys.stdin.read()\n"
    )
    source = Path(__file__).resolve().parents[3] / "src"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(vm.path)], env={"PYTHONPATH": str(source)}, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        assert vm.running_pid() == process.pid
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert vm.running_pid() is None
    vm.lock()
    vm.unlock()


def test_what_a_killed_maker_left_is_swept_when_the_next_is_made() -> None:
    root = Instances().root
    left = root / ".web.abc.new"
    left.mkdir(parents=True)
    (left / "lock").write_text("1\n")
    (left / "disk.qcow2").write_text("half")
    assert Instances().all() == []
    make("web")
    assert [path.name for path in root.iterdir()] == ["web"]


def test_vm_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="there is no VM 'web'"):
        Instances().get("web")
    assert Instances().find("web") is None
    with pytest.raises(ConfigError, match="there is no VM 'web'"):
        Instance(Instances().root / "web").lock()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "-a", "a-", "a_b", "x" * 64, "a\n", "ä"])
def test_name_that_cannot_be_one(name: str) -> None:
    with pytest.raises(ConfigError, match="not a name for a VM"):
        check_name(name)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version":1,"name":"a"}', '{"version":1,"name":"a","uuid":7}', "[" * 5000, "\xff"]
)
def test_damaged_configuration_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, "latin-1")
    with pytest.raises(HostError, match=str(path)):
        load_config(path)


def test_configuration_comes_back(tmp_path: Path) -> None:
    config = InstanceConfig("a", "u", "debian", "d" * 64, True, "ann", 2.5, {"ports": ["1:2"]}, {"keys": [KEY]})
    save_config(tmp_path / "c", config)
    assert load_config(tmp_path / "c") == config


def test_machine_of_a_vm(image: StoredImage) -> None:
    vm = make("web", image)
    config = vm.config()
    disks = with_root(vm, config, (DiskSpec("data.img"),))
    spec = MachineSpec(Path("kernel"), disks=disks, nics=(NicSpec(), NicSpec(hostname="mine")))
    spec = complete(spec, vm, config)
    root, extra, seed = spec.disks
    assert (root.source, root.format, extra.source) == (str(vm.disk), "qcow2", "data.img")
    assert (seed.source, seed.read_only) == (str(vm.seed), True)
    assert (spec.name, spec.smbios.uuid, [nic.hostname for nic in spec.nics]) == ("web", config.uuid, ["web", "mine"])
    (text,) = spec.smbios.strings
    assert text.startswith("io.systemd.credential.binary:ssh.authorized_keys.root=")


def test_last_end_is_remembered_until_the_next_run() -> None:
    vm = make("web")
    assert vm.last_end() is None
    vm.note_end("panic", "", 4)
    assert vm.last_end() == {"reason": "panic", "detail": "", "status": 4}
    vm.forget_end()
    assert vm.last_end() is None
