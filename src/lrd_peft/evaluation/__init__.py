"""Evaluation: answers, metrics, scoring. Imports nothing, so that answers and metrics never load torch."""
