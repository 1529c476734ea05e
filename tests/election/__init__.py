"""Tests of the protocol: rules, thread, observers."""
