"""PCI: configuration space, BARs, capabilities, MSI-X, host bridge."""
