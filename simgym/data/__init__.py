"""Scenarios and where they come from."""
