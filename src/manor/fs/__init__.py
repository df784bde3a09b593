"""File systems and partition tables in images: written and read as bytes, without mounting and without root rights."""
