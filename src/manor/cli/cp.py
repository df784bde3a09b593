"""`manor cp`: copy files into a guest, or out of it."""

from __future__ import annotations

import os
import re

import click

from manor.cli.names import complete_running


def complete_place(context: click.Context, parameter: click.Parameter, typed: str) -> list[str]:
    """Names of VMs with a colon; files are the shell's own business."""
    return [f"{name}:" for name in complete_running(context, parameter, typed)]


@click.command("cp")
@click.option("-r", "--recursive", is_flag=True, help="Folders with all that is in them.")
@click.option("-l", "--user", metavar="USER", help="The account in the guest. Default: the one the first boot made.")
@click.option(
    "--timeout", metavar="SECONDS", type=float, default=60.0, show_default=True, help="How long to wait for the guest."
)
@click.option(
    "--via", type=click.Choice(("auto", "ssh", "agent")), default="auto", show_default=True,
    help="How: auto takes ssh, else the guest's agent, which copies single files.",
)  # fmt: skip
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, shell_complete=complete_place)
@click.argument("target", metavar="TARGET", shell_complete=complete_place)
def cp(recursive: bool, user: str | None, timeout: float, via: str, sources: tuple[str, ...], target: str) -> int:
    """Copy files between this machine and a VM. Files of the VM are written NAME:PATH."""
    from manor.instances.instance import Instances
    from manor.instances.reach import find_way

    name, froms, to = places(sources, target)
    instance = Instances().get(name)
    way = find_way(instance, "ssh" if recursive or user is not None else via, user, timeout, may_type=False)
    if way.via == "agent":
        from manor.instances.guest import copy_by_agent

        copy_by_agent(instance, froms, to)
        return 0
    assert way.access is not None
    argv = way.access.scp(froms, to, recursive)
    return os.execv(argv[0], argv)


_PLACE = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*):(.*)", re.ASCII | re.DOTALL)


def places(sources: tuple[str, ...], target: str) -> tuple[str, list[str], str]:
    """(VM, sources, target), places of the VM as `:PATH`, those of this host so that scp takes them for files.

    Raises click.UsageError unless exactly one VM is on one side.
    """
    found = [_PLACE.fullmatch(place) for place in (*sources, target)]
    names = {match[1] for match in found if match}
    is_in_guest = [match is not None for match in found]
    if len(names) != 1 or (any(is_in_guest[:-1]) == is_in_guest[-1]) or any(is_in_guest[:-1]) != all(is_in_guest[:-1]):
        raise click.UsageError(
            "give files of this machine and one VM: manor cp FILE NAME:PATH, or manor cp NAME:PATH FILE"
        )
    words = [
        f":{match[2] or '.'}" if match else _local(place)
        for match, place in zip(found, (*sources, target), strict=True)
    ]
    return names.pop(), words[:-1], words[-1]


def _local(place: str) -> str:
    """With a slash in front of any colon, scp takes it for a file of this host."""
    return place if place.startswith(("/", "./", "../")) else f"./{place}"
