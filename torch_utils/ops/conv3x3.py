"""3x3 convolution with padding 1 on the CPU, by Winograd's algorithm (conv3x3_cpu.cpp): about 2.5 times a direct one's speed.

It differs from torch.nn.functional.conv2d by rounding: its errors are about twice as large. Differentiable any number of times:
the gradient of pictures is a convolution of the same kind, and that of kernels PyTorch's.

Notation: N batch, I / O channels in and out.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from .. import custom_ops

LANES = 16  # channels come in multiples of so many
SMALLEST = 8  # pixels along a side: below, most of the tiles are padding

custom_ops.register("conv3x3", cpu=custom_ops.Plugin(
    "conv3x3_on_cpu", (Path(__file__).parent / "conv3x3_cpu.cpp",), dtypes=(torch.float32,), library=True))


class _Call(ctypes.Structure):
    """conv3x3_cpu.cpp tells what each is."""

    _fields_ = [*[(name, ctypes.c_void_p) for name in ("x", "w", "y")],
                *[(name, ctypes.c_int64) for name in ("items", "height", "width", "channels_in", "channels_out", "threads")]]


def suits(x: Tensor, w: Tensor) -> bool:
    """Whether this is the way for pictures x [N, I, H, W], which lie channels_last in memory, and kernels w [O, I, 3, 3]."""
    return (w.shape[2:] == (3, 3) and w.shape[0] % LANES == 0 and x.shape[1] == w.shape[1] and w.shape[1] % LANES == 0
            and min(x.shape[2:]) >= SMALLEST and x.dtype == w.dtype and custom_ops.order_of(x) == torch.channels_last
            and custom_ops.choose("conv3x3", "auto", x.device.type, x.dtype) == "cpu")


def conv3x3(x: Tensor, w: Tensor) -> Tensor:
    """Pictures x [N, I, H, W] by kernels w [O, I, 3, 3]: [N, O, H, W], channels_last. Float32, multiples of 16 channels."""
    return torch.ops.eg3d.conv3x3(x, w)


_library = torch.library.Library("eg3d", "FRAGMENT")
_library.define("conv3x3(Tensor x, Tensor w) -> Tensor")


def _new(x: Tensor, w: Tensor) -> Tensor:
    shape = (x.shape[0], w.shape[0], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _on_cpu(x: Tensor, w: Tensor) -> Tensor:
    y = _new(x, w)
    if y.numel() > 0:
        x, w = x.contiguous(memory_format=torch.channels_last), w.contiguous()
        call = _Call(x.data_ptr(), w.data_ptr(), y.data_ptr(), len(x), *x.shape[2:], *w.shape[1::-1], torch.get_num_threads())
        custom_ops.plugin_of("conv3x3", "cpu").conv3x3(ctypes.byref(call), custom_ops.best_variant())
    return y


def _derivative(ctx, dy):
    x, w = ctx.saved_tensors
    dx = dw = None
    if ctx.needs_input_grad[0]:
        dx = conv3x3(dy, w.flip(2, 3).transpose(0, 1))
    if ctx.needs_input_grad[1]:
        dw = torch.nn.grad.conv2d_weight(x, w.shape, dy, padding=1)
    return dx, dw


_library.impl("conv3x3", _on_cpu, "CPU")
torch.library.register_fake("eg3d::conv3x3", _new, lib=_library)
torch.library.register_autograd(
    "eg3d::conv3x3", _derivative, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs), lib=_library)
