"""3x3 convolutions on the CPU by Winograd's algorithm (conv3x3_cpu.cpp): with padding 1 about 2.5 times a direct one's speed,
transposed with stride 2 about 1.5 times, both for large pictures.

They differ from torch.nn.functional's by rounding: errors are about twice as large, and relative to the largest number nearby
(a tile of 6 x 6 pixels, in which one that is not a number spoils all). Differentiable any number of times; the gradients that
are no such convolutions are PyTorch's.

Notation: N batch, I / O channels in and out.
"""

import ctypes
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import custom_ops

LANES = 16  # channels come in multiples of so many
SMALLEST, SMALLEST_UP = 8, 64  # pixels along a side, from which it pays

custom_ops.register("conv3x3", cpu=custom_ops.Plugin(
    "conv3x3_on_cpu", (Path(__file__).parent / "conv3x3_cpu.cpp",), dtypes=(torch.float32,), library=True))


class _Call(ctypes.Structure):
    """conv3x3_cpu.cpp tells what each is."""

    _fields_ = [*[(name, ctypes.c_void_p) for name in ("x", "w", "y")],
                *[(name, ctypes.c_int64) for name in ("items", "height", "width", "channels_in", "channels_out", "threads")]]


def suits(x: Tensor, w: Tensor) -> bool:
    """Whether `conv3x3` is the way for pictures x [N, I, H, W], which lie channels_last in memory, and kernels w."""
    return w.ndim == 4 and _suits(x, w, w.shape[1], SMALLEST)


def suits_up(x: Tensor, w: Tensor) -> bool:
    """Whether `up_conv3x3` is."""
    return w.ndim == 4 and _suits(x, w, w.shape[0], SMALLEST_UP)


def _suits(x: Tensor, w: Tensor, channels_in: int, smallest: int) -> bool:
    return (x.ndim == 4 and w.shape[2:] == (3, 3) and all(channels % LANES == 0 for channels in w.shape[:2])
            and x.shape[1] == channels_in and min(x.shape[2:]) >= smallest and (x.dtype, x.device) == (w.dtype, w.device)
            and custom_ops.order_of(x) == torch.channels_last and not custom_ops.has_tangent(x, w)
            and custom_ops.choose("conv3x3", "auto", x.device.type, x.dtype) == "cpu")


def conv3x3(x: Tensor, w: Tensor) -> Tensor:
    """Pictures x [N, I, H, W] by kernels w [O, I, 3, 3]: [N, O, H, W], channels_last. Float32, multiples of 16 channels."""
    return torch.ops.eg3d.conv3x3(x, w)


def up_conv3x3(x: Tensor, w: Tensor) -> Tensor:
    """torch.nn.functional.conv_transpose2d(x, w, stride=2) for w [I, O, 3, 3]: [N, O, 2 H + 1, 2 W + 1], channels_last."""
    return torch.ops.eg3d.up_conv3x3(x, w)


def _new(x: Tensor, w: Tensor) -> Tensor:
    return _empty(x, w.shape[0], *x.shape[2:])


def _new_up(x: Tensor, w: Tensor) -> Tensor:
    return _empty(x, w.shape[1], *(2 * size + 1 for size in x.shape[2:]))


def _empty(x: Tensor, *shape: int) -> Tensor:
    return torch.empty((len(x), *shape), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _run(name: str, x: Tensor, w: Tensor, y: Tensor, channels_in: int) -> Tensor:
    """Kernels read as far as these shapes say, and exported programs call them without `suits`."""
    if (x.shape[1] != channels_in or w.shape[2:] != (3, 3) or {x.dtype, w.dtype} != {torch.float32}
            or any(channels % LANES for channels in w.shape[:2])):
        raise ValueError(f"{name}: pictures {list(x.shape)} of {x.dtype} and kernels {list(w.shape)} of {w.dtype}, expected "
                         f"float32 and the same channels, multiples of {LANES}")
    if y.numel() > 0:
        x, w = x.contiguous(memory_format=torch.channels_last), w.contiguous()
        call = _Call(x.data_ptr(), w.data_ptr(), y.data_ptr(), len(x), *x.shape[2:], x.shape[1], y.shape[1],
                     torch.get_num_threads())
        getattr(custom_ops.plugin_of("conv3x3", "cpu"), name)(ctypes.byref(call), custom_ops.best_variant())
    return y


def _derivative(ctx, dy):
    x, w = ctx.saved_tensors
    dx = dw = None
    if ctx.needs_input_grad[0]:
        dx = conv3x3(dy, w.flip(2, 3).transpose(0, 1))
    if ctx.needs_input_grad[1]:
        dw = torch.nn.grad.conv2d_weight(x, w.shape, dy, padding=1)
    return dx, dw


def _up_derivative(ctx, dy):
    """That of the convolution of stride 2 whose gradient this is."""
    x, w = ctx.saved_tensors
    dx = dw = None
    if ctx.needs_input_grad[0]:
        dx = F.conv2d(dy, w, stride=2)
    if ctx.needs_input_grad[1]:
        dw = torch.nn.grad.conv2d_weight(dy, w.shape, x, stride=2)
    return dx, dw


_library = torch.library.Library("eg3d", "FRAGMENT")
for _name, _fake, _rule, _axis in (("conv3x3", _new, _derivative, 1), ("up_conv3x3", _new_up, _up_derivative, 0)):
    _library.define(f"{_name}(Tensor x, Tensor w) -> Tensor")
    _library.impl(
        _name, lambda x, w, name=_name, new=_fake, axis=_axis: _run(name, x, w, new(x, w), w.shape[axis]), "CPU")
    torch.library.register_fake(f"eg3d::{_name}", _fake, lib=_library)
    torch.library.register_autograd(
        f"eg3d::{_name}", _rule, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs), lib=_library)
