"""The one error object: what every face shows when something went wrong, and what can be done about it."""

from __future__ import annotations

import re
from typing import Final

from manor.base.errors import ApiError, ConfigError, HostError, ManorError, ProtocolError, StateError
from manor.rpc.protocol.errors import ErrorCode
from manor.rpc.protocol.own_records import Problem

_TITLES: Final = {
    ErrorCode.NO_DOMAIN: "There is no such domain",
    ErrorCode.NO_NETWORK: "There is no such network",
    ErrorCode.NO_STORAGE_POOL: "There is no such storage pool",
    ErrorCode.NO_STORAGE_VOL: "There is no such volume",
    ErrorCode.NO_DOMAIN_SNAPSHOT: "There is no such snapshot",
    ErrorCode.OPERATION_INVALID: "The state does not allow it",
    ErrorCode.NO_SUPPORT: "This is not supported",
    ErrorCode.XML_ERROR: "The description is malformed",
    ErrorCode.CONFIG_UNSUPPORTED: "The description asks for what there is not",
    ErrorCode.INVALID_ARG: "An argument makes no sense",
    ErrorCode.SYSTEM_ERROR: "The host refused",
    ErrorCode.ACCESS_DENIED: "Not allowed",
    ErrorCode.OPERATION_DENIED: "Not allowed on a read-only connection",
    ErrorCode.AGENT_UNRESPONSIVE: "The guest's agent does not answer",
}
_PREFIX: Final = re.compile(
    r"^(Requested operation is not valid|operation failed|invalid argument|unsupported configuration|XML error|"
    r"internal error|this function is not supported by the connection driver): "
)


def problem_of(error: ManorError) -> Problem:
    """The error object of an error. Messages are `cause; fix`, as all of this project's are."""
    cause, _, advice = str(error).partition("; ")
    fix = (advice,) if advice else ()
    evidence: tuple[str, ...] = ()
    match error:
        case ApiError():
            code = error.code
        case ConfigError():
            code, evidence = ErrorCode.CONFIG_UNSUPPORTED, (error.path,) if error.path else ()
        case StateError():
            code = ErrorCode.OPERATION_INVALID
        case HostError():
            code = ErrorCode.SYSTEM_ERROR
            evidence = tuple(
                f"{name}: {value}"
                for name, value in (("file", error.file), ("errno", error.errno))
                if value is not None
            )
        case ProtocolError():
            code = ErrorCode.RPC
        case _:
            code = ErrorCode.INTERNAL_ERROR
    known = ErrorCode(code) if code in ErrorCode._value2member_map_ else ErrorCode.INTERNAL_ERROR
    return Problem(
        int(code), _TITLES.get(known, "It did not work"), _PREFIX.sub("", cause), fix, evidence,
        "reference/libvirt.md" if known in (ErrorCode.NO_SUPPORT, ErrorCode.CONFIG_UNSUPPORTED) else "",
    )  # fmt: skip
