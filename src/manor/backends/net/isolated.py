"""A network of one user's virtual machines alone: no host, no outside, no rights needed, no process that must live.

The name is a directory of sockets. Who joins makes one of its own there and connects to all the others, with the
directory locked meanwhile; so each pair has exactly one connection (SOCK_SEQPACKET: a message is a frame), and there is
no switch that could die. Whoever vanishes, however it ends, closes its connections by that; its socket's name is
cleared away by the next one that joins. Each member is a port of a learning switch: a frame goes to the member that its
destination was last seen at, to all if that is not known. Members pass nothing on, so there are no loops.

Nothing here gives out addresses: IPv6 link-local (RFC 4862) and IPv4 link-local (RFC 3927) ones need nobody, and a
guest may run a DHCP server. Each member says its name and remembers which addresses the others were seen to have, so
that the names of machines on the network can be looked up.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import stat
import struct
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from manor.backends.loop import Loop, Watch
from manor.backends.net.addresses import SeenAddresses
from manor.backends.net.api import Frame, NetReceiver, Offloads, Segmentation
from manor.backends.net.offload import EVERYTHING, FRAME_LIMIT
from manor.base.errors import HostError
from manor.trace.event import declare

HELLO: Final = struct.Struct("<8sHH")
"""First message of each side: magic, version, MTU; what follows is the member's name."""
MAGIC: Final = b"MANORNET"
VERSION: Final = 1
_HEADER: Final = struct.Struct("<BBHHH")
"""In front of each frame: flags, segmentation, its size, checksum's start and offset."""
_IS_CHECKED: Final = 1
_KINDS: Final = {int(kind): kind for kind in Segmentation}
_MESSAGE_LIMIT: Final = _HEADER.size + FRAME_LIMIT

MEMBER_LIMIT: Final = 64
MEMBER_NAME_LIMIT: Final = 63
"""Bytes of a label (RFC 1035, 2.3.4)."""
QUEUE_LIMIT: Final = 1 << 20
"""Bytes that wait for one slow member; beyond, frames for it are lost, as on a wire."""
TABLE_LIMIT: Final = 1024
"""MAC addresses whose member is remembered."""
READ_BATCH: Final = 64
_BUFFER: Final = 1 << 20
"""Asked of the kernel for each connection; it gives what the system allows."""
_LOCK: Final = ".lock"
_SUN_PATH: Final = 107
"""Bytes of a socket's path (unix(7))."""

isolated_peer = declare("isolated_peer", network=str, peer=str, connected=bool)


def runtime_directory() -> Path:
    """Where this user's sockets are: $XDG_RUNTIME_DIR/manor (XDG Base Directory Specification 0.8), or the like."""
    given = os.environ.get("XDG_RUNTIME_DIR", "")
    if given:
        return Path(given) / "manor"
    user = os.getuid()
    usual = Path(f"/run/user/{user}")
    if usual.is_dir():
        return usual / "manor"
    return Path("/run/manor") if user == 0 else Path(f"/tmp/manor-{user}")


class _Peer:
    """A connection to another member."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self.connection = connection
        self.name = name
        self.member = ""
        self.addresses = SeenAddresses()
        self.is_greeted = False
        self.waiting: deque[tuple[bytes, bytes]] = deque()
        self.waiting_size = 0
        self.watch: Watch | None = None


class IsolatedNet:
    """A member of the network `name`. root: the directory of all networks instead of the user's own. member: what the
    others know this one by, a label of DNS; "" for nothing."""

    def __init__(self, name: str, loop: Loop, mtu: int, root: Path | None = None, member: str = "") -> None:
        """Join. Raises HostError."""
        self.mtu = mtu
        self.name = name
        self._member = member[:MEMBER_NAME_LIMIT].encode("ascii", "ignore")
        self._loop = loop
        self._receiver: NetReceiver | None = None
        self._waiting: list[Frame] = []
        self._is_up = True
        self._is_closed = False
        self._is_paused = False
        self._peers: list[_Peer] = []
        self._table: dict[bytes, _Peer] = {}
        self._counters = {"peers": 0, "queue_dropped": 0, "host_receive_dropped": 0}
        self._directory = (runtime_directory() / "networks" if root is None else root) / name
        self._own = f"{os.getpid():x}-{secrets.token_hex(3)}"
        self._listener = socket.socket(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            self._join()
        except OSError as error:
            self._drop_everything()
            raise HostError.from_os_error(f"join the isolated network {name} in {self._directory}", error) from error
        except BaseException:
            self._drop_everything()
            raise
        self._listening = loop.watch(self._listener.fileno(), self._on_connection)
        self._listening.want(read=True)

    # --- NetBackend ---------------------------------------------------------------------------------------------------

    @property
    def accepts(self) -> Offloads:
        """All: the device at the other end finishes what its guest does not take."""
        return EVERYTHING

    def attach(self, receiver: NetReceiver | None) -> None:
        self._receiver = receiver
        self._waiting.clear()
        self._resume()

    def send(self, frames: Sequence[Frame]) -> None:
        if not self._is_up:
            return
        for frame in frames:
            header = _HEADER.pack(
                _IS_CHECKED if frame.is_checked else 0, frame.segmentation, frame.segment_size, frame.checksum_start,
                frame.checksum_offset,
            )  # fmt: skip
            peer = self._table.get(frame.data[:6])
            if peer is not None:
                self._send_to(peer, header, frame.data)
            else:
                for peer in list(self._peers):
                    self._send_to(peer, header, frame.data)

    def on_room(self) -> None:
        self._deliver()
        if not self._waiting:
            self._resume()

    def set_link(self, is_up: bool) -> None:
        self._is_up = is_up

    def addresses(self) -> Sequence[str]:
        return ()

    def addresses_of(self, member: str) -> Sequence[bytes] | None:
        """Addresses that another member was seen to have, by its name in small letters; None if nobody is called so.

        No link-local ones of IPv6: without the interface they mean nothing. Thread: any.
        """
        found = [peer for peer in list(self._peers) if member and peer.member == member]
        if not found:
            return None
        return [
            address for peer in found for address in peer.addresses.latest_first() if address[:2] != b"\xfe\x80"
        ]

    def statistics(self) -> dict[str, int]:
        return self._counters | {"peers": len(self._peers)}

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._listening.close()
        self._drop_everything()

    # --- joining ----------------------------------------------------------------------------------------------------

    def _join(self) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = os.lstat(self._directory)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise HostError(f"{self._directory} is not a directory of yours alone; remove it, or set XDG_RUNTIME_DIR")
        if len(os.fsencode(self._directory / self._own)) > _SUN_PATH:
            raise HostError(f"the path {self._directory} is too long for sockets; set XDG_RUNTIME_DIR to a shorter one")
        with open(self._directory / _LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for entry in sorted(os.listdir(self._directory)):
                if entry != _LOCK:
                    self._connect(entry)
            self._listener.bind(os.fspath(self._directory / self._own))
            self._listener.listen(MEMBER_LIMIT)

    def _connect(self, entry: str) -> None:
        """Connect to the member behind `entry`; clear the name away if nobody is."""
        if len(self._peers) >= MEMBER_LIMIT:
            raise HostError(f"the isolated network {self.name} has {MEMBER_LIMIT} members already")
        path = self._directory / entry
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            connection.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            connection.close()
            # Its owner is gone. While we hold the lock, nobody is between making and listening.
            with suppress(FileNotFoundError):
                path.unlink()
            return
        except OSError:
            # A member that does not accept: its queue of connections is full. It can be reached once it connects.
            connection.close()
            raise
        self._add(connection, entry)

    def _on_connection(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        connection.setblocking(False)
        _, user, _ = struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if user not in (os.getuid(), 0) or len(self._peers) >= MEMBER_LIMIT:
            connection.close()
            return
        self._add(connection, f"fd{connection.fileno()}")

    def _add(self, connection: socket.socket, name: str) -> None:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            connection.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
        peer = _Peer(connection, name)
        self._peers.append(peer)
        peer.watch = self._loop.watch(
            connection.fileno(), lambda: self._on_readable(peer), lambda: self._on_writable(peer)
        )
        with suppress(OSError):
            connection.send(HELLO.pack(MAGIC, VERSION, self.mtu) + self._member)
        self._watch(peer)
        if isolated_peer.on:
            isolated_peer(self.name, name, True)

    def _remove(self, peer: _Peer) -> None:
        if peer not in self._peers:
            return
        self._peers.remove(peer)
        self._table = {mac: other for mac, other in self._table.items() if other is not peer}
        if peer.watch is not None:
            peer.watch.close()
        peer.connection.close()
        if isolated_peer.on:
            isolated_peer(self.name, peer.name, False)

    def _drop_everything(self) -> None:
        for peer in list(self._peers):
            self._remove(peer)
        with suppress(OSError):
            (self._directory / self._own).unlink()
        self._listener.close()

    # --- frames -----------------------------------------------------------------------------------------------------

    def _watch(self, peer: _Peer) -> None:
        assert peer.watch is not None
        peer.watch.want(read=not self._is_paused, write=bool(peer.waiting))

    def _send_to(self, peer: _Peer, header: bytes, data: bytes) -> None:
        if not peer.waiting:
            try:
                peer.connection.sendmsg((header, data))
                return
            except BlockingIOError:
                pass
            except OSError:
                self._remove(peer)
                return
        if peer.waiting_size + len(data) > QUEUE_LIMIT:
            self._counters["queue_dropped"] += 1
            return
        peer.waiting.append((header, data))
        peer.waiting_size += len(data)
        self._watch(peer)

    def _on_writable(self, peer: _Peer) -> None:
        while peer.waiting:
            try:
                peer.connection.sendmsg(peer.waiting[0])
            except BlockingIOError:
                return
            except OSError:
                self._remove(peer)
                return
            peer.waiting_size -= len(peer.waiting.popleft()[1])
        self._watch(peer)

    def _on_readable(self, peer: _Peer) -> None:
        for _ in range(READ_BATCH):
            try:
                message = peer.connection.recv(_MESSAGE_LIMIT + 1)
            except BlockingIOError:
                break
            except OSError:
                message = b""
            if not message or not self._on_message(peer, message):
                self._remove(peer)
                break
        self._deliver()

    def _on_message(self, peer: _Peer, message: bytes) -> bool:
        """Take one message; False if the other side does not keep to the protocol."""
        if not peer.is_greeted:
            if len(message) < HELLO.size:
                return False
            magic, version, _ = HELLO.unpack_from(message)
            peer.is_greeted = magic == MAGIC and version == VERSION
            name = message[HELLO.size :]
            if len(name) <= MEMBER_NAME_LIMIT and name.isascii():
                peer.member = name.decode().lower()
            return peer.is_greeted
        frame = _parse(message)
        if frame is None:
            return False
        source = frame.data[6:12]
        if not source[0] & 1 and self._table.get(source) is not peer:
            if len(self._table) >= TABLE_LIMIT:
                self._table.clear()
            self._table[source] = peer
        peer.addresses.look(frame.data)
        if self._receiver is None or not self._is_up:
            self._counters["host_receive_dropped"] += 1
        else:
            self._waiting.append(frame)
        return True

    def _deliver(self) -> None:
        """Give the guest what waits; while something is left, the senders' kernels hold the rest."""
        if self._receiver is not None and self._waiting:
            del self._waiting[: self._receiver.deliver(self._waiting)]
        if self._waiting and not self._is_paused:
            self._is_paused = True
            for peer in self._peers:
                self._watch(peer)

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            for peer in self._peers:
                self._watch(peer)


def _parse(message: bytes) -> Frame | None:
    """The frame of a message; None if it is none. A member is another process, so nothing is believed."""
    if not _HEADER.size + 14 <= len(message) <= _MESSAGE_LIMIT:
        return None
    flags, gso_type, segment_size, start, offset = _HEADER.unpack_from(message)
    kind = _KINDS.get(gso_type)
    size = len(message) - _HEADER.size
    if kind is None or (start and (start < 14 or start + offset + 2 > size)):
        return None
    if kind is not Segmentation.NONE and (not start or not segment_size):
        return None
    return Frame(message[_HEADER.size :], start, offset, bool(flags & _IS_CHECKED), kind, segment_size)
