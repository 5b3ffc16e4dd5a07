"""Pictures for metrics: generated and real ones, made by all ranks together.

Pictures are made in chunks of `batch`; chunk j is the work of rank j % ranks. Latent and label of item i come from (seed, i),
what the network itself draws (noise, the jitter of depths) from (seed, the chunk's first item): however many ranks there are,
the pictures are the same, to the rounding of their arithmetic.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Callable, Dict, Iterator, Optional, Tuple

import numpy as np
import torch
import tqdm
from torch import Tensor

from torch_utils import distributed, images

Cameras = Callable[[int], Tensor]  # count -> labels [count, 25]


@dataclasses.dataclass
class Work:
    """What every metric needs to know of the evaluation it is part of."""

    G: torch.nn.Module
    dataset: torch.utils.data.Dataset
    device: torch.device
    batch: int
    seed: int
    progress: bool
    cameras: Optional[Cameras] = None  # for data without labels

    def chunks(self, count: int, title: str, make: Callable[[int, int], Tensor]) -> Iterator[Tensor]:
        """Every rank gets [n, ...] after [n, ...], `count` items in all: what `make(first, end)` gives for chunks of items."""
        ranks, round_size = distributed.size(), distributed.size() * self.batch
        shown = self.progress and distributed.rank() == 0
        with tqdm.tqdm(total=count, desc=title, unit="picture", leave=False, disable=None if shown else True) as bar:
            for start in range(0, count, round_size):
                first = min(start + distributed.rank() * self.batch, count)
                end = min(first + self.batch, count)
                # Who has nothing left makes an item again, to send a tensor of the right shape.
                made = make(first, end) if first < end else make(count - 1, count)[:0]
                if ranks > 1:
                    lacking = made.new_zeros(self.batch - len(made), *made.shape[1:])
                    made = distributed.gathered(torch.cat([made, lacking]))[:count - start]
                bar.update(len(made))
                yield made

    def rows(self, count: int, title: str, make: Callable[[int, int], Tensor]) -> Optional[Tensor]:
        """What `make` gives for `count` items, on rank 0's CPU; elsewhere None."""
        first = distributed.rank() == 0
        parts = [made.cpu() for made in self.chunks(count, title, make) if first]
        return torch.cat(parts) if first else None

    def latents(self, first: int, end: int) -> Tuple[Tensor, Tensor]:
        """z [n, z_dim] and labels [n, 25] of items, on the device."""
        zs, cs = zip(*[self._latent(item) for item in range(first, end)])
        return torch.stack(zs).to(self.device), torch.stack(cs).to(self.device)

    def _latent(self, item: int) -> Tuple[Tensor, Tensor]:
        random = np.random.default_rng([self.seed, item])
        z = torch.from_numpy(random.standard_normal(self.G.z_dim, dtype=np.float32))
        if self.cameras is None:
            return z, torch.from_numpy(self._labels[random.integers(len(self._labels))])
        torch.manual_seed(int(random.integers(2**31)))
        return z, self.cameras(1)[0]

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        return self.dataset.labels()

    def seeded(self, first: int) -> None:
        """Starts PyTorch's random numbers for a chunk; the same twice, the same numbers."""
        torch.manual_seed(int(np.random.default_rng([self.seed, first, 1]).integers(2**31)))

    def generated(self, first: int, end: int) -> Tuple[Dict[str, Tensor], Tensor]:
        """What the network makes of items, and their labels. Raises ValueError for what is no picture."""
        z, c = self.latents(first, end)
        self.seeded(first)
        made = self.G(z=z, c=c, noise_mode="random")
        if not all(torch.isfinite(some).all() for some in made.values()):
            raise ValueError("the network's pictures hold NaN or infinite numbers: its training has diverged")
        return made, c

    def fakes(self, first: int, end: int) -> Tensor:
        """Generated pictures as uint8 [n, 3, H, W]."""
        return in_colour(images.to_uint8(self.generated(first, end)[0]["image"]))

    def reals(self, items: np.ndarray) -> Callable[[int, int], Tensor]:
        """A `make` of the data set's pictures with these numbers, uint8 [n, 3, H, W]."""
        def make(first: int, end: int) -> Tensor:
            pictures = np.stack([self.dataset[int(item)][0] for item in items[first:end]])
            return in_colour(torch.from_numpy(pictures).to(self.device))
        return make


def in_colour(pictures: Tensor) -> Tensor:
    """[N, 1 or 3, H, W] -> [N, 3, H, W]."""
    return pictures.expand(-1, 3, -1, -1)


def chosen_items(count: int, most: Optional[int]) -> np.ndarray:
    """Numbers of the items that stand for a data set of `count`: all of them, or `most` drawn once and for all."""
    if most is None or most >= count:
        return np.arange(count)
    return np.sort(np.random.RandomState(0).permutation(count)[:most])
