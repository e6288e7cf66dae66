"""One module a family of figures: records in, a matplotlib figure out. `catalogue` lists them all."""
