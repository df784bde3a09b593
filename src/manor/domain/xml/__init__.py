"""libvirt's XML documents, declared property by property. Each module has `parse`, `format` and `check`."""
