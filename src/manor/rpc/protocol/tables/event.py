"""Events: how to ask for them, and the messages that carry them."""

TABLE = """
105 connect_domain_event_register connect:search-domains quick | -> registered:int
106 connect_domain_event_deregister connect:search-domains quick | -> registered:int
107 domain_event_lifecycle event | domain:Domain event:int detail:int
167 connect_domain_event_register_any connect:search-domains quick | event_id:int
168 connect_domain_event_deregister_any connect:search-domains quick | event_id:int
169 domain_event_reboot event | domain:Domain
170 domain_event_rtc_change event | domain:Domain offset:long
171 domain_event_watchdog event | domain:Domain action:int
172 domain_event_io_error event | domain:Domain src_path:str dev_alias:str action:int
173 domain_event_graphics event |
    domain:Domain phase:int local:GraphicsAddress remote:GraphicsAddress auth_scheme:str
    subject:GraphicsIdentity[]
195 domain_event_io_error_reason event | domain:Domain src_path:str dev_alias:str action:int reason:str
224 domain_event_control_error event | domain:Domain
241 domain_event_block_job event | domain:Domain path:str type:int status:int
248 domain_event_disk_change event | domain:Domain old_src_path:str? new_src_path:str? dev_alias:str reason:int
268 domain_event_tray_change event | domain:Domain dev_alias:str reason:int
269 domain_event_pmwakeup event | domain:Domain
270 domain_event_pmsuspend event | domain:Domain
276 domain_event_balloon_change event | domain:Domain actual:ulong
292 domain_event_pmsuspend_disk event | domain:Domain
311 domain_event_device_removed event | domain:Domain dev_alias:str
313 connect_network_event_register_any connect:search-networks quick |
    event_id:int network:Network? -> callback_id:int
314 connect_network_event_deregister_any connect:search-networks quick | callback_id:int
315 network_event_lifecycle event | callback_id:int network:Network event:int detail:int
316 connect_domain_event_callback_register_any connect:search-domains quick |
    event_id:int domain:Domain? -> callback_id:int
317 connect_domain_event_callback_deregister_any connect:search-domains quick | callback_id:int
318 domain_event_callback_lifecycle event | callback_id:int domain:Domain event:int detail:int
319 domain_event_callback_reboot event | callback_id:int domain:Domain
320 domain_event_callback_rtc_change event | callback_id:int domain:Domain offset:long
321 domain_event_callback_watchdog event | callback_id:int domain:Domain action:int
322 domain_event_callback_io_error event | callback_id:int domain:Domain src_path:str dev_alias:str action:int
323 domain_event_callback_graphics event |
    callback_id:int domain:Domain phase:int local:GraphicsAddress remote:GraphicsAddress auth_scheme:str
    subject:GraphicsIdentity[]
324 domain_event_callback_io_error_reason event |
    callback_id:int domain:Domain src_path:str dev_alias:str action:int reason:str
325 domain_event_callback_control_error event | callback_id:int domain:Domain
326 domain_event_callback_block_job event | callback_id:int domain:Domain path:str type:int status:int
327 domain_event_callback_disk_change event |
    callback_id:int domain:Domain old_src_path:str? new_src_path:str? dev_alias:str reason:int
328 domain_event_callback_tray_change event | callback_id:int domain:Domain dev_alias:str reason:int
329 domain_event_callback_pmwakeup event | callback_id:int reason:int domain:Domain
330 domain_event_callback_pmsuspend event | callback_id:int reason:int domain:Domain
331 domain_event_callback_balloon_change event | callback_id:int domain:Domain actual:ulong
332 domain_event_callback_pmsuspend_disk event | callback_id:int reason:int domain:Domain
333 domain_event_callback_device_removed event | callback_id:int domain:Domain dev_alias:str
339 domain_event_block_job_2 event | callback_id:int domain:Domain dst:str type:int status:int
346 domain_event_callback_tunable event | callback_id:int domain:Domain params:TypedParam[]
348 domain_event_callback_agent_lifecycle event | callback_id:int domain:Domain state:int reason:int
354 domain_event_callback_device_added event | callback_id:int domain:Domain dev_alias:str
359 domain_event_callback_migration_iteration event | callback_id:int domain:Domain iteration:int
362 connect_event_connection_closed event | reason:int
363 domain_event_callback_job_completed event | callback_id:int domain:Domain params:TypedParam[]
365 domain_get_perf_events domain:read | domain:Domain flags:uint -> params:TypedParam[]
366 domain_set_perf_events domain:write | domain:Domain params:TypedParam[] flags:uint
367 domain_event_callback_device_removal_failed event | callback_id:int domain:Domain dev_alias:str
368 connect_storage_pool_event_register_any connect:search-storage-pools quick |
    event_id:int pool:StoragePool? -> callback_id:int
369 connect_storage_pool_event_deregister_any connect:search-storage-pools quick | callback_id:int
370 storage_pool_event_lifecycle event | callback_id:int pool:StoragePool event:int detail:int
373 storage_pool_event_refresh event | callback_id:int pool:StoragePool
374 connect_node_device_event_register_any connect:search-node-devices quick |
    event_id:int device:NodeDevice? -> callback_id:int
375 connect_node_device_event_deregister_any connect:search-node-devices quick | callback_id:int
376 node_device_event_lifecycle event | callback_id:int device:NodeDevice event:int detail:int
377 node_device_event_update event | callback_id:int device:NodeDevice
379 domain_event_callback_metadata_change event | callback_id:int domain:Domain type:int namespace_uri:str?
380 connect_secret_event_register_any connect:search-secrets quick | event_id:int secret:Secret? -> callback_id:int
381 connect_secret_event_deregister_any connect:search-secrets quick | callback_id:int
382 secret_event_lifecycle event | callback_id:int secret:Secret event:int detail:int
383 secret_event_value_changed event | callback_id:int secret:Secret
385 domain_event_block_threshold event | callback_id:int domain:Domain dev:str path:str? threshold:ulong excess:ulong
423 domain_event_memory_failure event | callback_id:int domain:Domain recipient:int action:int flags:uint
438 domain_event_memory_device_size_change event | callback_id:int domain:Domain alias:str size:ulong
446 network_event_callback_metadata_change event | callback_id:int network:Network type:int namespace_uri:str?
453 domain_event_nic_mac_change event | callback_id:int domain:Domain alias:str old_mac:str new_mac:str
"""
