"""`manor image check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import click

from manor.base.errors import ConfigError, ManorError
from manor.cli.image.command import (
    FILE,
    ImageCommand,
    format_option,
    json_options,
    progress_option,
    quiet_option,
    share_option,
    wants_json,
)
from manor.cli.image.progress import progress
from manor.cli.image.text import json_text
from manor.cli.main import fail
from manor.cli.status import EXIT_OK

if TYPE_CHECKING:
    from manor.backends.block.operations import CheckResult

# Those of qemu-img check.
EXIT_INCOMPLETE: Final = 1
EXIT_CORRUPT: Final = 2
EXIT_LEAKS: Final = 3
EXIT_UNSUPPORTED: Final = 63

MAX_MESSAGES: Final = 100
"""Findings printed one by one."""


class NotChecked(click.UsageError):
    """Wrong options: a check that was not made, because 2 means a damaged image here."""

    exit_code = EXIT_INCOMPLETE


class CheckCommand(ImageCommand):
    """The command, with its own status for wrong options."""

    usage_error = NotChecked


@click.command(cls=CheckCommand)
@click.argument("file", type=FILE)
@format_option()
@click.option(
    "-r", "--repair", type=click.Choice(("leaks", "all")),
    help="Repair: leaks, space that nothing uses; or all that can be repaired without guessing.",
)  # fmt: skip
@progress_option
@quiet_option
@share_option
@json_options
def check(
    file: str,
    format_: str | None,
    repair: Literal["leaks", "all"] | None,
    percent: bool,
    quiet: bool,
    force_share: bool,
    as_json: bool,
) -> int:
    """Check an image's structures, and repair them.

    What the guest has on its disk is not looked at: that is for a file system check in the guest.
    """
    from manor.backends.block import operations

    if repair and force_share:
        raise click.UsageError("-U reads what another program writes; that cannot be repaired meanwhile")
    try:
        with progress(f"Checking {file}", percent=percent, quiet=quiet or wants_json(as_json)) as show:
            result = operations.check(
                file, format=format_, repair=repair or "none", force_share=force_share, progress=show
            )
    except ConfigError as error:
        return fail(str(error), EXIT_UNSUPPORTED if _is_unsupported(file, format_) else EXIT_INCOMPLETE)
    except ManorError as error:
        return fail(str(error), EXIT_INCOMPLETE)
    if wants_json(as_json):
        click.echo(json_text(result_object(file, result)))
    elif not quiet or not result.is_clean:
        click.echo(result_text(result))
    return status(result)


def status(result: CheckResult) -> int:
    """The exit status that says what was found and is left."""
    if result.errors:
        return EXIT_INCOMPLETE
    if result.corruptions:
        return EXIT_CORRUPT
    return EXIT_LEAKS if result.leaks else EXIT_OK


def _is_unsupported(file: str, format_: str | None) -> bool:
    """Whether the image is of a format that has nothing to check."""
    from manor.backends.block import operations

    try:
        return operations.image_info(file, format=format_, force_share=True).format != "qcow2"
    except ManorError:
        return False


def result_text(result: CheckResult) -> str:
    """The findings, for people."""
    lines = list(result.messages[:MAX_MESSAGES])
    if len(result.messages) > MAX_MESSAGES:
        lines.append(f"... and {len(result.messages) - MAX_MESSAGES} more")
    if lines:
        lines.append("")
    if result.corruptions_fixed or result.leaks_fixed:
        lines += [
            "The following inconsistencies were found and repaired:",
            "",
            f"    {result.leaks_fixed} leaked clusters",
            f"    {result.corruptions_fixed} corruptions",
            "",
        ]
    if result.is_clean:
        lines.append("No errors were found on the image.")
    if result.corruptions:
        lines += [
            f"{result.corruptions} errors were found on the image.",
            "Data may be lost, and writing to the image may lose more; copy it, then repair the copy: "
            "manor image check -r all COPY",
        ]
    if result.leaks:
        lines += [
            f"{result.leaks} leaked clusters were found on the image.",
            "They waste space and harm nothing; manor image check -r leaks gives them back.",
        ]
    if result.errors:
        lines.append(f"{result.errors} parts of the image could not be checked.")
    if result.total_clusters:
        used = result.allocated_clusters
        shares = [
            100 * used / result.total_clusters,
            100 * result.fragmented_clusters / used if used else 0.0,
            100 * result.compressed_clusters / used if used else 0.0,
        ]
        lines.append(
            f"{used}/{result.total_clusters} = {shares[0]:.2f}% allocated, {shares[1]:.2f}% fragmented, "
            f"{shares[2]:.2f}% compressed clusters"
        )
    if result.image_end:
        lines.append(f"Image end offset: {result.image_end}")
    return "\n".join(lines)


def result_object(file: str, result: CheckResult) -> dict[str, object]:
    """The findings, for scripts. Counts that are zero are left out, as qemu-img leaves them out."""
    found: dict[str, object] = {
        "filename": file,
        "format": result.format,
        "check-errors": result.errors,
        "image-end-offset": result.image_end,
        "total-clusters": result.total_clusters,
    }
    optional = {
        "corruptions": result.corruptions,
        "leaks": result.leaks,
        "corruptions-fixed": result.corruptions_fixed,
        "leaks-fixed": result.leaks_fixed,
        "allocated-clusters": result.allocated_clusters,
        "fragmented-clusters": result.fragmented_clusters,
        "compressed-clusters": result.compressed_clusters,
    }
    return found | {name: count for name, count in optional.items() if count}
