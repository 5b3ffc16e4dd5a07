"""Stand-in for the official module of this name, written for a test: insert zeros, pad, convolve once, take every n-th."""

import torch
import torch.nn.functional as F


def setup_filter(f, device=torch.device("cpu"), normalize=True, flip_filter=False, gain=1, separable=None):
    f = torch.as_tensor(1 if f is None else f, dtype=torch.float32)
    f = f.reshape(-1) if f.ndim == 0 else f
    if f.ndim == 1 and not (f.numel() >= 8 if separable is None else separable):
        f = f[:, None] * f[None, :]
    f = f / f.sum() if normalize else f
    f = f.flip(list(range(f.ndim))) if flip_filter else f
    return (f * gain ** (f.ndim / 2)).to(device)


def upfirdn2d(x, f, up=1, down=1, padding=0, flip_filter=False, gain=1, impl="cuda"):
    (up_x, up_y), (down_x, down_y) = _two(up), _two(down)
    n, c, h, w = x.shape
    y = x.new_zeros(n, c, h * up_y, w * up_x)
    y[:, :, ::up_y, ::up_x] = x
    y = F.pad(y, _four(padding))
    f = torch.ones(1, 1) if f is None else f
    assert isinstance(f, torch.Tensor) and f.dtype == torch.float32
    f = f[:, None] * f[None, :] if f.ndim == 1 else f
    f = f if flip_filter else f.flip([0, 1])
    y = F.conv2d(y, (f * gain).to(x.dtype)[None, None].repeat(c, 1, 1, 1), groups=c)
    return y[:, :, ::down_y, ::down_x]


def filter2d(x, f, padding=0, flip_filter=False, gain=1, impl="cuda"):
    margins = _grow(padding, f, lambda n: (n // 2, (n - 1) // 2))
    return upfirdn2d(x, f, padding=margins, flip_filter=flip_filter, gain=gain)


def upsample2d(x, f, up=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    margins = _grow(padding, f, lambda n: ((n + up - 1) // 2, (n - up) // 2))
    return upfirdn2d(x, f, up=up, padding=margins, flip_filter=flip_filter, gain=gain * up * up)


def downsample2d(x, f, down=2, padding=0, flip_filter=False, gain=1, impl="cuda"):
    margins = _grow(padding, f, lambda n: ((n - down + 1) // 2, (n - down) // 2))
    return upfirdn2d(x, f, down=down, padding=margins, flip_filter=flip_filter, gain=gain)


def _two(value):
    return [value, value] if isinstance(value, int) else value


def _four(padding):
    x, *y = [padding, padding] if isinstance(padding, int) else padding
    return [x, x, y[0], y[0]] if len(y) == 1 else [x, *y]


def _grow(padding, f, needed):
    width, height = (1, 1) if f is None else (f.shape[-1], f.shape[0])
    return [own + more for own, more in zip(_four(padding), [*needed(width), *needed(height)])]
