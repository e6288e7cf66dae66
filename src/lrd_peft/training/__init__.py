"""Training: one trainer, its objectives, what a batch holds, checkpoints."""
