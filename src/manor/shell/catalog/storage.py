"""Commands of pools, volumes, snapshots."""

from __future__ import annotations

SECTIONS = (
    ("snapshot", "snapshot", """
snapshot-create | Take a snapshot as an XML file describes | domain xmlfile? --redefine --current --no-metadata
    --halt --disk-only --reuse-external --quiesce --atomic --live --validate
snapshot-create-as | Take a snapshot | domain name? description? --print-xml --no-metadata --halt --disk-only
    --reuse-external --quiesce --atomic --live --validate memspec= diskspec*
snapshot-current | Show the current snapshot, or make one current | domain --name --security-info snapshotname?
snapshot-delete | Delete a snapshot | domain snapshotname? --current --children --children-only --metadata
snapshot-dumpxml | Show the XML of a snapshot | domain snapshotname --security-info xpath? --wrap
snapshot-edit | Edit the XML of a snapshot | domain snapshotname? --current --rename --clone
snapshot-info | Tell the main facts of a snapshot | domain snapshotname? --current
snapshot-list | List the snapshots of a domain | domain --parent --roots --leaves --no-leaves --metadata
    --no-metadata --inactive --active --disk-only --internal --external --tree from? --current --descendants
    --name --topological
snapshot-parent | Tell the parent of a snapshot | domain snapshotname? --current
snapshot-revert | Go back to a snapshot | domain snapshotname? --current --running --paused --force
    --reset-nvram
"""),
    ("checkpoint", "checkpoint", """
checkpoint-create | Create a checkpoint as an XML file describes | domain xmlfile? --redefine
    --redefine-validate --quiesce
checkpoint-create-as | Create a checkpoint | domain name? description? --print-xml --quiesce diskspec*
checkpoint-edit | Edit the XML of a checkpoint | domain checkpointname?
checkpoint-info | Tell the main facts of a checkpoint | domain checkpointname?
checkpoint-delete | Delete a checkpoint | domain checkpointname? --children --children-only --metadata
checkpoint-dumpxml | Show the XML of a checkpoint | domain checkpointname? --security-info --no-domain --size
    xpath? --wrap
checkpoint-list | List the checkpoints of a domain | domain --parent --roots --leaves --no-leaves --tree from?
    --descendants --name --topological
checkpoint-parent | Tell the parent of a checkpoint | domain checkpointname?
"""),
    ("backup", "checkpoint", """
backup-begin | Begin a backup of a domain's disks | domain backupxml? checkpointxml? --reuse-external
backup-dumpxml | Show the XML of the backup that runs | domain xpath? --wrap
"""),
    ("pool", "pool", """
find-storage-pool-sources-as | Look for sources of pools | type host? port? initiator?
find-storage-pool-sources | Look for sources of pools, as XML describes | type srcSpec?
pool-autostart | Start a pool when its host starts, or no longer | pool --disable
pool-build | Make what a pool lies on | pool --no-overwrite --overwrite
pool-create-as | Start a pool, without keeping its definition | name type --print-xml source-host? source-path?
    source-dev? source-name? target? source-format? auth-type? auth-username? secret-usage? secret-uuid?
    adapter-name? adapter-wwnn? adapter-wwpn? adapter-parent? adapter-parent-wwnn? adapter-parent-wwpn?
    adapter-parent-fabric-wwn? source-protocol-ver? source-initiator? --build --no-overwrite --overwrite
pool-create | Start a pool from an XML file, without keeping its definition | file --build --no-overwrite
    --overwrite
pool-define-as | Define a pool | name type --print-xml source-host? source-path? source-dev? source-name?
    target? source-format? auth-type? auth-username? secret-usage? secret-uuid? adapter-name? adapter-wwnn?
    adapter-wwpn? adapter-parent? adapter-parent-wwnn? adapter-parent-wwpn? adapter-parent-fabric-wwn?
    source-protocol-ver? source-initiator?
pool-define | Define a pool from an XML file, or change its definition | file --validate
pool-delete | Delete what a pool lies on | pool
pool-destroy | Stop a pool; what is in it stays | pool
pool-dumpxml | Show the XML of a pool | pool --inactive xpath? --wrap
pool-edit | Edit the XML of a pool | pool
pool-info | Tell the main facts of a pool | pool --bytes
pool-list | List the pools | --inactive --all --transient --persistent --autostart --no-autostart type?
    --details --uuid --name
pool-name | Tell the name of a pool | pool
pool-refresh | Look again at what is in a pool | pool
pool-start | Start a pool that is defined | pool --build --no-overwrite --overwrite
pool-undefine | Remove the definition of a pool | pool
pool-uuid | Tell the UUID of a pool | pool
pool-capabilities | Show what pools may be, in XML |
"""),
    ("volume", "volume", """
vol-clone | Copy a volume within its pool | vol newname pool? --prealloc-metadata --reflink --print-xml
vol-create-as | Create a volume | pool name capacity allocation? format? backing-vol? backing-vol-format?
    --prealloc-metadata --print-xml
vol-create | Create a volume from an XML file | pool file --prealloc-metadata --validate
vol-create-from | Create a volume from an XML file with another's contents | pool file vol inputpool?
    --prealloc-metadata --reflink --validate
vol-delete | Delete a volume | vol pool? --delete-snapshots
vol-download | Write a volume's contents to a file | vol file pool? offset?# length?# --sparse
vol-dumpxml | Show the XML of a volume | vol pool? xpath? --wrap
vol-info | Tell the main facts of a volume | vol pool? --bytes --physical
vol-key | Tell the key of a volume | vol pool?
vol-list | List the volumes of a pool | pool --details
vol-name | Tell the name of a volume | vol
vol-path | Tell the path of a volume | vol pool?
vol-pool | Tell the pool of a volume | vol --uuid
vol-resize | Change the size of a volume | vol capacity pool? --allocate --delta --shrink
vol-upload | Write a file's contents to a volume | vol file pool? offset?# length?# --sparse
vol-wipe | Overwrite a volume | vol pool? algorithm?
"""),
)
