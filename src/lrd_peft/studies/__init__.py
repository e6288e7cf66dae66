"""Studies: grids of runs, resumed cell by cell."""
