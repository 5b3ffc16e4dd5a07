"""Grids of pictures that show how training goes: each row one camera, each column another latent."""

from __future__ import annotations

from pathlib import Path
from typing import List, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from torch_utils import images

CANVAS = (7680, 4320)  # pixels that a grid fills by default, within these limits of columns and rows
COLUMNS, ROWS = (7, 32), (4, 32)
SEED = 0


def layout(resolution: int, asked: Optional[Sequence[int]] = None) -> Tuple[int, int]:
    """Columns and rows of the grid for pictures of this size."""
    if asked is not None:
        return int(asked[0]), int(asked[1])
    return tuple(int(np.clip(room // resolution, *limits)) for room, limits in zip(CANVAS, (COLUMNS, ROWS)))


class Grids:
    """The pictures of one run: the same items, latents and cameras every time, so that grids can be compared."""

    def __init__(self, dataset, z_dim: int, shape: Tuple[int, int], batch: int, device: torch.device,
                 cameras: Optional[Tensor] = None):
        """cameras [rows, 25]: for data without labels."""
        self.columns, rows = shape
        self._dataset, self._batch = dataset, batch
        chosen = np.random.RandomState(SEED).permutation(len(dataset))
        if cameras is None:
            known = dataset.labels()
            first = [int(chosen[row % len(chosen)]) for row in range(rows)]
            self._items = [item for row in first for item in _nearest(known, row, self.columns)]
            cameras = torch.from_numpy(known[first])
        else:
            self._items = [int(chosen[cell % len(chosen)]) for cell in range(rows * self.columns)]
        self._c = cameras.repeat_interleave(self.columns, dim=0).to(device)
        draw = torch.Generator().manual_seed(SEED)
        self._z = torch.randn((rows * self.columns, z_dim), generator=draw).to(device)

    def save_reals(self, path: Path) -> None:
        """Real pictures; in each row those whose cameras are nearest to the row's."""
        reals = np.stack([self._dataset[item][0] for item in self._items])
        images.save_png(images.grid(torch.from_numpy(reals).float() / 127.5 - 1, self.columns), path)

    def save_fakes(self, G_ema: torch.nn.Module, stem: Path) -> None:
        """Generated pictures: STEM.png, and STEM_raw.png and STEM_depth.png of the rendering before super-resolution."""
        parts = {"image": [], "image_raw": [], "image_depth": []}
        with torch.inference_mode():
            for z, c in zip(self._z.split(self._batch), self._c.split(self._batch)):
                picture = G_ema(z=z, c=c, noise_mode="const")
                for key, some in parts.items():
                    some.append(picture[key].float().cpu())
        image, raw, depth = [torch.cat(some) for some in parts.values()]
        near, far = depth.min(), depth.max()
        depth = (far - depth) / (far - near).clamp(min=torch.finfo(depth.dtype).tiny) * 2 - 1
        for suffix, pictures in (("", image), ("_raw", raw), ("_depth", depth)):
            images.save_png(images.grid(pictures, self.columns), stem.with_name(f"{stem.name}{suffix}.png"))


def _nearest(known: np.ndarray, item: int, count: int) -> List[int]:
    """Items whose cameras are nearest to that of `item`, itself first; over again where there are too few."""
    order = np.argsort(np.square(known - known[item]).sum(axis=1), kind="stable")
    return [int(order[place % len(order)]) for place in range(count)]
