"""A real guest mounts a folder of the host and works in it; both sides see the same files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from manor.accel.choose import choose
from manor.guests.default import DefaultGuest
from manor.guests.init_script import PROMPT
from manor.spec.machine import MachineSpec
from manor.spec.share import ShareSpec
from manor.vmm.vm import Vm
from tests.guest.conftest import BOOT_TIMEOUT_S, STEP_TIMEOUT_S

pytestmark = pytest.mark.timeout(300)

Ask = Callable[[str], str]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "deep" / "er").mkdir(parents=True)
    for name, size in (("empty", 0), ("small", 10), ("deep/page", 4096), ("deep/er/large", 3_000_001)):
        (folder / name).write_bytes(os.urandom(size))
    for number in range(300):
        (folder / "deep" / f"file number {number}").write_text(str(number))
    (tmp_path / "secret").write_text("not for the guest")
    (folder / "way out").symlink_to(tmp_path / "secret")
    return folder


@pytest.fixture
def ask(guest: DefaultGuest, manor_only: None, folder: Path) -> Iterator[Ask]:
    shares = (ShareSpec(folder, "work"), ShareSpec(folder, "look", read_only=True))
    append = f"{guest.cmdline} MANOR_SHARES=work,look"
    with Vm(MachineSpec(guest.kernel, guest.initrd, append, shares=shares), choose("dbt").accel, reboot=False) as vm:
        vm.start()
        vm.serial.wait_for(PROMPT, BOOT_TIMEOUT_S)

        def ask(command: str) -> str:
            vm.serial.send(f"echo sta''rt; {command}; echo en''d\n")
            output = vm.serial.wait_for(re.compile(r"\nend\r?\n"), 2 * STEP_TIMEOUT_S)
            return output.rsplit("\nstart", 1)[1].rsplit("end", 1)[0].replace("\r", "").strip()

        ask("dmesg -n 1")  # no messages of the kernel between answers
        yield ask


def sums(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_work_in_a_shared_folder(ask: Ask, folder: Path, tmp_path: Path) -> None:
    found = ask("cd /mnt/work; find . -type f -exec sha256sum {} +")
    seen = {name.removeprefix("./"): digest for digest, name in (line.split(None, 1) for line in found.splitlines())}
    assert seen == sums(folder)

    # A copy made by the guest is the same for the host.
    assert ask("cp -a deep copy && tar cf all.tar copy && mkdir out && tar xf all.tar -C out && echo fine") == "fine"
    assert sums(folder / "copy") == sums(folder / "deep") == sums(folder / "out" / "copy")

    # Names, links, modes, owners, times.
    assert ask("mv small renamed && ln renamed hard && ln -s renamed soft && cat soft | wc -c") == "10"
    assert (folder / "hard").stat().st_nlink == 2
    assert os.readlink(folder / "soft") == "renamed"
    assert ask("chmod 640 renamed && chown 5:6 renamed && stat -c '%a %u:%g' renamed empty .").splitlines() == [
        "640 5:6", "644 0:0", "755 0:0",
    ]  # fmt: skip
    assert (folder / "renamed").stat().st_uid == os.geteuid()
    assert ask("touch -d '2001-02-03 04:05:06' empty && stat -c %Y empty") == "981173106"
    assert (folder / "empty").stat().st_mtime == 981173106
    assert ask("chmod 4755 renamed; stat -c %a renamed") == "755"
    assert ask("rm hard && rmdir out 2>&1; rm -r out && ls -d out hard 2>&1 | wc -l").splitlines()[-1] == "2"

    # Contents: appending, truncating, holes, many writers.
    ask("for i in 1 2 3; do (for j in 1 2 3 4 5 6 7 8 9; do echo line >> log; done) & done; wait; sync")
    assert (folder / "log").read_text() == "line\n" * 27
    ask("dd if=/dev/zero of=holey bs=1 count=1 seek=100000; truncate -s 50000 holey")
    ask("dd if=/bin/busybox of=synced conv=fsync")
    assert (folder / "holey").read_bytes() == bytes(50000)
    (folder / "log").write_text("the host wrote this")
    assert ask("sleep 2; cat log; echo") == "the host wrote this"
    assert int(ask("df -k . | tail -1 | awk '{ print $2 }'")) > 0

    # Programs run from it: mapped into memory.
    assert ask("mkdir bin && cp /bin/busybox bin && bin/busybox echo ran && rm -r bin") == "ran"

    # A program's file that is removed while it is open.
    assert ask("exec 5<>gone; echo text >&5; rm gone; ls gone 2>&1; exec 5>&-").startswith("ls: gone: No such")

    # Nothing outside: the link's target is the guest's own, where there is no such file.
    assert "No such file" in ask("cat 'way out' 2>&1")
    assert ask("ls -a /mnt/work/.. | grep -c secret") == "0"
    assert "not permitted" in ask("mknod dev b 8 0 2>&1")

    # The other one can only be looked at.
    assert ask("cd /mnt/look; cat renamed | wc -c") == "10"
    for command in ("touch new", "echo >> renamed", "rm renamed", "chmod 600 renamed", "mkdir new", "mv renamed new"):
        assert "Read-only file system" in ask(f"({command}) 2>&1"), command
    assert (tmp_path / "secret").read_text() == "not for the guest"
    assert ask("cd /; umount /mnt/work /mnt/look && echo unmounted") == "unmounted"
