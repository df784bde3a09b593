"""Connection URIs: which daemon, how to reach it, and what to ask it for.

    driver[+transport]://[user@][host][:port]/[path][?key=value&...]

Source: libvirt, "Connection URIs" (https://libvirt.org/uri.html) and "Remote support" (remote.html). Of our own are the
drivers `manor` and `test`, which mean manord without a transport, the parameter `vmm`, and `libvirt+URI`: manord is to
pass everything on to another daemon, which it reaches by URI.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from manor.base.errors import ConfigError
from manor.base.files import runtime_directory

TRANSPORTS = ("unix", "ssh", "tls", "tcp", "ext")
TLS_PORT = 16514
TCP_PORT = 16509

PASSED_ON = "libvirt"
"""`libvirt+URI`: through manord to the daemon at URI."""
OWN_DRIVERS = ("manor", "test", PASSED_ON)
"""Drivers that manord itself has; without a transport they mean its socket."""
VMM = "vmm"
"""Parameter of `qemu:///session` and `/system` at manord: what runs the domains, `manor` or `qemu`."""

_OF_THE_CLIENT = frozenset({
    "name", "command", "socket", "netcat", "keyfile", "no_verify", "no_tty", "no_sanity", "pkipath", "mode", "proxy",
    "sshauth", "known_hosts", "known_hosts_verify", "auth", "tls_priority",
})  # fmt: skip
"""Parameters that are for us; the daemon is sent the others."""


@dataclass(frozen=True)
class Uri:
    """A parsed URI. transport: one of `TRANSPORTS`, or "" for the default; path: with its leading slash.

    is_foreign: it leads to another daemon than manord, whatever its driver is called.
    """

    driver: str
    transport: str = ""
    user: str | None = None
    host: str | None = None
    port: int | None = None
    path: str = ""
    parameters: dict[str, str] = field(default_factory=dict)
    is_foreign: bool = False

    @property
    def is_own(self) -> bool:
        """Whether without a transport manord is meant, and not a libvirt daemon."""
        return not self.is_foreign and (self.driver in OWN_DRIVERS or VMM in self.parameters)

    @property
    def effective_transport(self) -> str:
        """The transport that is used: of a URI with a host TLS, of one without it the unix socket."""
        return self.transport or ("tls" if self.host else "unix")

    @property
    def is_session(self) -> bool:
        """Whether it means a daemon of the user's own."""
        return self.path == "/session" or (self.driver in OWN_DRIVERS and self.path != "/system" and os.geteuid() != 0)

    @property
    def name(self) -> str:
        """What the daemon is asked to open: `name=` if given, else the URI without transport, host and our keys."""
        if "name" in self.parameters:
            return self.parameters["name"]
        rest = {key: value for key, value in self.parameters.items() if key not in _OF_THE_CLIENT}
        return f"{self.driver}://{self.path or '/'}" + (f"?{urlencode(rest)}" if rest else "")

    def socket_path(self, *, is_read_only: bool = False) -> str:
        """The unix socket: `socket=`, or where the driver's daemon has it. Raises HostError, ConfigError."""
        if "socket" in self.parameters:
            return self.parameters["socket"]
        suffix = "-ro" if is_read_only else ""
        if self.is_own:
            return str(own_socket(is_session=self.is_session)) + suffix
        if self.is_session:
            runtime = os.environ.get("XDG_RUNTIME_DIR")
            directory = Path(runtime if runtime else Path.home() / ".cache") / "libvirt"
            suffix = ""  # a session daemon has one socket
        else:
            directory = Path("/run/libvirt")
        for program in self._programs():
            path = directory / f"{program}-sock{suffix}"
            if path.exists():
                return str(path)
        return str(directory / f"libvirt-sock{suffix}")

    def _programs(self) -> tuple[str, ...]:
        modular = f"virt{self.driver}d"
        return {"direct": (modular,), "legacy": ("libvirt",)}.get(
            self.parameters.get("mode", "auto"), (modular, "libvirt")
        )

    def __str__(self) -> str:
        scheme = f"{self.driver}+{self.transport}" if self.transport else self.driver
        where = f"[{self.host}]" if self.host and ":" in self.host else self.host or ""
        if self.user is not None:
            where = f"{self.user}@{where}"
        if self.port is not None:
            where += f":{self.port}"
        query = f"?{urlencode(self.parameters, safe='/:')}" if self.parameters else ""
        return f"{scheme}://{where}{self.path}{query}"


def parse_uri(text: str) -> Uri:
    """Raises ConfigError with what is wrong and what would be right."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError("uri", f"{text}: {error}; an example: qemu+ssh://root@host.example/system") from error
    if not parts.scheme or "://" not in text:
        raise ConfigError("uri", f"{text!r} is no URI; an example: manor:///session")
    driver, _, transport = parts.scheme.partition("+")
    if driver == PASSED_ON and transport:
        parse_foreign(text)
        return Uri(PASSED_ON, parameters={"name": text})
    if transport and transport not in TRANSPORTS:
        raise ConfigError("uri", f"{text}: no transport {transport}; there are {', '.join(TRANSPORTS)}")
    return Uri(
        driver,
        transport,
        unquote(parts.username) if parts.username is not None else None,
        parts.hostname or None,
        port,
        unquote(parts.path),
        dict(parse_qsl(parts.query, keep_blank_values=True)),
    )


def parse_foreign(text: str) -> Uri:
    """The way that manord takes to the daemon of `libvirt+URI`. Raises ConfigError."""
    scheme, _, inner = text.partition("+")
    if scheme != PASSED_ON or not inner or inner.startswith(f"{PASSED_ON}+"):
        raise ConfigError("uri", f"{text!r} names no other daemon; an example: libvirt+qemu+ssh://root@host/system")
    return replace(parse_uri(inner), is_foreign=True)


def default_uri() -> str:
    """What to connect to when nothing is said: `$LIBVIRT_DEFAULT_URI`, or manord: root's, or the user's."""
    return os.environ.get("LIBVIRT_DEFAULT_URI") or ("manor:///system" if os.geteuid() == 0 else "manor:///session")


def own_socket(*, is_session: bool) -> Path:
    """manord's socket; the read-only one has `-ro` behind it. Raises HostError, ConfigError."""
    return runtime_directory() / "manord-sock" if is_session else Path("/run/manor/manord-sock")
