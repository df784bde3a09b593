"""Procedure -> who does it. What is in the catalog and nobody does is answered as unsupported, by its name."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from manor.base.errors import ApiError, ConfigError, HostError, ManorError, ProtocolError, StateError
from manor.drivers.errors import Code, Origin
from manor.rpc.message import Call
from manor.rpc.protocol.catalog import MANOR, QEMU, REMOTE, Procedure, Program
from manor.rpc.session import Session, close_files
from manor.service.client import Client
from manor.service.forward import OURS, forward
from manor.service.problem import problem_of
from manor.service.refusals import REFUSALS

logger = logging.getLogger(__name__)

SUBJECTS: Final = (
    "connect", "domain", "domain_agent", "domain_devices", "domain_jobs", "domain_looks", "domain_placing",
    "domain_saving",
    "domain_statistics", "domain_tuning", "snapshot", "network", "storage", "secret", "node", "node_devices",
    "registration", "absent",
)  # fmt: skip
OWN_SUBJECTS: Final = ("own", "own_console")
Work = Callable[[Client, Any], Any]


def _load(programs: Sequence[Program], subjects: Sequence[str]) -> dict[str, Work]:
    found: dict[str, Work] = {}
    for subject in subjects:
        module = importlib.import_module(f"manor.service.procedures.{subject}")
        for name, work in vars(module).items():
            if not any(name in program for program in programs) or not inspect.isfunction(work):
                continue
            if work.__module__ != module.__name__:
                continue  # another subject's, which this one calls
            if name in found:
                raise ValueError(f"{name} is there twice")
            found[name] = work
    return found


PROCEDURES: Final = _load((REMOTE, QEMU), SUBJECTS)
"""Name -> function of the client and the arguments; a coroutine where it may wait."""
OWN: Final = _load((MANOR,), OWN_SUBJECTS)
"""The same of our own program."""


def handle(session: Session, call: Call) -> Any:
    """What rpc.session calls. Permissions were looked at before, by the connection."""
    client: Client = session.state
    if client.remote is not None and call.procedure.name not in OURS:
        return forward(client.remote, call)
    if call.files:
        close_files(call.files)
    work = (OWN if call.procedure.program is MANOR else PROCEDURES).get(call.procedure.name)
    if work is None:
        raise _unknown(call.procedure)
    try:
        result = work(client, call.arguments)
    except ManorError as error:
        raise _told(client, error) from error
    return _wait(client, result) if inspect.isawaitable(result) else result


async def _wait(client: Client, result: Awaitable[Any]) -> Any:
    try:
        return await result
    except ManorError as error:
        raise _told(client, error) from error


def _told(client: Client, error: ManorError) -> ApiError:
    """The error as the client is told it; what else is known of it can be asked for afterwards."""
    known = translate(error)
    client.problems.append((known.code, known.message, problem_of(error)._replace(code=known.code)))
    return known


def translate(error: ManorError) -> ApiError:
    """An error of ours with the number that libvirt's clients expect for its kind."""
    match error:
        case ApiError():
            return error
        case ConfigError():
            return ApiError(Code.CONFIG_UNSUPPORTED, Origin.DOMAIN, f"unsupported configuration: {error}")
        case StateError():
            return ApiError(Code.OPERATION_INVALID, Origin.DOMAIN, f"Requested operation is not valid: {error}")
        case HostError():
            return ApiError(Code.SYSTEM_ERROR, Origin.DOMAIN, str(error))
        case ProtocolError():
            return ApiError(Code.RPC, Origin.RPC, str(error))
    logger.error("an internal error", exc_info=error)
    return ApiError(Code.INTERNAL_ERROR, Origin.NONE, f"internal error: {error}")


def _unknown(procedure: Procedure) -> ApiError:
    reason = REFUSALS.get(procedure.name)
    return ApiError(
        Code.NO_SUPPORT,
        Origin.NONE,
        f"this function is not supported by the connection driver: {procedure.name}{f': {reason}' if reason else ''}",
    )
