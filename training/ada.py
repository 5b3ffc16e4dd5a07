"""Adaptive augmentation (Karras et al. 2020, section 3): how likely it is follows how sure D is of real pictures.

E[sign(D(real))] near 1 tells that D has learnt the training set by heart: then pictures are augmented more often.
"""

from __future__ import annotations

import math

INTERVAL = 4  # batches between two adaptations


def adapted(p: float, sign: float, target: float, batch: int, ada_kimg: float) -> float:
    """The next probability: a step up where `sign`, the mean of sign(D(real)), is above `target`, else down, never below 0.

    It takes `ada_kimg` thousand images to get from 0 to 1. There is no ceiling: each transformation clips its own chance. A
    `sign` that is no number (nothing was reported) changes nothing.
    """
    step = batch * INTERVAL / (ada_kimg * 1000)
    return p if math.isnan(sign) else max(p + step * ((sign > target) - (sign < target)), 0.0)
