"""A session: the connection, where output goes, and what every command needs of both."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TextIO

from manor.base.errors import ApiError, ManorError
from manor.rpc.protocol.errors import ErrorCode
from manor.rpc.protocol.own_records import EventEntry, Problem
from manor.rpc.protocol.records import Domain, Network, ParamType, StoragePool, TypedParam
from manor.shell import render
from manor.shell.arguments import Arguments, bind
from manor.shell.catalog import find
from manor.shell.errors import CommandError, Quit, UsageError, WaitTimeout
from manor.shell.link import Link, RemoteError

EXIT_FAILURE = 1
EXIT_TIMEOUT = 124
STRING_PARAMS = 4
"""Flag: typed parameters may be strings. Source: libvirt API reference, VIR_TYPED_PARAM_STRING_OKAY."""

@dataclass
class Settings:
    """What the options before the command say. timeout: seconds, None for no limit."""

    uri: str = ""
    escape: str = "^]"
    debug: int = 4
    log: str = ""
    output: str = "table"
    timeout: float | None = None
    is_quiet: bool = False
    is_read_only: bool = False
    is_timed: bool = False
    waits: bool = False
    explains: bool = False
    keepalive: tuple[int, int] = (5, 6)
    """Seconds between questions whether the daemon lives, and how many may stay without an answer."""


Opener = Callable[[Settings], Link]


def open_link(settings: Settings) -> Link:
    """Connect to the daemon that the URI names. Raises RemoteError."""
    from manor.shell.client_link import ClientLink

    return ClientLink(settings.uri, is_read_only=settings.is_read_only, keepalive=settings.keepalive)


@dataclass
class Session:
    """A session. One thread's."""

    settings: Settings
    opener: Opener = open_link
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)
    is_interactive: bool = False
    output: str = "table"
    _link: Link | None = None
    _error: Exception | None = None
    """The last one, until the next."""
    _remote: RemoteError | None = None
    """What the daemon answered last that was an error."""

    # The connection.

    @property
    def link(self) -> Link:
        """The connection, opened when first needed. Raises CommandError."""
        if self._link is None:
            try:
                self._link = self.opener(self.settings)
            except RemoteError as error:
                raise CommandError("failed to connect to the hypervisor", str(error)) from None
        return self._link

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a procedure. Raises RemoteError, CommandError."""
        link = self.link
        self.trace(0, f"call {name}")
        try:
            return link.call(name, *arguments)
        except RemoteError as error:
            self._remote = error
            raise

    @property
    def asks(self) -> bool:
        """Whether there is a user to ask: standard input and output are terminals."""
        return self.is_interactive or (sys.stdin.isatty() and self.out.isatty())

    def problem(self) -> Problem | None:
        """All that is known of the last error, None if there was none."""
        if self._error is None:
            return None
        remote = self._remote
        if remote is not None and str(remote) in str(self._error):
            if self._link is not None:
                with contextlib.suppress(RemoteError, KeyError):
                    found: Problem | None = self._link.call("manor_explain", remote.code, str(remote))
                    if found is not None:
                        return found
            from manor.service.problem import problem_of

            return problem_of(ApiError(remote.code, 0, str(remote)))
        fix = (self._error.hint,) if isinstance(self._error, UsageError) and self._error.hint else ()
        return Problem(int(ErrorCode.INVALID_ARG), "The command cannot be carried out", str(self._error), fix)

    def follow_events(self, since: int) -> Iterator[EventEntry]:
        """Events after a number, as they come. Raises RemoteError."""
        link: Any = self.link
        link.watch(since)
        try:
            while True:
                yield link.next_entry()
        finally:
            link.unwatch()

    def call_with_files(self, name: str, *arguments: Any, files: Sequence[int]) -> Any:
        """Call a procedure and pass copies of file descriptors. Raises RemoteError, CommandError."""
        link = self.link
        self.trace(0, f"call {name} with {len(files)} descriptors")
        return link.call_with_files(name, *arguments, files=files)

    def trace(self, level: int, text: str) -> None:
        """Tell of the work: to the log always, to standard error if --debug asks for that level (0 is the most)."""
        if self.settings.debug <= level:
            self.warn(f"{self.settings.uri or 'default'}: {text}")
        if self.settings.log:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S%z")
            try:
                with open(self.settings.log, "a", encoding="utf-8") as file:
                    file.write(f"{stamp}: {text}\n")
            except OSError as error:
                raise CommandError(f"failed to write the log file: {error.strerror}") from None

    def params(self, name: str, *arguments: Any, flags: int = 0, failed: str = "") -> list[TypedParam]:
        """The typed parameters of a procedure that is asked for their number first. Raises RemoteError.

        failed: what to say if the number was told, and then the parameters are not (CommandError).
        """
        flags |= STRING_PARAMS
        count = self.call(name, *arguments, 0, flags)[1]
        if not count:
            return []
        try:
            return list(self.call(name, *arguments, count, flags)[0])
        except RemoteError as error:
            if not failed or error.is_unsupported:
                raise
            raise CommandError(failed, str(error)) from None

    @contextmanager
    def failing(self, *messages: str) -> Iterator[None]:
        """Put what failed before why it failed."""
        try:
            yield
        except RemoteError as error:
            raise CommandError(*messages, str(error)) from None

    # What commands are about.

    def domain(self, arguments: Arguments, option: str = "domain", by: str = "inu") -> Domain:
        """The domain that an option names by id, UUID or name, as `by` says. Raises CommandError."""
        return self.find_domain(arguments.text(option), by)

    def find_domain(self, text: str, by: str = "inu") -> Domain:
        """A domain by id (i), UUID (u) or name (n). Raises CommandError."""
        if "i" in by and text.isdigit() and int(text) < 2**31:
            found = self._lookup("domain_lookup_by_id", int(text))
            if found is not None:
                return Domain(*found)
        identity = as_uuid(text)
        if "u" in by and identity is not None:
            found = self._lookup("domain_lookup_by_uuid", identity)
            if found is not None:
                return Domain(*found)
        if "n" in by:
            found = self._lookup("domain_lookup_by_name", text)
            if found is not None:
                return Domain(*found)
        raise CommandError(f"failed to get domain '{text}'")

    def network(self, arguments: Arguments, option: str = "network", by: str = "nu") -> Network:
        """The network that an option names by name or UUID. Raises CommandError."""
        text = arguments.text(option)
        return Network(*self.lookup("network", text, by, f"failed to get network '{text}'"))

    def pool(self, arguments: Arguments, option: str = "pool", by: str = "nu") -> StoragePool:
        """The storage pool that an option names by name or UUID. Raises CommandError."""
        text = arguments.text(option)
        return StoragePool(*self.lookup("storage_pool", text, by, f"failed to get pool '{text}'"))

    def lookup(self, kind: str, text: str, by: str, message: str) -> Any:
        """An object by UUID (u) or name (n). Raises CommandError."""
        causes = []
        identity = as_uuid(text)
        ways = [("u", f"{kind}_lookup_by_uuid", identity), ("n", f"{kind}_lookup_by_name", text)]
        for letter, procedure, key in ways:
            if letter in by and key is not None:
                try:
                    return self.call(procedure, key)
                except RemoteError as error:
                    causes = [str(error)]
        raise CommandError(message, *causes)

    def _lookup(self, procedure: str, key: Any) -> Any:
        try:
            return self.call(procedure, key)
        except RemoteError:
            return None  # the next way of looking it up, or a message that names it, follows

    # Output.

    def print(self, text: str = "", end: str = "\n") -> None:
        """Print what the command is for."""
        self.out.write(text + end)

    def note(self, text: str, end: str = "\n") -> None:
        """Print what `--quiet` leaves out."""
        if not self.settings.is_quiet and self.output == "table":
            self.out.write(text + end)

    @property
    def is_structured(self) -> bool:
        """Whether output is for programs."""
        return self.output in ("json", "yaml")

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]], *, naming: str = "Name") -> None:
        """Print a table. naming: the column that `--output name` prints. With --quiet the headings are left out."""
        if self.is_structured:
            keys = [render.key(heading) for heading in headings]
            self.out.write(render.structured([dict(zip(keys, row, strict=True)) for row in rows], self.output))
        elif self.output == "name":
            column = list(headings).index(naming) if naming in headings else 0
            self.out.write("".join(f"{row[column]}\n" for row in rows))
        elif self.settings.is_quiet:
            self.out.write(render.bare_table(rows))
        else:
            self.out.write(render.table(headings, rows))

    def fields(self, pairs: Sequence[tuple[str, str]], width: int = 15, *, naming: str = "Name") -> None:
        """Print facts, one a line. A fact without a name is one more of the kind before it."""
        if self.is_structured:
            facts: dict[str, list[str]] = {}
            last = ""
            for name, value in pairs:
                last = render.key(name) if name else last
                facts.setdefault(last, []).append(value)
            plain = {name: values[0] if len(values) == 1 else values for name, values in facts.items()}
            self.out.write(render.structured(plain, self.output))
        elif self.output == "name":
            self.out.write("".join(f"{value}\n" for name, value in pairs if name == naming))
        else:
            self.out.write("".join(f"{name + ':' if name else '':<{width}} {value}\n" for name, value in pairs))

    def parameters(self, params: Sequence[TypedParam], unlimited: Sequence[str] = ()) -> None:
        """Print typed parameters."""
        if self.is_structured:
            self.out.write(render.structured({param.field: param.value for param in params}, self.output))
            return
        for param in params:
            is_none = param.field in unlimited and int(param.value) >= NO_LIMIT
            self.print(f"{param.field:<15}: {'unlimited' if is_none else param_text(param)}")

    def report(self, error: Exception) -> None:
        """Print an error, and where it helps, what may have been meant."""
        self._error = error
        messages = error.messages if isinstance(error, CommandError) else (str(error),)
        self.out.flush()
        if self.is_structured and messages:
            problem = self.problem()
            value = {"error": {"messages": list(messages), **(problem.as_dict() if problem is not None else {})}}
            self.err.write(render.structured(value, self.output))
            self.err.flush()
            return
        for message in messages:
            self.err.write(f"{self._red('error:')} {message}\n")
        if isinstance(error, UsageError) and error.hint:
            self.err.write(f"hint: {error.hint}\n")
        if messages and (self.settings.explains or self.err.isatty()):
            self._report_more(" ".join(messages))
        self.err.flush()

    def _report_more(self, said: str) -> None:
        """What else is known of an error, for people: scripts see virsh's lines alone."""
        from manor.shell.commands.services import problem_lines

        problem = self.problem()
        for name, text in problem_lines(problem.as_dict()) if problem is not None else ():
            if self.settings.explains or (name in ("fix", "evidence", "docs") and text not in said):
                self.err.write(f"{name}: {text}\n")

    def warn(self, text: str) -> None:
        """Print what the user should know."""
        self.err.write(f"{text}\n")

    def _red(self, text: str) -> str:
        has_colour = self.err.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        return f"\x1b[31m{text}\x1b[0m" if has_colour else text

    # Running.

    def run(self, commands: Sequence[Sequence[str]]) -> int:
        """Run commands one after the other until one fails; the exit status. Raises Quit."""
        try:
            bound = [(words[0], bind(find(words[0]), words[1:])) for words in commands]
        except UsageError as error:
            self.report(error)
            return EXIT_FAILURE
        for name, arguments in bound:
            status = self.run_one(name, arguments)
            if status:
                return status
        return 0

    def run_one(self, name: str, arguments: Arguments) -> int:
        """Run a command; its exit status. Raises Quit."""
        started = time.perf_counter()
        status = 0
        try:
            self.trace(1, f"command {name}")
            self._remote = None if name != "explain" else self._remote
            self.take_output(arguments)
            module = importlib.import_module(arguments.command.module)
            getattr(module, arguments.command.function)(self, arguments)
            if self.settings.waits or arguments.common("wait"):
                from manor.shell.waiting import wait_for

                wait_for(self, arguments, self.timeout_of(arguments))
        except Quit:
            raise
        except KeyboardInterrupt:
            status = 130
        except WaitTimeout as error:
            status = EXIT_TIMEOUT
            self._failed(error)
        except (ManorError, OSError) as error:
            status = EXIT_FAILURE
            self._failed(error)
        else:
            self._after(started)
        if status:
            self.out.flush()
        return status

    def take_output(self, arguments: Arguments) -> None:
        """Print as a command's options say from now on. Raises CommandError."""
        form = arguments.common("output") or self.settings.output
        if form not in render.FORMATS:
            raise CommandError(f"--output takes {', '.join(render.FORMATS)}; not '{form}'")
        self.output = str(form)

    def timeout_of(self, arguments: Arguments) -> float | None:
        """Seconds that a command may wait, None for no limit. Raises CommandError."""
        given = arguments.common("timeout")
        if given is None:
            return self.settings.timeout
        return parse_seconds(str(given))

    def _failed(self, error: Exception) -> None:
        self.note("")
        self.report(error)
        with contextlib.suppress(CommandError):  # the log cannot be written: that was said
            self.trace(3, f"error: {error}")

    def _after(self, started: float) -> None:
        if self.settings.is_timed:
            self.print(f"\n(Time: {(time.perf_counter() - started) * 1000:.3f} ms)\n")
        else:
            self.note("")
        self.out.flush()


NO_LIMIT = 9007199254740991
"""KiB from which on a limit is none. Source: libvirt API reference, VIR_DOMAIN_MEMORY_PARAM_UNLIMITED."""


def parse_seconds(text: str) -> float:
    """Seconds of a limit. Raises CommandError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise CommandError(f"--timeout takes a number of seconds; not '{text}'")
    return seconds


def as_uuid(text: str) -> bytes | None:
    """The 16 bytes of a UUID, None if the text is none."""
    digits = text.replace("-", "").replace(" ", "")
    if len(digits) != 32:
        return None
    try:
        return bytes.fromhex(digits)
    except ValueError:
        return None


def uuid_text(raw: bytes) -> str:
    """A UUID as people write it."""
    digits = bytes(raw).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def param_text(param: TypedParam) -> str:
    """The value of a typed parameter."""
    if param.type == ParamType.BOOLEAN:
        return "yes" if param.value else "no"
    if param.type == ParamType.DOUBLE:
        return f"{param.value:f}"
    return str(param.value)


def read_file(path: str) -> str:
    """A text file, whole. Raises CommandError."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise CommandError(f"Failed to open file '{path}': {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandError(f"Failed to read file '{path}': it is not UTF-8 text") from None
