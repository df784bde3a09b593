"""Commands that look at domains and the host."""

from __future__ import annotations

SECTIONS = (
    ("monitor", "monitor", """
domblkerror | List the disks with errors | domain
domblkinfo | Tell the sizes of disks | domain device? --human --all
domblklist | List the disks of a domain | domain --inactive --details
domblkstat | Count what a disk has read and written | domain device? --human
domdirtyrate-calc | Begin to measure how fast a guest writes to its memory | domain seconds?# mode?
domcontrol | Tell whether the VMM answers | domain
domif-getlink | Tell whether the cable of a network interface is plugged | domain interface --config
domifaddr | List the addresses of a guest's network interfaces | domain interface? --full source?
domiflist | List the network interfaces of a domain | domain --inactive
domifstat | Count what a network interface has sent and received | domain interface
dominfo | Tell the main facts of a domain | domain
dommemstat | Show the memory statistics of a domain | domain period?# --config --live --current
domstate | Tell the state of a domain | domain --reason
domstats | Show the statistics of domains | --state --cpu-total --balloon --vcpu --interface --block --perf
    --iothread --memory --dirtyrate --vm --list-active --list-inactive --list-persistent --list-transient
    --list-running --list-paused --list-shutoff --list-other --raw --enforce --backing --nowait domain*
domtime | Show or set the guest's clock | domain --now --pretty --sync time?#
list | List domains | --inactive --all --transient --persistent --with-snapshot --without-snapshot
    --with-checkpoint --without-checkpoint --state-running --state-paused --state-shutoff --state-other
    --autostart --no-autostart --with-managed-save --without-managed-save --uuid --name --id --table
    --managed-save --title
"""),
    ("events", "events", """
event | Wait for events of domains | domain? event? --all --loop timeout?# --list --timestamp
"""),
    ("host", "host", """
allocpages | Change how many huge pages the host keeps | pagesize pagecount cellno?# --add --all
capabilities | Show what the host can do, in XML |
cpu-baseline | Compute the processor that several hosts can offer | file --features --migratable
cpu-compare | Compare a processor with the host's | file --error --validate
cpu-models | List the processor models of an architecture | arch
domcapabilities | Show what a domain may have, in XML | virttype? emulatorbin? arch? machine?
freecell | Tell the free memory of NUMA cells | cellno?# --all
freepages | Count the free pages of NUMA cells | cellno?# pagesize?# --all
hostname | Tell the name of the host |
hypervisor-cpu-baseline | Compute the processor that the hypervisor can offer on several hosts | file? virttype?
    emulator? arch? machine? --features --migratable model?
hypervisor-cpu-compare | Compare a processor with what the hypervisor offers | file virttype? emulator? arch?
    machine? --error --validate
maxvcpus | Tell how many processors a domain may have | type?
node-memory-tune | Show or set the parameters of the host's memory | shm-pages-to-scan?# shm-sleep-millisecs?#
    shm-merge-across-nodes?#
nodecpumap | Tell which CPUs the host has and uses | --pretty
nodecpustats | Show where the host's processor time goes | cpu?# --percent
nodeinfo | Tell the main facts of the host |
nodememstats | Show the host's memory statistics | cell?#
nodesevinfo | Tell what the host can do for encrypted guests |
nodesuspend | Suspend the host for some time | target duration
sysinfo | Show the host's firmware tables, in XML |
uri | Tell the URI of the connection |
version | Tell the versions of library, API and hypervisor | --daemon
"""),
    ("network", "events", """
net-event | Wait for events of networks | network? event? --loop timeout?# --list --timestamp
"""),
    ("nodedev", "events", """
nodedev-event | Wait for events of devices | device? event? --loop timeout?# --list --timestamp
"""),
    ("secret", "events", """
secret-event | Wait for events of secrets | secret? event? --loop timeout?# --list --timestamp
"""),
    ("pool", "events", """
pool-event | Wait for events of pools | pool? event? --loop timeout?# --list --timestamp
"""),
)
