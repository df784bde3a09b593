"""OCI images: those that carry a disk ("container disks"), as KubeVirt publishes them, and files of containers.

Source: OCI Image Format Specification 1.1: "Image Layout", "Image Manifest", "Layer" (media types; whiteouts); KubeVirt
user guide, "containerDisk": the disk is the one file below /disk.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Final, cast

from manor.base.errors import ConfigError, ProtocolError
from manor.guests.progress import Progress
from manor.images.archive import Files, copy_stream
from manor.images.oci_tree import Tree, write_tree
from manor.images.sparse import PIECE
from manor.images.unpacked import pieces

MAX_LAYERS: Final = 256
MAX_MEMBERS: Final = 200_000
"""Members of one layer; a whole distribution has some tens of thousands."""
_INDEX: Final = frozenset(
    {"application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"}
)
_MANIFEST: Final = frozenset(
    {"application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"}
)
_DISK: Final = "disk/"
_WHITEOUT: Final = ".wh."
_ARCHITECTURE: Final = "amd64"
_NESTING: Final = 4


def disk_of_layout(files: Files, target: Path, limit: int, progress: Progress) -> tuple[Path, str]:
    """Write the disk inside an OCI layout to `target`. Raises ConfigError, ProtocolError, HostError."""
    manifest = _manifest(files, _checked_json(files, None), _NESTING)
    layers = manifest.get("layers")
    if not isinstance(layers, list) or not 0 < len(layers) <= MAX_LAYERS:
        raise ProtocolError("the OCI image has no layers, or too many")
    names = [_blob(files, layer) for layer in layers]
    # From the top: what a layer has, or has removed, counts more than what is below.
    removed: set[str] = set()
    for name in reversed(names):
        progress.step(f"reading the layer {name.rpartition('/')[2][:12]}")
        _check_digest(files, name, progress)
        with _opened(files, name) as tar:
            if _copy_disk(tar, removed, target, limit, progress):
                return target, ""
    _write_files(files, names, target, limit, progress)
    return target, "root"


def _write_files(files: Files, names: list[str], target: Path, limit: int, progress: Progress) -> None:
    """Make a disk of a container's files. Layers are unpacked beside it, as their files are read in any order."""
    progress.step("making a disk of the container's files")
    tree = Tree()
    with ExitStack() as stack:
        for number, name in enumerate(names):
            place = target.with_name(f"{target.name}.layer{number}")
            stack.callback(place.unlink, missing_ok=True)
            with files.open(name) as file:
                copy_stream(_plain(file), place, limit, files.size(name), progress.advance)
            try:
                tree.add_layer(stack.enter_context(tarfile.open(place, "r:", encoding="utf-8")))
            except tarfile.TarError as error:
                raise ProtocolError(f"the layer {name} is damaged: {error}") from error
        write_tree(tree, target, limit, names[-1])


def _copy_disk(tar: tarfile.TarFile, removed: set[str], target: Path, limit: int, progress: Progress) -> bool:
    """Whether the layer has the disk; then it is at `target`. removed: names that layers above have taken away."""
    is_found = False
    taken_away: set[str] = set()
    for number, member in enumerate(tar):
        if number >= MAX_MEMBERS:
            raise ProtocolError(f"a layer has more than {MAX_MEMBERS} members")
        name = member.name.removeprefix("./").lstrip("/")
        folder, _, last = name.rpartition("/")
        if last.startswith(_WHITEOUT):
            taken_away.add(
                f"{folder}/" if last == ".wh..wh..opq" else f"{folder}/{last.removeprefix(_WHITEOUT)}".lstrip("/")
            )
        elif member.isreg() and name.startswith(_DISK) and not _is_removed(name, removed):
            if is_found:
                raise ConfigError("", "the OCI image has more than one file below /disk; import the one you mean")
            file = tar.extractfile(member)
            assert file is not None
            copy_stream(file, target, limit, member.size, progress.advance)
            is_found = True
    removed |= taken_away
    return is_found


def _is_removed(name: str, removed: set[str]) -> bool:
    parts = name.split("/")
    return any("/".join(parts[:count]) in removed or "/".join(parts[:count]) + "/" in removed
               for count in range(1, len(parts) + 1))  # fmt: skip


def _manifest(files: Files, index: Any, nesting: int) -> dict[str, Any]:
    """The manifest for this machine, through indices inside indices."""
    entries = index.get("manifests") if isinstance(index, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ProtocolError("index.json of the OCI image lists no manifests")
    fitting = [entry for entry in entries if _fits(entry)]
    if not fitting:
        raise ConfigError("", f"the OCI image has nothing for {_ARCHITECTURE}")
    entry = fitting[0]
    value = _checked_json(files, entry)
    if entry.get("mediaType") in _INDEX and nesting:
        return _manifest(files, value, nesting - 1)
    if entry.get("mediaType") not in _MANIFEST or not isinstance(value, dict):
        raise ProtocolError(f"the OCI image has a manifest of a kind that is not known: {entry.get('mediaType')!r}")
    return value


def _fits(entry: dict[str, Any]) -> bool:
    platform = entry.get("platform")
    return not isinstance(platform, dict) or platform.get("architecture", _ARCHITECTURE) == _ARCHITECTURE


def _checked_json(files: Files, descriptor: dict[str, Any] | None) -> Any:
    if descriptor is None:
        return files.read_json("index.json")
    name = _blob(files, descriptor)
    value = files.read_json(name)
    with files.open(name) as file:
        _compare(name, hashlib.file_digest(cast(Any, file), "sha256").hexdigest())
    return value


def _blob(files: Files, descriptor: object) -> str:
    """The file of a descriptor. Source: Image Layout, "Blobs"."""
    digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
    algorithm, _, digits = digest.partition(":") if isinstance(digest, str) else ("", "", "")
    if algorithm != "sha256" or len(digits) != 64 or not all(digit in "0123456789abcdef" for digit in digits):
        raise ProtocolError(f"the OCI image has a digest of a kind that is not known: {digest!r}")
    return f"blobs/sha256/{digits}"


def _check_digest(files: Files, name: str, progress: Progress) -> None:
    sha256 = hashlib.sha256()
    total = files.size(name)
    done = 0
    with files.open(name) as file:
        while data := file.read(PIECE):
            sha256.update(data)
            done += len(data)
            progress.advance(done, total)
    _compare(name, sha256.hexdigest())


def _compare(name: str, digits: str) -> None:
    if not name.endswith(f"/{digits}"):
        raise ProtocolError(f"{name} of the OCI image is damaged: it has the checksum {digits[:16]}...")


@contextmanager
def _opened(files: Files, name: str) -> Iterator[tarfile.TarFile]:
    """A layer as a tar file that is read once, from its beginning; compressed or not, by what it begins with."""
    with files.open(name) as file:
        stream = _plain(file)
        try:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                yield tar
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise ProtocolError(f"the layer {name} is damaged: {error}") from error


def _plain(file: IO[bytes]) -> IO[bytes]:
    """The unpacked contents of a layer; whether it is compressed, and how, tells its beginning."""
    head = file.read(8)
    file.seek(0)
    kind = "gzip" if head.startswith(b"\x1f\x8b") else "zstd" if head.startswith(b"\x28\xb5\x2f\xfd") else ""
    return cast(IO[bytes], _Stream(pieces(cast(Any, file), kind, lambda: None))) if kind else file


class _Stream:
    """Pieces as a file to read from."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self._source = source
        self._pending = b""

    def read(self, size: int) -> bytes:
        while len(self._pending) < size:
            piece = next(self._source, None)
            if piece is None:
                break
            self._pending += piece
        data, self._pending = self._pending[:size], self._pending[size:]
        return data
