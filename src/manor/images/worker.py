"""The part of a build that needs to be root, be it in a user namespace: `python -m manor.images.worker JOB`.

JOB is a JSON file; progress and errors go to standard output, a line each: `step TEXT`, `error TEXT`, `done EPOCH`.
The process is alone in its namespaces (`namespace.command`), so whatever it mounts goes with it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manor.base.errors import HostError, ManorError
from manor.images.second_stage import CONFIGURING, DONE, SCRIPT, additions, is_kept, normalised
from manor.images.tree import read_directory, write_archive, write_directory
from manor.images.unpack import Unpacking

_DEVICES: Final = ("null", "zero", "full", "random", "urandom")
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_TAIL: Final = 12
"""Lines of the scripts' output that an error shows."""


@dataclass(frozen=True, slots=True)
class Job:
    """debs: packages in their order; chosen: names the user asked for; root: an empty directory to work in; output:
    where the archive of the finished tree goes; epoch: the time of all that is made now, 0 for that of the newest
    file; initramfs: settings of initramfs-tools."""

    debs: list[str]
    chosen: list[str]
    root: str
    output: str
    epoch: int
    initramfs: str


def main(path: str) -> int:
    """Do the job; returns the exit status."""
    job = Job(**json.loads(Path(path).read_text()))
    try:
        epoch = perform(job)
    except (ManorError, OSError) as error:
        print("error", str(error).replace("\n", " | "), flush=True)
        return 1
    print("done", epoch, flush=True)
    return 0


def perform(job: Job) -> int:
    """Unpack, configure, and keep the tree; returns the time that bounds those of all files.

    Raises HostError, ProtocolError, OSError.
    """
    root = Path(job.root)
    unpacking = Unpacking([Path(deb) for deb in job.debs], frozenset(job.chosen))
    _step(f"unpacking {len(job.debs)} packages")
    write_directory(unpacking.entries(), root)
    epoch = job.epoch or unpacking.newest
    for entry in additions(unpacking.packages, epoch, job.initramfs):
        target = root / entry.path
        if not target.is_dir():
            # What is added for the scripts' sake leaves no trace in the tree, not even a directory's time.
            times = target.parent.stat()
            write_directory([entry], root)
            os.utime(target.parent, ns=(times.st_atime_ns, times.st_mtime_ns))
    try:
        _configure(root, len(unpacking.packages))
        _step("keeping the configured system")
        with Path(job.output).open("wb") as stream:
            write_archive(normalised(read_directory(root, is_kept), epoch), stream)
    finally:
        # In a user namespace nobody else may remove files of the guest's users.
        shutil.rmtree(root, ignore_errors=True)
    return epoch


def _configure(root: Path, count: int) -> None:
    """Run the second stage in a chroot."""
    with ExitStack() as mounts:
        _mount_all(root, mounts)
        said: list[str] = []
        configured = 0
        with subprocess.Popen(
            ["chroot", str(root), f"/{SCRIPT}"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", env={"PATH": _PATH},
        ) as process:  # fmt: skip
            assert process.stdout is not None  # it is a pipe
            for line in process.stdout:
                said.append(line.rstrip())
                if (match := CONFIGURING.match(line)) is not None:
                    configured += 1
                    _step(f"configuring {match[1]} ({configured} of {count})")
    if process.returncode != 0 or DONE not in said:
        raise HostError("the packages could not be configured: " + "\n".join(said[-_TAIL:]))


def _mount_all(root: Path, mounts: ExitStack) -> None:
    """What the scripts expect of a running system; `mounts` takes it away."""

    def mount(target: Path, *words: str) -> None:
        _run("mount", *words, target)
        mounts.callback(_run, "umount", target)

    dev = root / "dev"
    mount(dev, "-t", "tmpfs", "-o", "mode=755", "dev")
    for name in _DEVICES:
        (dev / name).touch()
        # In a user namespace no device can be made; the host's are lent.
        mount(dev / name, "--bind", f"/dev/{name}")
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")):
        (dev / name).symlink_to(target)
    (dev / "shm").mkdir(0o1777)
    mount(root / "proc", "-t", "proc", "proc")
    mount(root / "run", "-t", "tmpfs", "-o", "mode=755", "run")
    mount(root / "tmp", "-t", "tmpfs", "-o", "mode=1777", "tmp")


def _run(*words: str | Path) -> None:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, encoding="utf-8", env={"PATH": _PATH}, check=False
    )
    if done.returncode != 0:
        raise HostError(f"{words[0]} {words[-1]}: {done.stderr.strip()}")


def _step(text: str) -> None:
    print("step", text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
