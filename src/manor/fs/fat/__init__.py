"""The FAT file systems, as bytes: a writer of FAT32 and a reader of all three."""
