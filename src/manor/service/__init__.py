"""What every face of the management layer shares: procedures on drivers, permissions, events, jobs, plans, errors."""
