"""Training: configurations, the loop, its losses, checkpoints and logs."""
