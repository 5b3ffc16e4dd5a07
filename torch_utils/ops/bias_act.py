"""Bias, activation, gain and clamp in one call: clamp(act(x + b) * gain, -clamp, clamp).

StyleGAN (Karras et al. 2019) scales each activation so that unit variance goes in and comes out; the default gains are
that paper's.
"""

import math
from typing import Callable, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import custom_ops


class Activation(NamedTuple):
    """An activation: its function of (x, alpha) and the defaults of alpha and gain."""

    func: Callable[[Tensor, float], Tensor]
    def_alpha: float
    def_gain: float


SQRT2 = math.sqrt(2)
LEAKY_SLOPE = 0.2  # negative slope of lrelu in all StyleGAN networks

activation_funcs = {
    "linear": Activation(lambda x, _: x, 0.0, 1.0),
    "relu": Activation(lambda x, _: F.relu(x), 0.0, SQRT2),
    "lrelu": Activation(F.leaky_relu, LEAKY_SLOPE, SQRT2),
    "tanh": Activation(lambda x, _: torch.tanh(x), 0.0, 1.0),
    "sigmoid": Activation(lambda x, _: torch.sigmoid(x), 0.0, 1.0),
    "elu": Activation(lambda x, _: F.elu(x), 0.0, 1.0),
    "selu": Activation(lambda x, _: F.selu(x), 0.0, 1.0),
    "softplus": Activation(lambda x, _: F.softplus(x), 0.0, 1.0),
    "swish": Activation(lambda x, _: F.silu(x), 0.0, SQRT2),
}


def bias_act(
    x: Tensor,  # any shape
    b: Optional[Tensor] = None,  # [x.shape[dim]]
    dim: int = 1,
    act: str = "linear",
    alpha: Optional[float] = None,
    gain: Optional[float] = None,
    clamp: Optional[float] = None,
    impl: str = "auto",
) -> Tensor:
    """Returns clamp(act(x + b) * gain), of x's shape and dtype; differentiable any number of times.

    `alpha` (the slope of lrelu) and `gain` default to the activation's own; `clamp=None` does not clamp.
    Raises ValueError for an unknown activation or a bias of the wrong shape.
    """
    custom_ops.check_impl("bias_act", impl)
    if act not in activation_funcs:
        raise ValueError(f"bias_act: unknown activation {act!r}; choose one of {', '.join(activation_funcs)}")
    activation = activation_funcs[act]
    if b is not None:
        if b.shape != x.shape[dim : dim + 1 or None]:
            raise ValueError(f"bias_act: bias of shape {tuple(b.shape)} on dimension {dim} of {tuple(x.shape)}")
        x = x + b.to(x.dtype).reshape([-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)])
    x = activation.func(x, activation.def_alpha if alpha is None else alpha)
    scale = activation.def_gain if gain is None else gain
    if scale != 1:
        x = x * scale
    if clamp is not None:
        x = x.clamp(-clamp, clamp)
    return x
