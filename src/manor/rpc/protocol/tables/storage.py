"""Storage pools and volumes."""

TABLE = """
76 storage_pool_create_xml storage-pool:write,storage-pool:start | xml:str flags:uint -> pool:StoragePool
77 storage_pool_define_xml storage-pool:write,storage-pool:save | xml:str flags:uint -> pool:StoragePool
78 storage_pool_create storage-pool:start | pool:StoragePool flags:uint
79 storage_pool_build storage-pool:format | pool:StoragePool flags:uint
80 storage_pool_destroy storage-pool:stop | pool:StoragePool
81 storage_pool_delete storage-pool:format | pool:StoragePool flags:uint
82 storage_pool_undefine storage-pool:delete | pool:StoragePool
83 storage_pool_refresh storage-pool:refresh | pool:StoragePool flags:uint
84 storage_pool_lookup_by_name storage-pool:getattr quick | name:str -> pool:StoragePool
85 storage_pool_lookup_by_uuid storage-pool:getattr quick | uuid:uuid -> pool:StoragePool
86 storage_pool_lookup_by_volume storage-pool:getattr | volume:StorageVol -> pool:StoragePool
87 storage_pool_get_info storage-pool:read quick |
    pool:StoragePool -> state:uint capacity:ulong allocation:ulong available:ulong
88 storage_pool_get_xml_desc storage-pool:read quick | pool:StoragePool flags:uint -> xml:str
89 storage_pool_get_autostart storage-pool:read quick | pool:StoragePool -> autostart:int
90 storage_pool_set_autostart storage-pool:write quick | pool:StoragePool autostart:int
91 storage_pool_num_of_volumes storage-pool:search-storage-vols quick | pool:StoragePool -> count:int
92 storage_pool_list_volumes storage-pool:search-storage-vols quick | pool:StoragePool max_names:int -> names:str[]
93 storage_vol_create_xml storage-vol:create | pool:StoragePool xml:str flags:uint -> volume:StorageVol
94 storage_vol_delete storage-vol:delete | volume:StorageVol flags:uint
95 storage_vol_lookup_by_name storage-vol:getattr quick | pool:StoragePool name:str -> volume:StorageVol
96 storage_vol_lookup_by_key storage-vol:getattr | key:str -> volume:StorageVol
97 storage_vol_lookup_by_path storage-vol:getattr | path:str -> volume:StorageVol
98 storage_vol_get_info storage-vol:read | volume:StorageVol -> type:int capacity:ulong allocation:ulong
99 storage_vol_get_xml_desc storage-vol:read quick | volume:StorageVol flags:uint -> xml:str
100 storage_vol_get_path storage-vol:read quick | volume:StorageVol -> name:str
125 storage_vol_create_xml_from storage-vol:create |
    pool:StoragePool xml:str source:StorageVol flags:uint -> volume:StorageVol
154 storage_pool_is_active storage-pool:getattr quick | pool:StoragePool -> active:int
155 storage_pool_is_persistent storage-pool:getattr quick | pool:StoragePool -> persistent:int
165 storage_vol_wipe storage-vol:format | volume:StorageVol flags:uint
208 storage_vol_upload storage-vol:data-write up | volume:StorageVol offset:ulong length:ulong flags:uint
209 storage_vol_download storage-vol:data-read down | volume:StorageVol offset:ulong length:ulong flags:uint
259 storage_vol_wipe_pattern storage-vol:format | volume:StorageVol algorithm:uint flags:uint
260 storage_vol_resize storage-vol:resize | volume:StorageVol capacity:ulong flags:uint
282 storage_pool_list_all_volumes storage-pool:search-storage-vols quick |
    pool:StoragePool need_results:int flags:uint -> volumes:StorageVol[] count:uint
378 storage_vol_get_info_flags storage-vol:read |
    volume:StorageVol flags:uint -> type:int capacity:ulong allocation:ulong
391 storage_pool_lookup_by_target_path storage-pool:getattr | path:str -> pool:StoragePool
"""
