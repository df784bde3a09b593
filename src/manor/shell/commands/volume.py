"""Volumes in storage pools."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import BinaryIO

from manor.rpc.protocol.records import StoragePool, StorageVol
from manor.shell import render
from manor.shell.arguments import Arguments, parse_size
from manor.shell.commands import documents
from manor.shell.commands.documents import element
from manor.shell.commands.states import named
from manor.shell.errors import CommandError
from manor.shell.link import RemoteError, Stream
from manor.shell.session import Session, read_file, uuid_text

TYPES = ("file", "block", "dir", "network", "netdir", "ploop")
CHUNK = 256 << 10
ALGORITHMS = {
    "zero": 0, "nnsa": 1, "dod": 2, "bsi": 3, "gutmann": 4, "schneier": 5, "pfitzner7": 6, "pfitzner33": 7,
    "random": 8, "trim": 9,
}  # fmt: skip
"""Source: libvirt API reference, virStorageVolWipeAlgorithm."""


def find_volume(
    session: Session, text: str, pool: StoragePool | None, pool_option: str = "pool", by: str = "npk"
) -> StorageVol:
    """A volume by name in a pool (n), by key (k) or by path (p). Raises CommandError."""
    cause = ""
    ways = [("n", "storage_vol_lookup_by_name", (pool, text)), ("k", "storage_vol_lookup_by_key", (text,))]
    ways.append(("p", "storage_vol_lookup_by_path", (text,)))
    for letter, procedure, key in ways:
        if letter in by and (letter != "n" or pool is not None):
            try:
                found = StorageVol(*session.call(procedure, *key))
            except RemoteError as error:
                cause = str(error)
            else:
                if letter != "n" and pool is not None and found.pool != pool.name:
                    raise CommandError(
                        f"Requested volume '{text}' is not in pool '{pool.name}'"
                    )
                return found
    hint = f", specifying --{pool_option} might help" if pool is None and "n" in by else ""
    raise CommandError(f"failed to get vol '{text}'{hint}", cause)


def _volume(session: Session, arguments: Arguments, by: str = "npk") -> StorageVol:
    pool = None
    if "n" in by and arguments.get("pool") is not None:
        pool = _active_pool(session, arguments, "pool")
    return find_volume(session, arguments.text("vol"), pool, by=by)


def _active_pool(session: Session, arguments: Arguments, option: str) -> StoragePool:
    pool = session.pool(arguments, option)
    with session.failing():
        if not session.call("storage_pool_is_active", pool):
            raise CommandError(f"pool '{pool.name}' is not active")
    return pool


def vol_clone(session: Session, arguments: Arguments) -> None:
    """Copy within a pool."""
    name, text = arguments.text("newname"), arguments.text("vol")
    volume = _volume(session, arguments)
    with session.failing("failed to get parent pool"):
        pool = session.call("storage_pool_lookup_by_volume", volume)
    with session.failing():
        root = documents.parse(session.call("storage_vol_get_xml_desc", volume, 0))
    found = root.find("name")
    if found is None:
        raise CommandError("the daemon's XML of the volume has no name")
    found.text = name
    xml = documents.as_text(root)
    if arguments.flag("print-xml"):
        session.print(xml, end="")
        return
    flags = arguments.flags(prealloc_metadata=1, reflink=2)
    with session.failing(f"Failed to clone vol from {text}"):
        made = StorageVol(*session.call("storage_vol_create_xml_from", pool, xml, volume, flags))
    session.note(f"Vol {made.name} cloned from {text}")


def vol_create_as(session: Session, arguments: Arguments) -> None:
    """Create a volume."""
    pool = session.pool(arguments)
    name = arguments.text("name")
    sizes = {}
    for option in ("capacity", "allocation"):
        size = parse_size(arguments.get(option) or "0", 1)
        if size is None:
            raise CommandError(f"Malformed size {arguments.get(option)}")
        sizes[option] = size
    children = [element("name", [], text=name), element("capacity", [], text=str(sizes["capacity"]))]
    if arguments.get("allocation") is not None:
        children.append(element("allocation", [], text=str(sizes["allocation"])))
    if arguments.get("format"):
        children.append(element("target", [], [element("format", [("type", arguments.get("format"))])]))
    if arguments.get("backing-vol"):
        children.append(_backing_store(session, arguments, pool))
    xml = element("volume", [], children)
    if arguments.flag("print-xml"):
        session.print(xml, end="")
        return
    with session.failing(f"Failed to create vol {name}"):
        volume = StorageVol(*session.call("storage_vol_create_xml", pool, xml, arguments.flags(prealloc_metadata=1)))
    session.note(f"Vol {volume.name} created")


def _backing_store(session: Session, arguments: Arguments, pool: StoragePool) -> str:
    text = arguments.text("backing-vol")
    volume = find_volume(session, text, pool)
    with session.failing():
        path = session.call("storage_vol_get_path", volume)
    form = arguments.get("backing-vol-format")
    children = [element("path", [], text=path), element("format", [("type", form)]) if form else ""]
    return element("backingStore", [], children)


def vol_create(session: Session, arguments: Arguments) -> None:
    """Create a volume from XML."""
    pool, path = session.pool(arguments), arguments.text("file")
    text, flags = read_file(path), arguments.flags(prealloc_metadata=1, validate=4)
    with session.failing(f"Failed to create vol from {path}"):
        volume = StorageVol(*session.call("storage_vol_create_xml", pool, text, flags))
    session.note(f"Vol {volume.name} created from {path}")


def vol_create_from(session: Session, arguments: Arguments) -> None:
    """Create a volume from XML with another's contents."""
    pool, path = session.pool(arguments), arguments.text("file")
    text, flags = read_file(path), arguments.flags(prealloc_metadata=1, reflink=2, validate=4)
    source_pool = _active_pool(session, arguments, "inputpool") if arguments.get("inputpool") else None
    source = find_volume(session, arguments.text("vol"), source_pool, "inputpool")
    with session.failing(f"Failed to create vol from {path}"):
        volume = StorageVol(*session.call("storage_vol_create_xml_from", pool, text, source, flags))
    session.note(f"Vol {volume.name} created from input vol {source.name}")


def vol_delete(session: Session, arguments: Arguments) -> None:
    """Delete a volume."""
    volume, text = _volume(session, arguments), arguments.text("vol")
    with session.failing(f"Failed to delete vol {text}"):
        session.call("storage_vol_delete", volume, arguments.flags(delete_snapshots=2))
    session.note(f"Vol {text} deleted")


def vol_download(session: Session, arguments: Arguments) -> None:
    """Write a volume to a file."""
    offset, length = arguments.number("offset", 0), arguments.number("length", 0)
    volume, path = _volume(session, arguments), arguments.text("file")
    exists = os.path.exists(path)
    try:
        file = open(path, "wb")  # noqa: SIM115 - removed again below if nothing comes of it
    except OSError as error:
        raise CommandError(f"cannot create {path}: {error.strerror}") from None
    is_whole = False
    try:
        with file, session.failing(f"cannot download from volume {arguments.text('vol')}"):
            flags = arguments.flags(sparse=1)
            _, stream = session.link.open_stream("storage_vol_download", volume, offset, length, flags)
            with session.failing(f"cannot receive data from volume {arguments.text('vol')}"):
                while (piece := stream.receive_piece()) != b"":
                    if isinstance(piece, int):
                        file.seek(piece, os.SEEK_CUR)
                    else:
                        file.write(piece)
                stream.finish()
                if flags:
                    file.truncate()  # a hole at the end is part of the volume
        is_whole = True
    finally:
        if not is_whole and not exists:
            os.unlink(path)


def vol_upload(session: Session, arguments: Arguments) -> None:
    """Write a file to a volume."""
    offset, length = arguments.number("offset", 0), arguments.number("length", 0)
    path = arguments.text("file")
    volume = _volume(session, arguments)
    try:
        file = open(path, "rb")  # noqa: SIM115 - the next `with` closes it
    except OSError as error:
        raise CommandError(f"cannot read {path}") from error
    name = arguments.text("vol")
    with file, session.failing(f"cannot upload to volume {name}"):
        is_sparse = arguments.flag("sparse")
        _, stream = session.link.open_stream("storage_vol_upload", volume, offset, length, 1 if is_sparse else 0)
        with session.failing(f"cannot send data to volume {name}"):
            _send(stream, file, length or None, is_sparse)
        with session.failing(f"cannot close volume {name}"):
            stream.finish()


def _send(stream: Stream, file: BinaryIO, size: int | None, is_sparse: bool) -> None:
    """Send a file, at most `size` bytes of it; of a sparse one, holes as such. Raises RemoteError."""
    at = 0
    while size is None or at < size:
        hole = _hole(file.fileno(), at, size) if is_sparse else 0
        if hole:
            stream.send_hole(hole)
            at = file.seek(at + hole)
            continue
        data = file.read(CHUNK if size is None else min(CHUNK, size - at))
        if not data:
            return
        stream.send(data)
        at += len(data)


def _hole(descriptor: int, at: int, size: int | None) -> int:
    """Bytes of a hole that begins at `at`; 0 where there is data, or the file system tells of none."""
    length = os.fstat(descriptor).st_size
    end = length if size is None else min(size, length)
    try:
        return max(0, min(os.lseek(descriptor, at, os.SEEK_DATA), end) - at)
    except OSError as error:
        return max(0, end - at) if error.errno == errno.ENXIO else 0
    finally:
        with contextlib.suppress(OSError):  # a pipe
            os.lseek(descriptor, at, os.SEEK_SET)


def vol_dumpxml(session: Session, arguments: Arguments) -> None:
    """Show the XML."""
    volume = _volume(session, arguments)
    with session.failing():
        text = session.call("storage_vol_get_xml_desc", volume, 0)
    documents.show(session, arguments, text)


def vol_info(session: Session, arguments: Arguments) -> None:
    """Tell the main facts."""
    volume = _volume(session, arguments)
    is_physical, in_bytes = arguments.flag("physical"), arguments.flag("bytes")
    if not session.is_structured:
        session.fields([("Name", volume.name)])
    with session.failing():
        if is_physical:
            info = session.call("storage_vol_get_info_flags", volume, 1)
        else:
            info = session.call("storage_vol_get_info", volume)
    pairs = [("Type", named(TYPES, info.type))]
    pairs.append(("Capacity", f"{info.capacity} bytes" if in_bytes else _size(info.capacity)))
    title = "Physical" if is_physical else "Allocation"
    pairs.append((title, f"{info.allocation} bytes" if in_bytes else _size(info.allocation)))
    session.fields([("Name", volume.name), *pairs] if session.is_structured else pairs)


def _size(value: int) -> str:
    number, unit = render.pretty_size(value)
    return f"{number:.2f} {unit}"


def vol_key(session: Session, arguments: Arguments) -> None:
    """Tell the key."""
    session.print(_volume(session, arguments).key)


def vol_list(session: Session, arguments: Arguments) -> None:
    """List volumes."""
    pool = session.pool(arguments)
    with session.failing("Failed to list storage volumes"):
        found = [StorageVol(*item) for item in session.call("storage_pool_list_all_volumes", pool, 1, 0).volumes]
    found.sort(key=lambda volume: volume.name.lower())
    rows = []
    for volume in found:
        with session.failing():
            path = session.call("storage_vol_get_path", volume)
            row: tuple[str, ...] = (volume.name, path)
            if arguments.flag("details"):
                info = session.call("storage_vol_get_info", volume)
                row += (named(TYPES, info.type), _size(info.capacity), _size(info.allocation))
        rows.append(row)
    headings: tuple[str, ...] = ("Name", "Path")
    if arguments.flag("details"):
        headings += ("Type", "Capacity", "Allocation")
    session.table(headings, rows)


def vol_name(session: Session, arguments: Arguments) -> None:
    """Tell the name."""
    session.print(_volume(session, arguments, "pk").name)


def vol_path(session: Session, arguments: Arguments) -> None:
    """Tell the path."""
    volume = _volume(session, arguments)
    with session.failing():
        session.print(session.call("storage_vol_get_path", volume))


def vol_pool(session: Session, arguments: Arguments) -> None:
    """Tell the pool."""
    volume = _volume(session, arguments, "pk")
    with session.failing("failed to get parent pool"):
        pool = StoragePool(*session.call("storage_pool_lookup_by_volume", volume))
    session.print(uuid_text(pool.uuid) if arguments.flag("uuid") else pool.name)


def vol_resize(session: Session, arguments: Arguments) -> None:
    """Change the size."""
    flags = arguments.flags(allocate=1, delta=2, shrink=4)
    volume, text = _volume(session, arguments), arguments.text("capacity")
    if text.startswith("-"):
        if not flags & 2 or not flags & 4:
            raise CommandError("negative size requires --delta and --shrink")
        text = text[1:]
    size = parse_size(text, 1)
    if size is None:
        raise CommandError(f"Malformed size {text}")
    word = "by" if flags & 2 else "to"
    with session.failing(f"Failed to change size of volume '{volume.name}' {word} {text}"):
        session.call("storage_vol_resize", volume, size, flags)
    session.note(f"Size of volume '{volume.name}' successfully changed {word} {text}")


def vol_wipe(session: Session, arguments: Arguments) -> None:
    """Overwrite a volume."""
    volume, name = _volume(session, arguments), arguments.get("algorithm")
    if name is not None and name not in ALGORITHMS:
        raise CommandError(f"Unsupported algorithm '{name}'")
    with session.failing(f"Failed to wipe vol {arguments.text('vol')}"):
        if name is None:
            session.call("storage_vol_wipe", volume, 0)
        else:
            session.call("storage_vol_wipe_pattern", volume, ALGORITHMS[name], 0)
    session.note(f"Vol {arguments.text('vol')} wiped")
