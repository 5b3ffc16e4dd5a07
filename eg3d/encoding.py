"""Frames to files: .mp4, .webm and .gif by ffmpeg, which works beside the rendering, or a folder of PNGs."""

from __future__ import annotations

import contextlib
import itertools
import os
import queue
import threading
import warnings
from pathlib import Path
from typing import Callable, Generator, Iterable, Iterator, NamedTuple, Optional, Tuple, Union

import imageio_ffmpeg
import numpy as np

from dnnlib.util import folder_written_beside, written_beside
from torch_utils import images

FPS = 60
BITRATE = "10M"
FRAMES_IN_FLIGHT = 8  # rendered and not yet encoded
GIF_UNITS = 100  # of a second: what a .gif counts in
GIF_FPS = 25
# Each frame its own colours: closer to it than one palette for all, for which ffmpeg would keep the whole film in memory.
PALETTES = "split[frames][again];[frames]palettegen=stats_mode=single[colors];[again][colors]paletteuse=new=1"


class Codec(NamedTuple):
    """How ffmpeg writes a kind of film."""

    name: str
    pixels: str  # format
    bitrate: Optional[str]
    options: Tuple[str, ...] = ()


CODECS = {
    ".mp4": Codec("libx264", "yuv420p", BITRATE),
    ".webm": Codec("libvpx-vp9", "yuv420p", BITRATE,
                   ("-deadline", "good", "-cpu-used", "4", "-row-mt", "1", "-fflags", "+bitexact")),
    ".gif": Codec("gif", "pal8", None, ("-filter_complex", PALETTES)),
}


class EncodingError(Exception):
    """The film could not be encoded; the message is one line."""


def is_folder(path: Union[str, os.PathLike]) -> bool:
    """Whether frames go into a folder, as PNGs: no suffix, a slash at the end, or a folder that is there.

    Raises ValueError for the suffix of a kind of film that is not written here.
    """
    if os.fspath(path).endswith(("/", os.sep)) or Path(path).is_dir() or not Path(path).suffix:
        return True
    if Path(path).suffix not in CODECS:
        raise ValueError(f"{path}: films are written as {', '.join(CODECS)}, or as PNGs into FOLDER/")
    return False


def check_fps(path: Union[str, os.PathLike], fps: float) -> None:
    """Raises ValueError for a rate that this kind of film cannot have."""
    if not 0 < fps < float("inf"):
        raise ValueError(f"{fps} frames a second: choose a positive number")
    units = GIF_UNITS / fps
    if not is_folder(path) and Path(path).suffix == ".gif" and (units < 2 or abs(units - round(units)) > 1e-6):
        raise ValueError(f"{fps:g} frames a second do not go into a .gif, which counts hundredths of seconds: "
                         "choose 50, 25, 20 or 10")


def write(frames: Iterable[np.ndarray], path: Union[str, os.PathLike], fps: float = FPS) -> Path:
    """Writes frames, uint8 [H, W, 3] each, as the film or into the folder (see `is_folder`) that `path` names.

    If encoding fails, warns and writes PNGs into a new folder `<name>-frames` beside it; for that `frames` is gone through
    again, and where that cannot be, as with a generator, EncodingError is raised.
    Returns where the frames are: complete, or not at all.
    Raises OSError where they cannot be written, ValueError for the suffix and for no frames.
    """
    folder, path = is_folder(path), Path(path)
    if folder:
        write_pngs(frames, path)
        return path
    check_fps(path, fps)
    try:
        with encoder(path, fps) as add:
            for frame in frames:
                add(frame)
        return path
    except EncodingError as error:
        if iter(frames) is frames:
            raise
        names = (f"{path.stem}-frames{'' if number == 1 else f'-{number}'}" for number in itertools.count(1))
        folder = next(place for place in map(path.with_name, names) if not place.exists())
        warnings.warn(f"{path}: {error}; its frames become PNGs in {folder}", RuntimeWarning, stacklevel=2)
        write_pngs(frames, folder)
        return folder


def check_folder(folder: Union[str, os.PathLike]) -> None:
    """Raises OSError where a folder holds pictures that are named as frames are."""
    if any(Path(folder).glob("[0-9]" * 5 + ".png")):
        raise OSError(f"{folder}: holds numbered pictures already: choose another folder, or empty it")


def write_pngs(frames: Iterable[np.ndarray], folder: Union[str, os.PathLike]) -> None:
    """Writes 00000.png, 00001.png ... into a folder, which may hold other files; all of them, or none.

    Raises OSError where numbered pictures are already: they may be anybody's, and nothing is deleted or replaced.
    """
    check_folder(folder)
    with folder_written_beside(folder) as temporary:
        count = 0
        for count, frame in enumerate(frames, start=1):
            images.save_png(frame, temporary / f"{count - 1:05d}.png")
        if count == 0:
            raise ValueError(f"{folder}: there are no frames")


class _Encoder:
    """Encodes in a thread of its own; an error there is raised at the next frame."""

    def __init__(self, path: Path, fps: float):
        self._path, self._fps, self._count = path, fps, 0
        self._shape: Optional[tuple] = None  # of every frame
        self._writer: Optional[Generator] = None  # ffmpeg, started by the first frame
        self._frames: queue.Queue = queue.Queue(FRAMES_IN_FLIGHT)
        self._error: Optional[BaseException] = None
        self._thread = threading.Thread(target=self._run, name="encoder", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (frame := self._frames.get()) is not None:
            if self._error is None:
                try:
                    self._encode(frame)
                except Exception as error:  # carried to the thread that renders
                    self._error = error

    def _encode(self, frame: np.ndarray) -> None:
        height, width = frame.shape[:2]
        # Most codecs want even sizes: the last row or column once more.
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._writer is None:
            codec = CODECS[self._path.suffix]
            self._shape = frame.shape
            self._writer = imageio_ffmpeg.write_frames(
                str(self._path), frame.shape[1::-1], fps=self._fps, codec=codec.name, pix_fmt_out=codec.pixels,
                bitrate=codec.bitrate, quality=None, macro_block_size=1, ffmpeg_log_level="error",
                output_params=list(codec.options))
            self._writer.send(None)
        if frame.shape != self._shape:
            raise ValueError("the frames of a film must have the same size")
        self._writer.send(frame)

    def add(self, frame: np.ndarray) -> None:
        self._check()
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise ValueError(f"a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}")
        self._count += 1
        self._frames.put(frame.copy())  # the caller may use its memory for the next

    def _check(self) -> None:
        if self._error is not None:
            what = str(self._error).partition("FFMPEG COMMAND")[0]  # ffmpeg's own words went to the terminal
            raise EncodingError(f"encoding failed: {' '.join(what.split())}") from self._error

    def finish(self) -> None:
        """Waits until every frame is encoded and reads the film back. Raises EncodingError if it lacks a frame."""
        self._close()
        self._check()
        if self._count == 0:
            raise ValueError("a film without frames")
        try:
            arrived, _seconds = imageio_ffmpeg.count_frames_and_secs(str(self._path))
        except RuntimeError:  # no film that the decoder understands
            arrived = 0
        if arrived != self._count:
            raise EncodingError(f"encoding failed: {arrived} of {self._count} frames are in the film; is the disk full?")

    def abandon(self) -> None:
        """Lets go of a film that nobody will see."""
        with contextlib.suppress(OSError):
            self._close()

    def _close(self) -> None:
        self._frames.put(None)
        self._thread.join()
        if self._writer is not None:
            self._writer.close()


@contextlib.contextmanager
def encoder(path: Union[str, os.PathLike], fps: float = FPS) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that takes frames (uint8 [H, W, 3]); the file appears when all of them are encoded, or never.

    The suffix is one of CODECS. Raises EncodingError.
    """
    with written_beside(path) as temporary:
        film = _Encoder(temporary, fps)
        try:
            yield film.add
        except BaseException:
            film.abandon()
            raise
        film.finish()
