"""Registers as data: one declaration yields dispatch, masks, reset, save, traces and a reference."""
