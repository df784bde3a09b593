"""Guests whose memory the host cannot read."""

from __future__ import annotations

from manor.rpc.protocol.records import ParamType, TypedParam
from manor.shell.arguments import Arguments
from manor.shell.errors import CommandError
from manor.shell.session import Session, param_text, read_file


def domlaunchsecinfo(session: Session, arguments: Arguments) -> None:
    """Tell how the guest's memory is protected."""
    domain = session.domain(arguments)
    with session.failing("Unable to get launch security parameters"):
        params = session.call("domain_get_launch_security_info", domain, 0)
    for param in params:
        session.print(f"{param[0]:<15}: {param_text(TypedParam(*param))}")


def domsetlaunchsecstate(session: Session, arguments: Arguments) -> None:
    """Give the guest its secret."""
    header, secret = arguments.get("secrethdr"), arguments.get("secret")
    domain = session.domain(arguments)
    if header is None or secret is None:
        raise CommandError("Both secret header and the secret payload are required to set launch security state")
    params = [
        TypedParam("sev-secret-header", ParamType.STRING, read_file(header)),
        TypedParam("sev-secret", ParamType.STRING, read_file(secret)),
    ]
    if arguments.get("set-address") is not None:
        params.append(TypedParam("sev-secret-set-address", ParamType.ULLONG, arguments.number("set-address")))
    with session.failing("Unable to set launch security state"):
        session.call("domain_set_launch_security_state", domain, params, 0)
