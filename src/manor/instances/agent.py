"""The agent in a guest, over the control socket of the VM that runs it."""

from __future__ import annotations

from typing import Final

from manor.backends.agent.client import AgentClient, AgentError
from manor.backends.agent.protocol import Answer, Json
from manor.base.errors import HostError, InternalError
from manor.instances.client import ControlClient

_SLACK: Final = 5.0
"""Seconds that the VMM may take longer than the agent."""


class _NoTransport:
    """The line itself is in the VMM."""

    def send(self, data: bytes) -> None:
        raise AssertionError("the agent is spoken to by the VMM")

    def receive(self, timeout: float) -> bytes:
        raise AssertionError("the agent is spoken to by the VMM")


class RemoteAgent(AgentClient):
    """What AgentClient can do, each request by way of the VMM."""

    def __init__(self, client: ControlClient) -> None:
        super().__init__(_NoTransport())
        self._client = client

    def _converse(self, command: str, arguments: Json | None, timeout: float, needs_answer: bool) -> Answer | None:
        try:
            answer = self._client.call(
                "agent", timeout + _SLACK, execute=command, arguments=arguments or {}, seconds=timeout
            )
        except HostError:
            if needs_answer:
                raise
            return None
        except InternalError as error:
            # What the agent refuses is none of the protocol's own kinds.
            raise AgentError(str(error)) from error
        return Answer(value=answer["value"])


def has_agent(client: ControlClient) -> bool:
    """Whether a program of the guest has opened the agent's port, and answers."""
    if not client.call("status").get("agent"):
        return False
    try:
        RemoteAgent(client).ping(3.0)
    except (HostError, AgentError):
        return False
    return True
