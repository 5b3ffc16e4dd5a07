"""Small general helpers; `dnnlib.EasyDict` is a name that checkpoints and notebooks use."""

from .util import EasyDict

__all__ = ["EasyDict"]
