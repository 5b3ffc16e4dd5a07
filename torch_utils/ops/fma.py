"""Multiply and add under the name that official sources call."""

import torch
from torch import Tensor


def fma(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Returns a * b + c, broadcast, in one pass."""
    return torch.addcmul(c, a, b)
