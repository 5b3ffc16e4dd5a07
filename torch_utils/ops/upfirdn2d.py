"""Upsample, filter, downsample: the resampling step of StyleGAN2 (Karras et al. 2020, appendix B).

Along each axis: put up - 1 zeros after every sample, pad (a negative number crops), convolve with the filter, keep every
down-th sample. A 1-D filter f stands for the separable 2-D filter f f^T.

Notation: N batch, C channels. Filters are float32 and sum to 1 unless told otherwise; `flip_filter=True` correlates
instead of convolving. Factors are an int or [x, y]; paddings an int, [x, y] or [x before, x after, y before, y after].

The reference is plain PyTorch. The operator eg3d::upfirdn2d, upfirdn2d.cu on a GPU and ops_cpu.cpp on a CPU, is its own
derivative with the roles of up and down exchanged.
"""

import operator
from pathlib import Path
from typing import Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import custom_ops
from . import on_cpu

HERE = Path(__file__).parent
SEPARABLE_TAPS = 8  # from this many taps on, a 1-D filter is applied axis by axis

Factor = Union[int, Sequence[int]]


def setup_filter(
    f, device="cpu", normalize: bool = True, flip_filter: bool = False, gain: float = 1, separable: Optional[bool] = None
) -> Tensor:
    """Makes a filter from taps (a number, a 1-D or 2-D list, or None for the identity).

    Returns float32 [taps, taps], or [taps] where the filter stays separable: `separable=True`, or by default from 8 taps on.
    Raises ValueError for anything that is not a number, a vector or a matrix.
    """
    taps = torch.as_tensor(1 if f is None else f, dtype=torch.float32, device="cpu").clone()
    if taps.ndim > 2 or taps.numel() == 0:
        raise ValueError(f"setup_filter: filter of shape {tuple(taps.shape)}; expected a number, a vector or a matrix")
    if taps.ndim == 0:
        taps = taps.reshape(1)
    if separable is None:
        separable = taps.ndim == 1 and taps.numel() >= SEPARABLE_TAPS
    if separable and (taps.ndim == 2 or gain < 0):
        raise ValueError("setup_filter: a separable filter is 1-D and has no negative gain")
    if taps.ndim == 1 and not separable:
        taps = torch.outer(taps, taps)
    if normalize:
        if taps.sum() == 0:
            raise ValueError("setup_filter: taps that sum to 0 cannot be normalized; say normalize=False")
        taps = taps / taps.sum()
    if flip_filter:
        taps = taps.flip(tuple(range(taps.ndim)))
    return (taps * gain ** (taps.ndim / 2)).to(device)


def upfirdn2d(
    x: Tensor,  # [N, C, H, W]
    f: Optional[Tensor],  # [fh, fw], [taps] or None
    up: Factor = 1,
    down: Factor = 1,
    padding: Factor = 0,
    flip_filter: bool = False,
    gain: float = 1,
    impl: str = "auto",
) -> Tensor:
    """Returns [N, C, (H * up + paddings - fh) // down + 1, likewise], of x's dtype; differentiable any number of times.

    `impl='auto'` takes the kernel if it can be had (on a CPU, of float32 and float64), and the reference for a filter that is
    learned, since only the reference has a derivative for it. Raises ValueError for a factor below 1 or a picture smaller than
    the filter; torch_utils.custom_ops.PluginError where impl='cuda' or 'cpu' cannot be had.
    """
    up, down, padding = _pair(up, "up"), _pair(down, "down"), _margins(padding)
    if x.ndim != 4 or not x.is_floating_point():
        raise ValueError(f"upfirdn2d: expected floating point [N, C, H, W], got {x.dtype} {tuple(x.shape)}")
    if f is not None and (not isinstance(f, Tensor) or f.ndim not in (1, 2) or f.numel() == 0 or f.device != x.device):
        raise ValueError("upfirdn2d: expected as filter None or what setup_filter gives, on the picture's device "
                         f"({x.device}), got {f if not isinstance(f, Tensor) else (tuple(f.shape), str(f.device))}")
    height, width = _padded_size(x.shape, up, padding)
    taps_x, taps_y = _taps(f)
    if height < taps_y or width < taps_x:
        raise ValueError(f"upfirdn2d: a filter of {taps_y}x{taps_x} taps on {height}x{width} padded samples")
    learned = f is not None and f.requires_grad
    if learned and impl in ("cuda", "cpu"):
        raise ValueError(f"upfirdn2d: impl={impl!r} has no derivative for the filter; detach it, or use impl='ref'")
    impl = custom_ops.choose("upfirdn2d", "ref" if learned and impl == "auto" else impl, x.device.type, x.dtype)
    if impl == "ref":
        return _formula(x, f, up, down, padding, flip_filter, gain)
    if impl == "cpu" and on_cpu.is_at_hand(x):
        return _Direct.apply(x, f, up, down, padding, flip_filter, gain)
    return torch.ops.eg3d.upfirdn2d(x, f, up, down, padding, flip_filter, gain)


def _formula(x, f, up, down, padding, flip_filter, gain) -> Tensor:
    up_x, up_y = up
    down_x, down_y = down
    left, right, top, bottom = padding
    row, column = _row_and_column(f, x)
    x = _insert_zeros(_insert_zeros(x, 2, up_y), 3, up_x)
    x = F.pad(x, [max(margin, 0) for margin in padding])
    if min(padding) < 0:  # zeros first: a crop may reach into them
        height, width = x.shape[2:]
        x = x[:, :, max(-top, 0) : height - max(-bottom, 0), max(-left, 0) : width - max(-right, 0)]
    if f is None:
        return x[:, :, ::down_y, ::down_x] * gain
    kernels = [row] if f.ndim == 2 else [row, column]
    if not flip_filter:
        kernels = [kernel.flip(2, 3) for kernel in kernels]
    strides = [(down_y, down_x)] if f.ndim == 2 else [(1, down_x), (down_y, 1)]
    kernels = [kernel.to(x.dtype) for kernel in kernels]
    kernels[0] = kernels[0] * gain
    channels = x.shape[1]
    for kernel, stride in zip(kernels, strides):
        x = F.conv2d(x, kernel.expand(channels, 1, -1, -1), stride=stride, groups=channels)
    return x


def filter2d(x, f, padding: Factor = 0, flip_filter: bool = False, gain: float = 1, impl: str = "auto") -> Tensor:
    """Filters without changing the size (before `padding` is added)."""
    margins = grown_margins(padding, f, lambda taps: (taps // 2, (taps - 1) // 2))
    return upfirdn2d(x, f, padding=margins, flip_filter=flip_filter, gain=gain, impl=impl)


def upsample2d(
    x, f, up: Factor = 2, padding: Factor = 0, flip_filter: bool = False, gain: float = 1, impl: str = "auto"
) -> Tensor:
    """Multiplies the size by `up`; mean brightness is kept."""
    factors = _pair(up, "up")
    margins = grown_margins(padding, f, *[lambda taps, u=u: ((taps + u - 1) // 2, (taps - u) // 2) for u in factors])
    gain = gain * factors[0] * factors[1]
    return upfirdn2d(x, f, up=factors, padding=margins, flip_filter=flip_filter, gain=gain, impl=impl)


def downsample2d(
    x, f, down: Factor = 2, padding: Factor = 0, flip_filter: bool = False, gain: float = 1, impl: str = "auto"
) -> Tensor:
    """Divides the size by `down`."""
    factors = _pair(down, "down")
    margins = grown_margins(padding, f, *[lambda taps, d=d: ((taps - d + 1) // 2, (taps - d) // 2) for d in factors])
    return upfirdn2d(x, f, down=factors, padding=margins, flip_filter=flip_filter, gain=gain, impl=impl)


# ------------------------------------------------------------------------------------------------ arguments

def _integers(value, name: str, counts: Sequence[int], forms: str) -> Tuple[int, ...]:
    try:
        numbers = tuple(operator.index(each) for each in (value if hasattr(value, "__len__") else [value]))
    except TypeError:
        numbers = ()
    if len(numbers) not in counts:
        raise ValueError(f"upfirdn2d: {name}={value!r}: expected whole numbers, as {forms}")
    return numbers


def _pair(value: Factor, name: str) -> Tuple[int, int]:
    numbers = _integers(value, name, (1, 2), "one or [x, y]")
    if min(numbers) < 1:
        raise ValueError(f"upfirdn2d: {name}={value} must be at least 1")
    return numbers[0], numbers[-1]


def _margins(padding: Factor) -> Tuple[int, int, int, int]:
    numbers = _integers(padding, "padding", (1, 2, 4), "one, [x, y] or [x before, x after, y before, y after]")
    if len(numbers) == 4:
        return numbers
    return numbers[0], numbers[0], numbers[-1], numbers[-1]


def grown_margins(padding: Factor, f: Optional[Tensor], margin_x, margin_y=None) -> Tuple[int, int, int, int]:
    """`padding` plus what the filter needs on either side, given functions taps -> (before, after) along x and y."""
    width, height = _taps(f)
    needed = margin_x(width) + (margin_y or margin_x)(height)
    return tuple(own + extra for own, extra in zip(_margins(padding), needed))


def _taps(f: Optional[Tensor]) -> Tuple[int, int]:
    return (1, 1) if f is None else (f.shape[-1], f.shape[0])


def _padded_size(shape, up, padding):
    """Height and width of the samples under the filter."""
    left, right, top, bottom = padding
    return shape[2] * up[1] + top + bottom, shape[3] * up[0] + left + right


def _row_and_column(f: Optional[Tensor], x: Tensor) -> Tuple[Tensor, Tensor]:
    """The filter as kernels [1, 1, h, w]: a matrix twice, a vector once lying and once standing."""
    taps = torch.ones(1, 1, device=x.device) if f is None else f
    if taps.ndim == 2:
        return taps[None, None], taps[None, None]
    return taps.reshape(1, 1, 1, -1), taps.reshape(1, 1, -1, 1)


def _insert_zeros(x: Tensor, axis: int, factor: int) -> Tensor:
    if factor == 1:
        return x
    spread = x.unsqueeze(axis + 1)
    silence = torch.zeros_like(spread).expand(*spread.shape[: axis + 1], factor - 1, *spread.shape[axis + 2 :])
    return torch.cat([spread, silence], dim=axis + 1).flatten(axis, axis + 1)


# ------------------------------------------------------------------------------------------------ the operator

custom_ops.register(
    "upfirdn2d", cpu=on_cpu.PLUGIN,
    cuda=custom_ops.Plugin("upfirdn2d_plugin", (HERE / "upfirdn2d.cpp", HERE / "upfirdn2d.cu")))

_library = torch.library.Library("eg3d", "FRAGMENT")
_library.define(
    "upfirdn2d(Tensor x, Tensor? f, int[2] up, int[2] down, SymInt[4] padding, bool flip_filter, float gain) -> Tensor",
    tags=torch.Tag.needs_fixed_stride_order)


def _new(x, f, up, down, padding):
    """An empty result in x's order of memory."""
    (height, width), (taps_x, taps_y) = _padded_size(x.shape, up, padding), _taps(f)
    shape = [*x.shape[:2], (height - taps_y) // down[1] + 1, (width - taps_x) // down[0] + 1]
    return custom_ops.empty_as(x, shape)


def _on_cpu(x, f, up, down, padding, flip_filter, gain):
    return _new(x, f, up, down, padding).copy_(_formula(x, f, up, down, padding, flip_filter, gain))


def _on_cpu_by_kernel(x, f, *call):
    """The kernel if it can be had, else the formula."""
    available = custom_ops.choose("upfirdn2d", "auto", "cpu", x.dtype) == "cpu"
    return (_run if available else _on_cpu)(x, f, *call)


def _run(x, f, up, down, padding, flip_filter, gain, variant=None):
    x = custom_ops.dense(x)
    out = _new(x, f, up, down, padding)
    if out.numel() == 0:
        return out
    taps = torch.ones(1, 1, dtype=x.dtype) if f is None else f.to(x.dtype)
    taps = (taps if flip_filter else taps.flip(tuple(range(taps.ndim)))).contiguous()
    planes, unit = (x.shape[0] * x.shape[1], 1) if x.is_contiguous() else (x.shape[0], x.shape[1])
    call = on_cpu.UpFirDn(
        planes=planes, unit=unit, size=tuple(x.shape[2:]), out_size=tuple(out.shape[2:]), up=(up[1], up[0]),
        down=(down[1], down[0]), before=(padding[2], padding[0]), taps=_taps(f)[::-1], gain=float(gain))
    matrix, vector = (taps, None) if taps.ndim == 2 else (None, taps)
    on_cpu.run("upfirdn2d", out, call, variant, x=x, filter=matrix, column=vector, row=vector)
    return out


def _on_gpu(x, f, up, down, padding, flip_filter, gain):
    x = custom_ops.dense(x)
    out = _new(x, f, up, down, padding)
    custom_ops.plugin_of("upfirdn2d", x.device.type).upfirdn2d(
        out, x, None if f is None else f.float().contiguous(), up, down, padding[::2], flip_filter, gain,
        not x.is_contiguous(), custom_ops.current_stream(x.device))
    return out


def _keep(ctx, inputs, output):
    x, f, *ctx.call = inputs
    ctx.shape, ctx.result = x.shape, output.shape
    ctx.save_for_backward(f)


def _derivative(ctx, dy, function=torch.ops.eg3d.upfirdn2d):
    """Every output spreads over the samples it came from: the same filter, turned over."""
    f, = ctx.saved_tensors
    up, down, (left, _, top, _), flip_filter, gain = ctx.call
    (taps_x, taps_y), (height, width) = _taps(f), ctx.shape[2:]
    before_x, before_y = taps_x - 1 - left, taps_y - 1 - top
    padding = [before_x, (width - 1) * up[0] + taps_x - ctx.result[3] * down[0] - before_x,
               before_y, (height - 1) * up[1] + taps_y - ctx.result[2] * down[1] - before_y]
    return function(dy, f, down, up, padding, not flip_filter, gain), None, None, None, None, None, None


class _Direct(torch.autograd.Function):
    """The kernel without PyTorch's dispatcher, which costs more than a small picture's numbers."""

    @staticmethod
    def forward(ctx, *inputs):
        y = _run(*inputs)
        _keep(ctx, inputs, y)
        return y

    @staticmethod
    def backward(ctx, dy):
        return _derivative(ctx, dy, _Direct.apply) if on_cpu.is_at_hand(dy) else _derivative(ctx, dy)


_library.impl("upfirdn2d", _on_cpu_by_kernel, "CPU")
_library.impl("upfirdn2d", _on_gpu, "CUDA")
torch.library.register_fake("eg3d::upfirdn2d", lambda x, f, up, down, padding, *_: _new(x, f, up, down, padding), lib=_library)
torch.library.register_autograd("eg3d::upfirdn2d", _derivative, setup_context=_keep, lib=_library)
