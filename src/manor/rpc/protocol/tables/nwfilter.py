"""Network filters and their bindings."""

TABLE = """
175 nwfilter_lookup_by_name nwfilter:getattr quick | name:str -> nwfilter:Nwfilter
176 nwfilter_lookup_by_uuid nwfilter:getattr quick | uuid:uuid -> nwfilter:Nwfilter
177 nwfilter_get_xml_desc nwfilter:read quick | nwfilter:Nwfilter flags:uint -> xml:str
180 nwfilter_define_xml nwfilter:write,nwfilter:save | xml:str -> nwfilter:Nwfilter
181 nwfilter_undefine nwfilter:delete | nwfilter:Nwfilter
397 nwfilter_binding_lookup_by_port_dev nwfilter-binding:getattr quick | name:str -> binding:NwfilterBinding
398 nwfilter_binding_get_xml_desc nwfilter-binding:read quick | binding:NwfilterBinding flags:uint -> xml:str
399 nwfilter_binding_create_xml nwfilter-binding:create | xml:str flags:uint -> binding:NwfilterBinding
400 nwfilter_binding_delete nwfilter-binding:delete | binding:NwfilterBinding
431 nwfilter_define_xml_flags nwfilter:write,nwfilter:save | xml:str flags:uint -> nwfilter:Nwfilter
"""
