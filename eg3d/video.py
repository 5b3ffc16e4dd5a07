"""Films: identities interpolated in w while the camera goes round, in a grid, encoded beside rendering.

Notation: K keyframes, L styles, W style size.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from pathlib import Path
from typing import Callable, Iterator, List, Optional, Sequence, Tuple, Union

import imageio
import imageio_ffmpeg
import numpy as np
import scipy.interpolate
import torch
from torch import Tensor

from dnnlib.util import written_beside
from eg3d import cameras, sampling
from eg3d.session import Session
from torch_utils import images

FPS = 60
BITRATE = "10M"
CODEC = "libx264"
WRAPS = 2  # copies of the keyframes on either side, so that the interpolation's ends meet
FRAMES_IN_FLIGHT = 8  # rendered and not yet encoded
IMAGE_MODES = ("image", "image_depth", "image_raw")


def interpolated_styles(keys: Tensor) -> Callable[[float], Tensor]:
    """A closed cubic curve through styles [K, L, W]: position (in keyframes) -> ws [1, L, W]."""
    count = len(keys)
    positions = np.arange(-count * WRAPS, count * (WRAPS + 1))
    values = np.tile(keys.cpu().numpy(), (2 * WRAPS + 1, 1, 1))
    curve = scipy.interpolate.make_interp_spline(positions, values, k=3)

    def at(position: float) -> Tensor:
        return torch.from_numpy(np.asarray(curve(position), dtype=np.float32))[None].to(keys.device)

    return at


class Cell:
    """One identity, or a walk through several, in a film's grid."""

    def __init__(self, G: torch.nn.Module, seeds: Sequence[int], psi: float, cutoff: int, condition: Tensor, options: dict):
        self.G, self.seed, self.options = G, seeds[0], options
        keys = torch.cat([sampling.styles(G, seed, psi, cutoff, condition) for seed in seeds])
        fixed = len(set(seeds)) == 1
        self._session: Optional[Session] = Session(G, keys[:1], self.seed, options) if fixed else None
        self._curve = interpolated_styles(keys)

    def at(self, position: float) -> Session:
        """The identity at a position in keyframes; one that does not change is made once."""
        if self._session is not None:
            return self._session
        return Session(self.G, self._curve(position), self.seed, self.options)


def assign_seeds(seeds: Sequence[int], cells: int, keyframes: Optional[int] = None,
                 shuffle_seed: Optional[int] = None) -> List[List[int]]:
    """Each cell's keyframes: seeds in order, repeated if there are too few. Raises ValueError if they do not come out even."""
    if keyframes is None:
        if len(seeds) % cells:
            raise ValueError(f"{len(seeds)} seeds do not fill a grid of {cells} cells evenly: choose a multiple, or keyframes")
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


class Film:
    """The official film: the camera on its closed path once, every cell through its keyframes once.

    Iterating yields (index, frame), frames uint8 [rows * R, columns * R, 3].
    """

    def __init__(self, G: torch.nn.Module, seeds: Sequence[Sequence[int]], columns: int = 1, w_frames: int = 120,
                 psi: float = 1.0, cutoff: int = sampling.DEFAULT_CUTOFF, mode: str = "image",
                 resolution: Optional[int] = None, multiplier: float = 2, focal: Optional[float] = None):
        """`seeds`: each cell's keyframes, row by row; `w_frames` between keyframes; `focal` of the data by default."""
        if mode not in IMAGE_MODES:
            raise ValueError(f"image mode {mode!r}: choose one of {', '.join(IMAGE_MODES)}")
        self.frames = len(seeds[0]) * w_frames
        self.labels = cameras.orbit(G.rendering_kwargs, self.frames, focal=focal)
        condition = cameras.view(G.rendering_kwargs, focal=focal)
        # Official: a cutoff of 0 switches truncation off, and without truncation the cutoff is the default.
        psi = 1.0 if cutoff == 0 else psi
        cutoff = sampling.DEFAULT_CUTOFF if psi == 1 else cutoff
        options = sampling_options(G, multiplier)
        self.cells = [Cell(G, cell, psi, cutoff, condition, options) for cell in seeds]
        self.columns, self.w_frames, self.mode, self.resolution = columns, w_frames, mode, resolution

    def __len__(self) -> int:
        return self.frames

    def session(self, cell: int, frame: int) -> Session:
        """A cell's identity at a frame."""
        return self.cells[cell].at(frame / self.w_frames)

    def frame(self, index: int) -> np.ndarray:
        """One frame; no frame depends on another."""
        c = self.labels[index : index + 1]
        pictures = torch.cat([
            self.session(cell, index).render(c, self.resolution)[self.mode] for cell in range(len(self.cells))])
        return images.grid(images.depth_image(pictures) if self.mode == "image_depth" else pictures, self.columns)

    def __iter__(self) -> Iterator[Tuple[int, np.ndarray]]:
        for index in range(self.frames):
            yield index, self.frame(index)


# ------------------------------------------------------------------------------------------------ encoding

class _Encoder:
    """Encodes in a thread of its own; an error there is raised at the next frame."""

    def __init__(self, path: Path, fps: float):
        self._writer = imageio.get_writer(
            path, format="FFMPEG", mode="I", fps=fps, codec=CODEC, bitrate=BITRATE, macro_block_size=2,
            ffmpeg_log_level="error")
        self._path, self._count = path, 0
        self._frames: queue.Queue = queue.Queue(FRAMES_IN_FLIGHT)
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (frame := self._frames.get()) is not None:
            if self._error is None:
                try:
                    self._writer.append_data(frame)
                except Exception as error:  # carried to the thread that renders
                    self._error = error

    def add(self, frame: np.ndarray) -> None:
        self._check()
        self._count += 1
        self._frames.put(frame)

    def _check(self) -> None:
        if self._error is not None:
            raise OSError(f"encoding failed: {' '.join(str(self._error).split())}") from self._error

    def finish(self) -> None:
        """Waits until every frame is encoded and reads the film back. Raises OSError if it lacks a frame."""
        self._close()
        self._check()
        try:
            arrived, _seconds = imageio_ffmpeg.count_frames_and_secs(str(self._path))
        except RuntimeError:  # no film that the decoder understands
            arrived = 0
        if arrived != self._count or arrived == 0:
            raise OSError(f"encoding failed: {arrived} of {self._count} frames are in the film; is the disk full?")

    def abandon(self) -> None:
        """Lets go of a film that nobody will see."""
        with contextlib.suppress(OSError):
            self._close()

    def _close(self) -> None:
        self._frames.put(None)
        self._thread.join()
        self._writer.close()


@contextlib.contextmanager
def encoder(path: Union[str, os.PathLike], fps: float = FPS) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that takes frames (uint8 [H, W, 3]); the file appears when all of them are encoded, or never."""
    with written_beside(path) as temporary:
        film = _Encoder(temporary, fps)
        try:
            yield film.add
        except BaseException:
            film.abandon()
            raise
        film.finish()
