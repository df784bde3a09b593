"""What a first boot reads: a cloud-init NoCloud seed on a disk of its own.

Source: cloud-init 23.4, "NoCloud" and "User-data formats". The files that we write are JSON, which is YAML as well
(YAML 1.2, 1.2 "Processing"): so no text of a user needs quoting rules.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from manor.base.errors import ConfigError
from manor.images.iso9660 import write_iso

LABEL: Final = "cidata"
MAX_USER_DATA: Final = 1 << 20
"""Bytes of a user-data file. Clouds allow 16 to 64 KiB; a file beyond this is another file."""
_USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}", re.ASCII)
"""What useradd takes. Source: shadow 4.13, useradd(8), "CAVEATS"."""
_KEY: Final = re.compile(r"(?:ssh|ecdsa|sk)-[A-Za-z0-9@.-]+ [A-Za-z0-9+/]+=* ?[^\n\r\x00]*", re.ASCII)
_HASH: Final = re.compile(r"\$[0-9a-z]{1,8}\$[./A-Za-z0-9$,=+-]{1,200}", re.ASCII)
"""A hash of crypt(5), as `openssl passwd -6` prints it."""
_FORMATS: Final = (
    b"#cloud-config", b"#!", b"#include", b"#cloud-boothook", b"#cloud-config-archive", b"#part-handler",
    b"## template: jinja", b"Content-Type:", b"MIME-Version:", b"From ", b"From: ", b"\x1f\x8b",
)  # fmt: skip
"""How user-data begins: its kind is known by that alone."""


@dataclass(frozen=True, slots=True)
class SeedSpec:
    """What the first boot is to do. instance_id: another one makes cloud-init start anew.

    user: an account that is made, may use sudo and gets the keys; root gets them as well. password_hash: of crypt(5),
    for the same account; "" locks its password. user_data, network_config: of the user, taken as they are; "" for none.
    """

    instance_id: str
    hostname: str
    user: str = ""
    ssh_keys: tuple[str, ...] = ()
    password_hash: str = ""
    user_data: bytes = b""
    network_config: bytes = b""
    extra: dict[str, Any] = field(default_factory=dict)


def check_seed(seed: SeedSpec) -> None:
    """Raise ConfigError for the first thing that the guest could not use."""
    if seed.user and not _USER.fullmatch(seed.user):
        raise ConfigError("user", f"{seed.user!r} is not a name for an account: write small letters, digits, - and _")
    for key in seed.ssh_keys:
        if not _KEY.fullmatch(key):
            raise ConfigError(
                "ssh-key", f"{key[:40]!r} is not a public key, which is one line like: ssh-ed25519 AAAA..."
            )
    if seed.password_hash and not _HASH.fullmatch(seed.password_hash):
        raise ConfigError("password-hash", "it is not a hash of a password; make one with: openssl passwd -6")
    check_user_data(seed.user_data)
    if seed.network_config:
        _check_network_config(seed.network_config)


def read_user_data(path: Path, option: str = "user-data") -> bytes:
    """The contents of a user's file. Raises ConfigError if it is not there, too large, or of no kind that is known."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_USER_DATA + 1)
    except OSError as error:
        raise ConfigError(option, f"{path} cannot be read: {error.strerror}") from error
    check_user_data(data, option)
    return data


def check_user_data(data: bytes, option: str = "user-data") -> None:
    """Raise ConfigError for user-data that cloud-init would ignore, or stumble on: of no kind that it knows, or
    settings that are not a YAML mapping. Whether it knows each setting, the guest's `cloud-init schema` tells.
    """
    if not data:
        return
    if len(data) > MAX_USER_DATA:
        raise ConfigError(option, f"it has more than {MAX_USER_DATA} bytes")
    if not data.startswith(_FORMATS):
        first = data.split(b"\n", 1)[0][:40].decode("utf-8", "replace")
        raise ConfigError(
            option,
            f"it begins with {first!r}, by which cloud-init does not know its kind; the first line is #cloud-config "
            "for settings, #!/bin/sh for a script, or a MIME header",
        )
    if data.startswith((b"#cloud-config\n", b"#cloud-config\r")):
        _check_yaml(data, option)


def _check_network_config(data: bytes) -> None:
    """Source: cloud-init 23.4, "Networking config Version 1" and "Version 2"."""
    config = _check_yaml(data, "network-config")
    inner = config.get("network", config)
    if inner == "disabled" or (isinstance(inner, dict) and inner.get("config") == "disabled"):
        return
    version = inner.get("version") if isinstance(inner, dict) else None
    if version not in (1, 2):
        raise ConfigError("network-config", f"its version is {version!r}; write version: 2, or 1")


def _check_yaml(data: bytes, option: str) -> dict[Any, Any]:
    """The settings in a document."""
    import yaml

    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(option, f"line {line} is not UTF-8 text") from error
    try:
        value = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = 1 if mark is None else mark.line + 1
        if "'\\t'" in str(error.problem):
            raise ConfigError(
                option, f"line {line} is indented with a tab, which YAML forbids; use spaces"
            ) from error
        raise ConfigError(option, f"line {line} is not YAML: {error.problem or error.context}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(option, f"it is not YAML: {' '.join(str(error).split())}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(option, f"it is a {type(value).__name__}, not settings like `packages: [htop]`")
    return value


def write_seed(seed: SeedSpec) -> bytes:
    """The seed's disk. Raises ConfigError."""
    check_seed(seed)
    ours = b"#cloud-config\n" + _json(cloud_config(seed))
    files = {"meta-data": _json({"instance-id": seed.instance_id, "local-hostname": seed.hostname})}
    if seed.user_data:
        # The user's word goes over ours: cloud-init takes vendor-data for defaults.
        files["user-data"], files["vendor-data"] = seed.user_data, ours
    else:
        files["user-data"] = ours
    if seed.network_config:
        files["network-config"] = seed.network_config
    return write_iso(LABEL, files)


def cloud_config(seed: SeedSpec) -> dict[str, Any]:
    """Our part of the settings."""
    config: dict[str, Any] = {
        "hostname": seed.hostname,
        "manage_etc_hosts": True,
        "disable_root": False,
        "ssh_pwauth": False,
        "growpart": {"mode": "auto", "devices": ["/"]},
    }
    users: list[Any] = []
    root: dict[str, Any] = {"name": "root", "ssh_authorized_keys": list(seed.ssh_keys)}
    if seed.user == "root" and seed.password_hash:
        root |= {"lock_passwd": False, "hashed_passwd": seed.password_hash}
    if len(root) > 2 or seed.ssh_keys:
        users.append(root)
    if seed.user and seed.user != "root":
        account: dict[str, Any] = {
            "name": seed.user,
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "shell": "/bin/bash",
            "lock_passwd": not seed.password_hash,
            "ssh_authorized_keys": list(seed.ssh_keys),
        }
        if seed.password_hash:
            account["passwd"] = seed.password_hash
        users.append(account)
    if users:
        config["users"] = users
    return {**config, **seed.extra}


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, indent=1).encode() + b"\n"
