"""What manord gives beyond libvirt: several clients at once, real virsh among them, and the daemon dying in between."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from manor.client import Connection, ErrorCode, RemoteError, connect, sync
from manor.rpc.protocol.own_records import JobRecord
from manor.testing.daemon import DaemonProcess
from manor.testing.libvirtd import missing, running_libvirtd

DOMAIN = (
    "<domain type='qemu'><name>{}</name><memory unit='MiB'>{}</memory><os><type>hvm</type>"
    "<kernel>/none</kernel></os></domain>"
)


@pytest.fixture
def daemon() -> Iterator[DaemonProcess]:
    with tempfile.TemporaryDirectory(prefix="mgd") as folder:
        made = DaemonProcess(Path(folder))
        made.start()
        yield made
        if made.process is not None and made.process.poll() is None:
            assert made.end() == 0
        assert "Traceback" not in made.log


def run(uri: str, work: Callable[[Connection], Awaitable[None]], **options: Any) -> None:
    async def main() -> None:
        async with connect(uri, **options) as connection:
            await asyncio.wait_for(work(connection), 60)

    asyncio.run(main())


def shell(daemon: DaemonProcess, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "manor", "sh", "-c", daemon.uri(), *words], capture_output=True, text=True,
        timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def as_json(daemon: DaemonProcess, *words: str) -> Any:
    done = shell(daemon, *words, "--output", "json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_several_clients_see_the_same_events(daemon: DaemonProcess) -> None:
    async def work(connection: Connection) -> None:
        async with connect(daemon.uri()) as other:
            latest = (await other.services.events_since(0)).latest
            async with connection.services.watch_events() as ours, other.services.watch_events(latest) as theirs:
                for number in range(20):
                    await asyncio.to_thread(
                        (daemon.root / "d.xml").write_text, DOMAIN.format(f"d{number}", 64)
                    )
                    if number % 5:
                        await other.define_domain(DOMAIN.format(f"d{number}", 64))
                    else:
                        await asyncio.to_thread(daemon.virsh, "define", str(daemon.root / "d.xml"))
                for log in (ours, theirs):
                    found = [await anext(log) for _ in range(20)]
                    assert [each.name for each in found] == [f"d{number}" for number in range(20)]
                    assert [each.sequence for each in found] == list(range(latest + 1, latest + 21))
                    assert log.is_complete
            page = await connection.services.events_since(latest + 5, 3)
            assert page.is_complete
            assert [each.sequence for each in page.events] == [latest + 6, latest + 7, latest + 8]

    run(daemon.uri(), work)


def test_a_killed_daemon_forgets_nothing_that_it_has_told(daemon: DaemonProcess) -> None:
    told: list[tuple[int, str, str]] = []
    for round_ in range(4):
        with sync.connect(daemon.uri()) as connection:
            latest = connection.services.events_since(0, 1).latest
            assert latest >= (told[-1][0] if told else 0)
            domain = connection.define_domain(DOMAIN.format(f"k{round_}", 64))
            text = domain.xml(2)
            connection.define_domain(text.replace(">65536<", ">131072<"))
            if round_ % 2:
                domain.undefine()
            found = connection.services.events_since(latest).events
            told += [(each.sequence, each.name, each.what) for each in found]
        daemon.kill()
        daemon.start()
    with sync.connect(daemon.uri()) as connection:
        page = connection.services.events_since(0)
        assert page.is_complete
        known = [(each.sequence, each.name, each.what) for each in page.events]
        assert [each for each in told if each not in known] == []
        numbers = [each.sequence for each in page.events]
        assert numbers == sorted(set(numbers))
        trash = connection.services.trash()
        assert [each.name for each in trash] == ["k3", "k1"]
        assert {each.name for each in connection.domains()} == {"k0", "k2"}
        for number in (0, 2):
            domain = connection.domain(f"k{number}")
            revisions = connection.services.revisions(domain)
            assert [each.number for each in revisions] == [1, 2]
            assert ">65536<" in connection.services.revision(domain, 1)
        back = connection.services.restore(trash[0].id)
        assert back.name == "k3"
        assert len(connection.services.revisions(connection.domain("k3"))) == 2
    daemon.kill()
    daemon.start()
    with sync.connect(daemon.uri()) as connection:
        assert [each.name for each in connection.services.trash()] == ["k1"]
        assert connection.domain("k3").name == "k3"


def test_a_second_daemon_on_the_same_state_is_told_whose_it_is(daemon: DaemonProcess) -> None:
    assert daemon.process is not None
    second = subprocess.run(
        [sys.executable, "-m", "manor.daemon", "--state", str(daemon.root / "state"), "--socket",
         str(daemon.root / "second")], capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert second.returncode == 75  # EX_TEMPFAIL: when the other one has ended, it can start
    assert f"in use by process {daemon.process.pid}; end that manord first" in second.stderr
    with sync.connect(daemon.uri()) as connection:
        connection.define_domain(DOMAIN.format("still", 64))  # and the first goes on
        assert connection.services.events_since(0).events[-1].name == "still"


@pytest.fixture
def pool(daemon: DaemonProcess) -> Path:
    folder = daemon.root / "pool"
    folder.mkdir()
    daemon.virsh("pool-create-as", "here", "dir", "--target", str(folder))
    # Not zeros, which a copy would leave out: it has to last.
    with (folder / "base").open("wb") as file:
        for _ in range(384):
            file.write(os.urandom(1 << 20))
    daemon.virsh("pool-refresh", "here")
    return folder


def job_titled(connection: sync.Connection, title: str) -> JobRecord:
    limit = time.monotonic() + 20
    while True:
        found: list[JobRecord] = [each for each in connection.services.jobs() if each.title == title]
        if found and (found[0].done or found[0].phase != "running"):
            return found[0]
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_a_copy_outlives_its_client_and_another_is_cancelled(daemon: DaemonProcess, pool: Path) -> None:
    client = subprocess.Popen(
        ["virsh", "-c", daemon.uri(), "vol-clone", "base", "copy", "here"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with sync.connect(daemon.uri()) as connection:
        job = job_titled(connection, "copy base")
        assert job.phase == "running"
        assert job.total == 384 << 20
        client.kill()
        client.wait()
        assert daemon.virsh("list", "--all") == ""  # nobody waits for it
        assert connection.services.wait_job(job.id, 30.0).phase == "done"
        assert (pool / "copy").stat().st_size == 384 << 20

        second = subprocess.Popen(
            ["virsh", "-c", daemon.uri(), "vol-clone", "base", "copy2", "here"], stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        limit = time.monotonic() + 20
        while not (running := [each for each in connection.services.jobs() if each.phase == "running" and each.done]):
            assert time.monotonic() < limit
        connection.services.cancel_job(running[0].id)
        _, said = second.communicate(timeout=30)
        assert second.returncode == 1
        assert "copy base was cancelled; it leaves nothing" in said
        assert not (pool / "copy2").exists()  # a part of a copy is deleted
        assert connection.services.job(running[0].id).phase == "cancelled"

        source = connection.storage_pool("here").volume("base")
        number = connection.services.create_volume(
            connection.storage_pool("here"), "<volume><name>copy3</name><capacity>1</capacity></volume>", source
        )
        assert connection.services.wait_job(number, 30.0).phase == "done"
        events = [each for each in connection.services.events_since(0).events if each.object == "job"]
        assert [each.what for each in events] == ["started", "done", "started", "cancelled", "started", "done"]
        assert events[4].sequence == number


def test_an_upload_ends_with_its_client(daemon: DaemonProcess, pool: Path) -> None:
    daemon.virsh("vol-create-as", "here", "target", "1G")

    async def work(connection: Connection) -> None:
        async with connect(daemon.uri()) as other:
            pool_ = await other.storage_pool("here")
            volume = await pool_.volume("target")
            stream = await volume.upload(0, 1 << 30)
            await stream.send(b"x" * (4 << 20))
            limit = time.monotonic() + 20
            while not (found := [each for each in await connection.services.jobs() if each.done]):
                assert time.monotonic() < limit
                await asyncio.sleep(0.01)
            assert (found[0].title, found[0].total) == ("upload to target", 1 << 30)
        job = await connection.services.wait_job(found[0].id, 20.0)
        assert job.phase == "cancelled"
        assert job.leaves == "what has arrived, in the volume"

    run(daemon.uri(), work)


def test_volumes_of_a_directory_go_to_its_trash_and_back(daemon: DaemonProcess, pool: Path) -> None:
    before = (pool / "base").stat()
    done = shell(daemon, "trash-volume", "base", "here")
    assert done.returncode == 0, done.stderr
    assert not (pool / "base").exists()
    assert daemon.virsh("vol-list", "here") == ""
    (entry,) = as_json(daemon, "trash")
    assert Path(entry["place"]).stat().st_ino == before.st_ino
    daemon.kill()
    daemon.start()
    daemon.virsh("pool-destroy", "here")
    daemon.virsh("pool-create-as", "here2", "dir", "--target", str(pool))
    done = shell(daemon, "trash-restore", str(entry["id"]))
    assert done.returncode == 1
    assert "no storage pool with matching uuid" in done.stderr  # it was a pool without a definition


def test_the_shell_plans_reverts_and_restores(daemon: DaemonProcess) -> None:
    (daemon.root / "d.xml").write_text(DOMAIN.format("web1", 64))
    daemon.virsh("define", str(daemon.root / "d.xml"))
    done = shell(daemon, "plan", "setmaxmem", "web1", "128M", "--config")
    assert done.returncode == 0, done.stderr
    assert "domain/memory" in done.stdout
    assert "65536" in daemon.virsh("dumpxml", "web1", "--inactive")
    daemon.virsh("setmaxmem", "web1", "128M", "--config")
    assert "-  <memory unit='KiB'>65536</memory>" in shell(daemon, "history-diff", "web1", "1").stdout
    assert shell(daemon, "history-revert", "web1", "1").returncode == 0
    assert "65536" in daemon.virsh("dumpxml", "web1", "--inactive")
    assert [each["number"] for each in as_json(daemon, "history", "web1")] == [1, 2, 3]
    daemon.virsh("undefine", "web1")
    (entry,) = as_json(daemon, "trash")
    assert shell(daemon, "trash-restore", str(entry["id"])).returncode == 0
    assert "web1" in daemon.virsh("list", "--all")
    what = [each["what"] for each in as_json(daemon, "events", "--since", "0", "--of", "web1")]
    assert what == ["defined", "defined", "defined", "undefined", "defined"]


def test_who_follows_a_silent_console_may_leave(daemon: DaemonProcess) -> None:
    uri = daemon.uri("test", "/default")

    async def work(connection: Connection) -> None:
        domain = await connection.domain("test")
        services = connection.services
        writer = await services.open_console(domain)
        assert await writer.receive() == b"\r\ntest login: "
        follower = await services.follow_console(domain)
        assert await follower.receive() == b"\r\ntest login: "
        await writer.send(b"hello")
        assert await follower.receive() == b"hello"
        await follower.abort()
        late = await services.follow_console(domain, -5)
        await domain.destroy()
        assert await late.receive() == b"hello"
        assert await late.receive() == b""  # the end of the domain is the end of the stream
        await late.finish()
        await writer.abort()

    run(uri, work)


def test_a_read_only_client_sees_and_changes_nothing(daemon: DaemonProcess) -> None:
    (daemon.root / "d.xml").write_text(DOMAIN.format("web1", 64))
    daemon.virsh("define", str(daemon.root / "d.xml"))

    async def work(connection: Connection) -> None:
        services = connection.services
        domain = await connection.domain("web1")
        assert (await services.events_since(0)).events
        assert await services.jobs() == []
        assert await services.trash() == []
        assert len(await services.revisions(domain)) == 1
        assert "web1" in await services.revision(domain, 1)
        assert (await services.statistics(domain)).times == []
        for attempt in (
            services.revert(domain, 1), services.restore(1), services.purge(1), services.cancel_job(1),
            services.console_log(domain), services.revision(domain, 1, secure=True), services.plan_definition("<x/>"),
        ):  # fmt: skip
            with pytest.raises(RemoteError) as caught:
                await attempt
            assert caught.value.code == ErrorCode.OPERATION_DENIED

    run(daemon.uri(read_only=True), work)


def test_an_error_is_explained_to_the_client_that_met_it(daemon: DaemonProcess) -> None:
    async def work(connection: Connection) -> None:
        with pytest.raises(RemoteError) as caught:
            await connection.define_domain(DOMAIN.format("x", 64).replace("<memory unit='MiB'>64</memory>", ""))
        problem = await connection.services.explain(caught.value)
        assert problem is not None
        assert problem.code == caught.value.code
        assert problem.title
        assert problem.cause
        async with connect(daemon.uri()) as other:
            assert await other.services.explain(caught.value) is None

    run(daemon.uri(), work)


@pytest.mark.skipif(missing() is not None, reason=missing() or "")
def test_libvirts_own_daemon_has_none_of_it_and_says_so() -> None:
    with running_libvirtd() as path:
        uri = f"test+unix:///default?socket={path}"

        async def work(connection: Connection) -> None:
            with pytest.raises(RemoteError, match="the daemon is not manord, or an older one") as caught:
                await connection.services.jobs()
            assert caught.value.code == ErrorCode.NO_SUPPORT
            with pytest.raises(RemoteError, match="not manord"):
                async with connection.services.watch_events(0):
                    raise AssertionError
            domain = await connection.domain("test")
            with pytest.raises(RemoteError, match="not manord"):
                await connection.services.follow_console(domain)
            assert domain.name == "test"  # and all else goes on
            assert await connection.domain_count() == 1

        run(uri, work)
        done = subprocess.run(
            [sys.executable, "-m", "manor", "sh", "-c", uri, "jobs"], capture_output=True, text=True,
            timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].endswith("the daemon is not manord, or an older one")
