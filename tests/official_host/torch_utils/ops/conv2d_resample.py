"""Stand-in for the official module of this name, written for a test: the definition, without any fast path."""

import torch

from . import upfirdn2d as resampling


def conv2d_resample(x, w, f=None, up=1, down=1, padding=0, groups=1, flip_weight=True, flip_filter=False):
    assert w.ndim == 4 and w.dtype == x.dtype and (f is None or f.dtype == torch.float32)
    margins = resampling._four(padding)
    if up > 1:
        margins = resampling._grow(margins, f, lambda n: ((n + up - 1) // 2, (n - up) // 2))
    if down > 1:
        margins = resampling._grow(margins, f, lambda n: ((n - down + 1) // 2, (n - down) // 2))
    x = resampling.upfirdn2d(x, f if up > 1 else None, up=up, padding=margins, gain=up**2, flip_filter=flip_filter)
    x = torch.nn.functional.conv2d(x, w if flip_weight else w.flip([2, 3]), groups=groups)
    return resampling.upfirdn2d(x, f, down=down, flip_filter=flip_filter) if down > 1 else x
