"""Accelerator `dbt`: guests run on the binary-translation engine, on any host."""
