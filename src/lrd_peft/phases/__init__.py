"""The phases: flat recipes, configuration and run folder in, artifact out. They meet only on disk."""
