"""Checks for plug-in authors, and small random models to try them on."""
