"""Names of disks, addresses of interfaces, names of domains."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manor.base.errors import ConfigError
from manor.domain.names import check_name, disk_index, disk_name, free_disk_name, generate_mac
from manor.spec.mac import parse_mac


@given(st.integers(0, 18000), st.sampled_from(["vd", "sd", "hd"]))
def test_disks_are_counted_in_letters(index: int, prefix: str) -> None:
    assert disk_index(disk_name(prefix, index)) == index


def test_names_of_disks() -> None:
    assert [disk_name("vd", n) for n in (0, 25, 26, 701, 702)] == ["vda", "vdz", "vdaa", "vdzz", "vdaaa"]
    assert disk_name("nvme", 2) == "nvme2n1"
    assert disk_index("nvme2n1") == 2
    assert disk_index("disk") is None
    assert free_disk_name("vd", {"vda", "vdc"}) == "vdb"


def test_addresses_are_stable_and_nobody_elses() -> None:
    first = generate_mac("owner", 0)
    assert first == generate_mac("owner", 0)
    assert first.startswith("52:54:00:")
    assert parse_mac(first)
    other = generate_mac("owner", 0, {first})
    assert other != first


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", " a", "a ", "a\nb", "a\x00", "x" * 300, "ü" * 101])
def test_bad_names(name: str) -> None:
    with pytest.raises(ConfigError):
        check_name(name)


@pytest.mark.parametrize("name", ["a", "web 1", "ünter", "...", "a.b-c_d", "x" * 200])
def test_good_names(name: str) -> None:
    check_name(name)
