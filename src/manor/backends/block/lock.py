"""Locks that keep two programs from using one image at once.

The scheme is the one QEMU is seen to use (locks of `qemu-io` in /proc/locks and what it refuses), so that the two
refuse each other: every program holds *shared* byte locks on the file, byte 100 + n while it needs right n, byte
200 + n while it wants nobody else to have right n; then it looks whether anybody holds a byte that contradicts.
Shared locks need only a descriptor that can read, and two programs that start at the same moment may refuse each
other, never both go on.

The locks are of the open file description (F_OFD_SETLK): they end with the last descriptor, however the process dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from manor.base.errors import HostError
from manor.base.process_lock import FLOCK, is_locked

# Rights: bit numbers within both groups.
CONSISTENT_READ: Final = 0
WRITE: Final = 1
RESIZE: Final = 3

_USED: Final = 100
_UNSHARED: Final = 200

_UNSUPPORTED: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK})
"""What file systems without such locks answer; an image there is used without, as it always was."""


class ImageInUse(HostError):
    """Another program has the image. holder: "qemu-io (process 42)", or what else is known."""

    def __init__(self, path: str, wanted: str, holder: str) -> None:
        super().__init__(f"{path}: cannot be {wanted}: {holder} is using it; end that first", errno.EAGAIN, path)
        self.holder = holder


def lock(fd: int, path: str, *, write: bool, force_share: bool = False) -> None:
    """Lock the image open as `fd` until its description closes. Raises ImageInUse.

    write: nobody else may write meanwhile, and nobody who relies on stable contents may read.
    force_share: read whatever others do (only without `write`): nothing is locked and nothing is checked.
    """
    if force_share and not write:
        return
    used = (CONSISTENT_READ, WRITE, RESIZE) if write else (CONSISTENT_READ,)
    unshared = (WRITE, RESIZE)
    wanted = "opened for writing" if write else "read"
    try:
        for byte in [_USED + right for right in used] + [_UNSHARED + right for right in unshared]:
            fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
        contradicting = [_UNSHARED + right for right in used] + [_USED + right for right in unshared]
        taken = [byte for byte in contradicting if is_locked(fd, byte, 1)]
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise ImageInUse(path, wanted, holder(fd)) from error
        raise HostError.from_os_error(f"locking {path}", error) from error
    if taken:
        who = holder(fd)
        unlock(fd)
        raise ImageInUse(path, wanted, who)


def unlock(fd: int) -> None:
    """Give all locks of the description back."""
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, 0, 0, 0))


def holder(fd: int) -> str:
    """Who else has locks on the file of `fd`. Processes of other users are not visible; the answer then says so.

    The kernel reports no process for a lock of a description; /proc/PID/fdinfo lists locks under each descriptor.
    """
    status = os.fstat(fd)
    found: list[str] = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        if any(_locks(pid, number, status, fd) for number in numbers):
            found.append("this process itself" if int(pid) == os.getpid() else f"{_program(pid)} (process {pid})")
    return " and ".join(found) or "another user's program"


def _locks(pid: str, number: str, status: os.stat_result, own: int) -> bool:
    if int(pid) == os.getpid() and int(number) == own:
        return False
    try:
        other = os.stat(f"/proc/{pid}/fd/{number}")
        if (other.st_dev, other.st_ino) != (status.st_dev, status.st_ino):
            return False
        with open(f"/proc/{pid}/fdinfo/{number}") as info:
            return any(line.startswith("lock:") for line in info)
    except OSError:
        return False


def _program(pid: str) -> str:
    """The name a person would recognise: of a script rather than of its interpreter."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = [os.fsdecode(word) for word in file.read(4096).split(b"\0")]
    except OSError:
        words = []
    name = os.path.basename(words[0]) if words and words[0] else "a program"
    if name.startswith("python") and len(words) > 1 and words[1] and not words[1].startswith("-"):
        name = os.path.basename(words[1])
    return name if name.isprintable() else "a program"
