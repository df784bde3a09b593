"""The host: its size, load and memory."""

TABLE = """
6 node_get_info connect:read quick |
    -> model:text[32] memory:ulong cpus:int mhz:int nodes:int sockets:int cores:int threads:int
101 node_get_cells_free_memory connect:read quick | start_cell:int max_cells:int -> cells:ulong[]
102 node_get_free_memory connect:read quick | -> free_memory:ulong
111 node_num_of_devices connect:search-node-devices quick | cap:str? flags:uint -> count:int
112 node_list_devices connect:search-node-devices quick | cap:str? max_names:int flags:uint -> names:str[]
122 node_get_security_model connect:read quick | -> model:text[] doi:text[]
227 node_get_cpu_stats connect:read quick | cpu_num:int nparams:int flags:uint -> params:NodeStat[] nparams:int
228 node_get_memory_stats connect:read quick | nparams:int cell_num:int flags:uint -> params:NodeStat[] nparams:int
250 node_suspend_for_duration connect:pm-control | target:uint duration:ulong flags:uint
288 node_set_memory_parameters connect:write | params:TypedParam[] flags:uint
289 node_get_memory_parameters connect:read | nparams:int flags:uint -> params:TypedParam[] nparams:int
293 node_get_cpu_map connect:read quick |
    need_map:int need_online:int flags:uint -> cpu_map:bytes online:uint count:int
340 node_get_free_pages connect:read | pages:uint[] start_cell:int cell_count:uint flags:uint -> counts:ulong[]
347 node_alloc_pages connect:write |
    page_sizes:uint[] page_counts:ulong[] start_cell:int cell_count:uint flags:uint -> count:int
395 node_get_sev_info connect:write | nparams:int flags:uint -> params:TypedParam[] nparams:int
"""
