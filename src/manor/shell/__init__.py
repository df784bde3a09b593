"""`manor sh`: domains, networks and storage from the command line, in the form that virsh gave such commands."""
