"""Secrets."""

TABLE = """
141 secret_lookup_by_uuid secret:getattr quick | uuid:uuid -> secret:Secret
142 secret_define_xml secret:write,secret:save | xml:str flags:uint -> secret:Secret
143 secret_get_xml_desc secret:read quick | secret:Secret flags:uint -> xml:str
144 secret_set_value secret:write | secret:Secret value:bytes flags:uint
145 secret_get_value secret:read-secure quick | secret:Secret flags:uint -> value:bytes
146 secret_undefine secret:delete | secret:Secret
147 secret_lookup_by_usage secret:getattr quick | usage_type:int usage_id:str -> secret:Secret
"""
