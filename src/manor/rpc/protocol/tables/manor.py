"""Manor's own program: what its services give beyond libvirt's.

kind: 0 domains, 1 networks, 2 pools. since, where it is signed: a position, or from the end if it is negative.
"""

TABLE = """
1 manor_explain none quick | code:int message:str -> problem:Problem?
2 manor_plan domain:getattr,domain:read-secure | procedure:uint arguments:bytes -> plan:Plan
10 manor_jobs connect:read quick | -> jobs:JobRecord[]
11 manor_job connect:read quick | id:ulong -> job:JobRecord
12 manor_job_wait connect:read | id:ulong timeout:double -> job:JobRecord
13 manor_job_cancel connect:write quick | id:ulong
14 manor_volume_create_job storage-vol:create | pool:StoragePool xml:str source:StorageVol? flags:uint -> id:ulong
15 manor_volume_wipe_job storage-vol:format | volume:StorageVol -> id:ulong
20 manor_events connect:read | since:ulong limit:uint -> is_complete:int latest:ulong events:EventEntry[]
21 manor_event_watch connect:read quick | -> latest:ulong
22 manor_event_unwatch connect:read quick |
23 manor_event event | entry:EventEntry
30 manor_statistics_history domain:read | domain:Domain start:double end:double step:uint ->
    step:uint times:double[:20000] series:Series[]
40 manor_console_log domain:open-device | domain:Domain since:long limit:uint ->
    first:ulong start:ulong end:ulong data:bytes
41 manor_console_follow domain:open-device down | domain:Domain since:long
42 manor_console_open domain:open-device both | domain:Domain device:str? mode:uint
50 manor_revisions connect:read | kind:int uuid:uuid -> revisions:RevisionInfo[]
51 manor_revision connect:read,flags&1?domain:read-secure | kind:int uuid:uuid number:uint flags:uint -> xml:str
52 manor_revision_diff connect:read,flags&1?domain:read-secure |
    kind:int uuid:uuid old:uint new:uint flags:uint -> diff:str
53 manor_revision_revert kind=0?domain:save,kind=1?network:save,kind=2?storage-pool:save |
    kind:int uuid:uuid number:uint
60 manor_trash connect:read | -> entries:TrashEntry[]
61 manor_trash_restore connect:write | id:ulong -> entry:TrashEntry
62 manor_trash_purge connect:write | id:ulong
63 manor_trash_volume storage-vol:delete | volume:StorageVol -> id:ulong
"""
