"""Plans, jobs, events, statistics, revisions and the trash in the shell, on a service in memory."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from manor.base.errors import ManorError
from manor.shell.link import RemoteError, Stream
from manor.shell.main import main
from manor.shell.session import Session, Settings
from tests.unit.service.desk import Desk, desk


class DeskLink:
    """A service in this process (Link)."""

    uri = "test:///default"

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = AsyncExitStack()
        self.desk: Desk = self.run(self._stack.enter_async_context(desk()))
        self.is_foreign = False
        self._at = 0

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def call(self, name: str, *arguments: Any) -> Any:
        if self.is_foreign and name.startswith("manor_"):
            raise RemoteError("this function is not supported by the connection driver: the daemon is not manord", 3)
        try:
            return self.run(self.desk.call(name, *arguments))
        except ManorError as error:
            raise RemoteError(str(error), getattr(error, "code", 1)) from None

    def call_with_files(self, name: str, *arguments: Any, files: Sequence[int]) -> Any:
        return self.call(name, *arguments)

    def open_stream(self, name: str, *arguments: Any) -> tuple[Any, Stream]:
        found: Any = _Pieces([b"more ", b"text\n"])
        return None, found

    def subscribe(self, kind: str, event: str, about: Any) -> None:
        """Nothing."""

    def unsubscribe(self) -> None:
        """Nothing."""

    def next_event(self, timeout: float | None) -> tuple[str, Any] | None:
        return None

    def watch(self, since: int) -> None:
        self._at = since

    def unwatch(self) -> None:
        self._at = -1

    def next_entry(self) -> Any:
        found = self.call("manor_events", self._at, 1).events
        if not found:
            raise KeyboardInterrupt
        self._at = found[0].sequence
        return found[0]

    def close(self) -> None:
        """It goes on for the next command."""

    def end(self) -> None:
        self.run(self._stack.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class _Pieces:
    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def receive(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def abort(self) -> None:
        """It is over."""


@pytest.fixture(scope="module")
def link() -> Iterator[DeskLink]:
    made = DeskLink()
    yield made
    made.end()


class Shell:
    def __init__(self, link: DeskLink) -> None:
        self.link = link

    def __call__(self, *words: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        status = main(words, opener=lambda settings: self.link, out=out, err=err)
        return status, out.getvalue(), err.getvalue()

    def json(self, *words: str) -> Any:
        status, out, err = self(*words, "--output", "json")
        assert (status, err) == (0, "")
        return json.loads(out)


@pytest.fixture
def shell(link: DeskLink) -> Shell:
    link.is_foreign = False
    return Shell(link)


def define(shell: Shell, path: Path, name: str, memory: int = 65536) -> None:
    path.write_text(
        f"<domain type='test'><name>{name}</name><memory>{memory}</memory><os><type>hvm</type></os>"
        "<on_crash>destroy</on_crash></domain>"
    )
    assert shell("define", str(path))[0] == 0


def test_a_plan_of_any_command(shell: Shell) -> None:
    status, out, err = shell("plan", "setvcpus", "test", "1", "--config")
    assert (status, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "When What Before After Why"
    assert lines[2].startswith("at next start domain/vcpu/@current - 1 the domain runs")
    _, out, _ = shell("plan", "--diff", "setvcpus", "test", "1", "--config")
    assert "definition:\n--- before\n+++ after\n" in out
    found = shell.json("plan", "setmem", "test", "1048576", "--live")
    assert found == {**found, "problem": None}
    assert {(item["path"], item["when"]) for item in found["items"]} == {("domain/currentMemory", "live")}
    assert shell.json("dominfo", "test")["used_memory"] != "1048576 KiB"  # it was not done
    assert shell("plan", "setvcpus", "test", "2", "--config")[1] == "This changes nothing.\n\n"
    assert shell("plan", "dominfo", "test")[1] == "This changes nothing.\n\n"
    assert shell("plan", "setvcpus", "test", "1", "--config", "--output", "name")[1] == "domain/vcpu/@current\n"


def test_a_plan_that_is_a_refusal(shell: Shell) -> None:
    status, out, err = shell("plan", "domrename", "test", "other")
    assert status == 1
    assert "only when off" in out
    assert err == "error: this would be refused\nerror: cannot rename active domain\n"
    status, _, err = shell("plan", "destroy", "test")
    assert (status, err.count("there is nothing to plan")) == (1, 1)
    assert shell("plan", "console", "test")[0] == 1
    assert shell("plan", "nonsense")[2].startswith("error: unknown command: 'nonsense'")
    assert shell("plan")[2] == "error: command 'plan' requires --command option\n"


def test_history_and_trash(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "d.xml"
    define(shell, file, "web1", 65536)
    _, text, _ = shell("dumpxml", "web1")
    file.write_text(text.replace(">65536<", ">131072<"))
    assert shell("define", str(file))[0] == 0
    found = shell.json("history", "web1")
    assert [(each["number"], each["is_current"]) for each in found] == [(1, False), (2, True)]
    assert {each["who"] for each in found} == {"ann"}
    assert "Revision" in shell("history", "web1")[1]
    assert shell("history-show", "web1", "1")[1].startswith("<domain")
    assert ">65536<" in shell.json("history-show", "web1", "1", "--security-info")["xml"]
    diff = shell("history-diff", "web1", "1")[1]
    assert "-  <memory unit='KiB'>65536</memory>" in diff
    assert shell("history-diff", "web1", "1", "2", "--security-info")[1] == diff
    assert shell.json("history-diff", "web1", "2", "--new", "2") == {"old": 2, "new": 2, "diff": ""}
    assert shell("history-revert", "web1", "1")[1] == "'web1' is as in revision 1 again\n\n"
    assert ">65536<" in shell("dumpxml", "web1")[1]
    assert shell("history-revert", "web1", "99")[2] == (
        "error: Failed to revert 'web1' to revision 99\nerror: there is no revision 99; there are 1 to 3\n"
    )
    assert shell("history", "web1", "--kind", "moon")[2] == (
        "error: --kind takes domain, network, pool; not 'moon'\n"
    )
    assert shell("history", "default", "--kind", "network")[0] == 0
    assert shell("history", "default-pool", "--kind", "pool", "--output", "name")[1] == "1\n"
    assert "<pool" in shell("history-show", "default-pool", "1", "--kind", "pool")[1]
    assert shell("history-diff", "default", "1", "1", "--kind", "network")[1] == "\n"
    assert "is active; stop it" in shell("history-revert", "default-pool", "1", "--kind", "pool")[2]
    assert shell("undefine", "web1")[0] == 0
    (entry,) = shell.json("trash")
    assert (entry["kind"], entry["name"]) == ("domains", "web1")
    assert " domain " in shell("trash")[1]
    assert shell("trash-restore", str(entry["id"]))[1] == "Domain 'web1' restored\n\n"
    assert shell("dominfo", "web1")[0] == 0
    assert shell("undefine", "web1")[0] == 0
    assert shell("trash-purge")[2] == "error: name an entry of the trash, or say --all\n"
    assert shell("vol-create-as", "default-pool", "v1", "4096")[0] == 0
    status, out, _ = shell("trash-volume", "v1", "--pool", "default-pool")
    assert (status, out.startswith("Vol v1 moved to the trash; 'trash-restore ")) == (0, True)
    numbers = [str(each["id"]) for each in shell.json("trash")]
    assert shell("trash-purge", "--entry", numbers[0])[1] == "1 entry deleted for good\n\n"
    assert shell("trash-purge", "--all")[1] == "1 entry deleted for good\n\n"
    assert shell.json("trash") == []


def test_jobs(shell: Shell) -> None:
    assert shell("vol-create-as", "default-pool", "j1", "4096")[0] == 0
    assert shell("vol-clone", "j1", "j2", "default-pool")[0] == 0
    found = shell.json("jobs")[0]
    assert (found["title"], found["phase"], found["subject"]) == ("copy j1", "done", "pool default-pool")
    number = str(found["id"])
    assert "copy j1" in shell("jobs")[1]
    assert "copy j1" not in shell("jobs", "--running")[1]
    assert "State:" in shell("job-info", number)[1]
    assert shell.json("job-wait", number)["phase"] == "done"
    assert shell("job-cancel", number)[2] == (
        f"error: Failed to cancel job {number}\n"
        f"error: Requested operation is not valid: job {number} is over: it is done\n"
    )
    service = shell.link.desk.client.service

    async def start() -> int:
        from manor.service.jobs import Job, Purpose

        async def work(job: Job) -> None:
            job.progress(1024, 4096, "half way")
            await asyncio.sleep(60)

        return service.jobs.start(Purpose("save test", "ann", "test", "it runs on"), work).id

    running = str(shell.link.run(start()))
    assert "25%" in shell("jobs", "--running")[1]
    status, _, err = shell("job-wait", running, "--timeout", "0")
    assert (status, err) == (124, f"error: job {running} was not over in 0 seconds; it goes on\n")
    assert shell("job-cancel", running)[1] == f"Job {running} cancelled; it leaves it runs on\n\n"
    status, out, err = shell("job-wait", running)
    assert (status, err) == (1, f"error: job {running} has been cancelled\n")
    assert "cancelled" in out


def test_events(shell: Shell, tmp_path: Path) -> None:
    latest = max(each["sequence"] for each in shell.json("events"))
    define(shell, tmp_path / "d.xml", "ev1")
    assert shell("start", "ev1")[0] == 0
    assert shell("destroy", "ev1")[0] == 0
    found = shell.json("events", "--since", str(latest))
    assert [(each["name"], each["what"], each["detail"]) for each in found] == [
        ("ev1", "defined", "added"), ("ev1", "started", "booted"), ("ev1", "stopped", "destroyed")
    ]  # fmt: skip
    _, out, _ = shell("events", "--since", str(latest), "--limit", "1")
    assert "defined: added" in out
    assert "stopped" not in out
    _, out, _ = shell("events", "--since", str(latest), "--of", "ev1", "--follow", "--limit", "2")
    assert [line.split(" ", 3)[3] for line in out.splitlines() if line] == [
        "domain ev1: defined: added", "domain ev1: started: booted"
    ]  # fmt: skip
    status, out, _ = shell("events", "--since", str(latest + 1), "--follow", "--output", "json")
    assert status == 0
    assert [json.loads(line)["what"] for line in out.splitlines()] == ["started", "stopped"]
    _, out, _ = shell("events", "--since", str(latest + 2), "--follow", "--output", "name")
    assert out == f"{latest + 3}\n"
    _, _, err = shell("events", "--since", "999999")
    assert err == "some events after number 999999 are gone: they are kept for a while only\n"


def test_statistics_over_time(shell: Shell) -> None:
    keeping = shell.link.desk.client.service.keeping
    for _ in range(2):
        shell.link.run(keeping.sample(False))
        time.sleep(0.1)
    found = shell.json("stats-history", "test", "--last", "1h", "--step", "10", "--series", "cpu,memory")
    assert found["step"] == 10
    assert sorted(found["series"]) == ["cpu", "memory"]
    assert len(found["times"]) == len(found["series"]["cpu"]["mean"]) >= 1
    assert "cpu (CPUs)" in shell("stats-history", "test", "--last", "1h")[1]
    assert "no series 'moon'; there are cpu" in shell("stats-history", "test", "--series", "moon")[2]
    assert "is no time to look back" in shell("stats-history", "test", "--last", "soon")[2]


def test_the_consoles_past(shell: Shell) -> None:
    async def type_() -> None:
        client = shell.link.desk.client
        domain = await client.driver.domains.find_name("test")
        stream = await client.driver.domains.console(domain.uuid, None, False)
        await stream.write(b"hello\n")

    shell.link.run(type_())
    assert shell("console", "test", "--log")[1] == "\r\ntest login: hello\n\n"
    assert shell("console", "test", "--since", "-6")[1] == "hello\n\n"
    assert shell("console", "test", "--since=-6", "--follow")[1] == "hello\nmore text\n\n"
    assert shell("console", "test", "--watch", "--alone")[2] == (
        "error: --watch, --alone and --take-over are mutually exclusive\n"
    )
    assert "without a controlling TTY" in shell("console", "test", "--take-over")[2]


def test_errors_for_people_and_for_programs(shell: Shell) -> None:
    plain = "error: Failed to delete from the trash\nerror: there is nothing numbered 5000 in the trash; " \
        "`trash` lists what there is\n"  # fmt: skip
    assert shell("trash-purge", "5000") == (1, "\n", plain)  # scripts see virsh's form
    assert shell("--explain", "trash-purge", "5000")[2] == plain + (
        "title: The host refused\ncause: there is nothing numbered 5000 in the trash\n"
        "fix: `trash` lists what there is\n"
    )
    status, out, err = shell("trash-purge", "5000", "--output", "json")
    assert (status, out) == (1, "")
    error = json.loads(err)["error"]
    assert error["messages"][0] == "Failed to delete from the trash"
    assert (error["code"], error["fix"]) == (38, ["`trash` lists what there is"])
    status, _, err = shell("--output", "json", "dominfo", "none")
    assert status == 1
    assert json.loads(err)["error"]["messages"] == ["failed to get domain 'none'"]
    assert shell("explain")[2].startswith("error: there was no error in this session")


def test_a_terminal_is_told_the_fix(shell: Shell) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    err = Terminal()
    main(("trash-purge", "5000"), opener=lambda settings: shell.link, out=io.StringIO(), err=err)
    assert "fix:" not in err.getvalue()  # the message says it already
    session = Session(Settings(), lambda settings: shell.link, io.StringIO(), err)
    session.run([["trash-purge", "5000"]])
    out = io.StringIO()
    session.out = out
    session.run([["explain"]])
    assert out.getvalue().startswith("title:    The host refused\ncause:    there is nothing")


def test_a_daemon_without_services_is_told_in_one_sentence(shell: Shell) -> None:
    shell.link.is_foreign = True
    for words in (("jobs",), ("trash",), ("events",), ("plan", "setvcpus", "test", "1", "--config")):
        status, _, err = shell(*words)
        assert status == 1
        assert err.splitlines()[-1].endswith("the daemon is not manord")
    status, _, err = shell("--explain", "undefine", "none")
    assert status == 1
    assert "error: failed to get domain 'none'" in err


class Asked(Session):
    @property
    def asks(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "is_done"), [("y", True), ("n", False)])
def test_edit_shows_the_plan_and_asks(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, is_done: bool
) -> None:
    define(shell, tmp_path / "d.xml", f"edit-{answer}")
    monkeypatch.setenv("EDITOR", "sed -i s/65536/131072/")
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.setattr("builtins.input", lambda prompt: answer)
    out = io.StringIO()
    session = Asked(Settings(), lambda settings: shell.link, out, io.StringIO())
    assert session.run([["edit", f"edit-{answer}"]]) == 0
    assert "domain/memory" in out.getvalue()
    assert (">131072<" in shell("dumpxml", f"edit-{answer}")[1]) == is_done
    assert ("not changed" in out.getvalue()) != is_done
