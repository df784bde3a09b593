"""A running domain looked at and adjusted: memory, vCPUs, disks, guest agent, console, keys."""

TABLE = """
20 domain_get_vcpus domain:read | domain:Domain max_info:int map_size:int -> info:VcpuInfo[] cpu_maps:bytes
26 domain_pin_vcpu domain:write | domain:Domain vcpu:uint cpu_map:bytes
30 domain_set_max_memory domain:write | domain:Domain memory:ulong
31 domain_set_memory domain:write | domain:Domain memory:ulong
32 domain_set_vcpus domain:write | domain:Domain vcpus:uint
56 domain_get_scheduler_type domain:read quick | domain:Domain -> type:str nparams:int
57 domain_get_scheduler_parameters domain:read | domain:Domain nparams:int -> params:TypedParam[]
58 domain_set_scheduler_parameters domain:write | domain:Domain params:TypedParam[]
64 domain_block_stats domain:read |
    domain:Domain path:str -> rd_requests:long rd_bytes:long wr_requests:long wr_bytes:long errs:long
65 domain_interface_stats domain:read |
    domain:Domain device:str -> rx_bytes:long rx_packets:long rx_errs:long rx_drop:long tx_bytes:long
    tx_packets:long tx_errs:long tx_drop:long
103 domain_block_peek domain:block-read | domain:Domain path:str offset:ulong size:uint flags:uint -> buffer:bytes
104 domain_memory_peek domain:mem-read | domain:Domain offset:ulong size:uint flags:uint -> buffer:bytes
121 domain_get_security_label domain:read | domain:Domain -> label:text[] enforcing:int
159 domain_memory_stats domain:read | domain:Domain max_stats:uint flags:uint -> stats:MemoryStat[]
163 domain_get_job_info domain:read quick |
    domain:Domain -> type:int time_elapsed:ulong time_remaining:ulong data_total:ulong data_processed:ulong
    data_remaining:ulong memory_total:ulong memory_processed:ulong memory_remaining:ulong file_total:ulong
    file_processed:ulong file_remaining:ulong
194 domain_get_block_info domain:read |
    domain:Domain path:str flags:uint -> allocation:ulong capacity:ulong physical:ulong
197 domain_set_memory_parameters domain:write | domain:Domain params:TypedParam[] flags:uint
198 domain_get_memory_parameters domain:read | domain:Domain nparams:int flags:uint -> params:TypedParam[] nparams:int
199 domain_set_vcpus_flags domain:write | domain:Domain vcpus:uint flags:uint
200 domain_get_vcpus_flags domain:read,flags&8?domain:write | domain:Domain flags:uint -> count:int
201 domain_open_console domain:open-device both | domain:Domain dev_name:str? flags:uint
204 domain_set_memory_flags domain:write | domain:Domain memory:ulong flags:uint
205 domain_set_blkio_parameters domain:write | domain:Domain params:TypedParam[] flags:uint
206 domain_get_blkio_parameters domain:read | domain:Domain nparams:int flags:uint -> params:TypedParam[] nparams:int
210 domain_inject_nmi domain:inject-nmi | domain:Domain flags:uint
211 domain_screenshot domain:screenshot down | domain:Domain screen:uint flags:uint -> mime:str?
219 domain_set_scheduler_parameters_flags domain:write | domain:Domain params:TypedParam[] flags:uint
223 domain_get_scheduler_parameters_flags domain:read | domain:Domain nparams:int flags:uint -> params:TypedParam[]
225 domain_pin_vcpu_flags domain:write | domain:Domain vcpu:uint cpu_map:bytes flags:uint
226 domain_send_key domain:send-input | domain:Domain codeset:uint holdtime:uint keycodes:uint[] flags:uint
229 domain_get_control_info domain:read quick | domain:Domain flags:uint -> state:uint details:uint state_time:ulong
230 domain_get_vcpu_pin_info domain:read |
    domain:Domain max_maps:int map_size:int flags:uint -> cpu_maps:bytes count:int
237 domain_block_job_abort domain:block-write | domain:Domain path:str flags:uint
238 domain_get_block_job_info domain:read |
    domain:Domain path:str flags:uint -> found:int type:int bandwidth:ulong current:ulong end:ulong
239 domain_block_job_set_speed domain:block-write | domain:Domain path:str bandwidth:ulong flags:uint
240 domain_block_pull domain:block-write | domain:Domain path:str bandwidth:ulong flags:uint
243 domain_block_stats_flags domain:read |
    domain:Domain path:str nparams:int flags:uint -> params:TypedParam[] nparams:int
249 domain_open_graphics domain:open-graphics fds-in | domain:Domain idx:uint flags:uint
251 domain_block_resize domain:block-write | domain:Domain disk:str size:ulong flags:uint
252 domain_set_block_io_tune domain:write | domain:Domain disk:str params:TypedParam[] flags:uint
253 domain_get_block_io_tune domain:read |
    domain:Domain disk:str? nparams:int flags:uint -> params:TypedParam[] nparams:int
254 domain_set_numa_parameters domain:write | domain:Domain params:TypedParam[] flags:uint
255 domain_get_numa_parameters domain:read | domain:Domain nparams:int flags:uint -> params:TypedParam[] nparams:int
256 domain_set_interface_parameters domain:write | domain:Domain device:str params:TypedParam[] flags:uint
257 domain_get_interface_parameters domain:read |
    domain:Domain device:str nparams:int flags:uint -> params:TypedParam[] nparams:int
261 domain_pm_suspend_for_duration domain:pm-control | domain:Domain target:uint duration:ulong flags:uint
262 domain_get_cpu_stats domain:read |
    domain:Domain nparams:uint start_cpu:int ncpus:uint flags:uint -> params:TypedParam[] nparams:int
263 domain_get_disk_errors domain:read | domain:Domain maxerrors:uint flags:uint -> errors:DiskError[] nerrors:int
264 domain_set_metadata domain:write | domain:Domain type:int metadata:str? key:str? uri:str? flags:uint
265 domain_get_metadata domain:read quick | domain:Domain type:int uri:str? flags:uint -> metadata:str
266 domain_block_rebase domain:block-write | domain:Domain path:str base:str? bandwidth:ulong flags:uint
267 domain_pm_wakeup domain:pm-control | domain:Domain flags:uint
277 domain_get_hostname domain:write | domain:Domain flags:uint -> hostname:str
278 domain_get_security_label_list domain:read | domain:Domain -> labels:SecurityLabel[] count:int
279 domain_pin_emulator domain:write | domain:Domain cpu_map:bytes flags:uint
280 domain_get_emulator_pin_info domain:read | domain:Domain map_size:int flags:uint -> cpu_maps:bytes count:int
290 domain_block_commit domain:block-write | domain:Domain disk:str base:str? top:str? bandwidth:ulong flags:uint
294 domain_fstrim domain:fs-trim | domain:Domain mount_point:str? minimum:ulong flags:uint
295 domain_send_process_signal domain:send-signal | domain:Domain pid_value:long signum:uint flags:uint
296 domain_open_channel domain:open-device both | domain:Domain name:str? flags:uint
298 domain_get_job_stats domain:read quick | domain:Domain flags:uint -> type:int params:TypedParam[]
308 domain_set_memory_stats_period domain:write | domain:Domain period:int flags:uint
335 domain_fsfreeze domain:fs-freeze | domain:Domain mountpoints:str[] flags:uint -> filesystems:int
336 domain_fsthaw domain:fs-freeze | domain:Domain mountpoints:str[] flags:uint -> filesystems:int
337 domain_get_time domain:write | domain:Domain flags:uint -> seconds:long nseconds:uint
338 domain_set_time domain:set-time | domain:Domain seconds:long nseconds:uint flags:uint
343 domain_open_graphics_fd domain:open-graphics fds-out | domain:Domain idx:uint flags:uint
345 domain_block_copy domain:block-write | domain:Domain path:str xml:str params:TypedParam[] flags:uint
349 domain_get_fsinfo domain:fs-freeze | domain:Domain flags:uint -> info:Filesystem[] count:uint
351 domain_get_iothread_info domain:read | domain:Domain flags:uint -> info:IothreadInfo[] count:uint
352 domain_pin_iothread domain:write | domain:Domain iothread_id:uint cpu_map:bytes flags:uint
353 domain_interface_addresses domain:read,source=1?domain:write |
    domain:Domain source:uint flags:uint -> interfaces:GuestInterface[]
355 domain_add_iothread domain:write | domain:Domain iothread_id:uint flags:uint
356 domain_del_iothread domain:write | domain:Domain iothread_id:uint flags:uint
357 domain_set_user_password domain:set-password | domain:Domain user:str? password:str? flags:uint
371 domain_get_guest_vcpus domain:write | domain:Domain flags:uint -> params:TypedParam[]
372 domain_set_guest_vcpus domain:write | domain:Domain cpu_map:str state:int flags:uint
384 domain_set_vcpu domain:write | domain:Domain cpu_map:str state:int flags:uint
386 domain_set_block_threshold domain:write | domain:Domain dev:str threshold:ulong flags:uint
390 domain_set_lifecycle_action domain:write | domain:Domain type:uint action:uint flags:uint
396 domain_get_launch_security_info domain:read-secure | domain:Domain flags:uint -> params:TypedParam[]
402 domain_set_iothread_params domain:write | domain:Domain iothread_id:uint params:TypedParam[] flags:uint
418 domain_get_guest_info domain:write | domain:Domain types:uint flags:uint -> params:TypedParam[]
420 domain_agent_set_response_timeout domain:write | domain:Domain timeout:int flags:uint -> result:int
424 domain_authorized_ssh_keys_get domain:write | domain:Domain user:str flags:uint -> keys:str[]
425 domain_authorized_ssh_keys_set domain:write | domain:Domain user:str keys:str[] flags:uint
426 domain_get_messages domain:read quick | domain:Domain flags:uint -> messages:str[]
427 domain_start_dirty_rate_calc domain:write | domain:Domain seconds:int flags:uint
439 domain_set_launch_security_state domain:write | domain:Domain params:TypedParam[] flags:uint
448 domain_graphics_reload domain:write | domain:Domain type:uint flags:uint
451 domain_set_throttle_group domain:write | domain:Domain group:str params:TypedParam[] flags:uint
452 domain_del_throttle_group domain:write | domain:Domain group:str? flags:uint
"""
