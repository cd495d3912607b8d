"""Thin shells that plug the environments into training libraries."""
