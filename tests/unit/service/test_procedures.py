"""Every procedure that is answered is called here once at least, over the wire's own encoding; every other one is
refused with its reason."""

from __future__ import annotations

import asyncio
import inspect
import json
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from manor.base.errors import ApiError
from manor.drivers.memory import MemoryDriver
from manor.rpc.message import Call
from manor.rpc.protocol.catalog import QEMU, REMOTE
from manor.rpc.protocol.errors import ErrorCode
from manor.rpc.protocol.records import (
    Checkpoint,
    Domain,
    Network,
    NetworkPort,
    Nwfilter,
    NwfilterBinding,
    ParamType,
    Snapshot,
    StoragePool,
    StorageVol,
    TypedParam,
)
from manor.rpc.session import Answer
from manor.service.client import Client
from manor.service.dispatch import PROCEDURES, handle
from manor.service.refusals import REFUSALS
from manor.service.service import Service

DOMAIN_XML = """<domain type='test'><name>{}</name><memory unit='MiB'>64</memory><vcpu>2</vcpu>
<os><type>hvm</type></os><devices>
<disk type='file'><source file='/nowhere/a.img'/><target dev='vda'/></disk>
<interface type='network'><source network='default'/><mac address='52:54:00:11:22:33'/></interface>
<console type='pty'/></devices></domain>"""
NETWORK_XML = "<network><name>{}</name><ip address='10.9.0.1' netmask='255.255.255.0'/></network>"
POOL_XML = "<pool type='dir'><name>{}</name><target><path>/{}</path></target></pool>"
VOLUME_XML = "<volume><name>{}</name><capacity>1048576</capacity></volume>"
SECRET_XML = "<secret><usage type='ceph'><name>client.x</name></usage></secret>"
ULLONG, UINT, INT, STRING = ParamType.ULLONG, ParamType.UINT, ParamType.INT, ParamType.STRING
AGENT: Mapping[str, Any] = {
    "guest-get-host-name": {"host-name": "inside"},
    "guest-get-time": 5_000_000_007,
    "guest-set-time": {},
    "guest-fsfreeze-freeze": 2,
    "guest-fsfreeze-thaw": 2,
    "guest-fstrim": {},
    "guest-set-user-password": {},
    "guest-get-fsinfo": [
        {"name": "vda1", "mountpoint": "/", "type": "ext4", "used-bytes": 1, "total-bytes": 2,
         "disk": [{"dev": "/dev/vda1", "serial": "S"}]},
    ],
    "guest-get-users": [{"user": "ann", "login-time": 1.5}],
    "guest-get-osinfo": {"id": "debian", "kernel-release": "6.1"},
    "guest-get-timezone": {"zone": "UTC", "offset": 0},
    "guest-get-disks": [{"name": "/dev/vda", "partition": False, "dependencies": ["/dev/x"]}],
    "guest-network-get-interfaces": [
        {"name": "eth0", "hardware-address": "52:54:00:11:22:33",
         "ip-addresses": [{"ip-address-type": "ipv4", "ip-address": "10.0.2.15", "prefix": 24}]},
    ],
    "guest-get-vcpus": [{"logical-id": 0, "online": True}, {"logical-id": 1, "online": True, "can-offline": True}],
    "guest-set-vcpus": 1,
    "guest-ssh-get-authorized-keys": {"keys": ["ssh-ed25519 A"]},
    "guest-ssh-add-authorized-keys": {},
    "guest-ssh-remove-authorized-keys": {},
    "guest-ping": {},
}  # fmt: skip


class FakeSession:
    """What procedures need of a session."""

    is_read_only = False
    state: Any = None

    def start_keepalive(self, interval: float, count: int) -> None:
        self.keepalive = (interval, count)

    def send_event(self, procedure: Any, *arguments: Any) -> None:
        procedure.encode_arguments(arguments)


class Caller:
    """Calls procedures as a client would, and remembers which."""

    def __init__(self, driver: MemoryDriver) -> None:
        self.called: set[str] = set()
        session: Any = FakeSession()
        service = Service({"test:///default": lambda notify: driver}, "test:///default")
        session.state = Client(service, session, "ann")
        self.session = session

    async def __call__(self, name: str, *arguments: Any) -> Any:
        self.called.add(name)
        procedure = REMOTE[name] if name in REMOTE else QEMU[name]
        sent = procedure.decode_arguments(bytes(procedure.encode_arguments(arguments)))
        value = handle(self.session, Call(0, procedure, sent))
        if inspect.isawaitable(value):
            value = await value
        if isinstance(value, Answer):
            assert value.then is not None, name
            value = value.value
        return procedure.decode_result(bytes(procedure.encode_result(value)))

    async def if_possible(self, name: str, *arguments: Any) -> Any:
        """The answer; None where this host has nothing of the kind."""
        try:
            return await self(name, *arguments)
        except ApiError as error:
            if error.code != ErrorCode.NO_SUPPORT:
                raise
            return None

    async def refused(self, code: int, name: str, *arguments: Any) -> None:
        with pytest.raises(ApiError) as caught:
            await self(name, *arguments)
        assert caught.value.code == code, f"{name}: {caught.value}"


async def _agent(uuid: bytes, command: str, arguments: Any, timeout: float) -> object:
    if command not in AGENT:
        raise ApiError(ErrorCode.AGENT_UNRESPONSIVE, 10, f"there is no {command}")
    return AGENT[command]


def run(scenario: Callable[[Caller], Any]) -> Caller:
    async def work() -> Caller:
        driver = MemoryDriver(lambda _: None)
        driver.domains.agent = _agent  # type: ignore[method-assign]
        call = Caller(driver)
        await call("connect_open", "test:///default", 0)
        await scenario(call)
        await driver.close()
        return call

    return asyncio.run(work())


async def connection(call: Caller) -> None:
    assert await call("auth_list") == [0]
    assert await call("connect_supports_feature", 10) == 1
    for name in ("connect_register_close_callback", "connect_unregister_close_callback"):
        await call(name)
    await call("connect_set_identity", [TypedParam("user", STRING, "ann")], 0)
    assert await call("connect_get_type") == "TEST"
    assert await call("connect_get_version") >= 0
    assert await call("connect_get_lib_version") > 9_000_000 - 1
    assert await call("connect_get_uri") == "test:///default"
    assert await call("connect_get_hostname")
    assert await call("connect_get_max_vcpus", None) > 0
    assert "<capabilities>" in await call("connect_get_capabilities")
    assert "<domainCapabilities>" in await call("connect_get_domain_capabilities", None, None, None, None, 0)
    assert "<storagepoolCapabilities>" in await call("connect_get_storage_pool_capabilities", 0)
    assert await call("connect_is_secure") == 1
    assert (await call("connect_get_cpu_model_names", "x86_64", 1, 0)).count > 0
    assert (await call.if_possible("connect_get_sysinfo", 0) or "<sysinfo").startswith("<sysinfo")
    for subject, events in (("domain", (0,)), ("network", (0,)), ("storage_pool", (0,)), ("secret", (0,))):
        register = "callback_register_any" if subject == "domain" else "register_any"
        for event in events:
            number = await call(f"connect_{subject}_event_{register}", event, None)
            await call(f"connect_{subject}_event_{register.replace('register', 'deregister')}", number)
    number = await call("connect_node_device_event_register_any", 0, None)
    await call("connect_node_device_event_deregister_any", number)
    assert await call("connect_domain_event_register") == 1
    await call("connect_domain_event_deregister")
    await call("connect_domain_event_register_any", 1)
    await call("connect_domain_event_deregister_any", 1)


async def host(call: Caller) -> None:
    assert (await call("node_get_info")).cpus > 0
    assert await call("node_get_free_memory") > 0
    assert len(await call("node_get_cells_free_memory", 0, 8)) == 1
    assert await call("node_get_security_model") == ("none", "0")
    assert (await call("node_get_cpu_stats", -1, 8, 0)).params[0].field == "kernel"
    assert (await call("node_get_memory_stats", 8, -1, 0)).params[0].field == "total"
    cpus = await call("node_get_cpu_map", 1, 1, 0)
    assert cpus.cpu_map[0] & 1
    assert len(await call("node_get_free_pages", [4], 0, 1, 0)) == 1
    await call.refused(ErrorCode.OPERATION_FAILED, "node_get_free_pages", [5], 0, 1, 0)
    merging = await call.if_possible("node_get_memory_parameters", 99, 0)
    assert merging is None or merging.params[0].field.startswith("shm_")
    names = [each.name for each in (await call("connect_list_all_node_devices", 1, 0)).devices]
    assert names == await call("node_list_devices", None, 999, 0)
    assert len(names) == await call("node_num_of_devices", None, 0)
    assert (await call("connect_list_all_node_devices", 1, 1)).devices == [("computer",)]
    assert (await call("connect_list_all_node_devices", 1, 1 << 30)).devices == []
    assert await call("node_device_lookup_by_name", "computer") == ("computer",)
    assert "<capability type='system'>" in await call("node_device_get_xml_desc", "computer", 0)
    assert await call("node_device_get_parent", "computer") is None
    assert await call("node_device_num_of_caps", "computer") == 1
    assert await call("node_device_list_caps", "computer", 9) == ["system"]
    for name in ("is_active", "is_persistent", "get_autostart"):
        assert await call(f"node_device_{name}", "computer") == 1
    await call.refused(ErrorCode.NO_NODE_DEVICE, "node_device_lookup_scsi_host_by_wwn", "1", "2", 0)
    await call.refused(ErrorCode.NO_NODE_DEVICE, "node_device_get_parent", "nothing")
    found = (await call("connect_list_all_interfaces", 1, 0)).interfaces
    assert len(found) == (
        await call("connect_num_of_interfaces") + await call("connect_num_of_defined_interfaces")
    ) == len(await call("connect_list_interfaces", 99)) + len(await call("connect_list_defined_interfaces", 99))
    assert await call("interface_lookup_by_name", found[0].name) == found[0]
    assert (await call("interface_lookup_by_mac_string", found[0].mac)).mac == found[0].mac
    assert found[0].name in await call("interface_get_xml_desc", found[0], 0)
    assert await call("interface_is_active", found[0]) in (0, 1)


async def life(call: Caller) -> None:
    for name in ("connect_num_of_domains", "connect_num_of_defined_domains"):
        assert await call(name) in (0, 1)
    web = await call("domain_define_xml", DOMAIN_XML.format("web1"))
    assert await call("domain_define_xml_flags", DOMAIN_XML.replace("<memory", f"<uuid>{web.uuid.hex()}</uuid><memory")
                      .format("web1"), 0) == web  # fmt: skip
    assert web in (await call("connect_list_all_domains", 1, 2)).domains
    assert await call("connect_list_defined_domains", 9) == ["web1"]
    await call("domain_create", web)
    running = await call("domain_lookup_by_name", "web1")
    assert running.id in await call("connect_list_domains", 9)
    assert await call("domain_lookup_by_id", running.id) == await call("domain_lookup_by_uuid", web.uuid) == running
    assert await call("domain_is_active", web) == await call("domain_is_persistent", web) == 1
    assert await call("domain_is_updated", web) == 0
    await call("domain_suspend", web)
    await call("domain_resume", web)
    await call("domain_reboot", web, 0)
    await call("domain_reset", web, 0)
    assert await call("domain_get_state", web, 0) == (1, 5)
    assert (await call("domain_get_info", web)).max_memory == 65536
    assert await call("domain_get_os_type", web) == "hvm"
    assert await call("domain_get_max_memory", web) == 65536
    assert await call("domain_get_max_vcpus", web) == await call("domain_get_vcpus_flags", web, 0) == 2
    assert len((await call("domain_get_vcpus", web, 4, 1)).info) == 2
    assert await call("domain_get_security_label", web) == ("", 0)
    assert (await call("domain_get_security_label_list", web)).count == 0
    assert all(each.startswith("ignored") for each in await call("domain_get_messages", web, 0))
    assert await call("domain_get_control_info", web, 0) == (0, 0, 0)
    assert (await call("domain_get_job_info", web)).type == (await call("domain_get_job_stats", web, 0)).type == 0
    assert (await call("domain_get_block_job_info", web, "vda", 0)).found == 0
    await call.refused(ErrorCode.OPERATION_INVALID, "domain_block_job_abort", web, "vda", 0)
    await call.refused(ErrorCode.OPERATION_INVALID, "domain_block_job_set_speed", web, "vda", 1, 0)
    await call.refused(ErrorCode.INVALID_ARG, "domain_block_job_abort", web, "vdz", 0)
    await call.refused(ErrorCode.OPERATION_INVALID, "domain_abort_job", web)
    await call.refused(ErrorCode.OPERATION_INVALID, "domain_abort_job_flags", web, 0)
    assert await call("domain_get_launch_security_info", web, 0) == []
    assert (await call("domain_get_disk_errors", web, 9, 0)).nerrors == 0
    await call.refused(ErrorCode.SYSTEM_ERROR, "domain_get_block_info", web, "vda", 0)  # its image is nowhere
    await call("domain_open_console", web, None, 0)
    assert (await call("domain_block_stats", web, "vda")).errs == -1
    assert (await call("domain_block_stats_flags", web, "vda", 9, 0)).nparams == 5
    assert len(await call("domain_interface_stats", web, "vnet0")) == 8
    assert await call("domain_memory_stats", web, 9, 0)
    assert (await call("domain_get_cpu_stats", web, 1, -1, 1, 0)).params[0].field == "cpu_time"
    assert await call("connect_get_all_domain_stats", [], 0, 0)
    await call("domain_set_memory_stats_period", web, 1, 0)
    (interface,) = await call("domain_interface_addresses", web, 0, 0)
    default = await call("network_lookup_by_name", "default")
    (lease,) = (await call("network_get_dhcp_leases", default, "52:54:00:11:22:33", 1, 0)).leases
    assert (await call("network_get_dhcp_leases", default, None, 1, 0)).count == 2  # that of `test` as well
    assert (lease.mac, lease.address) == (interface.hardware_address, interface.addresses[0].address)
    await call("domain_block_resize", web, "vda", 4096, 0)
    await call("domain_set_memory", web, 32768)
    await call("domain_set_memory_flags", web, 65536, 1)
    await call("domain_shutdown", web)
    await call("domain_create_with_flags", web, 1)
    await call("domain_resume", web)
    await call("domain_shutdown_flags", web, 1)
    await call("domain_create", web)
    await call("domain_destroy", web)
    await call("domain_create", web)
    await call("domain_destroy_flags", web, 1)
    await call("domain_set_autostart", web, 1)
    assert await call("domain_get_autostart", web) == 1
    assert await call("domain_rename", web, "web2", 0) == 0
    assert "<name>web2</name>" in await call("domain_get_xml_desc", web, 2)
    await call("domain_set_max_memory", web, 131072)
    await call.refused(ErrorCode.OPERATION_INVALID, "domain_set_vcpus", web, 1)  # it means the running domain
    await call("domain_set_vcpus_flags", web, 1, 2)
    await call("domain_undefine", web)
    made = await call("domain_create_xml", DOMAIN_XML.format("web3"), 0)
    await call("domain_destroy", made)
    other = await call("domain_define_xml", DOMAIN_XML.format("web4"))
    await call("domain_undefine_flags", other, 0)


async def devices(call: Caller) -> None:
    web = await call("domain_define_xml", DOMAIN_XML.format("web1"))
    disk = "<disk type='file'><source file='/b.img'/><target dev='vdb'/></disk>"
    await call("domain_create", web)
    await call("domain_attach_device", web, disk)
    await call("domain_detach_device", web, disk)
    await call("domain_attach_device_flags", web, disk, 3)
    await call("domain_update_device_flags", web, disk.replace("b.img", "c.img"), 2)
    assert "c.img" in await call("domain_get_xml_desc", web, 2)
    await call("domain_detach_device_flags", web, disk, 2)
    with_alias = disk.replace("</disk>", "<alias name='ua-b'/></disk>").replace("vdb", "vdc")
    await call("domain_attach_device_flags", web, with_alias, 2)
    await call("domain_detach_device_alias", web, "ua-b", 2)
    for subject, get, change, of in (
        ("domain", "domain_get_metadata", "domain_set_metadata", web),
        ("network", "network_get_metadata", "network_set_metadata",
         await call("network_lookup_by_name", "default")),
    ):  # fmt: skip
        await call(change, of, 1, f"a {subject}", None, None, 0)
        assert await call(get, of, 1, None, 0) == f"a {subject}"
        await call(change, of, 2, "<a><b/></a>", "k", "http://x", 0)
        assert "<b/>" in await call(get, of, 2, "http://x", 0)
        await call(change, of, 2, None, "k", "http://x", 0)
        code = ErrorCode.NO_DOMAIN_METADATA if subject == "domain" else ErrorCode.NO_NETWORK_METADATA
        await call.refused(code, get, of, 2, "http://x", 0)


async def saving(call: Caller) -> None:
    web = await call("domain_lookup_by_name", "test")
    assert await call("domain_has_managed_save_image", web, 0) == 0
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/test.state"
        file = [TypedParam("file", STRING, path)]
        await call("domain_save", web, path)
        await call("domain_restore", path)
        await call("domain_save_flags", web, path, None, 0)
        xml = await call("domain_save_image_get_xml_desc", path, 1)
        await call("domain_save_image_define_xml", path, xml, 0)
        await call("domain_restore_flags", path, xml, 0)
        await call("domain_save_params", web, file, 0)
        await call("domain_restore_params", file, 0)
    await call("domain_managed_save", web, 0)
    assert await call("domain_has_managed_save_image", web, 0) == 1
    xml = await call("domain_managed_save_get_xml_desc", web, 1)
    await call("domain_managed_save_define_xml", web, xml, 0)
    await call("domain_managed_save_remove", web, 0)
    await call.refused(ErrorCode.OPERATION_INVALID, "domain_managed_save_remove", web, 0)
    await call("domain_create", web)


async def guest(call: Caller) -> None:
    web = await call("domain_lookup_by_name", "test")
    assert await call("domain_get_hostname", web, 0) == "inside"
    assert await call("domain_get_time", web, 0) == (5, 7)
    await call("domain_set_time", web, 5, 0, 0)
    assert await call("domain_fsfreeze", web, [], 0) == await call("domain_fsthaw", web, [], 0) == 2
    await call("domain_fstrim", web, None, 0, 0)
    assert (await call("domain_get_fsinfo", web, 0)).info[0].mount_point == "/"
    await call("domain_set_user_password", web, "ann", "secret", 0)
    assert await call("domain_agent_set_response_timeout", web, 7, 0) == 0
    await call.refused(ErrorCode.INVALID_ARG, "domain_agent_set_response_timeout", web, -3, 0)
    found = {each.field: each.value for each in await call("domain_get_guest_info", web, 0, 0)}
    assert found["user.0.login-time"] == 1500
    assert found["os.id"] == "debian"
    assert found["timezone.name"] == "UTC"
    assert found["hostname"] == "inside"
    assert found["fs.0.disk.0.serial"] == "S"
    assert found["disk.0.dependency.0.name"] == "/dev/x"
    assert found["if.0.addr.0.prefix"] == 24
    assert [each.field for each in await call("domain_get_guest_info", web, 8, 0)] == ["hostname"]
    await call.refused(ErrorCode.INVALID_ARG, "domain_get_guest_info", web, 1 << 9, 0)
    vcpus = {each.field: each.value for each in await call("domain_get_guest_vcpus", web, 0)}
    assert vcpus == {"vcpus": "0-1", "online": "0-1", "offlinable": "1"}
    await call("domain_set_guest_vcpus", web, "1", 0, 0)
    await call.refused(ErrorCode.INVALID_ARG, "domain_set_guest_vcpus", web, "0", 0, 0)
    assert await call("domain_authorized_ssh_keys_get", web, "ann", 0) == ["ssh-ed25519 A"]
    for flags in (0, 1, 2):
        await call("domain_authorized_ssh_keys_set", web, "ann", ["ssh-ed25519 B"], flags)
    answer = await call("qemu_domain_agent_command", web, '{"execute": "guest-ping"}', -1, 0)
    assert json.loads(answer) == {"return": {}}
    for command in ("nonsense", "[]", '{"execute": 3}', '{"execute": "x", "arguments": 3}'):
        await call.refused(ErrorCode.INVALID_ARG, "qemu_domain_agent_command", web, command, -1, 0)


async def tuning(call: Caller) -> None:
    web = await call("domain_define_xml", DOMAIN_XML.format("web1"))
    assert (await call("domain_get_scheduler_type", web)).type == "posix"
    await call("domain_set_scheduler_parameters", web, [TypedParam("cpu_shares", ULLONG, 70)])
    await call("domain_set_scheduler_parameters_flags", web, [TypedParam("vcpu_quota", ParamType.LLONG, -1)], 2)
    found = {each.field: each.value for each in await call("domain_get_scheduler_parameters", web, 99)}
    assert (found["cpu_shares"], found["vcpu_quota"]) == (70, -1)
    assert await call("domain_get_scheduler_parameters_flags", web, 1, 0) == [TypedParam("cpu_shares", ULLONG, 70)]
    await call.refused(ErrorCode.INVALID_ARG, "domain_set_scheduler_parameters", web, [TypedParam("x", ULLONG, 1)])
    await call.refused(
        ErrorCode.INVALID_ARG, "domain_set_scheduler_parameters", web, [TypedParam("cpu_shares", STRING, "1")]
    )
    for get, change, params, of in (
        ("domain_get_memory_parameters", "domain_set_memory_parameters", [TypedParam("hard_limit", ULLONG, 9)], ()),
        ("domain_get_numa_parameters", "domain_set_numa_parameters",
         [TypedParam("numa_mode", INT, 1), TypedParam("numa_nodeset", STRING, "0")], ()),
        ("domain_get_blkio_parameters", "domain_set_blkio_parameters",
         [TypedParam("weight", UINT, 300), TypedParam("device_weight", STRING, "/dev/x,200")], ()),
        ("domain_get_block_io_tune", "domain_set_block_io_tune", [TypedParam("total_iops_sec", ULLONG, 9)], ("vda",)),
        ("domain_get_interface_parameters", "domain_set_interface_parameters",
         [TypedParam("inbound.average", UINT, 9)], ("52:54:00:11:22:33",)),
    ):  # fmt: skip
        await call(change, web, *of, params, 2)
        count = (await call(get, web, *of, 0, 0)).nparams
        answered = (await call(get, web, *of, count, 0)).params
        assert len(answered) == count
        assert set(params) <= set(answered), get
    await call("domain_set_memory_parameters", web, [TypedParam("hard_limit", ULLONG, 9007199254740991)], 2)
    assert "memtune" not in await call("domain_get_xml_desc", web, 2)
    await call.refused(
        ErrorCode.INVALID_ARG, "domain_set_blkio_parameters", web, [TypedParam("device_weight", STRING, "/dev/x")], 2
    )
    await call("domain_pin_vcpu", web, 0, b"\1")
    await call("domain_pin_vcpu_flags", web, 1, b"\1", 2)
    await call("domain_pin_emulator", web, b"\1", 2)
    await call.refused(ErrorCode.INVALID_ARG, "domain_pin_vcpu", web, 9, b"\1")
    await call.refused(ErrorCode.INVALID_ARG, "domain_pin_emulator", web, b"\0", 2)
    assert await call("domain_get_vcpu_pin_info", web, 2, 1, 2) == (b"\1\1", 2)
    assert await call("domain_get_emulator_pin_info", web, 1, 2) == (b"\1", 1)
    for number in (1, 3):
        await call("domain_add_iothread", web, number, 2)
    await call.refused(ErrorCode.INVALID_ARG, "domain_add_iothread", web, 3, 2)
    await call.refused(ErrorCode.INVALID_ARG, "domain_add_iothread", web, 0, 2)
    await call("domain_pin_iothread", web, 3, b"\1", 2)
    await call.refused(ErrorCode.INVALID_ARG, "domain_pin_iothread", web, 2, b"\1", 2)
    assert [each.iothread_id for each in (await call("domain_get_iothread_info", web, 2)).info] == [1, 3]
    await call("domain_del_iothread", web, 3, 2)
    await call.refused(ErrorCode.INVALID_ARG, "domain_del_iothread", web, 3, 2)
    await call("domain_set_perf_events", web, [TypedParam("cmt", ParamType.BOOLEAN, True)], 2)
    assert TypedParam("cmt", ParamType.BOOLEAN, True) in await call("domain_get_perf_events", web, 2)
    await call("domain_set_lifecycle_action", web, 1, 0, 2)
    assert "<on_reboot>destroy</on_reboot>" in await call("domain_get_xml_desc", web, 2)
    await call.refused(ErrorCode.INVALID_ARG, "domain_set_lifecycle_action", web, 9, 0, 2)
    await call.refused(ErrorCode.OPERATION_INVALID, "domain_get_memory_parameters", web, 0, 1)
    await call("domain_create", web)
    await call.refused(
        ErrorCode.NO_SUPPORT, "domain_set_memory_parameters", web, [TypedParam("hard_limit", ULLONG, 9)], 1
    )


async def snapshots(call: Caller) -> None:
    await call("domain_destroy", await call("domain_lookup_by_name", "test"))
    web = await call("domain_lookup_by_name", "test")
    assert await call("domain_has_current_snapshot", web, 0) == 0
    one = await call("domain_snapshot_create_xml", web, "<domainsnapshot><name>one</name></domainsnapshot>", 0)
    two = await call("domain_snapshot_create_xml", web, "<domainsnapshot><name>two</name></domainsnapshot>", 0)
    assert await call("domain_snapshot_num", web, 0) == 2
    assert await call("domain_snapshot_list_names", web, 9, 1) == ["one"]
    assert (await call("domain_list_all_snapshots", web, 1, 0)).count == 2
    assert await call("domain_snapshot_num_children", one, 0) == 1
    assert await call("domain_snapshot_list_children_names", one, 9, 0) == ["two"]
    assert (await call("domain_snapshot_list_all_children", one, 1, 0)).snapshots == [two]
    assert await call("domain_snapshot_lookup_by_name", web, "one", 0) == one
    assert "<name>one</name>" in await call("domain_snapshot_get_xml_desc", one, 0)
    assert await call("domain_has_current_snapshot", web, 0) == 1
    assert await call("domain_snapshot_current", web, 0) == two
    assert await call("domain_snapshot_get_parent", two, 0) == one
    assert await call("domain_snapshot_is_current", two, 0) == await call("domain_snapshot_has_metadata", two, 0) == 1
    await call("domain_revert_to_snapshot", one, 0)
    await call("domain_snapshot_delete", two, 0)
    assert (await call("domain_list_all_checkpoints", web, 1, 0)).count == 0
    await call.refused(ErrorCode.NO_DOMAIN_CHECKPOINT, "domain_checkpoint_lookup_by_name", web, "c", 0)
    checkpoint = Checkpoint("c", web)
    await call.refused(ErrorCode.NO_DOMAIN_CHECKPOINT, "domain_checkpoint_list_all_children", checkpoint, 1, 0)
    for name in ("get_xml_desc", "get_parent", "delete"):
        await call.refused(ErrorCode.NO_DOMAIN_CHECKPOINT, f"domain_checkpoint_{name}", checkpoint, 0)
    await call.refused(ErrorCode.NO_DOMAIN_BACKUP, "domain_backup_get_xml_desc", web, 0)


async def networks(call: Caller) -> None:
    lan = await call("network_define_xml", NETWORK_XML.format("lan"))
    assert (await call("connect_list_all_networks", 1, 0)).count == 2
    assert (await call("connect_num_of_networks"), await call("connect_num_of_defined_networks")) == (1, 1)
    assert await call("connect_list_networks", 9) == ["default"]
    assert await call("connect_list_defined_networks", 9) == ["lan"]
    assert await call("network_lookup_by_uuid", lan.uuid) == lan
    await call.refused(ErrorCode.OPERATION_INVALID, "network_get_dhcp_leases", lan, None, 1, 0)
    await call("network_set_autostart", lan, 1)
    assert await call("network_get_autostart", lan) == await call("network_is_persistent", lan) == 1
    await call("network_create", lan)
    assert await call("network_is_active", lan) == 1
    assert await call("network_get_bridge_name", lan)
    add, delete, modify = 3, 2, 1
    host = "<host mac='52:54:00:00:00:01' name='a' ip='10.9.0.5'/>"
    await call("network_update", lan, add, 4, -1, host, 0)
    await call.refused(ErrorCode.OPERATION_INVALID, "network_update", lan, add, 4, -1, host, 0)
    await call("network_update", lan, modify, 4, 0, host.replace("10.9.0.5", "10.9.0.6"), 0)
    assert "10.9.0.6" in await call("network_get_xml_desc", lan, 0)
    await call("network_update", lan, delete, 4, -1, "<host mac='52:54:00:00:00:01'/>", 0)
    await call.refused(ErrorCode.OPERATION_INVALID, "network_update", lan, delete, 4, -1, host, 0)
    await call("network_update", lan, 4, 5, -1, "<range start='10.9.0.50' end='10.9.0.60'/>", 0)
    await call("network_update", lan, add, 10, -1, "<host ip='10.9.0.9'><hostname>x</hostname></host>", 0)
    await call("network_update", lan, add, 9, -1, "<portgroup name='p'/>", 0)
    await call.refused(ErrorCode.NO_SUPPORT, "network_update", lan, add, 1, -1, "<bridge/>", 0)
    await call.refused(ErrorCode.XML_ERROR, "network_update", lan, add, 4, -1, "<range/>", 0)
    await call.refused(ErrorCode.XML_ERROR, "network_update", lan, add, 4, -1, "<host", 0)
    await call.refused(ErrorCode.XML_ERROR, "network_update", lan, add, 4, -1, "<host/>", 0)
    await call.refused(ErrorCode.INVALID_ARG, "network_update", lan, add, 4, 7, host, 0)
    await call.refused(ErrorCode.INVALID_ARG, "network_update", lan, 9, 4, -1, host, 0)
    assert (await call("network_list_all_ports", lan, 1, 0)).count == 0
    port = NetworkPort(lan, bytes(16))
    await call.refused(ErrorCode.NO_NETWORK_PORT, "network_port_lookup_by_uuid", lan, bytes(16))
    await call.refused(ErrorCode.NO_NETWORK_PORT, "network_port_get_xml_desc", port, 0)
    await call.refused(ErrorCode.NO_NETWORK_PORT, "network_port_get_parameters", port, 0, 0)
    await call.refused(ErrorCode.NO_NETWORK_PORT, "network_port_set_parameters", port, [], 0)
    await call.refused(ErrorCode.NO_NETWORK_PORT, "network_port_delete", port, 0)
    await call("network_destroy", lan)
    await call("network_undefine", lan)
    await call("network_destroy", await call("network_create_xml", NETWORK_XML.format("a")))
    await call("network_destroy", await call("network_create_xml_flags", NETWORK_XML.format("b"), 0))
    await call("network_undefine", await call("network_define_xml_flags", NETWORK_XML.format("c"), 0))
    await call.refused(ErrorCode.NO_NETWORK, "network_is_active", Network("lan", lan.uuid))
    assert (await call("connect_list_all_nwfilters", 1, 0)).count == await call("connect_num_of_nwfilters") == 0
    assert await call("connect_list_nwfilters", 9) == []
    await call.refused(ErrorCode.NO_NWFILTER, "nwfilter_lookup_by_name", "f")
    await call.refused(ErrorCode.NO_NWFILTER, "nwfilter_lookup_by_uuid", bytes(16))
    await call.refused(ErrorCode.NO_NWFILTER, "nwfilter_get_xml_desc", Nwfilter("f", bytes(16)), 0)
    await call.refused(ErrorCode.NO_NWFILTER, "nwfilter_undefine", Nwfilter("f", bytes(16)))
    assert (await call("connect_list_all_nwfilter_bindings", 1, 0)).count == 0
    binding = NwfilterBinding("vnet0", "f")
    await call.refused(ErrorCode.NO_NWFILTER_BINDING, "nwfilter_binding_lookup_by_port_dev", "vnet0")
    await call.refused(ErrorCode.NO_NWFILTER_BINDING, "nwfilter_binding_get_xml_desc", binding, 0)
    await call.refused(ErrorCode.NO_NWFILTER_BINDING, "nwfilter_binding_delete", binding)


async def storage(call: Caller) -> None:
    pool = await call("storage_pool_define_xml", POOL_XML.format("p", "p"), 0)
    assert (await call("connect_list_all_storage_pools", 1, 0)).count == 2
    assert (await call("connect_num_of_storage_pools"), await call("connect_num_of_defined_storage_pools")) == (1, 1)
    assert await call("connect_list_storage_pools", 9) == ["default-pool"]
    assert await call("connect_list_defined_storage_pools", 9) == ["p"]
    await call("storage_pool_build", pool, 0)
    await call("storage_pool_create", pool, 0)
    await call("storage_pool_refresh", pool, 0)
    await call("storage_pool_set_autostart", pool, 1)
    for name in ("get_autostart", "is_active", "is_persistent"):
        assert await call(f"storage_pool_{name}", pool) == 1
    assert await call("storage_pool_lookup_by_name", "p") == await call("storage_pool_lookup_by_uuid", pool.uuid)
    assert await call("storage_pool_lookup_by_target_path", "/p") == pool
    assert (await call("storage_pool_get_info", pool)).state == 2
    assert "<name>p</name>" in await call("storage_pool_get_xml_desc", pool, 0)
    volume = await call("storage_vol_create_xml", pool, VOLUME_XML.format("v"), 0)
    copy = await call("storage_vol_create_xml_from", pool, VOLUME_XML.format("w"), volume, 0)
    assert await call("storage_pool_lookup_by_volume", volume) == pool
    assert await call("storage_pool_num_of_volumes", pool) == 2
    assert await call("storage_pool_list_volumes", pool, 9) == ["v", "w"]
    assert (await call("storage_pool_list_all_volumes", pool, 1, 0)).volumes == [volume, copy]
    assert await call("storage_vol_lookup_by_name", pool, "v") == volume
    assert await call("storage_vol_lookup_by_key", volume.key) == volume
    assert await call("storage_vol_lookup_by_path", await call("storage_vol_get_path", volume)) == volume
    assert (await call("storage_vol_get_info", volume)).capacity == 1 << 20
    assert (await call("storage_vol_get_info_flags", volume, 0)).type == 0
    assert "<name>v</name>" in await call("storage_vol_get_xml_desc", volume, 0)
    await call("storage_vol_resize", volume, 2 << 20, 0)
    await call("storage_vol_wipe", volume, 0)
    await call("storage_vol_wipe_pattern", volume, 0, 0)
    await call.refused(ErrorCode.INVALID_ARG, "storage_vol_wipe_pattern", volume, 3, 0)
    await call("storage_vol_upload", volume, 0, 10, 0)
    await call("storage_vol_download", volume, 0, 10, 0)
    for each in (volume, copy):
        await call("storage_vol_delete", each, 0)
    await call.refused(ErrorCode.NO_STORAGE_VOL, "storage_vol_get_path", StorageVol("p", "v", "/p/v"))
    await call("storage_pool_destroy", pool)
    await call("storage_pool_delete", pool, 0)
    await call("storage_pool_undefine", pool)
    await call("storage_pool_destroy", await call("storage_pool_create_xml", POOL_XML.format("q", "q"), 1))
    await call.refused(ErrorCode.NO_STORAGE_POOL, "storage_pool_is_active", StoragePool("p", pool.uuid))


async def secrets(call: Caller) -> None:
    secret = await call("secret_define_xml", SECRET_XML, 0)
    assert (await call("connect_list_all_secrets", 1, 2)).secrets == [secret]
    assert (await call("connect_list_all_secrets", 1, 4)).secrets == []
    assert await call("connect_num_of_secrets") == len(await call("connect_list_secrets", 9)) == 1
    assert await call("secret_lookup_by_uuid", secret.uuid) == await call("secret_lookup_by_usage", 2, "client.x")
    await call.refused(ErrorCode.NO_SECRET, "secret_get_value", secret, 0)
    await call("secret_set_value", secret, b"\0word", 0)
    assert await call("secret_get_value", secret, 0) == b"\0word"
    assert "word" not in await call("secret_get_xml_desc", secret, 0)
    await call.refused(ErrorCode.OPERATION_FAILED, "secret_define_xml", SECRET_XML, 0)
    await call.refused(ErrorCode.XML_ERROR, "secret_define_xml", "<secret><usage type='moon'/></secret>", 0)
    await call.refused(ErrorCode.XML_ERROR, "secret_define_xml", "<secret private='perhaps'/>", 0)
    private = await call("secret_define_xml", "<secret ephemeral='yes' private='yes'/>", 0)
    await call("secret_set_value", private, b"x", 0)
    await call.refused(ErrorCode.INVALID_SECRET, "secret_get_value", private, 0)
    await call("secret_undefine", secret)
    await call.refused(ErrorCode.NO_SECRET, "secret_undefine", secret)


async def leaving(call: Caller) -> None:
    await call("connect_close")


SCENARIOS = (
    connection, host, life, devices, saving, guest, tuning, snapshots, networks, storage, secrets, leaving,
)  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda each: each.__name__)
def test_procedures(scenario: Callable[[Caller], Any]) -> None:
    assert run(scenario).called


def test_every_procedure_is_answered_and_called_here_or_refused_with_a_reason() -> None:
    called = set().union(*(run(each).called for each in SCENARIOS))
    known = {each.name for program in (REMOTE, QEMU) for each in program.values() if not each.is_event}
    assert set(PROCEDURES) - called == set(), "answered, but called in no scenario"
    assert set(PROCEDURES) & set(REFUSALS) == set(), "both answered and refused"
    assert known - set(PROCEDURES) - set(REFUSALS) == set(), "neither answered nor refused"
    assert set(REFUSALS) <= known


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_says_why(name: str) -> None:
    procedure = REMOTE[name] if name in REMOTE else QEMU[name]
    session: Any = FakeSession()
    session.state = Client(Service({}, "none:///"), session, "test")
    with pytest.raises(ApiError, match="not supported by the connection driver") as caught:
        handle(session, Call(0, procedure, ()))
    assert str(caught.value).endswith(f"{name}: {REFUSALS[name]}")


def test_a_snapshot_of_nothing_is_not_found() -> None:
    async def scenario(call: Caller) -> None:
        web = await call("domain_lookup_by_name", "test")
        await call.refused(ErrorCode.NO_DOMAIN_SNAPSHOT, "domain_snapshot_get_xml_desc", Snapshot("x", web), 0)
        await call.refused(ErrorCode.NO_DOMAIN, "domain_get_info", Domain("x", bytes(16), -1))

    run(scenario)
