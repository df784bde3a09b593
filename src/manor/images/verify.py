"""Is it what it should be: lists of checksums, and signatures of them.

Source: GNU coreutils manual, "md5sum invocation" (both forms of a line); RFC 9580, 6.2 (ASCII armor).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from manor.base.errors import ConfigError, HostError

_LINE: Final = re.compile(r"([0-9a-fA-F]{64}|[0-9a-fA-F]{128})[ \t]+\*?(?:\./)?(\S.*?)\s*", re.ASCII)
_BSD_LINE: Final = re.compile(r"SHA(?:256|512) \((.+)\) ?= ?([0-9a-fA-F]{64}|[0-9a-fA-F]{128})\s*", re.ASCII)
_ALGORITHMS: Final = {64: "sha256", 128: "sha512"}
_GPG_TIME: Final = 60.0
_PIECE: Final = 1 << 20


class NotGenuine(HostError):
    """A file is not what its checksum or signature says it should be."""


def parse_digest(text: str, option: str = "sha256") -> str:
    """A SHA-256 or SHA-512 as small hexadecimal digits. Raises ConfigError."""
    digits = text.strip().lower().removeprefix("sha256:").removeprefix("sha512:")
    if len(digits) not in _ALGORITHMS or not all(digit in "0123456789abcdef" for digit in digits):
        raise ConfigError(option, f"{text!r} is no checksum: SHA-256 has 64 hexadecimal digits, SHA-512 has 128")
    return digits


def find_checksum(listing: bytes, name: str) -> str | None:
    """The checksum of the file `name` in a list as sha256sum, sha512sum and BSD's tools write it; None if it is not
    there.

    A list of a single checksum without a name counts for any file.
    """
    text = listing.decode("utf-8", "replace")
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found and found[2].rpartition("/")[2] == name:
            return found[1].lower()
        found = _BSD_LINE.fullmatch(line)
        if found and found[1].rpartition("/")[2] == name:
            return found[2].lower()
    alone = text.strip().lower()
    return alone if re.fullmatch(r"[0-9a-f]{64}|[0-9a-f]{128}", alone) else None


def check_file(path: Path, expected: str, source: str, progress: Callable[[int, int], None]) -> str:
    """Compare a file with `expected`, of `parse_digest`; returns its SHA-256. Raises NotGenuine."""
    algorithm = hashlib.new(_ALGORITHMS[len(expected)])
    sha256 = hashlib.sha256()
    done = 0
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            while data := file.read(_PIECE):
                algorithm.update(data)
                if algorithm.name != "sha256":
                    sha256.update(data)
                done += len(data)
                progress(done, total)
    except OSError as error:
        raise HostError.from_os_error(f"reading {path}", error) from error
    if algorithm.hexdigest() != expected:
        raise NotGenuine(
            f"{source} is not what its checksum says: it has {algorithm.name} {algorithm.hexdigest()[:16]}..., "
            f"expected was {expected[:16]}...; it was damaged on the way, or is another file"
        )
    return expected if algorithm.name == "sha256" else sha256.hexdigest()


def check_signature(data: bytes, signature: bytes, key: Path, source: str) -> None:
    """Check a detached signature of `data` by the public key in the file `key`, armored or not.

    Raises NotGenuine; ConfigError for a key that cannot be read, or without gpgv.
    """
    tool = shutil.which("gpgv")
    if tool is None:
        raise ConfigError("key", "there is no gpgv on this machine; install it (package gpgv), or leave --key out")
    try:
        ring = dearmor(key.read_bytes())
    except OSError as error:
        raise ConfigError("key", f"{key} cannot be read: {error.strerror}") from error
    with tempfile.TemporaryDirectory(prefix="manor-verify-") as name:
        folder = Path(name)
        for file, contents in (("ring", ring), ("signature", dearmor(signature)), ("data", data)):
            (folder / file).write_bytes(contents)
        done = subprocess.run(
            [tool, "--homedir", name, "--status-fd", "1", "--keyring", str(folder / "ring"), str(folder / "signature"),
             str(folder / "data")],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=_GPG_TIME, check=False,
        )  # fmt: skip
    # Both: the exit status says that nothing was bad, the line that something was good.
    if done.returncode or "\n[GNUPG:] VALIDSIG " not in "\n" + done.stdout:
        last = (done.stderr.strip().splitlines() or ["no signature was found"])[-1]
        raise NotGenuine(f"the signature of {source} is not good by the key {key}: {last}")


def dearmor(data: bytes) -> bytes:
    """The bytes inside ASCII armor; other data as it is. Raises ConfigError for armor that is damaged."""
    if not data.lstrip().startswith(b"-----BEGIN PGP "):
        return data
    body: list[bytes] = []
    is_inside = False
    is_header = True
    for line in map(bytes.strip, data.splitlines()):
        if line.startswith(b"-----BEGIN PGP "):
            is_inside = is_header = True
        elif line.startswith(b"-----END PGP "):
            is_inside = False
        elif is_inside and is_header:
            is_header = bool(line)
        elif is_inside and line and not line.startswith(b"="):
            body.append(line)
    try:
        return base64.b64decode(b"".join(body), validate=True)
    except binascii.Error as error:
        raise ConfigError("key", "the key or signature is damaged: its armor is not base64 text") from error
