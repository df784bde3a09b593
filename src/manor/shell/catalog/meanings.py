"""What options mean: by name, and where a command means something else by it, by command and name."""

from __future__ import annotations

TEXT = """
domain: the domain's name, id or UUID
file: the file
disable: no longer
console: attach to the console then
paused: leave it paused
autodestroy: stop it when this connection ends
pass-fds: file descriptors to pass on, as N,M,...
validate: refuse what the schema does not know
reset-nvram: begin with fresh firmware variables
live: the running domain
config: what the next start is made from
current: whatever it is now: running or not
persistent: the definition too
title: the title, or titles
edit: edit it in $EDITOR
graceful: give up rather than kill
remove-logs: remove its logs too
running: leave it running
inactive: those that are not running
all: all of them
security-info: passwords too
migratable: as another host can take it
update-cpu: the processor as it is on this host
xpath: only what this XPath expression finds
wrap: wrap what was found in one element
bypass-cache: keep the file out of the host's page cache
verbose: tell the progress
xml: a file with XML in its place
mode: ways to try, with commas: acpi, agent, initctl, signal, paravirt
uri: the namespace of the element
key: the prefix of the namespace
set: the new value
remove: remove it
source: where it is on the host
target: where the guest finds it
device: the disk's target or source
interface: the interface's name or MAC address
mac: the MAC address
print-xml: print the XML and change nothing
alias: the alias of the device
cache: how the host caches it
driver: the driver's name
subdriver: the driver's type
path: the disk's target or source
size: the new size
bandwidth: the limit, in MiB/s
wait: wait until it is over
timeout: seconds after which to give up
async: do not wait
bytes: sizes in bytes
count: how many
maximum: the largest number
cpulist: CPUs, like 0-3,5
nodeset: NUMA nodes, like 0-1
pretty: easy to read
details: more columns
human: easy to read
full: repeat name and MAC address in each line
reason: why, too
id: ids only
uuid: UUIDs only
name: names only
table: a table, as usual
timestamp: the time before each event
loop: wait for more than one
list: list the events there are
event: the event to wait for
network: the network's name or UUID
pool: the pool's name or UUID
vol: the volume's name, key or path
snapshotname: the snapshot's name
children: its children too
children-only: its children, but not itself
metadata: what is known of it, but no data
parent: the parent, too
roots: those without a parent
leaves: those without children
tree: as a tree
from: those below this one
descendants: not only children
offset: first byte
length: how many bytes
sparse: holes are not sent, and stay holes
capacity: the size; units k, M, G, T
allocation: what is reserved at once
format: the format
command: the command, or a group of commands
dir: the directory
readonly: without the right to change anything
device-weights: weights of disks, as /path,weight,...
weight: the weight
secret: the secret's UUID
port: the port
nwfilter: the filter's name or UUID
binding: the port that the filter is bound to
type: the type
arch: the architecture
machine: the machine type
emulator: path of the emulator
emulatorbin: path of the emulator
virttype: the kind of virtualization
host: the host
description: the description
prealloc-metadata: reserve the format's own data at once
reflink: share blocks with the original
no-overwrite: only where nothing is yet
overwrite: even if something is there
diff: the differences of the XML too
running: only those that run
job: the job's number
limit: at most so many
of: only those of this name
follow: wait for more, until it is interrupted
last: how far to look back: 90s, 10m, 6h, 7d
step: seconds of a row
series: names, with commas: cpu, memory, rss, read, written, received, sent
kind: domain, network or pool
revision: the number of the revision
old: the number of the first revision
new: the number of the second revision; the latest without it
entry: the number in the trash
build: make what it lies on first
"""

MEANINGS = dict(line.split(": ", 1) for line in TEXT.strip().splitlines())

OWN = {
    ("create", "file"): "a file with the domain's XML",
    ("define", "file"): "a file with the domain's XML",
    ("list", "all"): "running and others",
    ("list", "title"): "a column with titles",
    ("list", "managed-save"): "say of which the state was saved",
    ("desc", "new-desc"): "the new text",
    ("vol-upload", "file"): "the file to read",
    ("vol-download", "file"): "the file to write",
    ("change-media", "source"): "the new medium",
    ("setmem", "size"): "the new size; without a unit, KiB",
    ("setmaxmem", "size"): "the new size; without a unit, KiB",
    ("connect", "name"): "the hypervisor's URI",
    ("console", "watch"): "only read",
    ("console", "alone"): "write, and nobody else; refused if somebody does",
    ("console", "take-over"): "write, and let who writes now only read",
    ("console", "log"): "print what the serial console printed, and end",
    ("console", "since"): "from this position on; bytes before the end if it is negative",
    ("console", "follow"): "the log, and what is printed from now on",
    ("plan", "command"): "the command with its options",
    ("events", "since"): "those after this number; without it, the latest",
    ("history", "name"): "the object's name or UUID",
    ("domifaddr", "source"): "who is asked: lease, agent or arp",
}
"""Where a command means something of its own."""


def meaning(command: str, option: str) -> str:
    """One line about an option."""
    text = OWN.get((command, option)) or MEANINGS.get(option)
    return text or option.replace("-", " ")
