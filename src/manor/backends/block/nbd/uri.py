"""What a user writes to name an export.

    nbd:unix:/run/disk.sock                 nbd:unix:/run/disk.sock:exportname=disk
    nbd:host:10809:exportname=disk          nbd://host:10809/disk
    nbd+unix:///disk?socket=/run/disk.sock  nbds://host/disk?tls-certificates=/etc/pki/nbd

Source: "The NBD Uniform Resource Indicator (URI) format" (uri.md of the NetworkBlockDevice project); qemu(1), "Network
Block Device" for the `nbd:` forms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

from manor.backends.block.nbd.wire import MAX_STRING, PORT
from manor.base.errors import ConfigError

_SCHEMES: Final = frozenset({"nbd", "nbds", "nbd+unix", "nbds+unix"})
_QUERY: Final = frozenset({"socket", "tls-certificates", "tls-hostname"})
_HELP: Final = "write nbd://HOST:PORT/EXPORT, nbd+unix:///EXPORT?socket=PATH or nbd:unix:PATH"


@dataclass(frozen=True, slots=True)
class NbdAddress:
    """Where an export is. socket: path of a Unix socket, else empty and host and port count.

    tls_certificates: folder with ca-cert.pem and, for a client that must prove itself, client-cert.pem and
    client-key.pem; empty for the host's authorities. tls_hostname: whom the certificate must name, if not `host`.
    """

    text: str
    export: str = ""
    host: str = ""
    port: int = PORT
    socket: str = ""
    tls: bool = False
    tls_certificates: str = ""
    tls_hostname: str = ""


def parse_address(text: str) -> NbdAddress:
    """The address meant by `text`. Raises ConfigError."""
    address = _parse_uri(text) if "://" in text else _parse_short(text)
    if len(address.export.encode()) > MAX_STRING:
        raise ConfigError(text[:60], f"the export's name has more than {MAX_STRING} bytes")
    if "\0" in address.socket + address.export:
        raise ConfigError(text, "a name cannot have a NUL character")
    return address


def _parse_uri(text: str) -> NbdAddress:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ConfigError(text, f"this is no address of an export ({error}); {_HELP}") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigError(text, f"this is no address of an export; {_HELP}")
    query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
    if unknown := set(query) - _QUERY:
        raise ConfigError(text, f"{sorted(unknown)[0]!r} is not known here; {', '.join(sorted(_QUERY))} are")
    is_unix = parts.scheme.endswith("+unix")
    if is_unix and (parts.netloc or not query.get("socket")):
        raise ConfigError(text, "an address of a Unix socket is written nbd+unix:///EXPORT?socket=PATH")
    if not is_unix and (not parts.hostname or "socket" in query):
        raise ConfigError(text, f"this address names no host; {_HELP}")
    return NbdAddress(
        text,
        export=unquote(parts.path.removeprefix("/")),
        host=parts.hostname or "",
        port=PORT if port is None else port,
        socket=query.get("socket", ""),
        tls=parts.scheme.startswith("nbds"),
        tls_certificates=query.get("tls-certificates", ""),
        tls_hostname=query.get("tls-hostname", ""),
    )


def _parse_short(text: str) -> NbdAddress:
    rest = text.removeprefix("nbd:")
    if rest == text:
        raise ConfigError(text, f"this is no address of an export; {_HELP}")
    place, _, export = rest.partition(":exportname=")
    if place.startswith("unix:"):
        path = place.removeprefix("unix:")
        if not path:
            raise ConfigError(text, f"this address names no socket; {_HELP}")
        return NbdAddress(text, export=export, socket=path)
    host, _, number = place.rpartition(":")
    if not host or not (number.isascii() and number.isdigit() and 0 < int(number) < 1 << 16):
        raise ConfigError(text, f"this address has no host and port; {_HELP}")
    return NbdAddress(text, export=export, host=host.strip("[]"), port=int(number))
