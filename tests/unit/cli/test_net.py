"""--net, --no-net, --port, --outside together."""

from __future__ import annotations

import pytest

from manor.base.errors import ConfigError
from manor.cli.net import choose_nics
from manor.spec.net import NicSpec, PortForward


def test_without_options_there_is_one_interface_that_reaches_all() -> None:
    assert choose_nics((), False, (), None) == (NicSpec("user", reach="all"),)
    assert choose_nics((), False, (), "closed") == (NicSpec("user", reach="none"),)
    assert choose_nics((), True, (), "closed") == ()


def test_ports_go_to_the_first_user_mode_interface() -> None:
    nics = choose_nics(("none", "user", "user"), False, ("80:80", "53:53/udp"), None)
    assert [nic.forwards for nic in nics] == [(), (PortForward("tcp", 80, 80), PortForward("udp", 53, 53)), ()]


def test_outside_is_for_those_that_say_nothing() -> None:
    nics = choose_nics(("user,reach=all", "user", "isolated:x"), False, (), "host")
    assert [nic.reach for nic in nics] == ["all", "host", "all"]
    assert choose_nics(("user",), False, (), "open")[0].reach == "all"


@pytest.mark.parametrize(
    ("nets", "no_net", "ports", "path", "message"),
    [
        (("user",), True, (), "no-net", "it contradicts --net; give one of them"),
        ((), True, ("80:80",), "no-net", "it contradicts --port; give one of them"),
        (("none",), False, ("80:80",), "port", "it needs a user-mode interface; add --net user"),
        (("bad",), False, (), "net", "'bad' is no kind of network"),
    ],
)
def test_contradictions(nets: tuple[str, ...], no_net: bool, ports: tuple[str, ...], path: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        choose_nics(nets, no_net, ports, None)
    assert raised.value.path == path
    assert message in raised.value.message
