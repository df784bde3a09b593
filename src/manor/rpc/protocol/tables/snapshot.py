"""Snapshots, checkpoints and backups of a domain."""

TABLE = """
185 domain_snapshot_create_xml domain:snapshot | domain:Domain xml:str flags:uint -> snapshot:Snapshot
186 domain_snapshot_get_xml_desc domain:read,flags&1?domain:read-secure quick |
    snapshot:Snapshot flags:uint -> xml:str
187 domain_snapshot_num domain:read quick | domain:Domain flags:uint -> count:int
188 domain_snapshot_list_names domain:read quick | domain:Domain max_names:int flags:uint -> names:str[]
189 domain_snapshot_lookup_by_name domain:read quick | domain:Domain name:str flags:uint -> snapshot:Snapshot
190 domain_has_current_snapshot domain:read quick | domain:Domain flags:uint -> result:int
191 domain_snapshot_current domain:read quick | domain:Domain flags:uint -> snapshot:Snapshot
192 domain_revert_to_snapshot domain:snapshot | snapshot:Snapshot flags:uint
193 domain_snapshot_delete domain:snapshot | snapshot:Snapshot flags:uint
244 domain_snapshot_get_parent domain:read quick | snapshot:Snapshot flags:uint -> snapshot:Snapshot
246 domain_snapshot_num_children domain:read quick | snapshot:Snapshot flags:uint -> count:int
247 domain_snapshot_list_children_names domain:read quick | snapshot:Snapshot max_names:int flags:uint -> names:str[]
271 domain_snapshot_is_current domain:read quick | snapshot:Snapshot flags:uint -> current:int
272 domain_snapshot_has_metadata domain:read quick | snapshot:Snapshot flags:uint -> metadata:int
274 domain_list_all_snapshots domain:read quick |
    domain:Domain need_results:int flags:uint -> snapshots:Snapshot[] count:int
275 domain_snapshot_list_all_children domain:read quick |
    snapshot:Snapshot need_results:int flags:uint -> snapshots:Snapshot[] count:int
411 domain_checkpoint_create_xml domain:checkpoint | domain:Domain xml:str flags:uint -> checkpoint:Checkpoint
412 domain_checkpoint_get_xml_desc domain:read,flags&1?domain:read-secure quick |
    checkpoint:Checkpoint flags:uint -> xml:str
413 domain_list_all_checkpoints domain:read quick |
    domain:Domain need_results:int flags:uint -> checkpoints:Checkpoint[] count:int
414 domain_checkpoint_list_all_children domain:read quick |
    checkpoint:Checkpoint need_results:int flags:uint -> checkpoints:Checkpoint[] count:int
415 domain_checkpoint_lookup_by_name domain:read quick | domain:Domain name:str flags:uint -> checkpoint:Checkpoint
416 domain_checkpoint_get_parent domain:read quick | checkpoint:Checkpoint flags:uint -> parent:Checkpoint
417 domain_checkpoint_delete domain:checkpoint | checkpoint:Checkpoint flags:uint
421 domain_backup_begin domain:checkpoint,domain:block-write |
    domain:Domain backup_xml:str checkpoint_xml:str? flags:uint
422 domain_backup_get_xml_desc domain:read quick | domain:Domain flags:uint -> xml:str
"""
