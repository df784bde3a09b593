"""Commands of networks, the host's devices, and the shell itself."""

from __future__ import annotations

SECTIONS = (
    ("interface", "interface", """
iface-begin | Begin changes that may be taken back |
iface-bridge | Put an interface into a new bridge | interface bridge --no-stp delay?# --no-start
iface-unbridge | Take the interface out of a bridge, and remove that | bridge --no-start
iface-commit | Keep the changes since iface-begin |
iface-define | Define an interface from an XML file | file --validate
iface-destroy | Take an interface down | interface
iface-dumpxml | Show the XML of an interface | interface --inactive xpath? --wrap
iface-edit | Edit the XML of an interface | interface
iface-list | List the interfaces of the host | --inactive --all
iface-mac | Tell the MAC address of an interface | interface
iface-name | Tell the name of an interface with a MAC address | interface
iface-rollback | Take back the changes since iface-begin |
iface-start | Bring an interface up | interface
iface-undefine | Remove the definition of an interface | interface
"""),
    ("filter", "others", """
nwfilter-define | Define a network filter from an XML file | file --validate
nwfilter-dumpxml | Show the XML of a network filter | nwfilter xpath? --wrap
nwfilter-edit | Edit the XML of a network filter | nwfilter
nwfilter-list | List the network filters |
nwfilter-undefine | Remove a network filter | nwfilter
nwfilter-binding-create | Bind a network filter to a port as an XML file describes | file --validate
nwfilter-binding-delete | Remove a binding of a network filter | binding
nwfilter-binding-dumpxml | Show the XML of a binding | binding xpath? --wrap
nwfilter-binding-list | List the bindings of network filters |
"""),
    ("network", "network", """
net-autostart | Start a network when its host starts, or no longer | network --disable
net-create | Start a network from an XML file, without keeping its definition | file --validate
net-define | Define a network from an XML file, or change its definition | file --validate
net-destroy | Stop a network | network
net-dhcp-leases | List the DHCP leases of a network | network mac?
net-dumpxml | Show the XML of a network | network --inactive xpath? --wrap
net-edit | Edit the XML of a network | network
net-info | Tell the main facts of a network | network
net-list | List the networks | --inactive --all --persistent --transient --autostart --no-autostart --uuid
    --name --table
net-name | Tell the name of a network | network
net-start | Start a network that is defined | network
net-undefine | Remove the definition of a network | network
net-update | Change a part of a network | network command section xml parent-index?# --config --live --current
net-uuid | Tell the UUID of a network | network
net-port-list | List the ports of a network | network --uuid --table
net-port-create | Create a port of a network from an XML file | network file --validate
net-port-dumpxml | Show the XML of a port | network port xpath? --wrap
net-port-delete | Remove a port of a network | network port
"""),
    ("nodedev", "others", """
nodedev-create | Create a device from an XML file | file --validate
nodedev-destroy | Destroy a device | device
nodedev-detach | Take a device from its driver | device driver?
nodedev-dumpxml | Show the XML of a device | device xpath? --wrap
nodedev-list | List the devices of the host | --tree cap? --inactive --all
nodedev-reattach | Give a device back to its driver | device
nodedev-reset | Reset a device | device
nodedev-define | Define a device from an XML file | file --validate
nodedev-undefine | Remove the definition of a device | device
nodedev-start | Start a device that is defined | device
nodedev-autostart | Start a device when its host starts, or no longer | device --disable
nodedev-info | Tell the main facts of a device | device
"""),
    ("secret", "others", """
secret-define | Define a secret from an XML file | file --validate
secret-dumpxml | Show the XML of a secret | secret xpath? --wrap
secret-get-value | Show the value of a secret, in base 64 | secret --plain
secret-list | List the secrets | --ephemeral --no-ephemeral --private --no-private
secret-set-value | Set the value of a secret | secret file? --plain --interactive base64?
secret-undefine | Remove a secret | secret
"""),
    ("virsh", "itself", """
cd | Change the directory | dir?
echo | Print words | --shell --xml --split --err arg*
exit | Leave |
help | Explain commands | command?
pwd | Tell the directory |
quit | Leave |
connect | Connect to a hypervisor | name? --readonly
"""),
)
