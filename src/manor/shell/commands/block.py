"""Disks of running domains: their size, and jobs that copy them."""

from __future__ import annotations

import time

from manor.rpc.protocol.records import Domain, ParamType, TypedParam
from manor.shell.arguments import Arguments
from manor.shell.commands.documents import element
from manor.shell.errors import CommandError
from manor.shell.session import Session, read_file

ASYNC, PIVOT = 1, 2
"""Source: libvirt API reference, virDomainBlockJobAbortFlags."""
REBASE = {"shallow": 1, "reuse_external": 2, "blockdev": 32}
REBASE_RAW, REBASE_COPY, REBASE_BYTES = 4, 8, 64
"""Source: libvirt API reference, virDomainBlockRebaseFlags."""
COPY = {"shallow": 1, "reuse_external": 2, "transient_job": 4, "synchronous_writes": 8}
"""Source: libvirt API reference, virDomainBlockCopyFlags."""


def blockresize(session: Session, arguments: Arguments) -> None:
    """Change the size of a disk."""
    path, text = arguments.text("path"), arguments.text("size")
    size, flags = arguments.scaled("size", 1024), 0
    assert size is not None
    if text[-1:].isdigit():
        size >>= 10  # without a unit it is KiB, as the call has it without its flag
    else:
        flags = 1
    domain = session.domain(arguments)
    with session.failing(f"Failed to resize block device '{path}'"):
        session.call("domain_block_resize", domain, path, size, flags)
    session.note(f"Block device '{path}' is resized", end="")


def _bandwidth_flag(arguments: Arguments, bytes_flag: int) -> tuple[int, int]:
    """(bandwidth, flags)."""
    bandwidth = arguments.scaled("bandwidth", 1 if arguments.flag("bytes") else 1 << 20) or 0
    if arguments.flag("bytes"):
        return bandwidth, bytes_flag
    return bandwidth >> 20, 0


def blockpull(session: Session, arguments: Arguments) -> None:
    """Copy the backing image into the disk."""
    bandwidth, flags = _bandwidth_flag(arguments, 64)
    base, path = arguments.get("base"), arguments.text("path")
    flags |= 16 if arguments.flag("keep-relative") else 0
    domain = session.domain(arguments)
    with session.failing():
        if base is None and not flags & 16:
            session.call("domain_block_pull", domain, path, bandwidth, flags)
        else:
            session.call("domain_block_rebase", domain, path, base, bandwidth, flags)
    _follow(session, arguments, domain, path, "Pull")


def blockcommit(session: Session, arguments: Arguments) -> None:
    """Copy the overlay into its base."""
    arguments.exclusive("pivot", "keep-overlay")
    bandwidth, flags = _bandwidth_flag(arguments, 16)
    flags |= arguments.flags(shallow=1, delete=2, active=4, keep_relative=8)
    if arguments.flag("pivot") or arguments.flag("keep-overlay"):
        flags |= 4
    domain, path = session.domain(arguments), arguments.text("path")
    base, top = arguments.get("base"), arguments.get("top")
    with session.failing():
        session.call("domain_block_commit", domain, path, base, top, bandwidth, flags)
    is_done = _follow(session, arguments, domain, path, "Commit")
    if is_done and arguments.flag("pivot"):
        with session.failing(f"failed to pivot job for disk {path}"):
            session.call("domain_block_job_abort", domain, path, 2)
        session.print("\nSuccessfully pivoted")
    elif is_done and arguments.flag("keep-overlay"):
        with session.failing(f"failed to finish job for disk {path}"):
            session.call("domain_block_job_abort", domain, path, 0)
        session.print("\nCommit complete, overlay image kept")


def _follow(session: Session, arguments: Arguments, domain: Domain, path: str, what: str) -> bool:
    """Wait for the job if that was asked for; whether it is over. Raises CommandError, RemoteError."""
    waits = any(arguments.flag(name) for name in ("wait", "verbose", "pivot", "keep-overlay", "finish")
                if arguments.command.option(name) is not None)  # fmt: skip
    if not waits:
        session.note(f"Block {what} started")
        return False
    limit = arguments.number("timeout", 0)
    deadline = time.monotonic() + limit if limit else None
    while True:
        info = session.call("domain_get_block_job_info", domain, path, 0)
        if not info.found:
            break
        if arguments.flag("verbose") and info.end:
            session.print(f"\rBlock {what}: [{100 * info.current // info.end:3d} %]", end="")
            session.out.flush()
        if info.end and info.current == info.end and what in ("Commit", "Copy"):
            break  # ready: it waits for pivot or the end
        if deadline is not None and time.monotonic() > deadline:
            session.call("domain_block_job_abort", domain, path, 0)
            raise CommandError(f"{what} aborted")
        time.sleep(0.5)
    if what == "Pull":
        session.print("\nPull complete" if arguments.flag("verbose") else "Pull complete")
    return True


def blockjob(session: Session, arguments: Arguments) -> None:
    """Look at, limit or end a job."""
    for first, second in (("raw", "abort"), ("info", "abort"), ("pivot", "bandwidth"), ("raw", "bandwidth")):
        arguments.exclusive(first, second)
    domain, path = session.domain(arguments), arguments.text("path")
    if arguments.flag("abort") or arguments.flag("pivot") or arguments.flag("async"):
        flags = (1 if arguments.flag("async") else 0) | (2 if arguments.flag("pivot") else 0)
        with session.failing():
            session.call("domain_block_job_abort", domain, path, flags)
        return
    if arguments.get("bandwidth") is not None:
        bandwidth, flags = _bandwidth_flag(arguments, 1)
        with session.failing():
            session.call("domain_block_job_set_speed", domain, path, bandwidth, flags)
        return
    with session.failing():
        info = session.call("domain_get_block_job_info", domain, path, 1 if arguments.flag("bytes") else 0)
    if not info.found:
        if not arguments.flag("raw"):
            session.note(f"No current block job for {path}", end="")
        return
    if arguments.flag("raw"):
        session.print(f" type={info.type}\n bandwidth={info.bandwidth}\n cur={info.current}\n end={info.end}")
        return
    types = ("Unknown job", "Block Pull", "Block Copy", "Block Commit", "Active Block Commit", "Backup")
    name = types[info.type] if 0 <= info.type < len(types) else "Unknown job"
    percent = 100 * info.current // info.end if info.end else 0
    limit = f"    Bandwidth limit: {info.bandwidth} {'bytes/s' if arguments.flag('bytes') else 'MiB/s'}"
    session.print(f"{name}: [{percent:3d} %]{limit if info.bandwidth else ''}")


def blockcopy(session: Session, arguments: Arguments) -> None:
    """Copy a disk to another place."""
    arguments.exclusive("dest", "xml")
    arguments.exclusive("format", "xml")
    arguments.exclusive("blockdev", "xml")
    arguments.exclusive("pivot", "finish")
    path, dest, file = arguments.text("path"), arguments.get("dest"), arguments.get("xml")
    if dest is None and file is None:
        raise CommandError("need either --dest or --xml")
    xml = None if file is None else read_file(file)
    if arguments.flag("print-xml"):
        session.print(xml if xml is not None else _copy_xml(arguments), end="")
        return
    domain = session.domain(arguments)
    needs_new = xml is not None or any(
        arguments.get(name) for name in ("granularity", "buf-size")
    ) or arguments.flag("transient-job") or arguments.flag("synchronous-writes")  # fmt: skip
    with session.failing():
        if needs_new:
            bandwidth = arguments.scaled("bandwidth", 1 if arguments.flag("bytes") else 1 << 20)
            values = (("bandwidth", ParamType.ULLONG, bandwidth),
                      ("granularity", ParamType.UINT, arguments.number("granularity") if arguments.get("granularity")
                       else None),
                      ("buf-size", ParamType.ULLONG, arguments.number("buf-size") if arguments.get("buf-size")
                       else None))  # fmt: skip
            params = [TypedParam(name, kind, value) for name, kind, value in values if value is not None]
            text = xml if xml is not None else _copy_xml(arguments)
            session.call("domain_block_copy", domain, path, text, params, arguments.flags(**COPY))
        else:
            bandwidth, flags = _bandwidth_flag(arguments, REBASE_BYTES)
            flags |= REBASE_COPY | arguments.flags(**REBASE)
            flags |= REBASE_RAW if arguments.get("format") == "raw" else 0
            session.call("domain_block_rebase", domain, path, dest, bandwidth, flags)
    is_ready = _follow(session, arguments, domain, path, "Copy")
    if not is_ready:
        return
    if arguments.flag("pivot"):
        with session.failing(f"failed to pivot job for disk {path}"):
            session.call("domain_block_job_abort", domain, path, PIVOT)
        session.print("\nSuccessfully pivoted")
    elif arguments.flag("finish"):
        with session.failing(f"failed to finish job for disk {path}"):
            session.call("domain_block_job_abort", domain, path, 0)
        session.print("\nSuccessfully copied")
    else:
        session.print("\nNow in mirroring phase")


def _copy_xml(arguments: Arguments) -> str:
    kind = "block" if arguments.flag("blockdev") else "file"
    driver = element("driver", [("type", arguments.get("format"))]) if arguments.get("format") else ""
    source = element("source", [("dev" if kind == "block" else "file", arguments.get("dest"))])
    return element("disk", [("type", kind)], [source, driver])


def domblkthreshold(session: Session, arguments: Arguments) -> None:
    """Set how much is written before an event tells of it."""
    threshold = arguments.scaled("threshold")
    domain = session.domain(arguments)
    with session.failing():
        session.call("domain_set_block_threshold", domain, arguments.text("dev"), threshold, 0)
