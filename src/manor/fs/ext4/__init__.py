"""The ext4 file system, as bytes: a writer of whole images and a reader."""
