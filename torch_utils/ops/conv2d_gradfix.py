"""2-D convolutions under the names that official sources call.

The original replaced autograd's rule to skip weight gradients in the R1 penalty. PyTorch does that by itself now: a call of
torch.autograd.grad computes only what its `inputs` need. So these are PyTorch's own convolutions, public calls only, but for
pictures that lie channels_last on a CPU: 3x3 kernels have their own ways (conv3x3.py), and 1x1 kernels are matrices.
"""

import contextlib

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import custom_ops
from . import conv3x3


def conv2d(input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, dilation=1, groups=1) -> Tensor:
    """torch.nn.functional.conv2d, by the quickest way."""
    if bias is None and stride == dilation == groups == 1 and input.device.type == "cpu":
        if padding in (1, (1, 1)) and conv3x3.suits(input, weight):
            return conv3x3.conv3x3(input, weight)
        if padding in (0, (0, 0)) and weight.shape[2:] == (1, 1) and custom_ops.order_of(input) == torch.channels_last:
            return F.linear(input.permute(0, 2, 3, 1), weight[:, :, 0, 0]).permute(0, 3, 1, 2)
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def conv_transpose2d(input: Tensor, weight: Tensor, bias=None, stride=1, padding=0, output_padding=0, groups=1,
                     dilation=1) -> Tensor:
    """torch.nn.functional.conv_transpose2d, by the quickest way."""
    usual = bias is None and groups == dilation == 1 and padding in (0, (0, 0)) and output_padding in (0, (0, 0))
    if usual and stride in (2, (2, 2)) and input.device.type == "cpu" and conv3x3.suits_up(input, weight):
        return conv3x3.up_conv3x3(input, weight)
    return F.conv_transpose2d(input, weight, bias, stride, padding, output_padding, groups, dilation)


@contextlib.contextmanager
def no_weight_gradients(disable: bool = True):
    """Marks a block that asks for no weight gradients; autograd skips what nobody asks for, so nothing is switched."""
    yield disable
