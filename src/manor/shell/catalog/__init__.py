"""The commands: records declared in tables, looked up by name.

Source of names and options: virsh(1) of libvirt 9.0.
"""

from __future__ import annotations

import difflib

from manor.shell.catalog import domain, looking, others, services, storage
from manor.shell.declare import Command, Group, parse_table
from manor.shell.errors import UsageError

GROUPS = (
    Group("domain", "Domain Management"),
    Group("monitor", "Domain Monitoring"),
    Group("events", "Domain Events"),
    Group("host", "Host and Hypervisor"),
    Group("interface", "Interface"),
    Group("filter", "Network Filter"),
    Group("network", "Networking"),
    Group("nodedev", "Node Device"),
    Group("secret", "Secret"),
    Group("snapshot", "Snapshot"),
    Group("checkpoint", "Checkpoint"),
    Group("backup", "Backup"),
    Group("pool", "Storage Pool"),
    Group("volume", "Storage Volume"),
    Group("services", "Plans, Jobs and the Past"),
    Group("virsh", "Shell"),
)
"""The groups, in the order in which `help` shows them."""

COMMANDS = {
    command.name: command
    for section in (*domain.SECTIONS, *looking.SECTIONS, *storage.SECTIONS, *others.SECTIONS, *services.SECTIONS)
    for command in parse_table(section[0], f"manor.shell.commands.{section[1]}", section[2])
}
"""Every command, by name."""


def find(name: str) -> Command:
    """The command of that name. Raises UsageError, with what may have been meant."""
    command = COMMANDS.get(name)
    if command is None:
        close = difflib.get_close_matches(name, COMMANDS, 1, 0.7)
        raise UsageError(f"unknown command: '{name}'", f"did you mean '{close[0]}'?" if close else "")
    return command


def in_group(group: Group) -> list[Command]:
    """The commands of a group, by name."""
    return sorted((command for command in COMMANDS.values() if command.group == group.keyword), key=lambda c: c.name)
