"""What every layer above needs from PyTorch: operators, checkpoints as data, statistics, images."""
