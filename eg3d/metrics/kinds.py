"""Each metric from pictures to numbers.

All take (work, detector, count, full) and return results by the suffix of their names on rank 0, None on the others.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, List, Optional, Tuple

import torch
from torch import Tensor

from eg3d import cameras
from eg3d.metrics import arithmetic, geometry, patches, paths, statistics
from eg3d.metrics.detectors import Detector
from eg3d.metrics.fakes import Work, chosen_items

Results = Optional[Dict[str, float]]
View = Tuple[Dict[str, Tensor], Tensor]  # what was made, and its labels

MOST_FOR_MANIFOLDS = 200_000  # real pictures of pr50k3_full, as in the official code
TURN = 0.2  # radians from the frontal view to its neighbours


def fid(work: Work, detector: Detector, count: int, full: bool) -> Results:
    """Frechet Inception distance."""
    real = statistics.of_reals(work, detector, None if full else count, statistics.MOMENTS)
    fake = statistics.of_fakes(work, detector, count, statistics.MOMENTS)
    if real is None or fake is None:
        return None
    return {"": arithmetic.frechet_distance(real["mean"], real["covariance"], fake["mean"], fake["covariance"])}


def kid(work: Work, detector: Detector, count: int, full: bool) -> Results:
    """Kernel Inception distance."""
    pair = _feature_pair(work, detector, count, None if full else count)
    return None if pair is None else {"": arithmetic.kernel_distance(*pair, work.seed)}


def precision_recall(work: Work, detector: Detector, count: int, full: bool) -> Results:
    """Precision and recall of manifolds."""
    pair = _feature_pair(work, detector, count, MOST_FOR_MANIFOLDS if full else count)
    return None if pair is None else dict(zip(("precision", "recall"), arithmetic.precision_recall(*pair)))


def _feature_pair(work: Work, detector: Detector, count: int, most: Optional[int]) -> Optional[List[Tensor]]:
    """Features of real and generated pictures."""
    real = statistics.of_reals(work, detector, most, statistics.FEATURES)
    fake = statistics.of_fakes(work, detector, count, statistics.FEATURES)
    if real is None or fake is None:
        return None
    return [some["features"].to(_arithmetic_device(work)) for some in (real, fake)]


def inception_score(work: Work, detector: Detector, count: int, full: bool) -> Results:
    """Inception score."""
    found = work.rows(count, "fakes", lambda first, end: detector.probabilities(work.fakes(first, end)))
    return None if found is None else dict(zip(("mean", "std"), arithmetic.inception_score(found)))


def path_length(work: Work, detector: Detector, count: int, full: bool) -> Results:
    """Perceptual path length."""
    found = work.rows(count, "paths", paths.path_distances(work, detector, count))
    return None if found is None else {"": paths.mean_over(found[:, 0])}


def sliced_wasserstein(work: Work, detector: None, count: int, full: bool) -> Results:
    """Sliced Wasserstein distance of patches; of fewer pictures where the data are fewer."""
    items = chosen_items(len(work.dataset), count)
    sides, seed = patches.levels(work.dataset.resolution), work.seed

    def described(pictures: Callable[[int, int], Tensor]) -> Callable[[int, int], Tensor]:
        # The same places on both sides.
        return lambda first, end: patches.descriptors(pictures(first, end), seed + first)

    real = work.rows(len(items), "reals", described(work.reals(items)))
    fake = work.rows(len(items), "fakes", described(work.fakes))
    if real is None or fake is None:
        return None
    device = _arithmetic_device(work)
    found = patches.distances(real.to(device), fake.to(device), sides, seed)
    return {"": found.pop("mean"), **found}


def reprojection(work: Work, detector: None, count: int, full: bool) -> Results:
    """Do two neighbours show the frontal view's solid? Errors of image and image_raw, and the share of covered pixels."""
    G, options = work.G, work.G.rendering_kwargs
    views = [cameras.view(options, yaw=yaw, device=work.device) for yaw in (0, TURN, -TURN)]
    tolerance = geometry.OCCLUDED * options["box_warp"]

    def make(first: int, end: int) -> Tensor:
        z, _ = work.latents(first, end)
        labels = [view.expand(len(z), -1) for view in views]
        ws = G.mapping(z, labels[0])
        shown = []
        for c in labels:
            work.seeded(first)
            shown.append((G.synthesis(ws, c, noise_mode="const"), c))
        return _misfit(shown[1], shown[0], tolerance) + _misfit(shown[2], shown[0], tolerance)

    found = work.rows(count, "views", make)
    if found is None:
        return None
    error, raw_error, covered, pixels = found.double().sum(0).tolist()
    if covered == 0:
        return dict(error=math.nan, raw_error=math.nan, covered=0.0)
    return dict(error=error / covered, raw_error=raw_error / covered, covered=covered / pixels)


def _misfit(view: View, frontal: View, tolerance: float) -> Tensor:
    """[N, 4]: the errors of image and of image_raw, summed over covered pixels; how many these are, and how many all are."""
    (made, c), (other, other_c) = view, frontal
    depths = [some["image_depth"].float() for some in (made, other)]
    sums = []
    for key in ("image", "image_raw"):
        pictures = [geometry.shrunk(some[key].float(), depths[0].shape[-1]) for some in (made, other)]
        error, covered = geometry.reprojection(pictures[0], depths[0], c, pictures[1], depths[1], other_c, tolerance)
        sums.append(error.where(covered, 0).sum(1))
    return torch.stack([*sums, covered.sum(1), torch.full_like(sums[0], covered.shape[1])], dim=1)


def flatness(work: Work, detector: None, count: int, full: bool) -> Results:
    """How deep the solids are, in shares of the box: their depth's deviation, and what no tilted wall explains."""
    box = work.G.rendering_kwargs["box_warp"]

    def make(first: int, end: int) -> Tensor:
        made, c = work.generated(first, end)
        return torch.stack(geometry.flatness(made["image_depth"].float().cpu(), c.cpu()), dim=1) / box

    found = work.rows(count, "fakes", make)
    return None if found is None else dict(zip(("depth", "off_plane"), found.mean(0).tolist()))


def raw_agreement(work: Work, detector: None, count: int, full: bool) -> Results:
    """PSNR in decibels between the final picture, shrunk, and the rendered one."""
    def make(first: int, end: int) -> Tensor:
        made, _ = work.generated(first, end)
        return geometry.raw_error(made["image"].float(), made["image_raw"].float())[:, None]

    found = work.rows(count, "fakes", make)
    return None if found is None else {"psnr": geometry.signal_to_noise(float(found.double().mean()))}


def _arithmetic_device(work: Work) -> torch.device:
    """Where float64 is there, and quickest."""
    return work.device if work.device.type == "cuda" else torch.device("cpu")
