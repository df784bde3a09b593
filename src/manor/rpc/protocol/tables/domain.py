"""Domains: defining, life cycle, description, state."""

TABLE = """
8 domain_attach_device domain:write | domain:Domain xml:str
9 domain_create domain:start | domain:Domain
10 domain_create_xml domain:write,domain:start | xml:str flags:uint -> domain:Domain
11 domain_define_xml domain:write,domain:save | xml:str -> domain:Domain
12 domain_destroy domain:stop quick | domain:Domain
13 domain_detach_device domain:write | domain:Domain xml:str
14 domain_get_xml_desc domain:read,flags&1?domain:read-secure quick | domain:Domain flags:uint -> xml:str
15 domain_get_autostart domain:read quick | domain:Domain -> autostart:int
16 domain_get_info domain:read quick |
    domain:Domain -> state:uint max_memory:ulong memory:ulong vcpus:uint cpu_time:ulong
17 domain_get_max_memory domain:read quick | domain:Domain -> memory:ulong
18 domain_get_max_vcpus domain:read | domain:Domain -> count:int
19 domain_get_os_type domain:getattr quick | domain:Domain -> type:str
22 domain_lookup_by_id domain:getattr quick | id:int -> domain:Domain
23 domain_lookup_by_name domain:getattr quick | name:str -> domain:Domain
24 domain_lookup_by_uuid domain:getattr quick | uuid:uuid -> domain:Domain
27 domain_reboot domain:init-control | domain:Domain flags:uint
28 domain_resume domain:suspend | domain:Domain
29 domain_set_autostart domain:write quick | domain:Domain autostart:int
33 domain_shutdown domain:init-control | domain:Domain
34 domain_suspend domain:suspend | domain:Domain
35 domain_undefine domain:delete | domain:Domain
53 domain_core_dump domain:core-dump | domain:Domain path:str flags:uint
54 domain_restore domain:start,domain:write | path:str
55 domain_save domain:hibernate | domain:Domain path:str
150 domain_is_active domain:getattr quick | domain:Domain -> active:int
151 domain_is_persistent domain:getattr quick | domain:Domain -> persistent:int
160 domain_attach_device_flags domain:write | domain:Domain xml:str flags:uint
161 domain_detach_device_flags domain:write | domain:Domain xml:str flags:uint
164 domain_abort_job domain:write quick | domain:Domain
174 domain_update_device_flags domain:write | domain:Domain xml:str flags:uint
182 domain_managed_save domain:hibernate | domain:Domain flags:uint
183 domain_has_managed_save_image domain:read quick | domain:Domain flags:uint -> result:int
184 domain_managed_save_remove domain:hibernate | domain:Domain flags:uint
196 domain_create_with_flags domain:start | domain:Domain flags:uint -> domain:Domain
202 domain_is_updated domain:getattr quick | domain:Domain -> updated:int
212 domain_get_state domain:read quick | domain:Domain flags:uint -> state:int reason:int
231 domain_undefine_flags domain:delete | domain:Domain flags:uint
232 domain_save_flags domain:hibernate | domain:Domain path:str xml:str? flags:uint
233 domain_restore_flags domain:start,domain:write | path:str xml:str? flags:uint
234 domain_destroy_flags domain:stop quick | domain:Domain flags:uint
235 domain_save_image_get_xml_desc domain:read,domain:read-secure quick | file:str flags:uint -> xml:str
236 domain_save_image_define_xml domain:hibernate | file:str xml:str flags:uint
245 domain_reset domain:reset | domain:Domain flags:uint
258 domain_shutdown_flags domain:init-control | domain:Domain flags:uint
309 domain_create_xml_with_files domain:write,domain:start fds-in | xml:str flags:uint -> domain:Domain
310 domain_create_with_files domain:start fds-in | domain:Domain flags:uint -> domain:Domain
334 domain_core_dump_with_format domain:core-dump | domain:Domain path:str dump_format:uint flags:uint
350 domain_define_xml_flags domain:write,domain:save | xml:str flags:uint -> domain:Domain
358 domain_rename domain:write | domain:Domain new_name:str? flags:uint -> retcode:int
388 domain_managed_save_get_xml_desc domain:read,flags&1?domain:read-secure quick | domain:Domain flags:uint -> xml:str
389 domain_managed_save_define_xml domain:hibernate | domain:Domain xml:str? flags:uint
392 domain_detach_device_alias domain:write | domain:Domain alias:str flags:uint
440 domain_save_params domain:hibernate | domain:Domain params:TypedParam[] flags:uint
441 domain_restore_params domain:start,domain:write | params:TypedParam[] flags:uint
442 domain_abort_job_flags domain:write quick | domain:Domain flags:uint
443 domain_fd_associate domain:write fds-in | domain:Domain name:str flags:uint
449 domain_get_autostart_once domain:read quick | domain:Domain -> autostart:int
450 domain_set_autostart_once domain:write quick | domain:Domain autostart:int
"""
