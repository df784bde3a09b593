"""The host's network interfaces."""

TABLE = """
128 interface_lookup_by_name interface:getattr quick | name:str -> interface:Interface
129 interface_lookup_by_mac_string interface:getattr quick | mac:str -> interface:Interface
130 interface_get_xml_desc interface:read quick | interface:Interface flags:uint -> xml:str
131 interface_define_xml interface:write,interface:save | xml:str flags:uint -> interface:Interface
132 interface_undefine interface:delete | interface:Interface
133 interface_create interface:start | interface:Interface flags:uint
134 interface_destroy interface:stop | interface:Interface flags:uint
156 interface_is_active interface:getattr quick | interface:Interface -> active:int
220 interface_change_begin connect:interface-transaction | flags:uint
221 interface_change_commit connect:interface-transaction | flags:uint
222 interface_change_rollback connect:interface-transaction | flags:uint
"""
