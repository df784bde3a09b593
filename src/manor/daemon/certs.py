"""Certificates for TLS: an authority, the daemon's and its clients'. Made by the `openssl` program."""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from manor.base.errors import ConfigError, HostError

_AUTHORITY_DAYS: Final = 3650
_KEY: Final = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def make(directory: Path, hosts: Sequence[str], clients: Sequence[str], days: int) -> Iterator[Path]:
    """Make what is missing in `directory`; the files that were made. An authority that is there is used.

    hosts: names and addresses that clients call the daemon by; the first is the certificate's name. clients: names, as
    tls_allow lists them; several get a directory each. Raises ConfigError without openssl, HostError.
    """
    if shutil.which("openssl") is None:
        raise ConfigError("", "there is no openssl on this machine; install it to make certificates")
    for name in (*hosts, *clients):
        if not name or not name.isprintable() or "/" in name or name.startswith((".", "-")):
            raise ConfigError("host" if name in hosts else "client", f"{name!r} is no name for a certificate")
    if not 1 <= days <= _AUTHORITY_DAYS:
        raise ConfigError("days", f"{days} is not from 1 to {_AUTHORITY_DAYS}")
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        authority, key = directory / "cacert.pem", directory / "cakey.pem"
        if not authority.exists():
            _openssl(
                "req", "-x509", *_KEY, "-keyout", str(key), "-out", str(authority), "-days", str(_AUTHORITY_DAYS),
                "-subj", "/CN=Manor authority", "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            )  # fmt: skip
            yield authority
        names = ",".join(f"{'IP' if _is_address(host) else 'DNS'}:{host}" for host in hosts)
        usage = "keyUsage=critical,digitalSignature,keyEncipherment\nbasicConstraints=critical,CA:FALSE\n"
        yield from _sign(
            directory, "server", hosts[0], f"{usage}extendedKeyUsage=serverAuth\nsubjectAltName={names}\n", days
        )
        for client in clients:
            # What a client needs is in one directory, ready to be given to it (pkipath).
            place = directory if len(clients) == 1 else directory / client
            place.mkdir(exist_ok=True, mode=0o700)
            if place != directory and not (place / "cacert.pem").exists():
                shutil.copy(authority, place / "cacert.pem")
                yield place / "cacert.pem"
            yield from _sign(
                directory, "client", client, f"{usage}extendedKeyUsage=clientAuth\n", days, place
            )
    except OSError as error:
        raise HostError.from_os_error(f"making certificates in {directory}", error) from error


def _sign(
    directory: Path, stem: str, name: str, extensions: str, days: int, place: Path | None = None
) -> Iterator[Path]:
    """With the authority in `directory`; into `place`, or there as well."""
    certificate, key = (place or directory) / f"{stem}cert.pem", (place or directory) / f"{stem}key.pem"
    if certificate.exists():
        return
    with tempfile.TemporaryDirectory(dir=directory) as folder:
        request, settings = Path(folder) / "request.pem", Path(folder) / "extensions"
        settings.write_text(extensions)
        made = Path(folder) / "certificate.pem"
        _openssl("req", "-new", *_KEY, "-keyout", str(key), "-out", str(request), "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", str(request), "-CA", str(directory / "cacert.pem"), "-CAkey",
            str(directory / "cakey.pem"), "-CAcreateserial", "-CAserial", str(Path(folder) / "serial"),
            "-out", str(made), "-days", str(days), "-extfile", str(settings),
        )  # fmt: skip
        os.replace(made, certificate)
    yield certificate
    yield key


def _openssl(*arguments: str) -> None:
    old = os.umask(0o077)
    try:
        done = subprocess.run(
            ["openssl", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
    finally:
        os.umask(old)
    if done.returncode:
        raise HostError(f"openssl {arguments[0]} failed: {done.stderr.strip().splitlines()[-1:]}")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
