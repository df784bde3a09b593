"""The host's devices."""

TABLE = """
113 node_device_lookup_by_name node-device:getattr quick | name:str -> device:NodeDevice
114 node_device_get_xml_desc node-device:read quick | name:str flags:uint -> xml:str
115 node_device_get_parent node-device:getattr quick | name:str -> parent_name:str?
116 node_device_num_of_caps node-device:read quick | name:str -> count:int
117 node_device_list_caps node-device:read quick | name:str max_names:int -> names:str[]
118 node_device_dettach node-device:detach | name:str
119 node_device_re_attach node-device:detach | name:str
120 node_device_reset node-device:detach | name:str
123 node_device_create_xml node-device:write,node-device:start | xml:str flags:uint -> device:NodeDevice
124 node_device_destroy node-device:stop | name:str
297 node_device_lookup_scsi_host_by_wwn node-device:getattr quick | wwnn:str wwpn:str flags:uint -> device:NodeDevice
301 node_device_detach_flags node-device:detach | name:str driver_name:str? flags:uint
428 node_device_define_xml node-device:write,node-device:save | xml:str flags:uint -> device:NodeDevice
429 node_device_undefine node-device:delete | name:str flags:uint
430 node_device_create node-device:start | name:str flags:uint
433 node_device_get_autostart node-device:write quick | name:str -> autostart:int
434 node_device_set_autostart node-device:write quick | name:str autostart:int
435 node_device_is_persistent node-device:read quick | name:str -> persistent:int
436 node_device_is_active node-device:read quick | name:str -> active:int
447 node_device_update node-device:write | name:str xml:str flags:uint
"""
