"""Commands of the control socket about the guest as a whole: pausing it, its memory, and what its agent can do.

All of them may wait for the guest, so each runs on a thread of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

from manor.base.errors import ConfigError
from manor.spec.control import Json
from manor.vmm.control import Client, Command, Reply
from manor.vmm.vm import Vm


class ServiceControl:
    """What clients can do with a VM's guest."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm

    def commands(self) -> Mapping[str, Command]:
        """The table for a ControlServer."""
        return {
            "pause": Command(self._pause, is_slow=True),
            "resume": Command(self._resume, is_slow=True),
            "reset": Command(self._reset, is_slow=True),
            "power-button": Command(self._power_button, {}, {"reboot": bool}, is_slow=True),
            "balloon": Command(self._balloon, {}, {"target": int}, is_slow=True),
            "agent": Command(self._agent, {"execute": str}, {"arguments": dict, "seconds": (int, float)}, is_slow=True),
        }

    def _pause(self, client: Client, arguments: Json, reply: Reply) -> Json:
        self._vm.pause()
        return {}

    def _resume(self, client: Client, arguments: Json, reply: Reply) -> Json:
        self._vm.resume()
        return {}

    def _reset(self, client: Client, arguments: Json, reply: Reply) -> Json:
        self._vm.reset()
        return {}

    def _power_button(self, client: Client, arguments: Json, reply: Reply) -> Json:
        self._vm.press_power_button(then_reboot=arguments.get("reboot", False))
        return {}

    def _balloon(self, client: Client, arguments: Json, reply: Reply) -> Json:
        """Set how much memory the guest shall have, if that is given; what it has and says of it."""
        balloon = self._vm.balloon
        if "target" in arguments:
            balloon.target = arguments["target"]
        return {
            "target": balloon.target,
            "actual": balloon.actual,
            "statistics": balloon.statistics().as_dict() if balloon.has_driver else None,
        }

    def _agent(self, client: Client, arguments: Json, reply: Reply) -> Json:
        """Any command of the guest's agent, as its protocol has it."""
        timeout = float(arguments.get("seconds", 10))
        if not 0 < timeout <= 3600:
            raise ConfigError("seconds", f"{timeout:g} seconds; give more than 0 and at most 3600")
        return {"value": self._vm.agent.call(arguments["execute"], arguments.get("arguments"), timeout)}
