"""Numbers from features: what FID, KID, precision and recall, and IS do after the detector. All of it in float64.

Notation: N pictures, F features, C classes.
"""

from __future__ import annotations

from typing import Tuple

import numpy as np
import torch
from torch import Tensor

ROWS, COLUMNS = 1024, 8192  # of the blocks in which distances are computed, so that all of them are never in memory


class Moments:
    """Count, mean and covariance of features that come in pieces; the covariance is the population's."""

    def __init__(self):
        self.count, self._sum, self._products = 0, 0, 0

    def add(self, features: Tensor) -> None:
        """Takes features [N, F] in."""
        x = features.double()
        self.count += len(x)
        self._sum = self._sum + x.sum(0)
        self._products = self._products + x.T @ x

    def mean(self) -> Tensor:
        """[F]."""
        return self._sum / self.count

    def covariance(self) -> Tensor:
        """[F, F]."""
        mean = self.mean()
        return self._products / self.count - mean[:, None] * mean[None, :]


def frechet_distance(mean1: Tensor, covariance1: Tensor, mean2: Tensor, covariance2: Tensor) -> float:
    """Squared Frechet distance of two normal distributions, means [F], covariances [F, F] (Heusel et al. 2017, section 3).

    |m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2)). S1 S2 has the eigenvalues of the symmetric A^T S2 A with A A^T = S1, all of
    them real and not negative, so the last trace is the sum of their roots.
    """
    values, vectors = torch.linalg.eigh(covariance1.double())
    factor = vectors * values.clamp(min=0).sqrt()
    product = factor.T @ covariance2.double() @ factor
    root = torch.linalg.eigvalsh(product).clamp(min=0).sqrt().sum()
    apart = (mean1.double() - mean2.double()).square().sum()
    return float(apart + covariance1.trace() + covariance2.trace() - 2 * root)


def kernel_distance(real: Tensor, fake: Tensor, seed: int, subsets: int = 100, largest: int = 1000) -> float:
    """KID of features [N, F] and [M, F] (Binkowski et al. 2018, section 3): squared MMD with kernel (x.y / F + 1)^3, unbiased.

    It is the mean over random subsets of at most `largest` of each side. Raises ValueError for less than two.
    """
    _require_several(real, fake, 2)
    random = np.random.RandomState(seed)
    count = min(len(real), len(fake), largest)
    total = 0.0
    for _ in range(subsets):
        x, y = [some[random.choice(len(some), count, replace=False)].double() for some in (fake, real)]
        within = _kernel(x, x).fill_diagonal_(0).sum() + _kernel(y, y).fill_diagonal_(0).sum()
        total += float(within / (count * (count - 1)) - 2 * _kernel(x, y).mean())
    return total / subsets


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def precision_recall(real: Tensor, fake: Tensor, k: int = 3) -> Tuple[float, float]:
    """Precision and recall of features [N, F] against [M, F] (Kynkaanniemi et al. 2019, section 2).

    A side's manifold is the union of balls around its points, each as large as the distance to the k-th nearest other point.
    Precision is the share of `fake` in the manifold of `real`, recall that of `real` in the manifold of `fake`.
    Raises ValueError for k points or less.
    """
    _require_several(real, fake, k + 1)
    return _share_inside(fake, real, k), _share_inside(real, fake, k)


def _share_inside(points: Tensor, manifold: Tensor, k: int) -> float:
    radii = torch.cat([_nearest(manifold, start, k) for start in range(0, len(manifold), ROWS)])
    inside = 0
    for start in range(0, len(points), ROWS):
        rows = points[start:start + ROWS]
        found = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for at in range(0, len(manifold), COLUMNS):
            found |= (_squared_distances(rows, manifold[at:at + COLUMNS]) <= radii[at:at + COLUMNS]).any(1)
        inside += int(found.sum())
    return inside / len(points)


def _nearest(points: Tensor, start: int, k: int) -> Tensor:
    """Squared distance to the k-th nearest other point, of a block of points from `start` on."""
    rows = points[start:start + ROWS]
    nearest = torch.full((len(rows), k), torch.inf, dtype=torch.float64, device=points.device)
    for at in range(0, len(points), COLUMNS):
        distances = _squared_distances(rows, points[at:at + COLUMNS])
        own = torch.arange(len(rows), device=points.device) + (start - at)
        here = (own >= 0) & (own < distances.shape[1])
        distances[here, own[here]] = torch.inf
        nearest = torch.cat([nearest, distances], dim=1).topk(k, dim=1, largest=False).values
    return nearest[:, -1]


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.double(), y.double()
    return (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)


def inception_score(probabilities: Tensor, splits: int = 10) -> Tuple[float, float]:
    """Mean and deviation over `splits` parts of exp(E KL(p(class | picture) || p(class))) (Salimans et al. 2016, section 4).

    `probabilities` are [N, C], the parts lie one after another. Raises ValueError for less pictures than parts.
    """
    if len(probabilities) < splits:
        raise ValueError(f"the inception score of {len(probabilities)} pictures: it takes {splits} or more")
    scores = []
    for part in probabilities.double().tensor_split(splits):
        divergence = (torch.xlogy(part, part) - torch.xlogy(part, part.mean(0))).sum(1)
        scores.append(divergence.mean().exp())
    found = torch.stack(scores)
    return float(found.mean()), float(found.std(correction=0))


def _require_several(real: Tensor, fake: Tensor, least: int) -> None:
    if min(len(real), len(fake)) < least:
        raise ValueError(f"{len(real)} real and {len(fake)} generated pictures: this metric takes {least} or more of each")
