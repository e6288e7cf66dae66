"""Find and load models: by name, from folders, from the hub."""
