"""Interfaces and forwarded ports as text; MAC addresses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.base.errors import ConfigError
from manor.spec.check_net import check_nic, check_nics
from manor.spec.mac import derive_mac, parse_mac, show_mac
from manor.spec.net import NicSpec, PortForward, Shaping
from manor.spec.net_text import parse_nic, parse_port


@pytest.mark.parametrize(
    ("text", "nic"),
    [
        ("user", NicSpec()),
        ("none", NicSpec("none")),
        ("isolated:lab-1", NicSpec("isolated", "lab-1")),
        ("tap:vm0,queues=4,mtu=9000", NicSpec("tap", "vm0", queues=4, mtu=9000)),
        ("bridge:br0,mac=52:54:00:12:34:56", NicSpec("bridge", "br0", mac="52:54:00:12:34:56")),
        ("macvtap:eth0,link=off", NicSpec("macvtap", "eth0", link_up=False)),
        ("user,reach=host,hostname=web-1", NicSpec(reach="host", hostname="web-1")),
        ("user,capture=/tmp/x", NicSpec(capture=Path("/tmp/x"))),
        (
            "user,rate=1.5M,delay=20ms,jitter=500us,loss=0.5%",
            NicSpec(shaping=Shaping(1_500_000, 20_000_000, 500_000, 0.005)),
        ),
        ("user,rate=64kbit,loss=0.25", NicSpec(shaping=Shaping(64_000, loss=0.25))),
    ],
)  # fmt: skip
def test_interfaces(text: str, nic: NicSpec) -> None:
    assert parse_nic(text) == nic


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no kind of network; give one of user, isolated, tap, bridge, macvtap, none"),
        ("slirp", "'slirp' is no kind"),
        ("isolated", "'' is not a name for an isolated network; write for example isolated:lab"),
        ("isolated:", "a name is missing behind 'isolated:'"),
        ("isolated:../etc", "is not a name for an isolated network"),
        ("isolated:.hidden", "is not a name for an isolated network"),
        ("tap", "'' is not the name of an interface; write for example tap:tap0"),
        ("tap:a-name-that-is-too-long", "is not the name of an interface"),
        ("bridge:a/b", "is not the name of an interface"),
        ("user:x", "user takes no name; leave out 'x'"),
        ("user,colour=red", "'colour=red' is unknown; options are mac=, mtu=,"),
        ("user,mtu", "'mtu' is unknown"),
        ("user,mtu=abc", "mtu=abc is not a whole number"),
        ("user,mtu=1279", "mtu=1279 does not work; give 1280 (which IPv6 needs) to 65521"),
        ("user,mtu=65522", "mtu=65522 does not work"),
        ("user,mtu=1500,mtu=1500", "mtu= is given twice"),
        ("user,queues=17", "queues=17 does not work; give 1 to 16, or 0 for one a vCPU"),
        ("user,mac=1:2", "'1:2' is not a MAC address; write six hexadecimal bytes"),
        ("user,mac=01:00:00:00:00:01", "is a multicast address"),
        ("user,mac=00:00:00:00:00:00", "belongs to nobody"),
        ("user,mac=", "a value is missing behind mac="),
        ("user,reach=world", "reach=world is unknown; give one of all, host, none"),
        ("tap:vm0,reach=none", "reach belongs to the user-mode network"),
        ("user,hostname=-x", "hostname=-x is none"),
        ("user,rate=fast", "rate=fast is not a rate; give bits a second, for example rate=10M"),
        ("user,rate=7k", "rate=7000 bit/s is too little"),
        ("user,delay=20", "delay=20 is not a time; give for example delay=20ms"),
        ("user,delay=61s", "delay and jitter are 0 to 60 s"),
        ("user,jitter=1ms", "jitter cannot be more than delay"),
        ("user,loss=101%", "is not a share of the frames; give 0% to 100%"),
        ("user,loss=much", "loss=much is not a share of the frames; give for example loss=1%"),
        ("user,link=maybe", "link=maybe is neither on nor off"),
    ],
)
def test_mistakes_get_one_sentence(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_nic(text)
    assert raised.value.path == "net"
    assert message in raised.value.message


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("8080:80", PortForward("tcp", 8080, 80)),
        ("0:22/tcp", PortForward("tcp", 0, 22)),
        ("127.0.0.2:53:53/udp", PortForward("udp", 53, 53, "127.0.0.2")),
        ("[::1]:8080:80", PortForward("tcp", 8080, 80, "::1")),
        ("0.0.0.0:1:2", PortForward("tcp", 1, 2, "0.0.0.0")),
    ],
)
def test_ports(text: str, forward: PortForward) -> None:
    assert parse_port(text) == forward


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("80", "'80' is not HOST:GUEST or ADDRESS:HOST:GUEST, with /udp if it is UDP"),
        ("a:b", "is not HOST:GUEST"),
        ("8080:80/sctp", "'sctp' cannot be forwarded; give tcp or udp"),
        ("65536:80", "65536 is not a port of the host"),
        ("80:0", "0 is not a port of the guest"),
        ("localhost:80:80", "'localhost' is not an address of the host"),
        ("::1:80:80", "is not HOST:GUEST"),
    ],
)
def test_wrong_ports(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_port(text)
    assert raised.value.path == "port"
    assert message in raised.value.message


@given(st.text(max_size=40))
def test_no_text_raises_anything_else(text: str) -> None:
    for parse in (parse_nic, parse_port):
        try:
            parse(text)
        except ConfigError:
            continue


def test_all_interfaces_together() -> None:
    nic = NicSpec(mac="52:54:00:12:34:56")
    check_nics([nic, NicSpec(), NicSpec()])
    with pytest.raises(ConfigError, match="two interfaces have the MAC address"):
        check_nics([nic, replace(nic, mac="52-54-00-12-34-56")])
    with pytest.raises(ConfigError, match="17 interfaces are too many"):
        check_nics([NicSpec()] * 17)
    with pytest.raises(ConfigError, match="ports are forwarded by the user-mode network only"):
        check_nic(NicSpec("none", forwards=(PortForward("tcp", 1, 1),)), "net")
    with pytest.raises(ConfigError, match="no kind of network"):
        check_nic(NicSpec("x"), "net")  # type: ignore[arg-type]


def test_derived_addresses_are_stable_local_and_different() -> None:
    assert derive_mac("web", 0) == derive_mac("web", 0)
    macs = {derive_mac(name, position) for name in ("web", "web2", "db") for position in range(3)}
    assert len(macs) == 9
    assert all(mac[0] & 3 == 2 for mac in macs)
    assert derive_mac("", 0) != derive_mac("", 0)
    assert parse_mac(show_mac(derive_mac("web", 1))) == derive_mac("web", 1)
