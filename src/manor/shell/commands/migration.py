"""Moving a domain to another host: this client leads both daemons, or tells the first one to (--p2p).

Source of the order of calls: libvirt, "Guest migration", managed direct migration, protocol version 3; of the numbers:
API reference, virDomainMigrateFlags, VIR_MIGRATE_PARAM_*.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from manor.rpc.protocol.records import Domain, ParamType, TypedParam
from manor.shell.arguments import Arguments
from manor.shell.commands.life import act
from manor.shell.errors import CommandError
from manor.shell.link import Link, RemoteError
from manor.shell.session import Session, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator

FLAGS: Final = {
    "live": 1, "p2p": 2, "tunnelled": 4, "persistent": 8, "undefinesource": 16, "suspend": 32, "copy_storage_all": 64,
    "copy_storage_inc": 128, "change_protection": 256, "unsafe": 512, "offline": 1024, "compressed": 2048,
    "abort_on_error": 4096, "auto_converge": 8192, "rdma_pin_all": 16384, "postcopy": 32768, "tls": 65536,
    "parallel": 131072, "copy_storage_synchronous_writes": 262144, "postcopy_resume": 524288, "zerocopy": 1048576,
}  # fmt: skip
P2P: Final = 2
PARAMETERS: Final = {
    "migrateuri": ("migrate_uri", ParamType.STRING), "graphicsuri": ("graphics_uri", ParamType.STRING),
    "listen-address": ("listen_address", ParamType.STRING), "dname": ("destination_name", ParamType.STRING),
    "disks-uri": ("disks_uri", ParamType.STRING), "tls-destination": ("tls.destination", ParamType.STRING),
    "disks-port": ("disks_port", ParamType.INT), "comp-mt-level": ("compression.mt.level", ParamType.INT),
    "comp-mt-threads": ("compression.mt.threads", ParamType.INT),
    "comp-mt-dthreads": ("compression.mt.dthreads", ParamType.INT),
    "comp-xbzrle-cache": ("compression.xbzrle.cache", ParamType.ULLONG),
    "auto-converge-initial": ("auto_converge.initial", ParamType.INT),
    "auto-converge-increment": ("auto_converge.increment", ParamType.INT),
    "parallel-connections": ("parallel.connections", ParamType.INT),
    "bandwidth": ("bandwidth", ParamType.ULLONG), "postcopy-bandwidth": ("bandwidth.postcopy", ParamType.ULLONG),
}  # fmt: skip
"""Option -> parameter and its type."""
FILES: Final = {"xml": "destination_xml", "persistent-xml": "persistent_xml"}
LISTS: Final = {"migrate-disks": "migrate_disks", "comp-methods": "compression"}
FEATURE_P2P, FEATURE_PARAMS = 5, 13
"""Source: libvirt, virDrvFeature: migration peer to peer, and with typed parameters."""
POLL: Final = 0.5
"""Seconds between two looks at the job."""


def migrate(session: Session, arguments: Arguments) -> None:
    """Move a domain."""
    arguments.exclusive("live", "offline")
    arguments.exclusive("timeout-suspend", "timeout-postcopy")
    for needed, by in (("postcopy", "postcopy-after-precopy"), ("postcopy", "timeout-postcopy"),
                       ("timeout", "timeout-suspend"), ("timeout", "timeout-postcopy")):  # fmt: skip
        arguments.require(needed, by)
    arguments.flag("direct")  # what is done without --p2p
    flags, params = arguments.flags(**FLAGS), _params(arguments)
    domain, target = session.domain(arguments), arguments.text("desturi")
    if flags & P2P:
        with session.failing():
            if not session.call("connect_supports_feature", FEATURE_P2P):
                raise CommandError("argument unsupported: p2p migration is not supported by the source host")
            with _watching(session, arguments, domain):
                session.call("domain_migrate_perform3_params", domain, target, params, b"", flags)
        return
    try:
        other = session.opener(dataclasses.replace(session.settings, uri=target, is_read_only=False))
    except RemoteError as error:
        raise CommandError(str(error)) from None
    try:
        with session.failing():
            for link in (session.link, other):
                if not link.call("connect_supports_feature", FEATURE_PARAMS):
                    raise CommandError(
                        "argument unsupported: one of the two hosts does not take part in migration"
                    )
            with _watching(session, arguments, domain):
                _direct(session, other, domain, params, flags)
    finally:
        other.close()


def _direct(session: Session, other: Link, domain: Domain, params: list[TypedParam], flags: int) -> None:
    """Begin here, prepare there, perform here, finish there, confirm here. Raises RemoteError."""
    begun = session.call("domain_migrate_begin3_params", domain, params, flags)
    if not any(param.field == "destination_xml" for param in params):
        params = [*params, TypedParam("destination_xml", ParamType.STRING, begun.xml)]
    prepared = other.call("domain_migrate_prepare3_params", params, begun.cookie_out, flags)
    if prepared.uri_out and not any(param.field == "migrate_uri" for param in params):
        params = [*params, TypedParam("migrate_uri", ParamType.STRING, prepared.uri_out)]
    failure: RemoteError | None = None
    cookie = prepared.cookie_out
    try:
        cookie = session.call("domain_migrate_perform3_params", domain, None, params, cookie, flags)
    except RemoteError as error:
        failure = error
    cancelled = int(failure is not None)
    try:
        finished = other.call("domain_migrate_finish3_params", params, cookie, flags, cancelled)
        cookie = finished.cookie_out
    except RemoteError as error:
        # The guest runs on one of both hosts: the source is told to go on, whatever happened.
        failure, cancelled = failure or error, 1
    session.call("domain_migrate_confirm3_params", domain, params, cookie, flags, cancelled)
    if failure is not None:
        raise failure


def _params(arguments: Arguments) -> list[TypedParam]:
    found = []
    for option, (name, kind) in PARAMETERS.items():
        if arguments.get(option) is not None:
            value: Any = arguments.text(option) if kind is ParamType.STRING else arguments.number(option)
            found.append(TypedParam(name, kind, value))
    for option, name in FILES.items():
        if arguments.get(option) is not None:
            found.append(TypedParam(name, ParamType.STRING, read_file(arguments.text(option))))
    for option, name in LISTS.items():
        words = (arguments.get(option) or "").split(",")
        found += [TypedParam(name, ParamType.STRING, word) for word in words if word]
    return found


@contextmanager
def _watching(session: Session, arguments: Arguments, domain: Domain) -> Iterator[None]:
    """While the migration runs: tell the progress, and do what its time limit says."""
    is_over = threading.Event()
    link = session.link
    limit = arguments.number("timeout") if arguments.get("timeout") is not None else None
    at_limit = "domain_migrate_start_post_copy" if arguments.flag("timeout-postcopy") else "domain_suspend"
    after_first_pass = arguments.flag("postcopy-after-precopy")

    def watch(until: float | None, waits_for_pass: bool) -> None:
        while not is_over.wait(POLL):
            try:
                if until is not None and time.monotonic() > until:
                    until = None
                    link.call(at_limit, domain, *((0,) if at_limit != "domain_suspend" else ()))
                stats = {param[0]: param[2] for param in link.call("domain_get_job_stats", domain, 0).params}
                if waits_for_pass and int(stats.get("memory_iteration", 0)) > 1:
                    waits_for_pass = False
                    link.call("domain_migrate_start_post_copy", domain, 0)
            except RemoteError:
                continue  # the job has just ended, or not begun
            if arguments.flag("verbose"):
                total, left = int(stats.get("data_total", 0)), int(stats.get("data_remaining", 0))
                session.err.write(f"\rMigration: [{100 * (total - left) // total if total else 0:3d} %]")
                session.err.flush()

    needs_thread = limit is not None or after_first_pass or arguments.flag("verbose")
    until = None if limit is None else time.monotonic() + limit
    thread = threading.Thread(target=watch, args=(until, after_first_pass), name="migration-watch", daemon=True)
    if needs_thread:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        if needs_thread:
            thread.join()
    if arguments.flag("verbose"):
        session.err.write("\rMigration: [100 %]\n")


def migrate_setmaxdowntime(session: Session, arguments: Arguments) -> None:
    """Set how long it may stop the guest."""
    downtime = arguments.number("downtime", low=1)
    act(session, arguments, "domain_migrate_set_max_downtime", downtime, 0, failed="", done="")


def migrate_getmaxdowntime(session: Session, arguments: Arguments) -> None:
    """Tell how long it may stop the guest."""
    domain = session.domain(arguments)
    with session.failing():
        session.print(str(session.call("domain_migrate_get_max_downtime", domain, 0)))


def migrate_compcache(session: Session, arguments: Arguments) -> None:
    """Show or set the cache's size."""
    from manor.shell import render

    domain = session.domain(arguments)
    with session.failing():
        if arguments.get("size") is not None:
            session.call("domain_migrate_set_compression_cache", domain, arguments.number("size"), 0)
        size = session.call("domain_migrate_get_compression_cache", domain, 0)
    number, unit = render.pretty_size(size)
    session.print(f"Compression cache: {number:.3f} {unit}", end="")


def migrate_setspeed(session: Session, arguments: Arguments) -> None:
    """Set the limit of the bandwidth."""
    bandwidth, flags = arguments.number("bandwidth"), arguments.flags(postcopy=1)
    act(session, arguments, "domain_migrate_set_max_speed", bandwidth, flags, failed="", done="")


def migrate_getspeed(session: Session, arguments: Arguments) -> None:
    """Tell the limit of the bandwidth."""
    domain = session.domain(arguments)
    with session.failing():
        session.print(str(session.call("domain_migrate_get_max_speed", domain, arguments.flags(postcopy=1))))


def migrate_postcopy(session: Session, arguments: Arguments) -> None:
    """Run the guest there before its memory is."""
    act(session, arguments, "domain_migrate_start_post_copy", 0, failed="", done="")
