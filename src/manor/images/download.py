"""Fetch a file by HTTP: resumed where it broke off, bounded, with few redirections.

Source: RFC 9110 (HTTP Semantics), 13.1.5 "If-Range", 14 "Range Requests", 15.4 "Redirection".
"""

from __future__ import annotations

import errno
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import IO, Any, Final

from manor import __version__
from manor.base.errors import ConfigError, HostError
from manor.base.units import format_size

MAX_REDIRECTIONS: Final = 5
TIMEOUT: Final = 30.0
"""Seconds without a byte, after which a connection counts as broken."""
ATTEMPTS: Final = 5
"""Connections for one file, as long as each brings something."""
MAX_TEXT: Final = 1 << 20
"""Bytes of a list of checksums or a signature."""
_PIECE: Final = 1 << 18
_RANGE: Final = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)
_BROKEN: Final = (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError)

Progress = Callable[[int, int], None]


class DownloadError(HostError):
    """A file cannot be had."""


class _Broken(Exception):
    """The connection ended early; what came is kept."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What is known of a part that was fetched before: by what the server tells whether its file is still the same."""

    url: str
    validator: str


def check_url(url: str) -> str:
    """`url` if it can be fetched. Raises ConfigError."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("", f"{url!r} is not an http or https address")
    return url


def download(url: str, target: Path, limit: int, progress: Progress, pause: float = 1.0) -> None:
    """Fetch `url` into `target`, going on behind what an earlier call left there. The file is not synced.

    limit: bytes that are too many. pause: seconds before a further connection.
    Raises ConfigError for an address that is none, DownloadError; what came so far is kept unless the disk is full.
    """
    check_url(url)
    left = ATTEMPTS
    while True:
        before = _size(target)
        try:
            _fetch(url, target, limit, progress)
            return
        except _Broken as error:
            if _size(target) > before:
                left = ATTEMPTS
            left -= 1
            if left <= 0:
                raise DownloadError(f"{url}: {error}; what came is kept: try again to go on") from error
            time.sleep(pause)


def fetch_text(url: str) -> bytes | None:
    """A small file; None if the server has none (404, 410). Raises DownloadError."""
    check_url(url)
    try:
        with _open(url, {}) as answer:
            data: bytes = answer.read(MAX_TEXT + 1)
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            return None
        raise DownloadError(f"{url}: the server says {error.code} {error.reason}") from error
    except (*_BROKEN, OSError) as error:
        raise DownloadError(f"{url}: {_why(error)}") from error
    if len(data) > MAX_TEXT:
        raise DownloadError(f"{url}: it has more than {format_size(MAX_TEXT)}, which is no list of checksums")
    return data


def _fetch(url: str, target: Path, limit: int, progress: Progress) -> None:
    start = _size(target)
    kept = _read_kept(target)
    headers = {}
    if start and kept is not None and kept.url == url and kept.validator:
        headers = {"Range": f"bytes={start}-", "If-Range": kept.validator}
    else:
        start = 0
    try:
        with _open(url, headers) as answer:
            if answer.status == 206:
                total = _check_range(answer.headers, start, url)
            else:
                start = 0
                total = _length(answer.headers)
            _check_room(url, target, total, start, limit)
            if not start:
                _write_kept(target, _Kept(url, _validator(answer.headers)))
            _receive(answer, target, start, total, limit, progress, url)
    except urllib.error.HTTPError as error:
        if error.code == 416 and headers:
            # Nothing is behind what we have: it is complete, or of another file. The whole file tells.
            target.unlink(missing_ok=True)
            _kept_path(target).unlink(missing_ok=True)
            raise _Broken("the server has another file now") from error
        if error.code in (408, 429, 500, 502, 503, 504):
            raise _Broken(f"the server says {error.code} {error.reason}") from error
        raise DownloadError(f"{url}: the server says {error.code} {error.reason}") from error
    except _BROKEN as error:
        raise _Broken(_why(error)) from error


def _receive(
    answer: Any, target: Path, start: int, total: int | None, limit: int, progress: Progress, url: str
) -> None:
    done = start
    try:
        with target.open("r+b" if start else "wb") as file:
            file.seek(start)
            while data := answer.read(_PIECE):
                done += len(data)
                if done > limit or (total is not None and done > total):
                    raise DownloadError(f"{url}: it is larger than {format_size(min(limit, total or limit))}")
                file.write(data)
                progress(done, total or done)
    except OSError as error:
        if isinstance(error, _BROKEN):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            target.unlink(missing_ok=True)
            raise DownloadError(
                f"the disk of {target.parent} is full; what came was removed: make room, or point XDG_DATA_HOME to "
                "another disk",
                error.errno,
            ) from error
        raise DownloadError(f"writing {target}: {error.strerror}", error.errno) from error
    if total is not None and done < total:
        raise _Broken(f"the connection ended after {done} of {total} bytes")


def _check_range(headers: Message, start: int, url: str) -> int | None:
    """Size of the whole file. Raises DownloadError if the server answers with another part than was asked for."""
    found = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if found is None or int(found[1]) != start:
        raise DownloadError(f"{url}: the server sent another part than it was asked for")
    return None if found[3] == "*" else int(found[3])


def _length(headers: Message) -> int | None:
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _check_room(url: str, target: Path, total: int | None, start: int, limit: int) -> None:
    if total is None:
        return
    if total > limit:
        raise DownloadError(f"{url}: it has {format_size(total)}; the limit is {format_size(limit)}")
    free = shutil.disk_usage(target.parent).free
    if total - start > free:
        raise DownloadError(
            f"{url}: it needs {format_size(total - start)}, and {target.parent} has {format_size(free)} free; "
            "make room, or point XDG_DATA_HOME to another disk",
            errno.ENOSPC,
        )


def _validator(headers: Message) -> str:
    """What says that a later part is of the same file: a strong tag, else the date. Source: RFC 9110, 13.1.5."""
    tag: str = headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else headers.get("Last-Modified", "")


# --- connections ------------------------------------------------------------------------------------------------------


class _Redirections(urllib.request.HTTPRedirectHandler):
    """A few, to http and https only, and from https to https only: what was asked for safely is not fetched
    unsafely."""

    max_redirections = MAX_REDIRECTIONS

    def redirect_request(
        self, request: urllib.request.Request, file: IO[bytes], code: int, reason: str, headers: Any, url: str
    ) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(url).scheme
        if scheme not in ("http", "https") or (request.type == "https" and scheme != "https"):
            raise DownloadError(f"{request.full_url}: the server sends us to {url}, which is not safe to follow")
        return super().redirect_request(request, file, code, reason, headers, url)


def _open(url: str, headers: Mapping[str, str]) -> Any:
    # No handlers for file:, ftp: and data: addresses, which a redirection could name.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor(), _Redirections(),
    ):  # fmt: skip
        opener.add_handler(handler)
    # Compressed on the way, a part of a file would be the part of something else.
    always = {"User-Agent": f"manor/{__version__}", "Accept-Encoding": "identity"}
    return opener.open(urllib.request.Request(url, headers={**always, **headers}), timeout=TIMEOUT)


def _why(error: BaseException) -> str:
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return f"the server does not answer within {TIMEOUT:.0f} seconds"
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return str(reason) or type(error).__name__


# --- the part on disk -------------------------------------------------------------------------------------------------


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _kept_path(target: Path) -> Path:
    return target.with_name(target.name + ".from")


def _read_kept(target: Path) -> _Kept | None:
    try:
        value = json.loads(_kept_path(target).read_bytes())
        return _Kept(str(value["url"]), str(value["validator"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write_kept(target: Path, kept: _Kept) -> None:
    # The old part must not be taken for one of the new file, whatever happens in between.
    target.unlink(missing_ok=True)
    try:
        with _kept_path(target).open("w") as file:
            json.dump({"url": kept.url, "validator": kept.validator}, file)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise DownloadError(f"writing {target.parent}: {error.strerror}", error.errno) from error
