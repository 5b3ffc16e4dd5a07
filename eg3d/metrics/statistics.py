"""What a detector says of real and generated pictures; that of the real ones is kept, since it takes long and never changes.

Files lie in the cache folder under a hash of all that they depend on: the data's fingerprint (which knows of mirroring), their
resolution, which items, the detector's checksum, the method, and this program's version of it.
"""

from __future__ import annotations

import hashlib
import json
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Dict, Optional

import numpy as np
import torch
from torch import Tensor

from dnnlib.util import cache_dir, written_beside
from eg3d.metrics.arithmetic import Moments
from eg3d.metrics.detectors import Detector
from eg3d.metrics.fakes import Work, chosen_items
from torch_utils import distributed

VERSION = 1  # of what the files hold
MOMENTS = ("mean", "covariance")
FEATURES = ("features",)

Statistics = Dict[str, Tensor]


def of_fakes(work: Work, detector: Detector, count: int, names: tuple) -> Optional[Statistics]:
    """Mean and covariance (`names` is MOMENTS) or all features (FEATURES) of generated pictures, on rank 0; elsewhere None."""
    return _collected(work, count, "fakes", names, lambda first, end: detector.features(work.fakes(first, end)))


def of_reals(work: Work, detector: Detector, most: Optional[int], names: tuple) -> Optional[Statistics]:
    """The same of the data set's pictures, of at most `most` of them; from the cache if they are there."""
    items = chosen_items(len(work.dataset), most)
    path = _path(work.dataset, len(items), detector, names)
    kept = _read(path, names) if distributed.rank() == 0 else None
    if distributed.shared(kept is not None):
        return kept
    make = work.reals(items)
    found = _collected(work, len(items), "reals", names, lambda first, end: detector.features(make(first, end)))
    if found is not None:
        _keep(path, found)
    return found


def _collected(work: Work, count: int, title: str, names: tuple, make) -> Optional[Statistics]:
    moments, parts = Moments(), []
    for features in work.chunks(count, title, make):
        if distributed.rank() > 0:
            continue
        if names == MOMENTS:
            moments.add(features.cpu())
        else:
            parts.append(features.float().cpu())
    if distributed.rank() > 0:
        return None
    if names == MOMENTS:
        return dict(mean=moments.mean(), covariance=moments.covariance())
    return dict(features=torch.cat(parts))


def _path(dataset, count: int, detector: Detector, names: tuple) -> Path:
    """Where the statistics of `count` chosen pictures are kept."""
    told = [VERSION, dataset.fingerprint(), len(dataset), dataset.resolution, count, detector.sha256, names]
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    return cache_dir() / "statistics" / f"{'-'.join(names)}-{digest[:32]}.npz"


def _read(path: Path, names: tuple) -> Optional[Statistics]:
    """What is kept, or None; one warning for what is damaged."""
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: torch.from_numpy(file[name]) for name in names}
        if all(torch.isfinite(tensor).all() for tensor in found.values()):
            return found
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):
        pass
    warnings.warn(f"{path}: these statistics of the data are damaged, and made again", RuntimeWarning, stacklevel=2)
    return None


def _keep(path: Path, found: Statistics) -> None:
    try:
        with written_beside(path) as temporary:
            np.savez(temporary, **{name: tensor.numpy() for name, tensor in found.items()})
    except OSError as error:  # a metric that took hours is worth more
        warnings.warn(f"the data's statistics are not kept for the next time ({error})", RuntimeWarning, stacklevel=2)
