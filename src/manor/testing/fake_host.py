"""A host for the checks of manor.host: a directory of files, made good, for a test to spoil."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from manor.host.host import Host, Node
from manor.host.processor import LEVELS

USER, USER_GROUP, KVM_GROUP = 1000, 1000, 106
_OWN: Final = f"/sys/fs/cgroup/user.slice/user-{USER}.slice/user@{USER}.service"
KERNEL_FLAGS: Final = " ".join(sorted({*frozenset().union(*LEVELS[:3]), "vmx", "aes"}))
"""Level x86-64-v3, with VT-x."""

GOOD: Final[Mapping[str, str]] = {
    "/proc/cpuinfo": f"processor\t: 0\nmodel name\t: A  Processor\nflags\t\t: {KERNEL_FLAGS}\n\nprocessor\t: 1\n",
    "/proc/self/cgroup": "0::/user.slice/session.scope\n",
    "/proc/self/ns/mnt": "",
    "/proc/self/ns/pid_for_children": "",
    "/proc/self/ns/user": "",
    "/proc/sys/user/max_user_namespaces": "28633\n",
    "/sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never\n",
    "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages": "0\n",
    "/sys/fs/cgroup/cgroup.controllers": "cpuset cpu io memory pids\n",
    f"{_OWN}/cgroup.controllers": "cpuset cpu io memory pids\n",
    f"{_OWN}/cgroup.procs": "",
    "/dev/kvm": "",
    "/etc/passwd": f"root:x:0:0:root:/root:/bin/sh\nsomeone:x:{USER}:{USER_GROUP}::/home/someone:/bin/sh\n",
    "/etc/group": f"root:x:0:\nkvm:x:{KVM_GROUP}:\n",
}


@dataclass(frozen=True, slots=True)
class FakeHost(Host):
    """Rights are what a test says, whoever runs it. nodes: of devices; writable: what this user may write."""

    nodes: dict[str, Node] = field(default_factory=dict)
    writable: set[str] = field(default_factory=set)

    def node(self, path: str) -> Node | None:
        return self.nodes.get(path) if self.exists(path) else None

    def can_write(self, path: str) -> bool:
        return path in self.writable and self.exists(path)

    def write(self, path: str, text: str) -> None:
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)

    def remove(self, path: str) -> None:
        self.path(path).unlink()

    def set_flags(self, flags: str) -> None:
        """The processor's features."""
        self.write("/proc/cpuinfo", f"model name\t: A Processor\nflags\t\t: {flags}\n")


def good_host(
    root: Path, uid: int = USER, gids: frozenset[int] = frozenset({USER_GROUP, KVM_GROUP}), machine: str = "x86_64"
) -> FakeHost:
    """A host of a user in the group kvm where there is nothing to complain of."""
    host = FakeHost(root, uid, gids, "Linux", "6.1.0", machine)
    host.nodes["/dev/kvm"] = Node(0o660, 0, KVM_GROUP)
    host.writable.add(f"{_OWN}/cgroup.procs")
    for path, text in GOOD.items():
        host.write(path, text)
    return host
