"""Capabilities: what they promise is what the declarations accept."""

from __future__ import annotations

from dataclasses import replace

import pytest

from manor.base.errors import ConfigError
from manor.domain.xml.capabilities import HostFacts, capabilities, domain_capabilities
from manor.domain.xml.tree import Node, read

HOST = HostFacts("6695eb01-f6a4-8304-79aa-97f2502e193f", 4 << 30, 8, 2, 2, 2, "x86-64-v3", "Intel", "/m", kvm=True)


def at(node: Node, path: str) -> Node:
    for step in path.split("/"):
        found = node.find(step)
        assert found is not None, path
        node = found
    return node


def test_capabilities_of_the_host() -> None:
    root = read(capabilities(HOST), "capabilities")
    cell = at(root, "host/topology/cells/cell")
    assert at(cell, "memory").text == str(4 << 20)
    cpus = [dict(cpu.attributes) for cpu in at(cell, "cpus").elements()]
    assert len(cpus) == 8
    assert cpus[5] == {"id": "5", "socket_id": "1", "die_id": "0", "core_id": "0", "siblings": "4-5"}
    arch = at(root, "guest/arch")
    assert [one.get("type") for one in arch.elements() if one.name == "domain"] == ["qemu", "kvm"]
    without = at(read(capabilities(replace(HOST, kvm=False)), "capabilities"), "guest/arch")
    assert [one.get("type") for one in without.elements() if one.name == "domain"] == ["qemu"]


def test_capabilities_of_domains() -> None:
    root = read(domain_capabilities(HOST), "domainCapabilities")
    assert (at(root, "domain").text, at(root, "machine").text) == ("kvm", "pc")
    disk = {one.get("name"): [value.text for value in one.elements()] for one in at(root, "devices/disk").elements()}
    assert disk["bus"] == ["virtio", "nvme"]
    channel = at(root, "devices/channel/enum")
    assert [value.text for value in channel.elements()] == ["pty", "unix", "null"]


@pytest.mark.parametrize(
    "wrong", [{"domain_type": "xen"}, {"arch": "s390x"}, {"machine": "q35"}, {"emulator": "/usr/bin/qemu"}]
)
def test_what_it_is_not(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="use "):
        domain_capabilities(HOST, **wrong)
    with pytest.raises(ConfigError, match="cannot be started on this host"):
        domain_capabilities(replace(HOST, kvm=False), "kvm")
