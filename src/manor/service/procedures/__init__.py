"""The procedures of libvirt's remote program, by subject; each is a function of the catalog's name."""
