"""One implementation against another: ours, the host CPU, and unicorn."""
