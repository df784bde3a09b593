"""Domain documents: errors with paths, what is kept, and what `check` says."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manor.base.errors import ConfigError
from manor.domain.xml import domain
from manor.domain.xml.values import Support
from tests.unit.domain.documents import ALL, EXAMPLES, KINDS, kind

SMALL = (EXAMPLES / "domain-small.xml").read_text("utf-8")
FULL = (EXAMPLES / "domain-full.xml").read_text("utf-8")


def with_devices(xml: str) -> str:
    return SMALL.replace("</devices>", f"{xml}</devices>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SMALL.replace("<name>small</name>", ""), "domain/name: it is missing"),
        (SMALL.replace("small", "a/b"), "domain/name: 'a/b' is not a name"),
        (SMALL.replace("'MiB'>256", "'parsec'>256"), "domain/memory: unit 'parsec' is unknown"),
        (SMALL.replace("'MiB'>256", "'MiB'>much"), "domain/memory: 'much' is not an amount"),
        (SMALL.replace("type='qemu'", "type='zen'"), "domain/@type: 'zen' is unknown; give one of kvm, qemu"),
        (SMALL.replace("dev='vda'", "dev='v d'"), "domain/devices/disk/target/@dev: 'v d' is not a name such as vda"),
        (with_devices("<disk><target dev='vdb' bus='xyz'/></disk>"),
         "domain/devices/disk[2]/target/@bus: 'xyz' is unknown"),
        (with_devices("<interface type='user'><mac address='52:54'/></interface>"),
         "domain/devices/interface[2]/mac/@address: '52:54' is not a MAC address"),
        (with_devices("<vsock/><vsock/>"), "domain/devices/vsock[2]: it is there twice"),
        (SMALL.replace("</os>", "</os><os/>"), "domain/os[2]: it is there twice"),
        (with_devices("<interface/>"), "domain/devices/interface[2]/@type: it is missing"),
        ("<network/>", "domain: the document is a <network>"),
    ],
)  # fmt: skip
def test_errors_name_the_path(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        domain.parse(text)
    assert message in str(caught.value)


def test_what_is_not_known_stays_in_its_place() -> None:
    text = (
        "<domain type='kvm' new='1'>\n  <first/>\n  <name>a</name>\n  <second>\n    <x y='z'>t</x>\n  </second>\n"
        "  <memory unit='KiB'>1024</memory>\n  <vcpu placement='static' odd='2'>1</vcpu>\n  <os>\n    <early/>\n"
        "    <type arch='x86_64' machine='pc'>hvm</type>\n    <late/>\n  </os>\n  <clock offset='utc'/>\n"
        "  <on_poweroff>destroy</on_poweroff>\n  <on_reboot>restart</on_reboot>\n  <on_crash>destroy</on_crash>\n"
        "  <devices>\n    <disk type='file' device='disk'>\n      <target dev='vda'/>\n      <odd/>\n    </disk>\n"
        "    <between/>\n    <disk type='file' device='disk'>\n      <target dev='vdb'/>\n    </disk>\n"
        "    <after/>\n  </devices>\n</domain>\n"
    )
    assert domain.format(domain.parse(text)) == text


def test_findings_have_path_verdict_and_fix() -> None:
    found = {one.path: one for one in domain.check(domain.parse(FULL))}
    assert found["domain/devices/disk[2]/shareable"].verdict is Support.REFUSED
    assert found["domain/devices/disk[2]/iotune/read_bytes_sec"].fix == "use the total_ form"
    assert found["domain/devices/disk[5]/target/@bus"].verdict is Support.REFUSED
    assert found["domain/devices/disk[6]/@device"].verdict is Support.IGNORED
    assert found["domain/devices/graphics"].text == "the machine has no display; its console is the way in"
    assert found["domain/qemu:commandline"].verdict is Support.REFUSED
    assert found["domain/devices/serial[2]"].verdict is Support.REFUSED
    verdicts = [one.verdict for one in domain.check(domain.parse(FULL))]
    assert verdicts == sorted(verdicts, key=lambda one: one is not Support.REFUSED)
    efi = domain.check(domain.parse((EXAMPLES / "domain-efi.xml").read_text("utf-8")))
    assert {one.path for one in efi if one.verdict is Support.REFUSED} == {"domain/os/@firmware", "domain/os/loader"}


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (with_devices("<tpm/>"), "domain/devices/tpm"),
        (with_devices("<hostdev mode='subsystem'/>"), "domain/devices/hostdev"),
        (with_devices("<interface type='user'><model type='e1000'/></interface>"),
         "domain/devices/interface[2]/model/@type"),
        (with_devices("<interface type='user'><filterref filter='x'/></interface>"),
         "domain/devices/interface[2]/filterref"),
        (with_devices("<interface type='bridge'><source bridge='br0'/><portForward proto='tcp'/></interface>"),
         "domain/devices/interface[2]/portForward"),
        (with_devices("<filesystem><source dir='/a'/><target dir='t'/></filesystem>"), "domain/devices/filesystem"),
        (with_devices("<channel type='unix'><target type='virtio' name='x'/></channel>"),
         "domain/devices/channel/target/@name"),
        (with_devices("<watchdog model='i6300esb'/>"), "domain/devices/watchdog"),
        (SMALL.replace("<os>", "<vcpu>100</vcpu><os>"), "domain/vcpu"),
        (SMALL.replace("<type>hvm", "<type arch='s390x'>hvm"), "domain/os/type/@arch"),
        (re.sub("<disk.*</disk>", "", SMALL, flags=re.S), "domain/os"),
    ],
)  # fmt: skip
def test_refused_by_name(text: str, path: str) -> None:
    found = [one for one in domain.check(domain.parse(text)) if one.verdict is Support.REFUSED]
    assert path in [one.path for one in found]
    assert all(one.fix for one in found)


def test_a_plain_domain_has_no_findings() -> None:
    assert domain.check(domain.parse(SMALL)) == []


tokens = st.sampled_from(
    ["<disk>", "</disk>", "<a/>", "x", "'", "=", "&amp;", "<!--", "-->", "<![CDATA[", "]]>", "yes", "9" * 30, " x='k'"]
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(ALL), st.data())
def test_damaged_documents_are_read_or_refused(path: Any, data: st.DataObject) -> None:
    _, parse, format_, check = KINDS[kind(path)]
    text: str = path.read_text("utf-8")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(tokens | st.text(max_size=3)) + text[at + cut :]
    _read_or_refuse(parse, format_, check, text)


def test_each_value_may_be_wrong() -> None:
    for path in ALL:
        _, parse, format_, check = KINDS[kind(path)]
        text = path.read_text("utf-8")
        for number, match in enumerate(re.finditer(r"'([^'\n]*)'|>([^<\n]+)<", text)):
            start, end = match.span(1 if match[1] is not None else 2)
            # In turns, so that each kind of value meets each mistake somewhere.
            wrong = ("", "-1", "\u0663", "9" * 25, "0x", "%s", "../..", " ")[number % 8]
            _read_or_refuse(parse, format_, check, text[:start] + wrong + text[end:])


def _read_or_refuse(
    parse: Callable[[str], Any], format_: Callable[[Any], str], check: Callable[[Any], list[Any]], text: str
) -> None:
    try:
        model = parse(text)
    except ConfigError:
        return
    written = format_(model)
    assert format_(parse(written)) == written
    assert all(one.path for one in check(model))
