"""Operators under the names that official sources call; one a file, each with its plain-PyTorch reference."""
