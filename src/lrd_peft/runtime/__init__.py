"""Basics for every other package: files, JSON, checksums, processes, signals, progress, errors."""
