"""Moving a domain to another host."""

TABLE = """
61 domain_migrate_prepare domain:migrate |
    uri_in:str? flags:ulong new_name:str? bandwidth:ulong -> cookie:bytes uri_out:str?
62 domain_migrate_perform domain:migrate |
    domain:Domain cookie:bytes uri:str flags:ulong new_name:str? bandwidth:ulong
63 domain_migrate_finish domain:migrate | new_name:str cookie:bytes uri:str flags:ulong -> domain:Domain
108 domain_migrate_prepare2 domain:migrate |
    uri_in:str? flags:ulong new_name:str? bandwidth:ulong xml:str -> cookie:bytes uri_out:str?
109 domain_migrate_finish2 domain:migrate | new_name:str cookie:bytes uri:str flags:ulong retcode:int -> domain:Domain
148 domain_migrate_prepare_tunnel domain:migrate up | flags:ulong new_name:str? bandwidth:ulong xml:str
166 domain_migrate_set_max_downtime domain:migrate | domain:Domain downtime:ulong flags:uint
207 domain_migrate_set_max_speed domain:migrate | domain:Domain bandwidth:ulong flags:uint
213 domain_migrate_begin3 domain:migrate |
    domain:Domain xml:str? flags:ulong new_name:str? bandwidth:ulong -> cookie_out:bytes xml:str
214 domain_migrate_prepare3 domain:migrate |
    cookie_in:bytes uri_in:str? flags:ulong new_name:str? bandwidth:ulong xml:str -> cookie_out:bytes
    uri_out:str?
215 domain_migrate_prepare_tunnel3 domain:migrate up |
    cookie_in:bytes flags:ulong new_name:str? bandwidth:ulong xml:str -> cookie_out:bytes
216 domain_migrate_perform3 domain:migrate |
    domain:Domain xml:str? cookie_in:bytes destination_uri:str? uri:str? flags:ulong new_name:str?
    bandwidth:ulong -> cookie_out:bytes
217 domain_migrate_finish3 domain:migrate |
    new_name:str cookie_in:bytes destination_uri:str? uri:str? flags:ulong cancelled:int -> domain:Domain
    cookie_out:bytes
218 domain_migrate_confirm3 domain:migrate | domain:Domain cookie_in:bytes flags:ulong cancelled:int
242 domain_migrate_get_max_speed domain:migrate | domain:Domain flags:uint -> bandwidth:ulong
299 domain_migrate_get_compression_cache domain:read | domain:Domain flags:uint -> cache_size:ulong
300 domain_migrate_set_compression_cache domain:migrate | domain:Domain cache_size:ulong flags:uint
302 domain_migrate_begin3_params domain:migrate |
    domain:Domain params:TypedParam[] flags:uint -> cookie_out:bytes xml:str
303 domain_migrate_prepare3_params domain:migrate |
    params:TypedParam[] cookie_in:bytes flags:uint -> cookie_out:bytes uri_out:str?
304 domain_migrate_prepare_tunnel3_params domain:migrate up |
    params:TypedParam[] cookie_in:bytes flags:uint -> cookie_out:bytes
305 domain_migrate_perform3_params domain:migrate |
    domain:Domain destination_uri:str? params:TypedParam[] cookie_in:bytes flags:uint -> cookie_out:bytes
306 domain_migrate_finish3_params domain:migrate |
    params:TypedParam[] cookie_in:bytes flags:uint cancelled:int -> domain:Domain cookie_out:bytes
307 domain_migrate_confirm3_params domain:migrate |
    domain:Domain params:TypedParam[] cookie_in:bytes flags:uint cancelled:int
364 domain_migrate_start_post_copy domain:migrate | domain:Domain flags:uint
387 domain_migrate_get_max_downtime domain:read | domain:Domain flags:uint -> downtime:ulong
"""
