"""Convolution with resampling: what `upfirdn2d`, a convolution and `upfirdn2d` again would give, by the cheapest route.

Defined as: upsample by `up` with filter f (gain up^2), pad, convolve with w, filter with f and keep every down-th sample.
Filters and kernels commute, so each shape of the problem has a route that convolves as few pixels as possible.
"""

import functools
from typing import Optional, Sequence, Union

from torch import Tensor

from . import conv2d_gradfix, upfirdn2d


def conv2d_resample(
    x: Tensor,  # [N, I, H, W]
    w: Tensor,  # [O, I / groups, kh, kw]
    f: Optional[Tensor] = None,  # from upfirdn2d.setup_filter
    up: int = 1,
    down: int = 1,
    padding: Union[int, Sequence[int]] = 0,  # relative to the upsampled picture
    groups: int = 1,
    flip_weight: bool = True,  # True correlates, as torch.nn.functional.conv2d does
    flip_filter: bool = False,
) -> Tensor:
    """Returns [N, O, about H * up / down, about W * up / down]; differentiable any number of times.

    Raises ValueError for factors that are no whole numbers from 1 up.
    """
    if not (isinstance(up, int) and isinstance(down, int) and min(up, down) >= 1):
        raise ValueError(f"conv2d_resample: up={up!r}, down={down!r}: expected whole numbers from 1 up")
    margins = upfirdn2d.grown_margins(padding, f, lambda taps: _filter_margins(taps, up, down))
    left, right, top, bottom = margins
    kernel_height, kernel_width = w.shape[2:]
    pointwise = kernel_height == kernel_width == 1
    resample = functools.partial(upfirdn2d.upfirdn2d, flip_filter=flip_filter)

    def convolve(y, **kwargs):
        return conv2d_gradfix.conv2d(y, w if flip_weight else w.flip(2, 3), groups=groups, **kwargs)

    if pointwise and up == 1 and down > 1:  # a 1x1 kernel sees each pixel alone: drop pixels first
        return convolve(resample(x, f, down=down, padding=margins))
    if pointwise and up > 1 and down == 1:  # ... or add them last
        return resample(convolve(x), f, up=up, padding=margins, gain=up**2)
    if up == 1 and down > 1:  # filter, then let the stride skip what is not kept
        return convolve(resample(x, f, padding=margins), stride=down)
    if up > 1:
        # A transposed convolution skips the inserted zeros. It pads by kernel - 1 before and kernel - up after, so that
        # much less remains; where the remainder crops on both sides, the convolution itself can leave those pixels out.
        rest = [left - (kernel_width - 1), right - (kernel_width - up),
                top - (kernel_height - 1), bottom - (kernel_height - up)]
        crop_x, crop_y = max(min(-rest[0], -rest[1]), 0), max(min(-rest[2], -rest[3]), 0)
        spread = conv2d_gradfix.conv_transpose2d(
            x, _transposed(w.flip(2, 3) if flip_weight else w, groups), stride=up, padding=(crop_y, crop_x), groups=groups)
        rest = [rest[0] + crop_x, rest[1] + crop_x, rest[2] + crop_y, rest[3] + crop_y]
        smooth = resample(spread, f, padding=rest, gain=up**2)
        return smooth if down == 1 else resample(smooth, f, down=down)
    if left == right and top == bottom and min(left, top) >= 0:
        return convolve(x, padding=(top, left))
    return convolve(resample(x, None, padding=margins))


def _filter_margins(taps: int, up: int, down: int):
    """Samples that the filters before and after the convolution add in front and behind."""
    before = after = 0
    if up > 1:
        before, after = before + (taps + up - 1) // 2, after + (taps - up) // 2
    if down > 1:
        before, after = before + (taps - down + 1) // 2, after + (taps - down) // 2
    return before, after


def _transposed(w: Tensor, groups: int) -> Tensor:
    """[O, I / groups, kh, kw] -> [I, O / groups, kh, kw], group by group."""
    parts = w.unflatten(0, (groups, -1)).transpose(1, 2)
    return parts.flatten(0, 1)
