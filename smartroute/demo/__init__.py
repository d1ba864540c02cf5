"""Regions on localhost, for the demo, the examples and the tests."""
