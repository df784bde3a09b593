"""Tests of Manor; a package so that the differential tests can share the oracles."""
