"""Conversations as Gymnasium environments, one at a time or N together."""
