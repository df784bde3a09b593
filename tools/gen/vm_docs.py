"""What is known of the commands about VMs with names beside their options, for tools/gen/command_docs.py."""

from __future__ import annotations

import importlib
from typing import Final

import click

from manor.cli.main import COMMANDS

NAMES: Final = (
    "ls", "stop", "pause", "resume", "save", "port", "devices", "attach", "detach", "media", "link", "resize", "memory",
    "cpus", "rm", "console", "ssh", "exec", "cp",
)  # fmt: skip
SUMMARIES: Final = {
    name: COMMANDS[name][1].rstrip(".")[:1].lower() + COMMANDS[name][1].rstrip(".")[1:] for name in NAMES
}

RUN_NOTES: Final = (
    "A VM with a NAME has a folder in $XDG_STATE_HOME/manor/vms (by default ~/.local/state/manor/vms): its disk, its "
    "configuration, the log of its serial line. Only one process at a time runs it.",
    "Options that describe the machine are remembered: `manor run NAME` alone runs it as the last time. An option that "
    "is given again replaces what was remembered. --no-reboot, --stats, --json, --trace and --trace-file are for one "
    "run; --image, --size, --user and --user-data count only when the VM is made.",
    "A new VM's disk is a copy-on-write clone of an image in the store, and backs on it. A seed for cloud-init "
    "(a disk with the label cidata) and credentials for systemd (SMBIOS, type 11) tell the first boot its name, the "
    "account to make, and the key with which `manor ssh` logs in.",
    "--user-data is looked at before the boot: its first line, by which cloud-init knows its kind, its encoding, and "
    "whether settings are a YAML mapping. Whether cloud-init knows each of them, only the guest can tell: cloud-init "
    "schema --system.",
    "What `manor save NAME` wrote is gone on with, and removed once the VM runs; --discard-saved boots instead. The "
    "machine has to be the one that was saved: an option that changes it is refused.",
    "--wait shows how far the guest is, by what it prints on its serial line: kernel, initrd, systemd with the number "
    "of its units, login. boot is reached when systemd, or a login, prints; cloud-init when it says that it has "
    "finished; agent when the guest's agent answers. After 30 seconds at one stage the last lines are shown.",
)

_USUAL: Final = (("0", "done"), ("1", "an error; one sentence on standard error says which"), ("2", "wrong options"))
_PASSED: Final = (
    ("0 to 254", "that of the command in the guest"),
    ("1", "also: the guest cannot be reached; one sentence on standard error says why"),
    ("2", "also: wrong options"),
    ("255", "ssh itself failed"),
)
STATUSES: Final = {
    "ls": _USUAL,
    "stop": (("0", "all have ended"), ("1", "one could not be asked, or goes on running"), ("2", "wrong options")),
    "pause": _USUAL,
    "resume": _USUAL,
    "save": (("0", "it is saved and has ended"), ("1", "it is not saved, and goes on"), ("2", "wrong options")),
    "port": _USUAL,
    "devices": _USUAL,
    "attach": _USUAL,
    "detach": (("0", "all are gone"), ("1", "the guest kept one, or another error"), ("2", "wrong options")),
    "media": (("0", "done"), ("1", "the guest kept the old medium, or another error"), ("2", "wrong options")),
    "link": _USUAL,
    "resize": _USUAL,
    "memory": _USUAL,
    "cpus": _USUAL,
    "rm": _USUAL,
    "console": (("0", "you left, or the VM ended"), ("1", "the VM does not run"), ("2", "wrong options")),
    "ssh": _PASSED,
    "exec": _PASSED,
    "cp": (("0", "done"), ("1", "a file could not be copied, or the guest not be reached"), ("2", "wrong options")),
}
_SSH: Final = (
    "The system's ssh does the work (package openssh-client), without your own configuration and without questions. "
    "The key is Manor's own, in $XDG_DATA_HOME/manor/ssh; ssh-keygen makes it at its first use. Each VM has its own "
    "list of known hosts; the key of the first connection is taken, a later one must be the same.",
    "It goes through the port of this machine that is forwarded to port 22 of the guest; if there is none, one is "
    "added on the loopback interface for as long as the VM runs. So the VM needs an interface in user mode (--net "
    "user).",
)
NOTES: Final = {
    "ls": (
        "A VM whose process does not answer is silent; one whose files are damaged is listed, so that it can be "
        "removed.",
        "The JSON has further fields, and gets more in time; scripts take those they know.",
    ),
    "stop": (
        "A guest is asked by its agent if that answers, else by ssh: systemctl poweroff. One that cannot be reached is "
        "not stopped; the message says what to do.",
    ),
    "pause": ("A VM that is paused can be stopped with --force, and attached to; its guest does nothing.",),
    "resume": ("The guest's civil time is late by the pause until its agent, or NTP, sets it.",),
    "save": (
        "The state is one file, readable for you alone: it has all that was in the guest's memory. It belongs to this "
        "version of Manor, and to the VM's disks as they are: manor run refuses it once one was written.",
        "Connections that the guest has through the user-mode network end. A VM with a mounted shared folder, or a "
        "disk in snapshot mode, is not saved.",
        "The guest's civil time is late afterwards until its agent, or NTP, sets it.",
    ),
    "port": (
        "What is added lasts until the VM ends; --port of manor run is remembered.",
        "Without an address only this machine itself can connect (its loopback interface).",
    ),
    "devices": ("One that is leaving was asked for, and the guest has not given it back yet.",),
    "attach": (
        "What is plugged in lasts until the VM ends; --disk and --net of manor run are remembered.",
        "The guest finds it on its PCI bus, as it finds others; a Linux needs no more for it than for disks that are "
        "there at its start. There are 31 slots.",
    ),
    "detach": (
        "The guest decides: a Linux gives a disk back at once, also one that is mounted, whose file system then fails. "
        "Unmount it before. A guest that does not listen keeps the device until it reboots.",
    ),
    "media": (
        "Any disk can serve as a drive; give it a name with --disk FILE,readonly=on,id=cd0. Unmount the old medium in "
        "the guest before.",
    ),
    "link": ("A cable that is out stays so over a reboot of the guest.",),
    "resize": ("Make the file system smaller before the disk, and larger after it.",),
    "memory": (
        "The guest's balloon driver gives memory back when it can; look again later. With --no-balloon there is none.",
    ),
    "cpus": (
        "The guest's system puts new vCPUs to use: the default guest by itself, other Linux systems by a rule of udev "
        "or by writing 1 into /sys/devices/system/cpu/cpuN/online.",
    ),
    "rm": ("The image that a VM's disk was cloned from stays in the store; see manor image rm and prune.",),
    "console": (
        "Several terminals may be attached at a time; all see the output, and each may type.",
        "Of a VM that does not run the end of its log is shown.",
        "Standard input and output may be pipes; the end of the input does not end it.",
    ),
    "ssh": (*_SSH, "Words of a command go to the guest's shell as they are, as with ssh itself; see manor exec."),
    "exec": (
        "ssh goes first because it passes everything on as it comes. The agent (qemu-guest-agent in the guest) runs "
        "the program as root, takes up to 96 KiB of input, and gives the output at the end. The serial console is the "
        "last way: it needs a shell there, or a login without a password, and at most 700 bytes of command.",
        "The program gets its arguments as they are: no shell in the guest takes them apart. For one, say so: "
        "manor exec NAME -- sh -c 'echo $HOME'.",
        *_SSH,
    ),
    "cp": ("A path of the guest without a slash in front begins in the account's home.", *_SSH),
}
TABLES: Final = {
    "devices": (
        (
            "Fields",
            (
                ("name", "what the other commands call it"),
                ("kind", "disk or nic"),
                ("slot", "of the guest's PCI bus 0"),
                ("is_leaving", "the guest was asked to give it back"),
                ("is_in_guest", "the guest has not given it back"),
                ("source", "the image, or the kind of network"),
            ),
        ),
    ),
    "ls": (
        (
            "Fields",
            (
                ("name", "of the VM"),
                ("state", "stopped, saved, running, paused, rebooting, stopping, silent or damaged"),
                ("stage", "how far the guest is: start, kernel, initrd, systemd, login"),
                ("image", "what its disk was cloned from"),
                ("addresses", "of the guest, as far as known, from leases and from its own packets"),
                ("ports", "of this machine that lead into it, as --port takes them"),
                ("pid", "of its process; null if it does not run"),
                ("last_end", "how its last run ended: reason, detail, status"),
                ("options", "of manor run that are remembered"),
            ),
        ),
    ),
}  # fmt: skip
EXAMPLES: Final = {
    "ls": """\
NAME    STATE    STAGE  IMAGE   ADDRESSES  PORTS
debian  running  login  debian  10.0.2.15  2222:22
""",
}


def command(name: str) -> click.Command:
    """The command `manor NAME`."""
    module, _, attribute = COMMANDS[name][0].partition(":")
    found: click.Command = getattr(importlib.import_module(module), attribute)
    return found
