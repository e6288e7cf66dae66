"""The command line `lrd`."""
