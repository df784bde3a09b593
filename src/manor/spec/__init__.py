"""Plain descriptions that cross layers: no files opened, no addresses chosen."""
