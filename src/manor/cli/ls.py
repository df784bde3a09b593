"""`manor ls`: the VMs of this user."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from manor.instances.instance import Instance

_COLUMNS: Final = ("name", "state", "stage", "image", "addresses", "ports")


@click.command("ls")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, for scripts.")
def ls(as_json: bool) -> int:
    """List the VMs: whether they run, how far their guests are, and how to reach them."""
    from manor.cli.table import table
    from manor.instances.instance import Instances

    rows = [describe(instance) for instance in Instances().all()]
    if as_json:
        click.echo(json.dumps(rows, indent=1))
        return 0
    if rows:
        header = [column.upper() for column in _COLUMNS]
        click.echo(table(header, [[_words(row[column]) for column in _COLUMNS] for row in rows]))
    else:
        click.echo("There is no VM. Make one of an image: manor run NAME.", err=True)
    return 0


def describe(instance: Instance) -> dict[str, Any]:
    """One VM as plain values. A VM whose files are damaged is listed, too: it can be removed."""
    from manor.base.errors import ManorError
    from manor.instances.client import ask

    row: dict[str, Any] = {
        "name": instance.name, "state": "stopped", "stage": "", "image": "", "addresses": [], "ports": [], "pid": None,
        "last_end": None,
    }  # fmt: skip
    try:
        config = instance.config()
        row |= {"image": config.image, "uuid": config.uuid, "created": config.created, "options": config.options}
    except ManorError as error:
        row |= {"state": "damaged", "error": str(error)}
    pid = instance.running_pid()
    if pid is None:
        row["last_end"] = instance.last_end()
        if row["state"] == "stopped" and instance.saved.exists():
            row["state"] = "saved"
        return row
    row |= {"pid": pid, "state": "running"}
    status = ask(instance.control, "status")
    if isinstance(status, ManorError):
        row |= {"state": "silent", "error": str(status)}
        return row
    row |= {name: status[name] for name in ("state", "cpus", "memory", "accelerator", "wall_ns") if name in status}
    row["stage"] = status.get("stage", {}).get("text", "")
    row["addresses"] = status.get("addresses", [])
    row["ports"] = status.get("ports", [])
    return row


def _words(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
