"""`manor doctor`: what this host can do, and what to change."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Final

import click

from manor.cli.status import EXIT_ERROR, EXIT_OK

if TYPE_CHECKING:
    from manor.host.finding import Finding, Judgement

_EPILOG: Final = """\b
Exit status: 0 guests run here; 1 something prevents it; 2 wrong options.
"""
COLOURS: Final[dict[Judgement, str]] = {"ok": "green", "note": "cyan", "missing": "yellow", "problem": "red"}


@click.command(epilog=_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print the findings as one JSON object, for scripts.")
def doctor(as_json: bool) -> int:
    """Tell what this host can do for guests and what to change.

    Nothing is changed, and nothing is fetched.
    """
    from manor.host.examine import examine
    from manor.host.finding import can_run

    findings = examine()
    if as_json:
        report = {"can_run": can_run(findings), "findings": [finding.as_dict() for finding in findings]}
        click.echo(json.dumps(report, indent=1))
    else:
        # None leaves it to click: colours on a terminal only. NO_COLOR: see https://no-color.org.
        click.echo(text(findings), color=False if os.environ.get("NO_COLOR") else None)
    return EXIT_OK if can_run(findings) else EXIT_ERROR


def text(findings: list[Finding]) -> str:
    """A line for each finding, one more for its fix, and the sum of it."""
    from manor.host.finding import JUDGEMENTS, can_run

    first = max(len(word) for word in JUDGEMENTS)
    second = max(len(finding.topic) for finding in findings)
    lines = []
    for finding in findings:
        word = click.style(f"{finding.verdict:<{first}}", fg=COLOURS[finding.verdict])
        lines.append(f"{word}  {finding.topic:<{second}}  {finding.text}")
        if finding.fix:
            lines.append(f"{'':<{first}}  {'':<{second}}  fix: {finding.fix}")
    lines.append("")
    problems = [finding.topic for finding in findings if finding.verdict == "problem"]
    lines.append("Guests run here." if can_run(findings) else f"No guest runs here; see: {', '.join(problems)}.")
    return "\n".join(lines)
