"""Plans, jobs, events by number, statistics over time, and errors explained."""

from __future__ import annotations

import datetime
import io
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from manor.rpc.protocol.catalog import REMOTE
from manor.rpc.protocol.own_records import EventEntry, JobRecord, Plan, Series
from manor.shell import render
from manor.shell.arguments import Arguments, bind
from manor.shell.errors import CommandError, WaitTimeout
from manor.shell.link import Link, RemoteError, Stream
from manor.shell.session import Session

WHEN: Final[Mapping[str, str]] = {
    "live": "now", "boot": "at next start", "off": "only when off", "refused": "refused",
}  # fmt: skip
PAGE: Final = 1000
"""Events that are fetched at a time."""
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SHOWN: Final = 60
"""Characters of a value in the table of a plan."""


def stamp(seconds: float) -> str:
    """A time of the day, in the user's zone."""
    return datetime.datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M:%S")


# --- plans ------------------------------------------------------------------------------------------------------------


class _Planned(Exception):
    """A command has come to its first change."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self.plan = plan


class PlanLink:
    """A connection on which whatever would change something is planned instead (Link)."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.uri = link.uri

    def call(self, name: str, *arguments: Any) -> Any:
        """As `Link`. Raises _Planned in place of a change."""
        procedure = REMOTE.get(name)
        if procedure is not None and not procedure.is_read_only:
            payload = bytes(procedure.encode_arguments(arguments))
            raise _Planned(self._link.call("manor_plan", procedure.number, payload))
        return self._link.call(name, *arguments)

    def call_with_files(self, name: str, *arguments: Any, files: Sequence[int]) -> Any:
        """Refused: what a VM is given at its start is no change that can be planned."""
        raise RemoteError(f"{name} with descriptors cannot be planned; leave --pass-fds out")

    def open_stream(self, name: str, *arguments: Any) -> tuple[Any, Stream]:
        """Refused: a stream is no change that can be planned."""
        raise RemoteError(f"{name} does not change a domain's description; there is nothing to plan")

    def subscribe(self, kind: str, event: str, about: Any) -> None:
        """Nothing happens."""

    def unsubscribe(self) -> None:
        """Nothing happens."""

    def next_event(self, timeout: float | None) -> tuple[str, Any] | None:
        """None come."""
        return None

    def close(self) -> None:
        """It is another's."""


def plan(session: Session, arguments: Arguments) -> None:
    """Tell what a command would change."""
    import importlib

    from manor.shell.catalog import find

    words = arguments.words("command")
    inner = bind(find(words[0]), words[1:])
    session.take_output(inner)  # what stands behind the inner command is meant for this one
    trial = replace(session, out=io.StringIO(), _link=PlanLink(session.link))
    module = importlib.import_module(inner.command.module)
    try:
        getattr(module, inner.command.function)(trial, inner)
    except _Planned as found:
        show_plan(session, found.plan, arguments.flag("diff"))
    else:
        session.note("This changes nothing.")


def show_plan(session: Session, found: Plan, with_diff: bool) -> None:
    """Print a plan. Raises CommandError if it is a refusal."""
    if session.is_structured:
        value = {
            "items": [item._asdict() for item in found.items],
            "problem": None if found.problem is None else found.problem.as_dict(),
            "config_diff": found.config_diff,
            "live_diff": found.live_diff,
        }
        session.out.write(render.structured(value, session.output))
    elif found.items:
        rows = [
            (WHEN.get(item.when, item.when), item.path, _short(item.old), _short(item.new), item.why)
            for item in found.items
        ]
        session.table(("When", "What", "Before", "After", "Why"), rows, naming="What")
    elif found.problem is None:
        session.note("This changes nothing.")
    if with_diff and not session.is_structured:
        for title, text in (("live", found.live_diff), ("definition", found.config_diff)):
            if text:
                session.print(f"\n{title}:\n{text}", end="")
    if found.problem is not None:
        raise CommandError("this would be refused", "; ".join([found.problem.cause, *found.problem.fix]))


def _short(value: str | None) -> str:
    text = " ".join((value or "-").split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def review(session: Session, procedure: str, *arguments: Any) -> bool:
    """Show the plan of a change to a user at a terminal, and ask. True if it shall be made.

    Where nobody can be asked, or the daemon has no plans, it is made as virsh makes it.
    """
    if not session.asks:
        return True
    payload = bytes(REMOTE[procedure].encode_arguments(arguments))
    try:
        found: Plan = session.call("manor_plan", REMOTE[procedure].number, payload)
    except RemoteError:
        return True
    if found.problem is None and found.items:
        form, session.output = session.output, "table"
        show_plan(session, found, False)
        session.output = form
        session.out.flush()
        return input("Apply this? [y,n]: ").strip().lower() in ("y", "yes")
    return True  # what is refused is refused in the daemon's own words


# --- errors -----------------------------------------------------------------------------------------------------------


def explain(session: Session, arguments: Arguments) -> None:
    """Tell more about the last error."""
    problem = session.problem()
    if problem is None:
        raise CommandError("there was no error in this session; in a script, say --explain before the command")
    if session.is_structured:
        session.out.write(render.structured(problem.as_dict(), session.output))
        return
    for name, value in problem_lines(problem.as_dict()):
        session.print(f"{name + ':':<10}{value}")


def problem_lines(problem: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is known of an error, as (word, text)."""
    for name in ("title", "cause", "fix", "evidence", "docs"):
        value = problem[name]
        for text in value if isinstance(value, list) else [value]:
            if text:
                yield name, str(text)


# --- jobs -------------------------------------------------------------------------------------------------------------


def jobs(session: Session, arguments: Arguments) -> None:
    """List long operations."""
    with session.failing("Failed to list jobs"):
        found: Sequence[JobRecord] = session.call("manor_jobs")
    if arguments.flag("running"):
        found = [job for job in found if job.phase == "running"]
    if session.is_structured:
        session.out.write(render.structured([_job_dict(job) for job in found], session.output))
        return
    rows = [(str(job.id), job.title, job.subject, job.who, job.phase, _done(job), _left(job)) for job in found]
    session.table(("Id", "Job", "On", "By", "State", "Done", "Left"), rows, naming="Id")


def _job_dict(job: JobRecord) -> dict[str, Any]:
    value: dict[str, Any] = dict(job._asdict())
    value["domain"] = None if job.domain is None else job.domain.hex()
    value["problem"] = None if job.problem is None else job.problem.as_dict()
    return value


def _done(job: JobRecord) -> str:
    if not job.done and not job.total:
        return "-"
    number, unit = render.pretty_size(job.done)
    share = f" ({100 * job.done // job.total}%)" if job.total >= job.done and job.total else ""
    return f"{number:.1f} {unit}{share}"


def _left(job: JobRecord) -> str:
    return f"{job.left:.0f} s" if job.phase == "running" and job.left >= 0 else "-"


def job_info(session: Session, arguments: Arguments) -> None:
    """Tell how far a job is."""
    with session.failing("Failed to get the job"):
        _show_job(session, session.call("manor_job", arguments.number("job")))


def _show_job(session: Session, job: JobRecord) -> None:
    if session.is_structured:
        session.out.write(render.structured(_job_dict(job), session.output))
        return
    rate, unit = render.pretty_size(int(job.rate))
    pairs = [
        ("Id", str(job.id)), ("Job", job.title), ("On", job.subject), ("By", job.who), ("State", job.phase),
        ("Step", job.step), ("Done", _done(job)), ("Rate", f"{rate:.1f} {unit}/s" if job.done else "-"),
        ("Left", _left(job)), ("Began", stamp(job.began)), ("Ended", stamp(job.ended) if job.ended else "-"),
        ("If cancelled", f"leaves {job.leaves}"),
    ]  # fmt: skip
    if job.problem is not None:
        pairs.append(("Failed", "; ".join([job.problem.cause, *job.problem.fix])))
    session.fields([(name, value) for name, value in pairs if value], naming="Id")


def job_wait(session: Session, arguments: Arguments) -> None:
    """Wait until a job is over."""
    number = arguments.number("job")
    limit = session.timeout_of(arguments)
    deadline = None if limit is None else time.monotonic() + limit
    while True:
        left = 3600.0 if deadline is None else max(0.0, deadline - time.monotonic())
        with session.failing("Failed to wait for the job"):
            job: JobRecord = session.call("manor_job_wait", number, left)
        if job.phase != "running":
            break
        if deadline is not None and time.monotonic() >= deadline:
            raise WaitTimeout(f"job {number} was not over in {limit:g} seconds; it goes on")
    _show_job(session, job)
    if job.phase != "done":
        cause = "" if job.problem is None else job.problem.cause
        raise CommandError(f"job {number} has {'failed' if job.phase == 'failed' else 'been cancelled'}",
                           *([cause] if cause else []))  # fmt: skip


def job_cancel(session: Session, arguments: Arguments) -> None:
    """Cancel a job."""
    number = arguments.number("job")
    with session.failing(f"Failed to cancel job {number}"):
        job: JobRecord = session.call("manor_job", number)
        session.call("manor_job_cancel", number)
    session.note(f"Job {number} cancelled; it leaves {job.leaves}")


# --- events -----------------------------------------------------------------------------------------------------------


def events(session: Session, arguments: Arguments) -> None:
    """List what has happened."""
    wanted, limit = arguments.get("of"), arguments.number("limit", 0, low=1)
    since = arguments.number("since", -1)
    is_following = arguments.flag("follow")
    found, count = [], 0
    with session.failing("Failed to get events"):
        if since < 0:
            latest = session.call("manor_events", 0, 1).latest
            since = latest if is_following else max(0, latest - (limit or 20))
        at = since
        while True:
            page = session.call("manor_events", at, PAGE)
            if not page.is_complete:
                session.warn(f"some events after number {at} are gone: they are kept for a while only")
            found += page.events
            if len(page.events) < PAGE:
                break
            at = page.events[-1].sequence
    found = [entry for entry in found if wanted in (None, entry.name)]
    if limit:
        found = found[:limit]
    if not is_following:
        _list_events(session, found)
        return
    try:
        for entry in found:
            _follow_line(session, entry)
            count += 1
        at = max([since, *(entry.sequence for entry in found)])
        for entry in session.follow_events(at):
            if limit and count >= limit:
                break
            if wanted in (None, entry.name):
                _follow_line(session, entry)
                count += 1
                if limit and count >= limit:
                    break
    except KeyboardInterrupt:
        return


def _list_events(session: Session, found: Sequence[EventEntry]) -> None:
    if session.is_structured:
        session.out.write(render.structured([_event_dict(entry) for entry in found], session.output))
        return
    rows = [
        (str(entry.sequence), stamp(entry.time), entry.object, entry.name, _what(entry)) for entry in found
    ]
    session.table(("Number", "Time", "Kind", "Name", "What"), rows, naming="Number")


def _event_dict(entry: EventEntry) -> dict[str, Any]:
    value: dict[str, Any] = dict(entry._asdict())
    value["uuid"] = None if entry.uuid is None else entry.uuid.hex()
    return value


def _what(entry: EventEntry) -> str:
    subject = "" if entry.kind in ("lifecycle", "job", "reboot", "refresh") else f"{entry.kind} "
    return f"{subject}{entry.what}{': ' + entry.detail if entry.detail else ''}"


def _follow_line(session: Session, entry: EventEntry) -> None:
    if session.is_structured:
        import json

        text = json.dumps(_event_dict(entry), ensure_ascii=False)
        session.print(text if session.output == "json" else f"- {text}")
    elif session.output == "name":
        session.print(str(entry.sequence))
    else:
        session.print(f"{entry.sequence} {stamp(entry.time)} {entry.object} {entry.name}: {_what(entry)}")
    session.out.flush()


# --- statistics -------------------------------------------------------------------------------------------------------


def stats_history(session: Session, arguments: Arguments) -> None:
    """Show statistics over time."""
    domain = session.domain(arguments)
    seconds = _duration(arguments.get("last") or "10m")
    step = arguments.number("step", 0, low=1, high=86400)
    now = time.time()
    with session.failing(f"Failed to get statistics of domain '{domain.name}'"):
        found = session.call("manor_statistics_history", domain, max(0.0, now - seconds), 0.0, step)
    series: Sequence[Series] = found.series
    names = (arguments.get("series") or "").split(",") if arguments.get("series") else []
    for name in names:
        if name not in [one.name for one in series]:
            raise CommandError(f"there is no series '{name}'; there are {', '.join(one.name for one in series)}")
    chosen = [one for one in series if not names or one.name in names]
    if session.is_structured:
        value = {
            "step": found.step,
            "times": list(found.times),
            "series": {
                one.name: {
                    "unit": one.unit, "minimum": list(one.minimum), "mean": list(one.mean), "maximum": list(one.maximum)
                }
                for one in chosen
            },
        }  # fmt: skip
        session.out.write(render.structured(value, session.output))
        return
    rows = [
        (stamp(when), *(_range(one, index) for one in chosen)) for index, when in enumerate(found.times)
    ]
    session.table(("Time", *(f"{one.name} ({one.unit})" for one in chosen)), rows, naming="Time")


def _range(series: Series, index: int) -> str:
    low, mean, high = series.minimum[index], series.mean[index], series.maximum[index]
    form = "{:.2f}" if series.unit == "CPUs" else "{:.0f}"
    text = form.format(mean)
    return text if form.format(low) == form.format(high) else f"{text} [{form.format(low)}-{form.format(high)}]"


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    if match is None:
        raise CommandError(f"'{text}' is no time to look back; give one like 90s, 10m, 6h or 7d")
    return float(int(match[1]) * _SECONDS[match[2] or "s"])
