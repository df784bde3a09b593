"""Virtual machines with a name: their disks and configuration, and the process that runs one."""
