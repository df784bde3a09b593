"""Every declared procedure: encoded and decoded with generated values, and refused where it should be."""

from __future__ import annotations

import re
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manor.base.errors import ProtocolError
from manor.rpc.protocol import records
from manor.rpc.protocol.catalog import QEMU, REMOTE, Field, Procedure
from manor.rpc.protocol.events import EVENTS, REGISTER
from manor.rpc.protocol.params import Prepared
from manor.rpc.protocol.records import ParamType, TypedParam
from manor.rpc.xdr import EncodeError

PROCEDURES = [*REMOTE.values(), *QEMU.values()]
TEXT = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=9)
SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "int": st.integers(-(2**31), 2**31 - 1),
    "uint": st.integers(0, 2**32 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "ulong": st.integers(0, 2**64 - 1),
    "double": st.floats(allow_nan=False),
    "str": TEXT,
    "bytes": st.binary(max_size=9),
    "uuid": st.binary(min_size=16, max_size=16),
    "TypedParam": st.one_of(
        st.builds(TypedParam, TEXT, st.just(ParamType.INT), st.integers(-(2**31), 2**31 - 1)),
        st.builds(TypedParam, TEXT, st.just(ParamType.UINT), st.integers(0, 2**32 - 1)),
        st.builds(TypedParam, TEXT, st.just(ParamType.LLONG), st.integers(-(2**63), 2**63 - 1)),
        st.builds(TypedParam, TEXT, st.just(ParamType.ULLONG), st.integers(0, 2**64 - 1)),
        st.builds(TypedParam, TEXT, st.just(ParamType.DOUBLE), st.floats(allow_nan=False)),
        st.builds(TypedParam, TEXT, st.just(ParamType.BOOLEAN), st.booleans()),
        st.builds(TypedParam, TEXT, st.just(ParamType.STRING), TEXT),
    ),
}


def values(kind: str) -> st.SearchStrategy[Any]:
    """Values of a wire type, in the form that decoding gives."""
    if kind in SCALARS:
        return SCALARS[kind]
    if kind.endswith("?"):
        return st.none() | values(kind[:-1])
    match = re.fullmatch(r"(.+)\[(:?)(\d*)\]", kind)
    if match is None:
        record, fields = records.LAYOUTS[kind]
        return st.builds(record, *(values(field) for _, field in fields))
    element, colon, number = match.groups()
    if element == "char":
        size = int(number) if number else None
        return st.binary(min_size=size or 0, max_size=size or 9)
    if element == "text":
        return st.text(st.characters(min_codepoint=1, max_codepoint=127), max_size=int(number) - 1 if number else 9)
    assert colon or not number
    return st.lists(values(element), max_size=3)


def tuples(fields: tuple[Field, ...]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*(values(field.type) for field in fields))


@pytest.mark.parametrize("procedure", PROCEDURES, ids=lambda procedure: procedure.name)
@settings(max_examples=5, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_every_procedure_round_trips(procedure: Procedure, data: st.DataObject) -> None:
    arguments = data.draw(tuples(procedure.arguments))
    payload = bytes(procedure.encode_arguments(arguments))
    assert len(payload) % 4 == 0
    assert procedure.decode_arguments(payload) == arguments
    assert procedure.decode_arguments(payload)._fields == tuple(field.name for field in procedure.arguments)
    if payload:
        with pytest.raises(ProtocolError):
            procedure.decode_arguments(payload[:-1])
    with pytest.raises(ProtocolError):
        procedure.decode_arguments(payload + b"\0\0\0\0")
    result = data.draw(tuples(procedure.results))
    value = {0: None, 1: result[0] if result else None}.get(len(result), result)
    assert procedure.decode_result(bytes(procedure.encode_result(value))) == value


@settings(max_examples=300, deadline=None)
@given(procedure=st.sampled_from(PROCEDURES), payload=st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(procedure: Procedure, payload: bytes) -> None:
    try:
        arguments = procedure.decode_arguments(payload)
    except ProtocolError:
        return
    assert procedure.decode_arguments(bytes(procedure.encode_arguments(arguments))) == arguments


def test_layout_of_a_lookup_is_what_virsh_sends() -> None:
    # Observed: virsh 9.0, `domstate web1`.
    assert bytes(REMOTE["domain_lookup_by_name"].encode_arguments(["web1"])) == b"\0\0\0\4web1"
    domain = records.Domain("web1", bytes(range(16)), -1)
    assert bytes(REMOTE["domain_get_state"].encode_arguments([domain, 0])) == (
        b"\0\0\0\4web1" + bytes(range(16)) + b"\xff\xff\xff\xff" + b"\0\0\0\0"
    )


def test_a_char_array_has_four_bytes_a_char() -> None:
    payload = REMOTE["node_get_info"].encode_result(("x86_64", 1024, 2, 3000, 1, 1, 2, 1))
    assert len(payload) == 32 * 4 + 8 + 6 * 4
    assert payload[:24] == b"\0\0\0x\0\0\0" + b"8\0\0\0006\0\0\0_\0\0\0" + b"6\0\0\0" + b"4"
    assert REMOTE["node_get_info"].decode_result(bytes(payload)).model == "x86_64"


def test_a_typed_parameter_is_a_union() -> None:
    payload = REMOTE["domain_get_guest_info"].encode_result([TypedParam("os", ParamType.STRING, "x"), ("n", 6, True)])
    assert bytes(payload) == (
        b"\0\0\0\2" + b"\0\0\0\2os\0\0" + b"\0\0\0\7" + b"\0\0\0\1x\0\0\0" + b"\0\0\0\1n\0\0\0" + b"\0\0\0\6\0\0\0\1"
    )


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("domain_lookup_by_name", ["a\0b"]),
        ("domain_lookup_by_name", [None]),
        ("domain_lookup_by_name", []),
        ("domain_lookup_by_id", [2**31]),
        ("domain_lookup_by_id", ["1"]),
        ("domain_lookup_by_uuid", [b"short"]),
        ("domain_set_memory_parameters", [records.Domain("a", bytes(16)), [("limit", 9, 1)], 0]),
        ("domain_set_memory_parameters", [records.Domain("a", bytes(16)), [("limit" * 20, 1, 1)], 0]),
        ("domain_define_xml", ["x" * (4 * 1024 * 1024 + 1)]),
        ("connect_get_all_domain_stats", [[records.Domain("a", bytes(16))] * 16385, 0, 0]),
    ],
)
def test_values_that_do_not_fit_are_refused(name: str, arguments: list[Any]) -> None:
    with pytest.raises(EncodeError, match=name):
        REMOTE[name].encode_arguments(arguments)


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("domain_lookup_by_name", b"\0\0\0\3a\0b\0"),
        ("domain_lookup_by_name", b"\xff\xff\xff\xffabc"),
        ("domain_lookup_by_name", b"\0\0\0\5abc\0"),
        ("connect_open", b"\0\0\0\2\0\0\0\0"),
        ("connect_get_all_domain_stats", b"\0\0\x40\1" + bytes(40)),
        ("connect_get_all_domain_stats", b"\0\0\x40\0" + bytes(40)),
        ("domain_get_vcpus", b"\0\0"),
    ],
)
def test_payloads_that_lie_are_refused(name: str, payload: bytes) -> None:
    with pytest.raises(ProtocolError, match=name):
        REMOTE[name].decode_arguments(payload)


def test_lists_have_the_limits_that_their_lines_state() -> None:
    found = [records.DomainStats(records.Domain("a", bytes(16)), [])] * 20000
    procedure = REMOTE["connect_get_all_domain_stats"]
    assert len(procedure.decode_result(bytes(procedure.encode_result(found)))) == 20000
    with pytest.raises(EncodeError, match="at most 262144"):
        procedure.encode_result([found[0]] * 262145)


def test_a_count_costs_no_memory_before_it_is_checked() -> None:
    with pytest.raises(ProtocolError, match="beyond the end"):
        REMOTE["connect_get_all_domain_stats"].decode_result(struct.pack(">I", 200_000))


def test_numbers_are_complete_and_names_say_what_is_permitted() -> None:
    assert sorted(REMOTE.by_number) == list(range(1, 454))
    assert sorted(QEMU.by_number) == list(range(1, 8))
    assert REMOTE["domain_create"].number == 9
    assert REMOTE.by_number[273].name == "connect_list_all_domains"
    for procedure in PROCEDURES:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", procedure.name)
        if procedure.is_event:
            assert procedure.results == ()
            assert procedure.permissions == ()
        for permission in procedure.permissions:
            assert permission.object in {
                "connect", "domain", "network", "network-port", "interface", "node-device", "storage-pool",
                "storage-vol", "secret", "nwfilter", "nwfilter-binding",
            }  # fmt: skip
            if permission.condition is not None:
                assert permission.condition[0] in [field.name for field in procedure.arguments]


def test_read_only_connections_get_neither_secrets_nor_changes() -> None:
    domain = records.Domain("a", bytes(16))

    def missing(name: str, *arguments: Any) -> str | None:
        procedure = REMOTE[name]
        found = procedure.missing_for_read_only(procedure.arguments_type(*arguments))
        return None if found is None else str(found)

    assert missing("domain_get_xml_desc", domain, 0) is None
    assert missing("domain_get_xml_desc", domain, 1) == "domain:read-secure"
    assert missing("domain_get_xml_desc", domain, 3) == "domain:read-secure"
    assert missing("domain_interface_addresses", domain, 0, 0) is None
    assert missing("domain_interface_addresses", domain, 1, 0) == "domain:write"
    assert missing("domain_destroy", domain) == "domain:stop"
    assert missing("connect_list_all_domains", 1, 0) is None
    assert missing("connect_open", None, 0) is None


def test_every_event_has_a_message_and_every_message_of_the_catalog_is_one() -> None:
    assert all(kind.message.is_event for kind in EVENTS.values())
    assert EVENTS["domain", "lifecycle"].message.number == 318
    assert EVENTS["domain", "block_job_2"].number == 16
    for register, deregister in REGISTER.values():
        assert [field.name for field in REMOTE[register].results] == ["callback_id"]
        assert [field.name for field in REMOTE[deregister].arguments] == ["callback_id"]
    known = {kind.message for kind in EVENTS.values()} | {REMOTE["connect_event_connection_closed"]}
    # The others are the messages that clients of before 2013 registered for, one kind for a whole connection.
    legacy = {procedure for procedure in REMOTE.values() if procedure.is_event} - known
    assert all(procedure.arguments[0].name == "domain" for procedure in legacy)
    assert len(legacy) == 16


def test_parameters_that_were_prepared_are_sent_as_any_others() -> None:
    params = [TypedParam("state.state", ParamType.INT, 5), TypedParam("name", ParamType.STRING, "a")]
    procedure = REMOTE["connect_get_all_domain_stats"]
    domain = records.Domain("a", bytes(16), -1)
    prepared = Prepared(params)
    assert list(prepared) == params
    plain, ready = ([records.DomainStats(domain, each)] for each in (params, prepared))
    assert procedure.encode_result(plain) == procedure.encode_result(ready)
    with pytest.raises(struct.error):
        Prepared([TypedParam("state.state", ParamType.INT, "no number")])
