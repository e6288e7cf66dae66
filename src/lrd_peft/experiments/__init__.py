"""Runs and what compares them. Knows phases and records, not how a model thinks."""
