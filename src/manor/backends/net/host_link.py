"""Interfaces of the host for guests: taps, alone or in a bridge, and macvtaps.

With plain ioctls and one netlink message, of which there are six in all: a library for all of rtnetlink would be a
dependency for the sake of these.
Who may: creating an interface takes CAP_NET_ADMIN; a tap that root made for a user, that user may open.
Sources: Linux Documentation/networking/tuntap.rst, netdevice(7), include/uapi/linux/if_tun.h, sockios.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import pwd
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from manor.backends.loop import Loop
from manor.backends.net.api import Offloads
from manor.backends.net.rtnetlink import add_macvtap, delete_link
from manor.backends.net.tap import TapNet
from manor.base.errors import ConfigError, HostError

TUN: Final = "/dev/net/tun"
_NETWORK: Final = Path("/sys/class/net")

_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_TUNSETVNETHDRSZ: Final = 0x400454D8
_IFF_TAP: Final = 0x0002
_IFF_MULTI_QUEUE: Final = 0x0100
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_TUN_F_CSUM: Final = 0x01
_TUN_F_TSO4: Final = 0x02
_TUN_F_TSO6: Final = 0x04
_TUN_F_USO: Final = 0x60
"""USO4 and USO6: Linux 6.2 and newer."""
_SIOCGIFFLAGS: Final = 0x8913
_SIOCSIFFLAGS: Final = 0x8914
_SIOCSIFMTU: Final = 0x8922
_SIOCBRADDIF: Final = 0x89A2
_IFF_UP: Final = 1
_HEADER_SIZE: Final = 10
_IFREQ: Final = struct.Struct("16sH22x")
_IFREQ_INT: Final = struct.Struct("16si20x")

_INSTEAD: Final = "or use --net user, which needs no rights"


def open_tap(name: str, loop: Loop, mtu: int) -> TapNet:
    """The tap `name`: an existing one, or one that is created now and goes away at the end. Raises as the others do."""
    exists = _exists(name)
    if exists and not (_NETWORK / name / "tun_flags").exists():
        raise ConfigError("net", f"{name} is not a tap; give the name of one, or a new name to have one created")
    fd, _ = _attach(name, is_new=not exists)
    return _finish(fd, name, loop, mtu, is_new=not exists)


def open_bridge(bridge: str, loop: Loop, mtu: int) -> TapNet:
    """A new tap in the host's `bridge`. Raises ConfigError if there is no such bridge, HostError without the rights."""
    if not (_NETWORK / bridge / "bridge").is_dir():
        what = "is not a bridge" if _exists(bridge) else "does not exist"
        raise ConfigError("net", f"{bridge} {what}; create it with `ip link add {bridge} type bridge`, {_INSTEAD}")
    fd, name = _attach("manor%d", is_new=True)
    try:
        index = socket.if_nametoindex(name)
        _interface_ioctl(_SIOCBRADDIF, _IFREQ_INT.pack(bridge.encode(), index))
    except OSError as error:
        os.close(fd)
        raise HostError(_refused(f"put {name} into the bridge {bridge}", error), error.errno) from error
    return _finish(fd, name, loop, mtu, is_new=True)


def open_macvtap(lower: str, mac: bytes, loop: Loop, mtu: int) -> TapNet:
    """A macvtap on the host's interface `lower`, created now; or `lower` itself, if it is one.

    Guests and the outside see each other, the host itself does not see its guests: that is how macvtaps are.
    """
    if not _exists(lower):
        raise ConfigError("net", f"the host has no interface {lower}; `ip link` shows those it has")
    if (_NETWORK / lower / "macvtap").exists():
        return _open_macvtap_device(lower, loop, mtu, lambda: None)
    name = f"mvt{os.getpid()}x{mac[-1]:02x}"[:15]
    try:
        add_macvtap(name, socket.if_nametoindex(lower), mac, mtu)
    except OSError as error:
        raise HostError(_refused(f"create a macvtap on {lower}", error), error.errno) from error

    def remove() -> None:
        with suppress(OSError):  # whoever removed `lower` removed it too
            delete_link(name)

    try:
        return _open_macvtap_device(name, loop, mtu, remove)
    except BaseException:
        remove()
        raise


def _open_macvtap_device(name: str, loop: Loop, mtu: int, on_close: Callable[[], None]) -> TapNet:
    tap = f"tap{socket.if_nametoindex(name)}"
    path = f"/dev/{tap}"
    try:
        # Another network namespace may have an interface of the same index.
        number = (_NETWORK / name / "macvtap" / tap / "dev").read_text().strip()
        found = os.stat(path).st_rdev
        if number != f"{os.major(found)}:{os.minor(found)}":
            raise HostError(f"{path} belongs to another network namespace, where an interface has the same index")
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise HostError(
            f"{path} of {name} does not exist; udev or devtmpfs should have made it", error.errno
        ) from error
    except OSError as error:
        raise HostError(
            f"cannot open {path}: {error.strerror}; let root give it to you (chown), {_INSTEAD}", error.errno
        ) from error
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR))
        accepts = _set_offloads(fd)
    except OSError as error:
        os.close(fd)
        raise HostError.from_os_error(f"set {path} up", error) from error
    _bring_up(name)
    return TapNet(fd, loop, accepts, mtu, on_close)


def _attach(name: str, *, is_new: bool) -> tuple[int, str]:
    """A descriptor on the tap `name` (a pattern such as manor%d lets the kernel number it), and its name."""
    try:
        fd = os.open(TUN, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise HostError(f"there is no {TUN}; load it with `modprobe tun`, {_INSTEAD}", error.errno) from error
        raise HostError(_refused(f"open {TUN}", error), error.errno) from error
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
    if not is_new and _flags_of(name) & _IFF_MULTI_QUEUE:
        flags |= _IFF_MULTI_QUEUE
    try:
        answer = fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EBUSY:
            raise HostError(f"the tap {name} is in use; each VM needs its own", error.errno) from error
        if error.errno == errno.EPERM and not is_new:
            raise HostError(
                f"the tap {name} belongs to another user; let root make one for you "
                f"(`ip tuntap add dev NAME mode tap user {_user()}`), {_INSTEAD}", error.errno,
            ) from error  # fmt: skip
        what = f"create the tap {name}" if is_new else f"open the tap {name}"
        raise HostError(_refused(what, error), error.errno) from error
    return fd, _IFREQ.unpack(answer)[0].rstrip(b"\0").decode()


def _finish(fd: int, name: str, loop: Loop, mtu: int, *, is_new: bool) -> TapNet:
    try:
        accepts = _set_offloads(fd)
        if is_new:
            _interface_ioctl(_SIOCSIFMTU, _IFREQ_INT.pack(name.encode(), mtu))
    except OSError as error:
        os.close(fd)
        raise HostError.from_os_error(f"set the tap {name} up", error) from error
    _bring_up(name)
    return TapNet(fd, loop, accepts, mtu, lambda: None)


def _set_offloads(fd: int) -> Offloads:
    """Let the kernel give us unfinished frames, as we give them to it; devices finish what a guest does not take."""
    fcntl.ioctl(fd, _TUNSETVNETHDRSZ, struct.pack("i", _HEADER_SIZE))
    tcp = _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6
    try:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, tcp | _TUN_F_USO)
        has_udp = True
    except OSError:
        fcntl.ioctl(fd, _TUNSETOFFLOAD, tcp)
        has_udp = False
    return Offloads(checksum=True, tcpv4=True, tcpv6=True, udp=has_udp)


def _exists(name: str) -> bool:
    """Whether this network namespace has an interface of that name."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _bring_up(name: str) -> None:
    """Where we may not, root did it when the interface was made for us, or has to."""
    with suppress(OSError):
        flags = _IFREQ.unpack(_interface_ioctl(_SIOCGIFFLAGS, _IFREQ.pack(name.encode(), 0)))[1]
        if not flags & _IFF_UP:
            _interface_ioctl(_SIOCSIFFLAGS, _IFREQ.pack(name.encode(), flags | _IFF_UP))


def _interface_ioctl(request: int, argument: bytes) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as any_socket:
        return fcntl.ioctl(any_socket, request, argument)


def _flags_of(name: str) -> int:
    """Flags of a tap; 0 if it went away."""
    try:
        return int((_NETWORK / name / "tun_flags").read_text(), 16)
    except OSError:
        return 0


def _refused(attempt: str, error: OSError) -> str:
    """One sentence for people: what is missing, and what does without."""
    if error.errno not in (errno.EPERM, errno.EACCES):
        return f"cannot {attempt}: {error.strerror}"
    return (
        f"you may not {attempt}: that takes CAP_NET_ADMIN; let root make a tap for you "
        f"(`ip tuntap add dev NAME mode tap user {_user()}`) and give --net tap:NAME, {_INSTEAD}"
    )


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
