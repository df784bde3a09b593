"""Commands that change domains."""

from __future__ import annotations

SECTIONS = (
    ("domain", "life", """
autostart | Start a domain when its host starts, or no longer | domain --disable
create | Start a domain from an XML file, without keeping its definition | file --console --paused --autodestroy
    pass-fds? --validate --reset-nvram
dom-fd-associate | Give a domain file descriptors under a name | domain name pass-fds --seclabel-writable
    --seclabel-restore
define | Define a domain from an XML file, or change its definition | file --validate
desc | Show or set the description or the title of a domain | domain --live --config --current --title --edit
    new-desc*
destroy | Stop a domain at once, as if its power were cut | domain --graceful --remove-logs
domid | Tell the id of a running domain | domain
domjobabort | Cancel the job that runs on a domain | domain --postcopy
domjobinfo | Tell how far the job on a domain is | domain --completed --keep-completed --anystats --rawstats
domname | Tell the name of a domain | domain
domrename | Give a domain another name | domain new-name
domuuid | Tell the UUID of a domain | domain
dompmsuspend | Let the guest suspend itself | domain target duration?#
dompmwakeup | Wake a guest that suspended itself | domain
dump | Write the memory of a domain to a file | domain file --live --crash --bypass-cache --reset --verbose
    --memory-only format?
dumpxml | Show the XML of a domain | domain --inactive --security-info --update-cpu --migratable xpath? --wrap
edit | Edit the XML of a domain | domain --skip-validate
inject-nmi | Send a non-maskable interrupt to a guest | domain
managedsave | Save a domain's state and stop it; its next start goes on from there | domain --bypass-cache
    --running --paused --verbose
managedsave-remove | Forget the saved state of a domain | domain
managedsave-dumpxml | Show the XML within the saved state of a domain | domain --security-info xpath? --wrap
managedsave-define | Change the XML within the saved state of a domain | domain xml --running --paused
managedsave-edit | Edit the XML within the saved state of a domain | domain --running --paused
metadata | Show, set or remove an element of a domain's metadata | domain uri --live --config --current --edit
    key? set? --remove
reboot | Let the guest reboot | domain mode?
reset | Reset a domain as its reset button would | domain
restore | Start a domain from a file with its saved state | file --bypass-cache xml? --running --paused
    --reset-nvram
resume | Let a suspended domain go on | domain
save | Save a domain's state to a file and stop it | domain file --bypass-cache xml? --running --paused
    --verbose
save-image-define | Change the XML within a file with a saved state | file xml --running --paused
save-image-dumpxml | Show the XML within a file with a saved state | file --security-info xpath? --wrap
save-image-edit | Edit the XML within a file with a saved state | file --running --paused
set-lifecycle-action | Set what happens when a guest powers off, reboots or crashes | domain type action
    --config --live --current
shutdown | Ask the guest to shut down | domain mode?
start | Start a domain that is defined | domain --console --paused --autodestroy --bypass-cache --force-boot
    pass-fds? --reset-nvram
suspend | Stop the processors of a domain for a while | domain
undefine | Remove the definition of a domain | domain --managed-save storage? --remove-all-storage
    --delete-storage-volume-snapshots --wipe-storage --snapshots-metadata --checkpoints-metadata --nvram
    --keep-nvram --tpm --keep-tpm
"""),
    ("domain", "devices", """
attach-device | Attach the device that an XML file describes | domain file --persistent --config --live
    --current
attach-disk | Attach a disk | domain source target targetbus? driver? subdriver? iothread? cache? io? type?
    mode? sourcetype? serial? wwn? alias? --rawio address? --multifunction --print-xml source-protocol?
    source-host-name? source-host-transport? source-host-socket? --persistent --config --live --current
attach-interface | Attach a network interface | domain type source target? mac? script? model? alias? inbound?
    outbound? --persistent --config --live --current --print-xml --managed source-mode?
change-media | Change or eject what is in a CD or floppy drive | domain path source? --eject --insert --update
    --current --live --config --force --print-xml --block
detach-device | Detach the device that an XML file describes | domain file --persistent --config --live
    --current
detach-device-alias | Detach the device that has this alias | domain alias --config --live --current
detach-disk | Detach a disk | domain target --persistent --config --live --current --print-xml
detach-interface | Detach a network interface | domain type mac? --persistent --config --live --current
    --print-xml
domif-setlink | Plug or unplug the cable of a network interface | domain interface state --config --print-xml
update-device | Change a device as an XML file describes | domain file --persistent --config --live --current
    --force
update-memory-device | Change how much of a memory device the guest uses | domain --config --live --current
    --print-xml alias? node?# requested-size?
"""),
    ("domain", "block", """
blockcopy | Copy a disk to another place while it is in use | domain path dest? bandwidth?# --shallow
    --reuse-external --blockdev --wait --verbose timeout?# --pivot --finish --async xml? format? granularity?#
    buf-size?# --bytes --transient-job --synchronous-writes --print-xml
domblkthreshold | Set how much a disk may grow before an event tells of it | domain dev threshold
blockresize | Change the size of a disk | domain path size
blockpull | Copy what a disk's backing image holds into the disk | domain path bandwidth?# base? --wait
    --verbose timeout?# --async --keep-relative --bytes
blockcommit | Copy what a disk's overlay holds into its base | domain path bandwidth?# base? --shallow top?
    --active --delete --wait --verbose timeout?# --pivot --keep-overlay --async --keep-relative --bytes
blockjob | Look at, limit or end the block job of a disk | domain path --abort --async --pivot --info --bytes
    --raw bandwidth?#
"""),
    ("domain", "tuning", """
blkdeviotune | Show or set the limits of a disk | domain device total-bytes-sec?# read-bytes-sec?#
    write-bytes-sec?# total-iops-sec?# read-iops-sec?# write-iops-sec?# total-bytes-sec-max?#
    read-bytes-sec-max?# write-bytes-sec-max?# total-iops-sec-max?# read-iops-sec-max?# write-iops-sec-max?#
    size-iops-sec?# group-name? total-bytes-sec-max-length?# read-bytes-sec-max-length?#
    write-bytes-sec-max-length?# total-iops-sec-max-length?# read-iops-sec-max-length?#
    write-iops-sec-max-length?# --config --live --current
blkiotune | Show or set the weights of block I/O | domain weight?# device-weights? device-read-iops-sec?
    device-write-iops-sec? device-read-bytes-sec? device-write-bytes-sec? --config --live --current
cpu-stats | Show the processor time of a domain | domain --total start?# count?#
domiftune | Show or set the bandwidth of a network interface | domain interface inbound? outbound? --config
    --live --current
emulatorpin | Show or set the host CPUs of a domain's emulator threads | domain cpulist? --config --live
    --current
iothreadadd | Add an I/O thread | domain id --config --live --current
iothreaddel | Remove an I/O thread | domain id --config --live --current
iothreadinfo | List the I/O threads and their host CPUs | domain --config --live --current
iothreadset | Set how an I/O thread polls | domain id# poll-max-ns?# poll-grow?# poll-shrink?# thread-pool-min?#
    thread-pool-max?# --config --live --current
iothreadpin | Set the host CPUs of an I/O thread | domain iothread cpulist --config --live --current
memtune | Show or set the memory limits of a domain | domain hard-limit?# soft-limit?# swap-hard-limit?#
    min-guarantee?# --config --live --current
numatune | Show or set a domain's NUMA placement | domain mode? nodeset? --config --live --current
perf | Show or set which performance events are counted | domain enable? disable? --config --live --current
schedinfo | Show or set the scheduler's parameters | domain weight=# cap=# --current --config --live set*
setmaxmem | Set the largest memory of a domain | domain size --config --live --current
setmem | Set the memory of a domain | domain size --config --live --current
setvcpu | Plug or unplug processors | domain vcpulist --enable --disable --config --live --current
setvcpus | Set how many processors a domain has | domain count --maximum --config --live --current --guest
    --hotpluggable
vcpucount | Tell how many processors a domain has | domain --maximum --active --live --config --current --guest
vcpuinfo | Tell the state, host CPU and time of each processor | domain --pretty
vcpupin | Show or set the host CPUs of the processors | domain vcpu?# cpulist? --config --live --current
"""),
    ("domain", "confidential", """
domlaunchsecinfo | Tell how a guest's memory is protected from the host | domain
domsetlaunchsecstate | Give a protected guest its secret | domain secrethdr? secret? set-address?#
"""),
    ("domain", "migration", """
migrate | Move a domain to another host | domain desturi --live --offline --p2p --direct --tunnelled --persistent
    --undefinesource --suspend --copy-storage-all --copy-storage-inc --copy-storage-synchronous-writes
    --change-protection --unsafe --verbose --compressed --auto-converge --rdma-pin-all --abort-on-error --postcopy
    --postcopy-after-precopy --postcopy-resume --zerocopy migrateuri? graphicsuri? listen-address? dname?
    timeout?# --timeout-suspend --timeout-postcopy xml? migrate-disks? disks-port?# disks-uri? comp-methods?
    comp-mt-level?# comp-mt-threads?# comp-mt-dthreads?# comp-xbzrle-cache?# auto-converge-initial?#
    auto-converge-increment?# persistent-xml? --tls postcopy-bandwidth?# --parallel parallel-connections?#
    bandwidth?# tls-destination?
migrate-compcache | Show or set the size of the cache for compressed migration | domain size?#
migrate-getmaxdowntime | Tell how long a migration may stop the guest | domain
migrate-getspeed | Tell the limit of a migration's bandwidth | domain --postcopy
migrate-postcopy | Run the guest on the other host before its memory is there | domain
migrate-setmaxdowntime | Set how long a migration may stop the guest | domain downtime#
migrate-setspeed | Set the limit of a migration's bandwidth | domain bandwidth# --postcopy
"""),
    ("domain", "guest", """
console | Connect this terminal to the console of a domain | domain devname? --force --safe --watch --alone
    --take-over --log since=# --follow
domdisplay | Tell the address of a domain's display | domain --include-password type? --all
domfsfreeze | Freeze the file systems of the guest | domain mountpoint*
domfsinfo | List the file systems that the guest has mounted | domain
domfsthaw | Thaw the file systems of the guest | domain mountpoint*
domfstrim | Let the guest give back unused blocks | domain minimum?# mountpoint?
domhostname | Tell the host name of the guest | domain source?
get-user-sshkeys | List the SSH keys that may log in as a user of the guest | domain user
guest-agent-timeout | Set how long an answer of the guest agent may take | domain timeout?#
guestinfo | Ask the guest agent about the guest | domain --user --os --timezone --hostname --filesystem --disk
    --interface
guestvcpus | Show or set which processors the guest uses | domain cpulist? --enable --disable
qemu-agent-command | Send a command to the guest agent | domain timeout=# --async --block --pretty cmd+
qemu-monitor-command | Send a command to QEMU's monitor | domain --hmp --pretty --return-value pass-fds= cmd+
screenshot | Save a picture of a domain's screen | domain file? screen?#
send-key | Press keys on a domain's keyboard | domain codeset= holdtime=# keycode+
qemu-attach | Take over a QEMU process that was started by hand | pid#
send-process-signal | Send a signal to a process of the guest | domain pid signame
set-user-password | Set the password of a user of the guest | domain user password --encrypted
set-user-sshkeys | Set the SSH keys that may log in as a user of the guest | domain user file? --reset --remove
ttyconsole | Tell the terminal device of a domain's console | domain
vncdisplay | Tell the address of a domain's VNC display | domain
domxml-from-native | Turn a hypervisor's own configuration into domain XML | format config
domxml-to-native | Turn domain XML into a hypervisor's own configuration | format domain= xml?
"""),
)
