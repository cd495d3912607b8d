"""Judges: how good a conversation was, or why that cannot be said."""
