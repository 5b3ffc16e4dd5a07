"""Films: identities interpolated in w while the camera moves, in a grid.

Notation: K keyframes, N cells of the grid, L styles, W style size, F frames.
"""

from __future__ import annotations

import warnings
from typing import Callable, Iterator, List, Optional, Sequence

import numpy as np
import scipy.interpolate
import torch
from torch import Tensor

from eg3d import cameras, sampling
from eg3d.session import Session
from torch_utils import images

WRAPS = 2  # copies of the keyframes on either side, so that the interpolation's ends meet
IMAGE_MODES = ("image", "image_depth", "image_raw")
DEPTH_COLORS = ("grey", "viridis")
BYTES_A_PIXEL = 4096  # of the final picture, that rendering one cell needs: 1.1 GB at 512x512


def interpolated_styles(keys: Tensor) -> Callable[[float], Tensor]:
    """A closed cubic curve through styles [K, N, L, W]: position (in keyframes) -> ws [N, L, W]."""
    count = len(keys)
    positions = np.arange(-count * WRAPS, count * (WRAPS + 1))
    values = np.tile(keys.cpu().numpy(), (2 * WRAPS + 1, 1, 1, 1))
    curve = scipy.interpolate.make_interp_spline(positions, values, k=3)

    def at(position: float) -> Tensor:
        return torch.from_numpy(np.asarray(curve(position), dtype=np.float32)).to(keys.device)

    return at


class Cells:
    """Cells of a film's grid that are rendered together: identities, or walks through several."""

    def __init__(self, G: torch.nn.Module, seeds: Sequence[Sequence[int]], psi: float, cutoff: int, condition: Tensor,
                 options: dict):
        """`seeds`: each cell's keyframes."""
        self.G, self.options = G, options
        self.seeds = [cell[0] for cell in seeds]
        keys = torch.stack([
            torch.cat([sampling.styles(G, seed, psi, cutoff, condition) for seed in cell]) for cell in seeds], dim=1)
        fixed = all(len(set(cell)) == 1 for cell in seeds)
        self._session: Optional[Session] = Session(G, keys[0], self.seeds, options) if fixed else None
        self._curve = interpolated_styles(keys)

    def at(self, position: float) -> Session:
        """The identities at a position in keyframes; those that do not change are made once."""
        if self._session is not None:
            return self._session
        return Session(self.G, self._curve(position), self.seeds, self.options)


def assign_seeds(seeds: Sequence[int], cells: int, keyframes: Optional[int] = None,
                 shuffle_seed: Optional[int] = None) -> List[List[int]]:
    """Each cell's keyframes: seeds in order, repeated if there are too few. Raises ValueError if they do not come out even."""
    if keyframes is None:
        if len(seeds) % cells:
            raise ValueError(f"{len(seeds)} seeds do not fill a grid of {cells} cells evenly: choose a multiple, or say how "
                             "many keyframes each has (--num-keyframes)")
        keyframes = len(seeds) // cells
    chosen = np.array([seeds[index % len(seeds)] for index in range(keyframes * cells)])
    if shuffle_seed is not None:
        np.random.RandomState(shuffle_seed).shuffle(chosen)
    return chosen.reshape(cells, keyframes).tolist()


def sampling_options(G: torch.nn.Module, multiplier: float) -> dict:
    """Rendering options with both depth counts multiplied. Raises ValueError if nothing would be left."""
    keys = ("depth_resolution", "depth_resolution_importance")
    options = {key: int(G.rendering_kwargs[key] * multiplier) for key in keys}
    if options["depth_resolution"] < 4:  # importance sampling needs a distribution over at least one interval
        raise ValueError(f"a sampling multiplier of {multiplier} leaves {options['depth_resolution']} samples on a ray")
    return options


def cells_at_once(G: torch.nn.Module, device: torch.device) -> int:
    """Cells that fit into the free memory of a GPU; one on a CPU, where a batch takes longer than its cells one by one."""
    if device.type != "cuda":
        return 1
    free, _total = torch.cuda.mem_get_info(device)
    return max(1, free // (BYTES_A_PIXEL * G.img_resolution**2))


class Film:
    """Every cell goes through its keyframes once while the camera follows its path once.

    Iterating yields frames, uint8 [rows * R, columns * R, 3]; it can be done again.
    """

    def __init__(self, G: torch.nn.Module, seeds: Sequence[Sequence[int]], labels: Tensor, columns: int = 1, psi: float = 1.0,
                 cutoff: int = sampling.DEFAULT_CUTOFF, mode: str = "image", resolution: Optional[int] = None,
                 multiplier: float = 2, focal: Optional[float] = None, depth_colors: str = "grey",
                 at_once: Optional[int] = None):
        """`seeds`: each cell's keyframes, row by row; `labels` [F, 25]: the camera of each frame; `focal`: of the frontal
        camera that the mapping sees, the data's by default; `at_once`: cells rendered together, by default what fits."""
        for chosen, known, what in ((mode, IMAGE_MODES, "image mode"), (depth_colors, DEPTH_COLORS, "depth colours")):
            if chosen not in known:
                raise ValueError(f"{what} {chosen!r}: choose one of {', '.join(known)}")
        # Official: a cutoff of 0 switches truncation off, and without truncation the cutoff is the default.
        psi = 1.0 if cutoff == 0 else psi
        cutoff = sampling.DEFAULT_CUTOFF if psi == 1 else cutoff
        self._cells = dict(psi=psi, cutoff=cutoff, condition=cameras.view(G.rendering_kwargs, focal=focal),
                           options=sampling_options(G, multiplier))
        self.G, self.seeds, self.labels, self.columns = G, seeds, labels, columns
        self.mode, self.resolution, self.depth_colors = mode, resolution, depth_colors
        self.keyframes = len(seeds[0])
        self.at_once = min(at_once or cells_at_once(G, next(G.parameters()).device), len(seeds))
        self._parts: List[Cells] = []

    @property
    def parts(self) -> List[Cells]:
        """The grid's cells, those that are rendered together side by side; made when they are first asked for."""
        if not self._parts:
            self._parts = [Cells(self.G, self.seeds[start : start + self.at_once], **self._cells)
                           for start in range(0, len(self.seeds), self.at_once)]
        return self._parts

    def __len__(self) -> int:
        return len(self.labels)

    def session(self, index: int, part: int = 0) -> Session:
        """The identities of a part of the grid at a frame; part 0 begins with the first cell."""
        return self.parts[part].at(index * self.keyframes / len(self))

    def frame(self, index: int) -> np.ndarray:
        """One frame; no frame depends on another."""
        c = self.labels[index : index + 1]
        while True:
            try:
                pictures = torch.cat([
                    self.session(index, part).render(c, self.resolution)[self.mode] for part in range(len(self.parts))])
                break
            except torch.cuda.OutOfMemoryError:
                if self.at_once == 1:
                    raise
            warnings.warn(f"{self.at_once} cells at once need too much memory: {self.at_once // 2} from here on",
                          RuntimeWarning, stacklevel=2)
            self.at_once, self._parts = self.at_once // 2, []  # lets go of planes before new ones are made
        if self.mode == "image_depth":
            pictures = images.depth_image(pictures)
            if self.depth_colors == "viridis":
                pictures = images.viridis(pictures)
        return images.grid(pictures, self.columns)

    def __iter__(self) -> Iterator[np.ndarray]:
        for index in range(len(self)):
            yield self.frame(index)
