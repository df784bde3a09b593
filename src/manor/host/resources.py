"""What the host's kernel offers beside processors: huge pages, control groups, namespaces."""

from __future__ import annotations

import re
from typing import Final

from manor.host.finding import Fact, Finding
from manor.host.host import Host

_THP: Final = "/sys/kernel/mm/transparent_hugepage/enabled"
_CGROUPS: Final = "/sys/fs/cgroup"
_MAX_USER_NAMESPACES: Final = "/proc/sys/user/max_user_namespaces"
_NEEDED: Final = ("cpu", "memory")
_USEFUL: Final = ("cpu", "cpuset", "io", "memory", "pids")
"""Controllers with which a guest's share of the host is limited; without the first ones there is no limit worth it."""
_DELEGATE: Final = (
    "Delegate them: sudo systemctl edit user@.service, add the lines [Service] and "
    f"Delegate={' '.join(_USEFUL)}, and log in anew."
)


def check_huge_pages(host: Host) -> Finding:
    """Guest memory gets huge pages where the kernel gives them unasked.

    Source: Linux, Documentation/admin-guide/mm/transhuge.rst and hugetlbpage.rst.
    """
    found = re.search(r"\[(\w+)\]", host.read(_THP) or "")
    mode = found[1] if found else None
    reserved = {size: pages for size in host.names("/sys/kernel/mm/hugepages") if (pages := _reserved(host, size))}
    facts: dict[str, Fact] = {"transparent": mode, "reserved": [f"{size}={n}" for size, n in reserved.items()]}
    aside = f"; {sum(reserved.values())} reserved ones are not used by Manor" if reserved else ""
    if mode == "always":
        return Finding("huge-pages", "ok", f"guest memory gets transparent huge pages{aside}", facts=facts)
    if mode is None:
        return Finding("huge-pages", "missing", f"this kernel has no transparent huge pages{aside}", facts=facts)
    text = f"transparent huge pages are set to {mode}, so guest memory gets none{aside}"
    fix = f"Give them to all memory, also the guests': echo always | sudo tee {_THP}."
    return Finding("huge-pages", "note", text, fix, facts)


def check_cgroups(host: Host) -> Finding:
    """Whether this user may limit guests.

    Source: Linux, Documentation/admin-guide/cgroup-v2.rst; systemd, docs/CGROUP_DELEGATION.md.
    """
    if not host.exists(f"{_CGROUPS}/cgroup.controllers"):
        version = "v1" if host.names(_CGROUPS) else None
        text = "the host uses control groups v1" if version else "no control groups are mounted"
        fix = "Start the host with systemd.unified_cgroup_hierarchy=1 on its kernel command line."
        return Finding("cgroups", "missing", f"{text}; limits for guests need v2", fix, _cgroup_facts(version, None))
    folder = _delegated(host)
    if folder is None:
        text = "control groups v2, but none is delegated to this user, so guests cannot be limited"
        fix = 'Have one from systemd: sudo loginctl enable-linger "$USER".'
        return Finding("cgroups", "missing", text, fix, _cgroup_facts("v2", None))
    controllers = (host.read(f"{folder}/cgroup.controllers") or "").split()
    facts = _cgroup_facts("v2", controllers)
    lacking = [name for name in _USEFUL if name not in controllers]
    if not lacking:
        return Finding("cgroups", "ok", f"v2, with {', '.join(_USEFUL)} delegated to this user", facts=facts)
    text = f"v2, but {', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not delegated to this user"
    fix = "Start the host with these controllers; its kernel or container hides them." if host.uid == 0 else _DELEGATE
    return Finding("cgroups", "missing" if set(lacking) & set(_NEEDED) else "note", text, fix, facts)


def check_namespaces(host: Host) -> Finding:
    """Whether this user may make namespaces, as sandboxes around a guest do.

    Source: user_namespaces(7), namespaces(7).
    """
    kinds = [name for name in host.names("/proc/self/ns") if not name.endswith("_for_children")]
    facts: dict[str, Fact] = {"kinds": list(kinds), "user_allowed": False}
    # Either tells; a process that changed its user may not read its own list.
    if "user" not in kinds and not host.exists(_MAX_USER_NAMESPACES):
        text = "this kernel has no user namespaces, so nothing but root can put a guest into a sandbox"
        return Finding("namespaces", "missing", text, facts=facts)
    for path, forbidding in _userns_switches(host):
        if host.read(path) == forbidding:
            setting = path.removeprefix("/proc/sys/").replace("/", ".")
            value = {"1": "0", "0": "28633" if setting.startswith("user.") else "1"}[forbidding]
            text = f"user namespaces are not allowed to this user ({setting} is {forbidding})"
            return Finding("namespaces", "missing", text, f"Allow them: sudo sysctl -w {setting}={value}.", facts)
    facts["user_allowed"] = True
    listed = f"; kinds: {', '.join(kinds)}" if kinds else ""
    return Finding("namespaces", "ok", f"user namespaces are allowed{listed}", facts=facts)


def _userns_switches(host: Host) -> list[tuple[str, str]]:
    """(file, value that forbids user namespaces). The last two are Debian's and Ubuntu's, and spare root."""
    switches = [(_MAX_USER_NAMESPACES, "0")]
    if host.uid != 0:
        switches += [
            ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
            ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
        ]
    return switches


def _reserved(host: Host, size: str) -> int:
    text = host.read(f"/sys/kernel/mm/hugepages/{size}/nr_hugepages") or ""
    return int(text) if text.isdecimal() else 0


def _delegated(host: Host) -> str | None:
    """The control group that this user may divide: root all of it, others the one from systemd, or their own."""
    if host.uid == 0:
        return _CGROUPS
    of_systemd = f"{_CGROUPS}/user.slice/user-{host.uid}.slice/user@{host.uid}.service"
    lines = (host.read("/proc/self/cgroup") or "").splitlines()
    own = [_CGROUPS + line.removeprefix("0::").rstrip("/") for line in lines if line.startswith("0::")]
    for folder in (of_systemd, *own):
        if host.can_write(f"{folder}/cgroup.procs"):
            return folder
    return None


def _cgroup_facts(version: str | None, controllers: list[str] | None) -> dict[str, Fact]:
    return {"version": version, "delegated": controllers}
