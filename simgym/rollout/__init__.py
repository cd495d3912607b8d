"""Assistants in environments, recorded as transcripts."""
