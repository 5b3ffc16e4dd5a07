"""Metrics of generated synthetic heads, by the regressor that knows their truth. They are no FID, and mean nothing elsewhere.

All take (work, detector, count, full) and return results by the suffix of their names on rank 0, None on the others.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, Optional

import torch
from torch import Tensor

from eg3d.metrics import arithmetic, geometry, regressor
from eg3d.metrics.fakes import Work, chosen_items, in_colour
from eg3d.metrics.regressor import Regressor
from torch_utils import images

Results = Optional[Dict[str, float]]
HEAD = 0.0  # logit from which a pixel counts as the head's


def pose(work: Work, detector: None, count: int, full: bool) -> Results:
    """Degrees between the camera that was asked for and the one that the regressor sees: median and 90th percentile; and,
    where the data have labels, the median on real pictures, which is the regressor's own error."""
    network = _regressor(work)

    def fakes(first: int, end: int) -> Tensor:
        made, c = work.generated(first, end)
        return _misses(network, images.to_uint8(made["image"]), c)

    wrong = work.rows(count, "fakes", fakes)
    own = _misses_of_reals(work, network, count) if work.dataset.has_labels else None
    if wrong is None:
        return None
    found = dict(median=float(wrong.median()), p90=float(wrong.quantile(0.9)))
    return found if own is None else dict(found, real_median=float(own.median()))


def _misses_of_reals(work: Work, network: Regressor, count: int) -> Optional[Tensor]:
    items = chosen_items(len(work.dataset), count)
    real, c = work.reals(items), torch.from_numpy(work.dataset.labels()[items])
    return work.rows(len(items), "reals", lambda first, end: _misses(network, real(first, end), c[first:end].to(work.device)))


def _regressor(work: Work) -> Regressor:
    if work.dataset.resolution < regressor.DEPTH_SIZE:
        raise ValueError(f"{work.dataset.path}: its pictures are {work.dataset.resolution} pixels wide; metrics of heads need "
                         f"{regressor.DEPTH_SIZE} or more")
    return regressor.load(device=work.device)


def _misses(network: Regressor, pictures: Tensor, c: Tensor) -> Tensor:
    seen = network(regressor.prepared(in_colour(pictures)))
    return regressor.angle(seen.direction, regressor.direction_of(c))[:, None]


def depth(work: Work, detector: None, count: int, full: bool) -> Results:
    """Rendered depth against the regressor's of the same picture, over the head: mean correlation, and mean error in world
    units after the median difference is taken away; `headless` is the share of pictures where it sees no head."""
    network = _regressor(work)

    def make(first: int, end: int) -> Tensor:
        made, _ = work.generated(first, end)
        seen = network(regressor.prepared(in_colour(images.to_uint8(made["image"]))))
        rendered = geometry.shrunk(made["image_depth"].float(), regressor.DEPTH_SIZE)[:, 0]
        found = [regressor.depth_errors(one, other, there > HEAD)
                 for one, other, there in zip(rendered.cpu(), seen.depth.cpu(), seen.head.cpu())]
        return torch.tensor(found, dtype=torch.float64)

    found = work.rows(count, "fakes", make)
    if found is None:
        return None
    there = found.isfinite().all(dim=1)
    if not there.any():
        return dict(correlation=math.nan, error=math.nan, headless=1.0)
    correlation, error = found[there].mean(dim=0).tolist()
    return dict(correlation=correlation, error=error, headless=float((~there).double().mean()))


def frechet(work: Work, detector: None, count: int, full: bool) -> Results:
    """Frechet distance of the regressor's features of generated and of real pictures; beside it that of two halves of the real
    ones, and of their mean picture."""
    network = _regressor(work)
    items = chosen_items(len(work.dataset), count)
    if len(items) < 2:
        raise ValueError("heads_frechet compares two halves of the real pictures: it needs two pictures at least, of the data "
                         "set and of the metric's number")
    real = work.reals(items)

    def described(make: Callable[[int, int], Tensor]) -> Callable[[int, int], Tensor]:
        return lambda first, end: network(regressor.prepared(make(first, end))).features

    fakes = work.rows(count, "fakes", described(work.fakes))
    reals = work.rows(len(items), "reals", described(real))
    sums = work.rows(len(items), "mean", lambda first, end: regressor.prepared(real(first, end)))
    if fakes is None or reals is None or sums is None:
        return None
    mean = ((sums.mean(dim=0, keepdim=True) + 1) * 127.5).round().to(torch.uint8).to(work.device)
    alone = network(regressor.prepared(mean)).features.cpu().expand(2, -1)
    return {"": _distance(fakes, reals), "halves": _distance(reals[::2], reals[1::2]), "mean_picture": _distance(alone, reals)}


def _distance(one: Tensor, other: Tensor) -> float:
    moments = []
    for features in (one, other):
        some = arithmetic.Moments()
        some.add(features)
        moments += [some.mean(), some.covariance()]
    return arithmetic.frechet_distance(*moments)
