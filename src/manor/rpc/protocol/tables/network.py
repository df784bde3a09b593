"""Virtual networks and their ports."""

TABLE = """
39 network_create network:start | network:Network
40 network_create_xml network:write,network:start | xml:str -> network:Network
41 network_define_xml network:write,network:save | xml:str -> network:Network
42 network_destroy network:stop | network:Network
43 network_get_xml_desc network:read quick | network:Network flags:uint -> xml:str
44 network_get_autostart network:read quick | network:Network -> autostart:int
45 network_get_bridge_name network:read quick | network:Network -> name:str
46 network_lookup_by_name network:getattr quick | name:str -> network:Network
47 network_lookup_by_uuid network:getattr quick | uuid:uuid -> network:Network
48 network_set_autostart network:write quick | network:Network autostart:int
49 network_undefine network:delete | network:Network
152 network_is_active network:getattr quick | network:Network -> active:int
153 network_is_persistent network:getattr quick | network:Network -> persistent:int
291 network_update network:write | network:Network command:uint section:uint parent_index:int xml:str flags:uint
341 network_get_dhcp_leases network:read quick |
    network:Network mac:str? need_results:int flags:uint -> leases:DhcpLease[:65536] count:uint
404 network_list_all_ports network:search-ports quick |
    network:Network need_results:int flags:uint -> ports:NetworkPort[] count:uint
405 network_port_lookup_by_uuid network-port:getattr quick | network:Network uuid:uuid -> port:NetworkPort
406 network_port_create_xml network-port:create | network:Network xml:str flags:uint -> port:NetworkPort
407 network_port_get_parameters network-port:read quick |
    port:NetworkPort nparams:int flags:uint -> params:TypedParam[] nparams:int
408 network_port_set_parameters network-port:write | port:NetworkPort params:TypedParam[] flags:uint
409 network_port_get_xml_desc network-port:read quick | port:NetworkPort flags:uint -> xml:str
410 network_port_delete network-port:delete | port:NetworkPort flags:uint
432 network_define_xml_flags network:write,network:save | xml:str flags:uint -> network:Network
437 network_create_xml_flags network:write,network:start | xml:str flags:uint -> network:Network
444 network_set_metadata network:write | network:Network type:int metadata:str? key:str? uri:str? flags:uint
445 network_get_metadata network:read quick | network:Network type:int uri:str? flags:uint -> metadata:str
"""
