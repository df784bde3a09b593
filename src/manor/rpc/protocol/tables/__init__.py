"""The procedures of libvirt's remote program, version 1, by subject. The notation is described in `catalog`.

Source: numbers and layouts are facts of the wire, from libvirt's published API reference, from the traffic of virsh 9.0
with libvirtd 9.0, and from go-libvirt (Apache-2.0, DigitalOcean), revision 273eaa3; permissions from libvirt's page
"Client access control" (https://libvirt.org/acl.html), checked against what a read-only connection is refused.
"""
