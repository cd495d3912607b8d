"""Estimates with intervals; pure numbers."""
