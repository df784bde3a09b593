"""What a connection holds: lists and counts of domains, networks, pools and the rest."""

TABLE = """
21 connect_list_defined_domains connect:search-domains quick | max_names:int -> names:str[]
25 connect_num_of_defined_domains connect:search-domains quick | -> count:int
36 connect_list_defined_networks connect:search-networks quick | max_names:int -> names:str[]
37 connect_list_domains connect:search-domains quick | max_ids:int -> ids:int[]
38 connect_list_networks connect:search-networks quick | max_names:int -> names:str[]
50 connect_num_of_defined_networks connect:search-networks quick | -> count:int
51 connect_num_of_domains connect:search-domains quick | -> count:int
52 connect_num_of_networks connect:search-networks quick | -> count:int
71 connect_num_of_storage_pools connect:search-storage-pools quick | -> count:int
72 connect_list_storage_pools connect:search-storage-pools quick | max_names:int -> names:str[]
73 connect_num_of_defined_storage_pools connect:search-storage-pools quick | -> count:int
74 connect_list_defined_storage_pools connect:search-storage-pools quick | max_names:int -> names:str[]
75 connect_find_storage_pool_sources connect:detect-storage-pools | type:str source_spec:str? flags:uint -> xml:str
126 connect_num_of_interfaces connect:search-interfaces quick | -> count:int
127 connect_list_interfaces connect:search-interfaces quick | max_names:int -> names:str[]
137 connect_num_of_defined_interfaces connect:search-interfaces quick | -> count:int
138 connect_list_defined_interfaces connect:search-interfaces quick | max_names:int -> names:str[]
139 connect_num_of_secrets connect:search-secrets quick | -> count:int
140 connect_list_secrets connect:search-secrets quick | max_uuids:int -> uuids:str[]
178 connect_num_of_nwfilters connect:search-nwfilters quick | -> count:int
179 connect_list_nwfilters connect:search-nwfilters quick | max_names:int -> names:str[]
273 connect_list_all_domains connect:search-domains quick | need_results:int flags:uint -> domains:Domain[] count:uint
281 connect_list_all_storage_pools connect:search-storage-pools quick |
    need_results:int flags:uint -> pools:StoragePool[] count:uint
283 connect_list_all_networks connect:search-networks quick |
    need_results:int flags:uint -> networks:Network[] count:uint
284 connect_list_all_interfaces connect:search-interfaces quick |
    need_results:int flags:uint -> interfaces:Interface[] count:uint
285 connect_list_all_node_devices connect:search-node-devices quick |
    need_results:int flags:uint -> devices:NodeDevice[:65536] count:uint
286 connect_list_all_nwfilters connect:search-nwfilters quick |
    need_results:int flags:uint -> filters:Nwfilter[] count:uint
287 connect_list_all_secrets connect:search-secrets quick | need_results:int flags:uint -> secrets:Secret[] count:uint
344 connect_get_all_domain_stats connect:search-domains |
    domains:Domain[] stats:uint flags:uint -> stats:DomainStats[:262144]
401 connect_list_all_nwfilter_bindings connect:search-nwfilter-bindings quick |
    need_results:int flags:uint -> bindings:NwfilterBinding[] count:uint
"""
