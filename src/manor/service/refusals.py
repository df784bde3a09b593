"""Procedures that nobody answers, and why: what a client is told, and what the reference says.

Whoever writes one takes its name out here; a test compares this list with what there is.
"""

from __future__ import annotations

from typing import Final

_TABLE: Final = {
    "a running domain is not moved to another host": """
        domain_migrate_prepare domain_migrate_perform domain_migrate_finish domain_migrate_prepare2
        domain_migrate_finish2 domain_migrate_prepare_tunnel domain_migrate_begin3 domain_migrate_prepare3
        domain_migrate_prepare_tunnel3 domain_migrate_perform3 domain_migrate_finish3 domain_migrate_confirm3
        domain_migrate_begin3_params domain_migrate_prepare3_params domain_migrate_prepare_tunnel3_params
        domain_migrate_perform3_params domain_migrate_finish3_params domain_migrate_confirm3_params
        domain_migrate_set_max_downtime domain_migrate_get_max_downtime domain_migrate_set_max_speed
        domain_migrate_get_max_speed domain_migrate_get_compression_cache domain_migrate_set_compression_cache
        domain_migrate_start_post_copy""",
    "the daemon knows its clients by the socket or the certificate; AUTH_LIST offers no log-in":
        "auth_sasl_init auth_sasl_start auth_sasl_step auth_polkit",
    "pools are directories; name one with <target><path>": "connect_find_storage_pool_sources",
    "the memory of a guest is not written to a file for a debugger; have the guest write it, or use `save`":
        "domain_core_dump domain_core_dump_with_format",
    "read the guest's memory and disks from within; a volume can be downloaded":
        "domain_block_peek domain_memory_peek",
    "the machine has no display; use its console":
        "domain_screenshot domain_open_graphics domain_open_graphics_fd domain_graphics_reload",
    "the machine has no keyboard; use its console": "domain_send_key",
    "the machine has no NMI button; use `reset`": "domain_inject_nmi",
    "the machine has no sleep states; use `suspend`": "domain_pm_suspend_for_duration domain_pm_wakeup",
    "ask the guest's agent to run kill": "domain_send_process_signal",
    "the only channel of a guest is its agent's; use the agent's commands": "domain_open_channel",
    "descriptors are not passed into guests; name files and devices in the description":
        "domain_create_xml_with_files domain_create_with_files domain_fd_associate",
    "disks are not copied while they are in use; stop the domain and use `vol-clone` or `manor image`":
        "domain_block_pull domain_block_commit domain_block_rebase domain_block_copy",
    "the limits of disks are in their descriptions; use `blkdeviotune --config`":
        "domain_set_block_threshold domain_set_throttle_group domain_del_throttle_group",
    "checkpoints and backups are not made; take a snapshot":
        "domain_checkpoint_create_xml domain_backup_begin",
    "vCPUs have no places of their own; use `setvcpus`": "domain_set_vcpu",
    "all requests of a machine have one thread": "domain_set_iothread_params",
    "the memory of guests is not encrypted":
        "node_get_sev_info domain_set_launch_security_state",
    "how fast a guest writes to its memory is not measured": "domain_start_dirty_rate_calc",
    "autostart is for every start of the daemon; use `autostart`":
        "domain_get_autostart_once domain_set_autostart_once",
    "processor models here are whole, and their features are not compared; see the domain capabilities": """
        connect_compare_cpu connect_baseline_cpu connect_compare_hypervisor_cpu connect_baseline_hypervisor_cpu""",
    "a machine has no description but this one; `manor run --help` tells the options":
        "connect_domain_xml_from_native connect_domain_xml_to_native",
    "the host belongs to its administrator; it is looked at, not changed": """
        interface_define_xml interface_undefine interface_create interface_destroy interface_change_begin
        interface_change_commit interface_change_rollback node_suspend_for_duration node_set_memory_parameters
        node_alloc_pages""",
    "devices of the host are not given to guests, nor made": """
        node_device_dettach node_device_detach_flags node_device_re_attach node_device_reset node_device_create_xml
        node_device_destroy node_device_define_xml node_device_undefine node_device_create node_device_set_autostart
        node_device_update""",
    "network filters are not applied; filter in the guest, or on the bridge":
        "nwfilter_define_xml nwfilter_define_xml_flags nwfilter_binding_create_xml",
    "ports of a network come and go with the domains on it": "network_port_create_xml",
    "there is no monitor; a machine's control socket is described in the reference": """
        qemu_domain_monitor_command qemu_domain_monitor_command_with_files qemu_domain_attach
        qemu_connect_domain_monitor_event_register qemu_connect_domain_monitor_event_deregister""",
}  # fmt: skip

REFUSALS: Final = {name: reason for reason, names in _TABLE.items() for name in names.split()}
"""Procedure -> the reason, and what can be done instead."""
