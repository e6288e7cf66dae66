"""The phases of a run as recipes, the run folder, and the commands that read one."""
