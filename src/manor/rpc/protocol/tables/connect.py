"""Authentication, the connection itself, and what it can do."""

TABLE = """
1 connect_open none quick | name:str? flags:uint
2 connect_close none quick |
3 connect_get_type connect:getattr quick | -> type:str
4 connect_get_version connect:getattr quick | -> version:ulong
5 connect_get_max_vcpus connect:read quick | type:str? -> max_vcpus:int
7 connect_get_capabilities connect:read quick | -> capabilities:str
59 connect_get_hostname connect:getattr quick | -> hostname:str
60 connect_supports_feature none quick | feature:int -> supported:int
66 auth_list none quick | -> types:int[]
67 auth_sasl_init none quick | -> mechanisms:str
68 auth_sasl_start none quick | mechanism:str has_data:int data:char[] -> complete:int has_data:int data:char[]
69 auth_sasl_step none quick | has_data:int data:char[] -> complete:int has_data:int data:char[]
70 auth_polkit none quick | -> complete:int
110 connect_get_uri connect:getattr quick | -> uri:str
135 connect_domain_xml_from_native connect:write | native_format:str native_config:str flags:uint -> domain_xml:str
136 connect_domain_xml_to_native connect:write | native_format:str domain_xml:str flags:uint -> native_config:str
149 connect_is_secure connect:getattr quick | -> secure:int
157 connect_get_lib_version connect:getattr quick | -> version:ulong
158 connect_compare_cpu connect:read | xml:str flags:uint -> result:int
162 connect_baseline_cpu connect:read | cpus:str[] flags:uint -> cpu:str
203 connect_get_sysinfo connect:read quick | flags:uint -> sysinfo:str
312 connect_get_cpu_model_names connect:read quick | arch:str need_results:int flags:uint -> models:str[] count:int
342 connect_get_domain_capabilities connect:write |
    emulator:str? arch:str? machine:str? virt_type:str? flags:uint -> capabilities:str
360 connect_register_close_callback none quick |
361 connect_unregister_close_callback none quick |
393 connect_compare_hypervisor_cpu connect:write |
    emulator:str? arch:str? machine:str? virt_type:str? cpu:str flags:uint -> result:int
394 connect_baseline_hypervisor_cpu connect:write |
    emulator:str? arch:str? machine:str? virt_type:str? cpus:str[] flags:uint -> cpu:str
403 connect_get_storage_pool_capabilities connect:read quick | flags:uint -> capabilities:str
419 connect_set_identity none quick | params:TypedParam[] flags:uint
"""
