"""What puts the agent into a guest's image: the program, a systemd unit, and a rule that starts it with its port.

Nothing here runs in the guest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from manor.agent import guest

PROGRAM: Final = "/usr/local/sbin/manor-agent"
UNIT: Final = "/etc/systemd/system/manor-agent.service"
RULE: Final = "/etc/udev/rules.d/60-manor-agent.rules"

_UNIT: Final = f"""\
[Unit]
Description=Manor's guest agent
# Where QEMU's agent is installed, it has the port.
ConditionPathExists=!/usr/sbin/qemu-ga

[Service]
ExecStart={PROGRAM}
Restart=on-failure
RestartSec=5
"""
_RULE: Final = (
    f'SUBSYSTEM=="virtio-ports", ATTR{{name}}=="{guest.PORT_NAME}", TAG+="systemd", '
    'ENV{SYSTEMD_WANTS}+="manor-agent.service"\n'
)
"""Source: systemd.device(5), udev(7)."""


def files() -> dict[str, tuple[int, bytes]]:
    """Absolute path in the image -> (permissions, contents)."""
    return {
        PROGRAM: (0o755, Path(guest.__file__).read_bytes()),
        UNIT: (0o644, _UNIT.encode()),
        RULE: (0o644, _RULE.encode()),
    }
