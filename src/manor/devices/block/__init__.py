"""What all disk devices share: requests to a backend, in flight while no lock is held."""
