"""Records in, tables and pictures out. Never loads torch."""
