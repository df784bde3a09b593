"""What the reference of `manor run` says of networks beside the options themselves."""

from __future__ import annotations

from typing import Final

NETWORKS: Final = (
    ("user", "the world and the host through a NAT inside Manor; needs no rights. The default, once"),
    ("isolated:NAME", "other virtual machines of the same user on the network of that name, and nothing else"),
    ("tap:IFNAME", "the tap of that name: an existing one, or a new one that goes away at the end"),
    ("bridge:BRIDGE", "a new tap in that bridge of the host"),
    ("macvtap:IFNAME", "a new macvtap on that interface of the host, or that macvtap itself"),
    ("none", "an interface whose cable is out"),
)
OPTIONS: Final = (
    ("mac=ADDRESS", "the interface's address; by default derived from the VM's name and the position, else random"),
    ("mtu=BYTES", "the largest IP packet, 1280 to 65521; default 1500"),
    ("queues=N", "pairs of queues, 1 to 16, or 0 for one a vCPU; default 1"),
    ("id=NAME", "what the interface is called in the VM; by default net0, net1, ..."),
    ("link=off", "the cable is out at first"),
    ("capture=FILE", "a pcapng file of all frames, for Wireshark; a capture that is there already is continued"),
    ("rate=BITS", "bits a second in each direction, for example rate=10M"),
    ("delay=TIME", "time on the way in each direction, for example delay=20ms; jitter=TIME: more or less of it"),
    ("loss=SHARE", "frames lost in each direction, for example loss=1%"),
    ("reach=REACH", "user only: what the guest reaches: all, host (the host alone, at the gateway's address) or none"),
    ("hostname=NAME", "user only: what DHCP and DNS call the guest"),
)
NOTES: Final = (
    "In user mode the guest gets 10.0.2.15 by DHCP; 10.0.2.2 is the gateway and the host's loopback, 10.0.2.3 the DNS. "
    "The second interface has 10.0.3.0/24, and so on.",
    "Isolated networks give out no addresses: link-local ones of IPv6 and IPv4 need nobody, and a guest may run a DHCP "
    "server. Their sockets are in $XDG_RUNTIME_DIR/manor/networks.",
    "A new tap, bridge port or macvtap takes CAP_NET_ADMIN. A tap that root made for a user "
    "(ip tuntap add dev NAME mode tap user USER) needs no rights any more.",
    "The host itself cannot talk to a guest behind a macvtap; that is how macvtaps are.",
)
