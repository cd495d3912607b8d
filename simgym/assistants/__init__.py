"""Assistants: who answers the simulated users."""
