"""Exit statuses of `manor`. Part of the interface: scripts rely on them."""

from __future__ import annotations

from typing import Final

from manor.vmm.lifecycle import Reason

EXIT_OK: Final = 0
EXIT_ERROR: Final = 1
EXIT_USAGE: Final = 2
EXIT_SIGNAL: Final = 128
"""Plus the number of the signal, as shells do."""

STATUS: Final = {
    Reason.POWER_OFF: EXIT_OK,
    Reason.STOPPED: EXIT_OK,
    Reason.SAVED: EXIT_OK,
    Reason.ERROR: EXIT_ERROR,
    Reason.REBOOT: 3,
    Reason.PANIC: 4,
    Reason.TRIPLE_FAULT: 5,
}
"""How the guest ended -> exit status. STOPPED is the user leaving with Ctrl-]."""
