"""Block backends: image formats, files and servers that disks of a guest are kept in."""
