"""What `manord` is told: by options, by a file, or not at all."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

from manor.base.errors import ConfigError, HostError
from manor.base.files import config_directory, state_directory
from manor.rpc.uri import own_socket
from manor.spec.machine import ACCEL_NAMES, AccelName

MAX_FILE: Final = 1 << 20
SYSTEM_STATE: Final = Path("/var/lib/manor")
SYSTEM_CONFIG: Final = Path("/etc/manor/manord.toml")


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. Names are those of the file.

    socket, socket_ro: paths. group: who may use them beside this user, by its name; "" for nobody. state: directory.
    max_clients: connections at a time; max_clients_user: of one user. max_calls: of one client, being worked on.
    keepalive_interval: seconds between questions to a silent client; keepalive_count: unanswered ones until it is given
    up. idle_exit: seconds without clients and running VMs until the daemon ends; 0 for never.
    tls_listen: address:port for TLS, "" for none; tls_ca, tls_cert, tls_key: files. tls_allow: names of clients'
    certificates that may come, empty for all that the authority signed. accel: for VMs.
    vmm: what `qemu:///session` and `/system` mean to clients that do not say: `manor`, or a real `qemu`.
    remotes: `libvirt+URI`s that every client may have opened; programs of this daemon's user may name any.
    """

    socket: Path
    socket_ro: Path
    state: Path
    is_system: bool = False
    group: str = ""
    max_clients: int = 1000
    max_clients_user: int = 500
    max_calls: int = 5
    keepalive_interval: int = 5
    keepalive_count: int = 5
    idle_exit: int = 0
    tls_listen: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_allow: tuple[str, ...] = ()
    accel: AccelName = "auto"
    vmm: str = "manor"
    remotes: tuple[str, ...] = ()


_WORDS: Final = {"accel": ACCEL_NAMES, "vmm": ("manor", "qemu")}
_LIMITS: Final = {
    "max_clients": (1, 100_000),
    "max_clients_user": (1, 100_000),
    "max_calls": (1, 1000),
    "keepalive_interval": (0, 86_400),
    "keepalive_count": (1, 1000),
    "idle_exit": (0, 1 << 31),
}


def defaults(is_system: bool) -> Config:
    """Without any file. Raises HostError where there is no place for sockets."""
    socket = own_socket(is_session=not is_system)
    read_only = socket.with_name(f"{socket.name}-ro")
    if is_system:
        return Config(socket, read_only, SYSTEM_STATE, True)
    return Config(socket, read_only, state_directory() / "manord")


def default_file(is_system: bool) -> Path:
    """Where settings are read from if no file is named."""
    return SYSTEM_CONFIG if is_system else config_directory() / "manord.toml"


def read_file(path: Path, config: Config, must_exist: bool) -> Config:
    """`config` with a file's settings. Raises ConfigError naming what is wrong, HostError."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError as error:
        if must_exist:
            raise HostError.from_os_error(f"reading {path}", error) from error
        return config
    except OSError as error:
        raise HostError.from_os_error(f"reading {path}", error) from error
    try:
        values = tomllib.loads(data.decode()) if len(data) <= MAX_FILE else None
    except (ValueError, RecursionError) as error:
        raise ConfigError(str(path), f"it is not TOML: {error}") from error
    if values is None:
        raise ConfigError(str(path), f"it has more than {MAX_FILE} bytes")
    return apply(config, values, str(path))


def apply(config: Config, values: dict[str, Any], where: str) -> Config:
    """`config` with `values` instead. Raises ConfigError."""
    known = {field.name for field in fields(Config)} - {"is_system"}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{where}: {name}", f"it is unknown; there are {', '.join(sorted(known))}")
        changed[name] = _check(f"{where}: {name}", name, getattr(config, name), value)
    return replace(config, **changed)


def _check(path: str, name: str, old: object, value: Any) -> Any:
    if isinstance(old, Path):
        if not isinstance(value, (str, Path)) or not os.path.isabs(value):
            raise ConfigError(path, f"{value!r} is not a whole path")
        return Path(value)
    if isinstance(old, tuple):
        if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
            raise ConfigError(path, f"{value!r} is not a list of names")
        return tuple(value)
    kind: type[Any] = type(old)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ConfigError(path, f"{value!r} is not of type {kind.__name__}")
    if name in _LIMITS:
        low, high = _LIMITS[name]
        if not low <= value <= high:
            raise ConfigError(path, f"{value} is not from {low} to {high}")
    if name in _WORDS and value not in _WORDS[name]:
        raise ConfigError(path, f"{value!r} is unknown; give one of {', '.join(_WORDS[name])}")
    return value
