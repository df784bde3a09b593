"""Guest agents inside a real guest: QEMU's own, and ours with the distribution's Python."""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from manor.accel.choose import choose
from manor.agent import guest as agent_module
from manor.base.errors import ConfigError
from manor.guests.default import DefaultGuest
from manor.guests.init_script import PROMPT
from manor.spec.machine import MachineSpec
from manor.testing.host_programs import Files, has_system_python, python_for, with_libraries
from manor.testing.programs import extend_initrd
from manor.vmm.lifecycle import Reason
from manor.vmm.vm import Vm
from tests.guest.conftest import BOOT_TIMEOUT_S, STEP_TIMEOUT_S

pytestmark = pytest.mark.timeout(400)

FIND_PORT = "cd /sys/class/virtio-ports; echo /dev/$(grep -l org.qemu.guest_agent.0 */name | cut -d/ -f1)"
PAUSE_S = 3.0


@pytest.fixture(params=["qemu-ga", "ours"])
def vm(request: pytest.FixtureRequest, guest: DefaultGuest, manor_only: None, tmp_path: Path) -> Iterator[Vm]:
    files: Files
    if request.param == "qemu-ga":
        program = shutil.which("qemu-ga")
        if program is None:
            pytest.skip("qemu-ga is not installed (Debian package qemu-guest-agent)")
        files = with_libraries(program)
        command = f"{program} -p $({FIND_PORT}) -t /tmp -f /tmp/ga.pid"
    else:
        if not has_system_python():
            pytest.skip("the distribution's Python is not installed")
        script = Path(agent_module.__file__)
        files = python_for(script)
        command = f"/usr/bin/python3 -S /usr/bin/{script.name}"
    files["/etc/os-release"] = (0o644, b'ID=test\nPRETTY_NAME="A test"\n')
    # QEMU's agent looks for it here.
    files["/sbin/hwclock"] = (0o755, b'#!/bin/sh\nexec busybox hwclock "$@"\n')
    files["/sbin/shutdown"] = (0o755, b"#!/bin/sh\necho shutdown $@ > /dev/console\npoweroff -f\n")
    initrd = extend_initrd(guest.initrd, files, tmp_path / "initrd")
    with Vm(MachineSpec(guest.kernel, initrd, guest.cmdline, agent=True), choose("dbt").accel, reboot=False) as vm:
        vm.start()
        vm.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)
        vm.serial.send(f"{command} &\n")
        vm.agent.wait(60)
        yield vm


def test_what_the_host_asks_for_happens_in_the_guest(vm: Vm) -> None:
    agent = vm.agent
    assert agent.os_info()["pretty-name"] == "A test"
    result = agent.exec(["/bin/sh", "-c", "wc -c; echo no >&2; exit 5"], input=b"x" * 70_000)
    assert (result.status, result.stdout.strip(), result.stderr) == (5, b"70000", b"no\n")
    data = bytes(range(256)) * 800
    agent.write_file("/tmp/file", data)
    assert agent.exec(["/bin/md5sum", "/tmp/file"]).stdout[:32].decode() == hashlib.md5(data).hexdigest()
    assert agent.read_file("/tmp/file") == data
    assert [interface.name for interface in agent.interfaces()] == ["lo"]
    assert agent.addresses() == ()

    # Nobody set the guest's clock yet.
    agent.set_time(1_700_000_000 * 10**9)
    assert 0 <= agent.get_time() - 1_700_000_000 * 10**9 < 20e9
    agent.set_time()
    assert abs(agent.get_time() - time.time_ns()) < 3e9

    # After a pause it is right again, without anybody asking.
    vm.pause()
    time.sleep(PAUSE_S)
    vm.resume()
    limit = time.monotonic() + STEP_TIMEOUT_S
    while abs(agent.get_time() - time.time_ns()) > 1e9:
        assert time.monotonic() < limit
        time.sleep(0.2)

    # Nothing there can be frozen, which is no error.
    assert agent.freeze() == 0
    assert agent.thaw() == 0
    agent.shutdown()
    assert vm.wait(STEP_TIMEOUT_S).reason is Reason.POWER_OFF
    assert re.search(r"shutdown .*-P", vm.serial.text)


def test_vm_without_a_port(vm_built: Vm) -> None:
    with pytest.raises(ConfigError, match="agent=True"):
        vm_built.agent.ping()
