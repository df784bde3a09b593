"""VMs with names and real guests: from an image to a program that runs in it, by the commands that a user types."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from manor.guests.default import DefaultGuest
from manor.images.reference import Reference
from manor.images.store import Metadata, Store
from manor.instances.client import ControlClient
from manor.instances.instance import Instances

Manor = Callable[..., "subprocess.CompletedProcess[str]"]
BOOT_TIMEOUT_S = 90.0
DEBIAN_TIMEOUT_S = 600.0


@pytest.fixture
def manor(manor_only: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manor]:
    """Run a command to its end, with directories of this test. VMs that are left are killed."""
    for variable in ("XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR"):
        (tmp_path / variable).mkdir(mode=0o700)
        monkeypatch.setenv(variable, str(tmp_path / variable))

    def run(
        *words: str, check: bool = True, stdin: str = "", timeout: float = BOOT_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "manor", *words], input=stdin, capture_output=True, text=True, timeout=timeout
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    yield run
    for vm in Instances().all():
        pid = vm.running_pid()
        if pid:
            os.kill(pid, signal.SIGKILL)


def status(name: str) -> dict[str, Any]:
    with ControlClient(Instances().get(name).control) as client:
        return client.call("status")


def test_default_guest_over_its_control_socket(manor: Manor, guest: DefaultGuest) -> None:
    started = manor("run", "box", "--image", "none", "--accel", "dbt", "--no-net", "--wait", "login")
    assert "manor: box is ready: login" in started.stderr
    vm = Instances().get("box")
    assert status("box")["stage"]["text"] == "login"
    assert manor("exec", "box", "--", "cat", "/sys/class/dmi/id/product_uuid").stdout.strip() == vm.config().uuid
    assert manor("exec", "box", "--", "cat", "/sys/class/dmi/id/sys_vendor").stdout == "Manor\n"
    done = manor("exec", "box", "--", "sh", "-c", "echo 'a  b'; exit 7", check=False)
    assert (done.stdout, done.returncode) == ("a  b\n", 7)
    manor("pause", "box")
    assert json.loads(manor("ls", "--json").stdout)[0]["state"] == "paused"
    manor("resume", "box")
    assert "Power down" in manor("console", "box", stdin="poweroff -f\n").stdout
    limit = time.monotonic() + 20
    while vm.running_pid() is not None:
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert vm.last_end() == {"reason": "power-off", "detail": "", "status": 0}


def test_what_a_guest_writes_is_on_its_clone_and_not_in_the_image(manor: Manor, guest: DefaultGuest) -> None:
    store = Store()
    with store.incoming("test") as folder:
        (folder / "disk").write_bytes(bytes(8 << 20))
        image = store.add(folder / "disk", Metadata("raw", 8 << 20, 8 << 20, 0.0), Reference("empty"))
    kernel = ("--kernel", str(guest.kernel), "--initrd", str(guest.initrd), "--append", guest.cmdline)
    options = (*kernel, "--accel", "dbt", "--no-net", "--wait", "login")
    manor("run", "one", "--image", "empty", "--size", "16M", *options)
    manor("run", "two", "--image", "empty", *options)
    assert manor("exec", "one", "--", "cat", "/sys/block/vda/size").stdout == f"{(16 << 20) // 512}\n"
    manor("exec", "one", "--", "sh", "-c", "echo kept | dd of=/dev/vda conv=sync,fsync 2>/dev/null")
    manor("stop", "--force", "one", "two")
    manor("run", "one", "--wait", "login")
    assert manor("exec", "one", "--", "head", "-c", "4", "/dev/vda").stdout == "kept"
    label = manor("exec", "one", "--", "sh", "-c", "dd if=/dev/vdb bs=1 skip=32808 count=6 2>/dev/null")
    assert label.stdout == "cidata"
    assert image.path.read_bytes() == bytes(8 << 20)
    manor("rm", "--force", "one", "two")
    assert store.users(image) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_debian_from_its_packages_to_ssh_and_back(manor: Manor, tmp_path: Path) -> None:
    if not all(map(shutil.which, ("apt-get", "ssh", "scp", "ssh-keygen"))):
        pytest.skip("needs apt and OpenSSH's client")
    built = manor("image", "build", "debian", check=False, timeout=1200)
    if built.returncode:
        pytest.skip(f"no image can be built here: {built.stderr[-300:]}")
    options = ("--memory", "512M", "--accel", "dbt", "--net", "user", "--outside", "closed")
    manor("run", "debian", *options, "--wait", "login", timeout=DEBIAN_TIMEOUT_S)
    assert manor("exec", "debian", "--", "uname", "-n", timeout=120).stdout == "debian\n"
    assert manor("ssh", "debian", "--", "id", "-un", timeout=120).stdout == "root\n"
    (tmp_path / "data").write_bytes(os.urandom(1 << 20))
    manor("cp", str(tmp_path / "data"), "debian:/root/data", timeout=120)
    manor("cp", "debian:/root/data", str(tmp_path / "back"), timeout=120)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "data").read_bytes()
    assert status("debian")["addresses"][0].startswith("10.")
    manor("stop", "debian", timeout=180)
    vm = Instances().get("debian")
    assert vm.last_end() == {"reason": "power-off", "detail": "", "status": 0}
    manor("run", "debian", "--wait", "login", timeout=DEBIAN_TIMEOUT_S)
    sums = manor("exec", "debian", "--", "wc", "-c", "/root/data", timeout=120).stdout
    assert sums == f"{1 << 20} /root/data\n"
    refused = manor("image", "rm", "debian", check=False)
    assert "debian is in use" in refused.stderr
    manor("rm", "--force", "debian")
    manor("image", "rm", "debian")
