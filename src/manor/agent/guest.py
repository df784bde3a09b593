#!/usr/bin/env python3
"""Manor's guest agent: does in a guest what its host asks for, in the protocol of QEMU's agent.

    python3 guest.py                          on the virtio-serial port org.qemu.guest_agent.0
    python3 guest.py --path /dev/vport1p1     on another character device
    python3 guest.py --unix-listen PATH       on a unix socket (to try it)
    python3 guest.py --vsock-listen PORT      on a vsock port of the guest

For guests with Python 3.9 and without qemu-guest-agent; where that package is installed, use it. This file needs
nothing but the standard library: copy it anywhere. Whoever is at the other end of the line is root in the guest: that
is the host, who could change the guest's memory anyway.

Source: QEMU Guest Agent Protocol Reference, https://qemu.readthedocs.io/en/v7.2.0/interop/qemu-ga-ref.html.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import fcntl
import json
import os
import platform
import select
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from typing import IO, Any, BinaryIO, Protocol

VERSION = "1.0"
DEFAULT_PATHS = ("/dev/virtio-ports/org.qemu.guest_agent.0", "/sys/class/virtio-ports")
PORT_NAME = "org.qemu.guest_agent.0"
LINE_LIMIT = 64 << 20
"""Bytes of one request."""
OUTPUT_LIMIT = 16 << 20
"""Bytes kept of what a program prints, for each of its two streams."""
FILE_PIECE = 4096
"""Bytes of a file that a read without a count gives."""
FILE_PIECE_LIMIT = 48 << 20
FILES_LIMIT = 256
PROGRAMS_LIMIT = 256
REOPEN_S = 2.0

FIFREEZE = 0xC0045877
FITHAW = 0xC0045878
"""Linux, include/uapi/linux/fs.h."""
FREEZABLE = ("ext3", "ext4", "xfs", "btrfs", "jfs", "reiserfs", "f2fs")
ALLOWED_WHILE_FROZEN = frozenset(
    ("guest-ping", "guest-info", "guest-sync", "guest-sync-delimited", "guest-fsfreeze-status",
     "guest-fsfreeze-freeze", "guest-fsfreeze-thaw")
)  # fmt: skip
"""The others may write to a file system, and would then wait for the thaw that they keep from being asked for."""

Json = dict[str, Any]


class Refusal(Exception):
    """The request cannot be done; the text is for people."""


class Line(Protocol):
    """The way to the host."""

    def read(self) -> bytes: ...
    def write(self, data: bytes) -> None: ...


# --- programs ---------------------------------------------------------------------------------------------------------


class Program:
    """A program that was started for the host."""

    def __init__(self, process: subprocess.Popen[bytes], data: bytes | None) -> None:
        self.process = process
        self.output: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
        self.is_truncated = {"out": False, "err": False}
        self._threads = [
            threading.Thread(target=self._collect, args=(name, stream), daemon=True)
            for name, stream in (("out", process.stdout), ("err", process.stderr))
            if stream is not None
        ]
        if process.stdin is not None:
            self._threads.append(threading.Thread(target=self._feed, args=(data or b"",), daemon=True))
        for thread in self._threads:
            thread.start()

    def _collect(self, name: str, stream: BinaryIO) -> None:
        with stream:
            while True:
                data = stream.read1(65536) if hasattr(stream, "read1") else stream.read(65536)
                if not data:
                    return
                room = OUTPUT_LIMIT - len(self.output[name])
                self.output[name] += data[:room]
                self.is_truncated[name] = self.is_truncated[name] or len(data) > room

    def _feed(self, data: bytes) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(data)
        with contextlib.suppress(OSError):
            self.process.stdin.close()

    def status(self) -> Json:
        code = self.process.poll()
        if code is None or any(thread.is_alive() for thread in self._threads[:2]):
            return {"exited": False}
        status: Json = {"exited": True}
        status.update({"signal": -code} if code < 0 else {"exitcode": code})
        for name in ("out", "err"):
            if self.output[name]:
                status[f"{name}-data"] = base64.b64encode(self.output[name]).decode()
            if self.is_truncated[name]:
                status[f"{name}-truncated"] = True
        return status


# --- the commands -----------------------------------------------------------------------------------------------------


class Commands:
    """What the host can ask for. A method `guest_x_y` is the command `guest-x-y`."""

    def __init__(self) -> None:
        self._files: dict[int, IO[bytes]] = {}
        self._programs: dict[int, Program] = {}
        self._next_handle = 1000
        self._frozen: list[int] = []

    @classmethod
    def names(cls) -> list[str]:
        return sorted(name.replace("_", "-") for name in dir(cls) if name.startswith("guest_"))

    def run(self, command: str, arguments: Json) -> object:
        """Do it. Raises Refusal."""
        if command not in self.names():
            raise Refusal(f"The command {command} has not been found")
        if self._frozen and command not in ALLOWED_WHILE_FROZEN:
            raise Refusal(f"Command {command} is not allowed while file systems are frozen")
        method: Callable[..., object] = getattr(self, command.replace("-", "_"))
        try:
            return method(**{name.replace("-", "_"): value for name, value in arguments.items()})
        except Refusal:
            raise
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            raise Refusal(f"Invalid parameters of {command}: {error}") from error
        except OSError as error:
            raise Refusal(str(error)) from error

    # session

    def guest_sync_delimited(self, id: int) -> int:
        return id

    def guest_sync(self, id: int) -> int:
        return id

    def guest_ping(self) -> Json:
        return {}

    def guest_info(self) -> Json:
        commands = [
            {"name": name, "enabled": True, "success-response": name != "guest-shutdown"} for name in self.names()
        ]
        return {"version": VERSION, "supported_commands": commands}

    # programs

    def guest_exec(
        self,
        path: str,
        arg: list[str] | None = None,
        env: list[str] | None = None,
        input_data: str | None = None,
        capture_output: bool = False,
    ) -> Json:
        for pid in [pid for pid, program in self._programs.items() if len(self._programs) >= PROGRAMS_LIMIT]:
            if self._programs[pid].status()["exited"]:
                del self._programs[pid]  # nobody asked how it ended
        if len(self._programs) >= PROGRAMS_LIMIT:
            raise Refusal(f"{PROGRAMS_LIMIT} programs run already")
        data = None if input_data is None else base64.b64decode(input_data, validate=True)
        where = subprocess.PIPE if capture_output else subprocess.DEVNULL
        process = subprocess.Popen(
            [path, *(arg or [])],
            stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
            stdout=where,
            stderr=where,
            env=None if env is None else dict(one.split("=", 1) for one in env),
            start_new_session=True,
        )
        self._programs[process.pid] = Program(process, data)
        return {"pid": process.pid}

    def guest_exec_status(self, pid: int) -> Json:
        program = self._programs.get(pid)
        if program is None:
            raise Refusal(f"Invalid parameter: no program {pid} was started")
        status = program.status()
        if status["exited"]:
            del self._programs[pid]
        return status

    # files

    def guest_file_open(self, path: str, mode: str = "r") -> int:
        if len(self._files) >= FILES_LIMIT:
            raise Refusal(f"{FILES_LIMIT} files are open")
        plain = mode.replace("b", "")
        if plain not in ("r", "w", "a", "r+", "w+", "a+"):
            raise Refusal(f"Invalid file mode {mode}")
        binary = plain.replace("+", "") + "b" + ("+" if "+" in plain else "")
        file = open(path, binary, buffering=0)  # noqa: SIM115 - it stays open until guest-file-close
        self._next_handle += 1
        self._files[self._next_handle] = file
        return self._next_handle

    def _file(self, handle: int) -> IO[bytes]:
        file = self._files.get(handle)
        if file is None:
            raise Refusal(f"handle {handle} has not been found")
        return file

    def guest_file_read(self, handle: int, count: int = FILE_PIECE) -> Json:
        file = self._file(handle)
        if not 0 <= count <= FILE_PIECE_LIMIT:
            raise Refusal(f"value {count} is invalid for argument count")
        data = file.read(count)
        return {"count": len(data), "buf-b64": base64.b64encode(data).decode(), "eof": count > 0 and len(data) < count}

    def guest_file_write(self, handle: int, buf_b64: str, count: int | None = None) -> Json:
        data = base64.b64decode(buf_b64, validate=True)
        if count is not None and not 0 <= count <= len(data):
            raise Refusal(f"value {count} is invalid for argument count")
        return {"count": self._file(handle).write(data[:count]), "eof": False}

    def guest_file_seek(self, handle: int, offset: int, whence: object = "set") -> Json:
        places: dict[object, int] = {"set": 0, "cur": 1, "end": 2, 0: 0, 1: 1, 2: 2}
        return {"position": self._file(handle).seek(offset, places[whence]), "eof": False}

    def guest_file_flush(self, handle: int) -> Json:
        self._file(handle).flush()
        return {}

    def guest_file_close(self, handle: int) -> Json:
        self._file(handle).close()
        del self._files[handle]
        return {}

    # what the guest is

    def guest_get_host_name(self) -> Json:
        return {"host-name": socket.gethostname()}

    def guest_get_osinfo(self) -> Json:
        name = platform.uname()
        info = {"kernel-release": name.release, "kernel-version": name.version, "machine": name.machine}
        keys = {
            "ID": "id", "NAME": "name", "PRETTY_NAME": "pretty-name", "VERSION": "version", "VERSION_ID": "version-id",
            "VARIANT": "variant", "VARIANT_ID": "variant-id",
        }  # fmt: skip
        for path in ("/etc/os-release", "/usr/lib/os-release"):
            with contextlib.suppress(OSError), open(path, encoding="utf-8") as file:
                for line in file:
                    key, _, value = line.strip().partition("=")
                    if key in keys:
                        info[keys[key]] = value.strip("\"'")
                break
        return info

    def guest_get_timezone(self) -> Json:
        now = time.localtime()
        return {"zone": time.tzname[now.tm_isdst > 0], "offset": now.tm_gmtoff}

    def guest_get_vcpus(self) -> list[Json]:
        return [{"logical-id": index, "online": True, "can-offline": False} for index in range(os.cpu_count() or 1)]

    def guest_network_get_interfaces(self) -> list[Json]:
        by_name = {name: self._interface(name) for _, name in socket.if_nameindex()}
        for name, address in _ipv6_addresses():
            if name in by_name:
                by_name[name]["ip-addresses"].append(address)
        return [*by_name.values()]

    @staticmethod
    def _interface(name: str) -> Json:
        found: Json = {"name": name, "ip-addresses": []}
        with contextlib.suppress(OSError), open(f"/sys/class/net/{name}/address", encoding="ascii") as file:
            found["hardware-address"] = file.read().strip()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            # SIOCGIFADDR, SIOCGIFNETMASK; Linux, include/uapi/linux/sockios.h.
            request = struct.pack("16s24x", name.encode()[:15])
            address = fcntl.ioctl(probe, 0x8915, request)[20:24]
            netmask = fcntl.ioctl(probe, 0x891B, request)[20:24]
            prefix = bin(int.from_bytes(netmask, "big")).count("1")
            text = socket.inet_ntop(socket.AF_INET, address)
            found["ip-addresses"].append({"ip-address": text, "ip-address-type": "ipv4", "prefix": prefix})
        return found

    # time

    def guest_get_time(self) -> int:
        return time.time_ns()

    def guest_set_time(self, time: int | None = None) -> Json:
        if time is None:
            _hwclock("--hctosys")
        else:
            _set_clock(time)
            # A guest without a clock chip has nothing more to set.
            with contextlib.suppress(Refusal, OSError):
                _hwclock("--systohc")
        return {}

    # file systems

    def guest_fsfreeze_status(self) -> str:
        return "frozen" if self._frozen else "thawed"

    def guest_fsfreeze_freeze(self) -> int:
        if self._frozen:
            raise Refusal("file systems are frozen already")
        os.sync()
        # The last mounted first: it may lie on a file of an earlier one.
        for point in reversed(_freezable()):
            descriptor = os.open(point, os.O_RDONLY)
            try:
                fcntl.ioctl(descriptor, FIFREEZE, 0)
            except OSError as error:
                os.close(descriptor)
                if error.errno in (16, 95):  # EBUSY: mounted twice, frozen already; EOPNOTSUPP
                    continue
                self.guest_fsfreeze_thaw()
                raise
            self._frozen.append(descriptor)
        return len(self._frozen)

    def guest_fsfreeze_thaw(self) -> int:
        thawed = 0
        while self._frozen:
            descriptor = self._frozen.pop()
            with contextlib.suppress(OSError):
                fcntl.ioctl(descriptor, FITHAW, 0)
                thawed += 1
            os.close(descriptor)
        return thawed

    # the end

    def guest_shutdown(self, mode: str = "powerdown") -> None:
        options = {"powerdown": "-P", "halt": "-H", "reboot": "-r"}
        if mode not in options:
            raise Refusal(f"Invalid parameter mode: {mode}")
        done = subprocess.run(
            ["shutdown", options[mode], "+0", "asked by the host"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Refusal(f"shutdown: {done.stderr.decode(errors='replace').strip()}")


def _ipv6_addresses() -> list[tuple[str, Json]]:
    """(interface, address), as /proc/net/if_inet6 has them."""
    found = []
    with contextlib.suppress(OSError), open("/proc/net/if_inet6", encoding="ascii") as file:
        for line in file:
            address, _, prefix, _, _, name = line.split()
            text = socket.inet_ntop(socket.AF_INET6, bytes.fromhex(address))
            found.append((name, {"ip-address": text, "ip-address-type": "ipv6", "prefix": int(prefix, 16)}))
    return found


def _freezable() -> list[str]:
    """Mount points of file systems that can be frozen, in the order of mounting; each device once."""
    points: dict[str, str] = {}
    with open("/proc/self/mounts", encoding="utf-8") as file:
        for line in file:
            device, point, kind = line.split()[:3]
            if kind in FREEZABLE and device not in points:
                points[device] = point.encode().decode("unicode_escape")
    return [*points.values()]


def _set_clock(now_ns: int) -> None:
    time.clock_settime(time.CLOCK_REALTIME, now_ns / 1e9)


def _hwclock(option: str) -> None:
    try:
        done = subprocess.run(["hwclock", option], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise Refusal("there is no hwclock in the guest") from error
    if done.returncode:
        raise Refusal(f"hwclock: {done.stderr.decode(errors='replace').strip()}")


# --- the session ------------------------------------------------------------------------------------------------------


class Session:
    """Requests of one line to answers. No I/O but that of the commands."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Answers to the requests that are complete now."""
        self._buffer += data
        # A byte that is in no JSON text: the host begins anew, and what came before it counts for nothing.
        position = self._buffer.rfind(b"\xff")
        if position >= 0:
            del self._buffer[: position + 1]
        answers = []
        while True:
            end = self._buffer.find(b"\n")
            if end < 0:
                break
            line = bytes(self._buffer[:end]).strip()
            del self._buffer[: end + 1]
            if line:
                answer = self._answer(line)
                if answer is not None:
                    answers.append(answer)
        if len(self._buffer) > LINE_LIMIT:
            self._buffer.clear()
            answers.append(_encode(_error(f"a request is longer than {LINE_LIMIT} bytes")))
        return answers

    def _answer(self, line: bytes) -> bytes | None:
        command = None
        message: Json = {}
        try:
            parsed = json.loads(line)
            if not isinstance(parsed, dict) or not isinstance(parsed.get("execute"), str):
                raise Refusal("a request is an object with a member execute")
            command = parsed["execute"]
            arguments = parsed.get("arguments", {})
            if not isinstance(arguments, dict):
                raise Refusal("arguments are an object")
            if "id" in parsed:
                message["id"] = parsed["id"]
            result = self._commands.run(command, arguments)
            if command == "guest-shutdown":
                return None
            message["return"] = result
        except Refusal as refusal:
            message.update(_error(str(refusal)))
        except (ValueError, RecursionError) as error:
            message = _error(f"JSON parse error, {error}")
        return (b"\xff" if command == "guest-sync-delimited" else b"") + _encode(message)


def _error(text: str) -> Json:
    return {"error": {"class": "GenericError", "desc": text}}


def _encode(message: Json) -> bytes:
    return json.dumps(message).encode() + b"\n"


def serve(line: Line, commands: Commands) -> None:
    """Answer until the line ends."""
    session = Session(commands)
    while True:
        data = line.read()
        if not data:
            return
        for answer in session.feed(data):
            line.write(answer)


# --- lines ------------------------------------------------------------------------------------------------------------


class SocketLine:
    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def read(self) -> bytes:
        return self._socket.recv(65536)

    def write(self, data: bytes) -> None:
        self._socket.sendall(data)


class DeviceLine:
    """A character device; a terminal (a serial line) is made to pass all bytes."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY)
        with contextlib.suppress(termios.error):
            mode = termios.tcgetattr(self._descriptor)
            mode[0] = mode[1] = mode[3] = 0
            mode[2] |= termios.CLOCAL | termios.CREAD | termios.CS8
            termios.tcsetattr(self._descriptor, termios.TCSANOW, mode)

    def read(self) -> bytes:
        while True:
            select.select([self._descriptor], [], [])
            data = os.read(self._descriptor, 65536)
            if data:
                return data
            time.sleep(REOPEN_S)  # the host's end is closed; it may open again

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]

    def close(self) -> None:
        os.close(self._descriptor)


def find_port() -> str | None:
    """The virtio-serial port of agents: by udev's name for it, or by the kernel's list of ports."""
    known, listing = DEFAULT_PATHS
    if os.path.exists(known):
        return known
    with contextlib.suppress(OSError):
        for port in sorted(os.listdir(listing)):
            with contextlib.suppress(OSError), open(f"{listing}/{port}/name", encoding="utf-8") as file:
                if file.read().strip() == PORT_NAME:
                    return f"/dev/{port}"
    return None


def _serve_device(path: str | None) -> int:
    commands = Commands()
    while True:
        found = path or find_port()
        if found is None or not os.path.exists(found):
            print(f"there is no virtio-serial port {path or PORT_NAME}", file=sys.stderr)
            return 1
        line = DeviceLine(found)
        with contextlib.suppress(OSError):
            serve(line, commands)
        line.close()
        time.sleep(REOPEN_S)


def _serve_listener(server: socket.socket) -> int:
    commands = Commands()
    server.listen(1)
    while True:
        sock, _ = server.accept()
        with sock, contextlib.suppress(OSError):
            serve(SocketLine(sock), commands)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Manor's guest agent.")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--path", help="a character device instead of the virtio-serial port")
    group.add_argument("--unix-listen", metavar="PATH", help="a unix socket to listen on")
    group.add_argument("--vsock-listen", metavar="PORT", type=int, help="a vsock port to listen on")
    options = parser.parse_args(arguments)
    if options.unix_listen is not None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(options.unix_listen)
            os.chmod(options.unix_listen, 0o600)
            return _serve_listener(server)
    if options.vsock_listen is not None:
        with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as server:
            server.bind((socket.VMADDR_CID_ANY, options.vsock_listen))
            return _serve_listener(server)
    return _serve_device(options.path)


if __name__ == "__main__":
    sys.exit(main())
