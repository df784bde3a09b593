"""All checks in the order of the report."""

from __future__ import annotations

from typing import Final

from manor.accel.kvm.probe import Verdict, probe
from manor.host import engine, guests, kvm, processor, resources
from manor.host.finding import Finding
from manor.host.host import Host

TOPICS: Final = {
    "system": "the operating system and the architecture",
    "cpu": "the processor's name, features and x86-64 level (psABI, v1 to v4)",
    "virtualization": "whether the processor has VT-x or AMD-V",
    "nested": "whether this host is itself a virtual machine",
    "kvm-device": "whether /dev/kvm is there",
    "kvm-access": "whether this user may open it, else which group or command is missing",
    "kvm": "what it is worth: on the processor or emulated, how fast, by running a small guest",
    "engine": "whether the native parts of the binary translator are built",
    "accelerator": "what `--accel auto` takes here, and why",
    "packages": "whether there is a package client to fetch the default guest with",
    "default-guest": "whether the default guest is in the cache",
    "huge-pages": "whether guest memory gets huge pages",
    "cgroups": "control groups: their version, and the controllers that this user may use",
    "namespaces": "whether this user may make user namespaces",
}
"""topic -> what is looked at. Names are part of the interface: scripts rely on them."""


def examine(host: Host | None = None, verdict: Verdict | None = None) -> list[Finding]:
    """Look at everything; one finding for each of TOPICS. host, verdict: for tests."""
    host = host or Host()
    verdict = verdict or probe()
    built = engine.check_engine()
    packages = guests.check_packages()
    return [
        processor.check_system(host),
        processor.check_cpu(host),
        processor.check_virtualization(host),
        processor.check_nested(host),
        kvm.check_device(host),
        kvm.check_access(host, verdict),
        kvm.check_worth(host, verdict),
        built,
        engine.check_accelerator(host, verdict, built),
        packages,
        guests.check_default_guest(can_fetch=packages.verdict == "ok"),
        resources.check_huge_pages(host),
        resources.check_cgroups(host),
        resources.check_namespaces(host),
    ]
