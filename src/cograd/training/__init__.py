"""The life of a training run: fit, checkpoints, stopping, loaders, progress, loggers."""
