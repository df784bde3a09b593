"""What the commands of `manor image` share: options, the edge where errors get their status, signals."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from manor.base.errors import ConfigError
from manor.base.units import parse_size
from manor.cli.status import EXIT_SIGNAL

FORMATS: Final = ("raw", "qcow2", "vmdk", "vdi", "vhdx", "vpc")
WRITTEN_FORMATS: Final = ("raw", "qcow2")
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)

Function = TypeVar("Function", bound=Callable[..., Any])


class ImageCommand(click.Command):
    """A command whose errors name the image.

    usage_error: what wrong options become, where their exit status 2 already has a meaning.
    """

    usage_error: type[click.UsageError] = click.UsageError

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with self._usage_errors():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with self._usage_errors(), ending_cleanly():
                return super().invoke(ctx)
        except ConfigError as error:
            # The path of such an error is an image here, not an option.
            raise ConfigError("", str(error)) from error

    @contextmanager
    def _usage_errors(self) -> Iterator[None]:
        try:
            yield
        except click.UsageError as error:
            if isinstance(error, self.usage_error):
                raise
            raise self.usage_error(error.format_message(), error.ctx) from error


class Size(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on, for the type checker
    """A size like 10G, in bytes."""

    name = "size"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class ImagePath(click.ParamType):  # type: ignore[type-arg]  # as above
    """A file, or a URI. Whoever opens it says what is wrong with it."""

    name = "image"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not value or "\0" in value:
            self.fail("an image has a name", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        return [CompletionItem(incomplete, type="file")]


def is_on_server(name: str) -> bool:
    """Whether `name` is the URI of a disk on a server."""
    from manor.backends.block.open import PROTOCOLS

    return name.partition(":")[0] in PROTOCOLS


class ImageFile(ImagePath):
    """A file: for what can be done to no disk on a server."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if is_on_server(value):
            self.fail(f"{value} is a disk on a server; this works on files", param, ctx)
        return super().convert(value, param, ctx)


IMAGE: Final = ImagePath()
FILE: Final = ImageFile()
SIZE: Final = Size()


def format_option(
    help_: str = "The image's format. Default: looked up in its contents.",
) -> Callable[[Function], Function]:
    """-f: what the image is."""
    return click.option("-f", "--format", "format_", metavar="FORMAT", shell_complete=offer(FORMATS), help=help_)


def quiet_option(function: Function) -> Function:
    """-q."""
    return click.option("-q", "--quiet", is_flag=True, help="Print errors only.")(function)


def progress_option(function: Function) -> Function:
    """-p."""
    return click.option(
        "-p", "--progress", "percent", is_flag=True,
        help="Print percentages on standard output. On a terminal a bar shows without it.",
    )(function)  # fmt: skip


def share_option(function: Function) -> Function:
    """-U."""
    return click.option(
        "-U", "--force-share", is_flag=True, help="Read the image even while another program writes it."
    )(function)


def json_options(function: Function) -> Function:
    """--json, and --output=json as qemu-img has it. They set `as_json`."""
    function = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(function)
    return click.option(
        "--output", type=click.Choice(("human", "json")), callback=_output, expose_value=False,
        help="The same, in qemu-img's words.",
    )(function)  # fmt: skip


def _output(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    if value == "json":
        ctx.meta["manor.output.json"] = True


def wants_json(as_json: bool) -> bool:
    """Whether one of the two options asked for JSON."""
    return as_json or bool(click.get_current_context().meta.get("manor.output.json"))


def offer(names: Sequence[str]) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Completion of one of `names`."""
    return lambda _ctx, _param, typed: [name for name in names if name.startswith(typed)]


def parse_options(texts: Sequence[str], known: dict[str, str], format_: str) -> dict[str, str]:
    """The values of -o NAME=VALUE,... Raises click.UsageError; `-o help` prints what there is and leaves."""
    found: dict[str, str] = {}
    for text in ",".join(texts).split(",") if texts else ():
        name, equals, value = text.partition("=")
        if name in ("help", "?"):
            width = max((len(key) for key in known), default=0)
            click.echo(f"Options of {format_}:")
            for key, meaning in known.items():
                click.echo(f"  {key:<{width}}  {meaning}")
            raise click.exceptions.Exit(0)
        if name not in known:
            names = ", ".join(known)
            raise click.UsageError(f"-o {name}: {format_} has no such option; it has {names or 'none'}, see -o help")
        found[name] = value if equals else "on"
    return found


def check_written(format_: str) -> str:
    """The format of a new image. Raises click.UsageError."""
    if format_ not in WRITTEN_FORMATS:
        known = "is read and not written" if format_ in FORMATS else "is not known"
        raise click.UsageError(f"format {format_} {known}; new images are {' or '.join(WRITTEN_FORMATS)}")
    return format_


@contextmanager
def ending_cleanly() -> Iterator[None]:
    """End by an exception where a signal would end the process: so that what was begun is taken away again."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise click.exceptions.Exit(EXIT_SIGNAL + number)

    old = {number: signal.signal(number, leave) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
