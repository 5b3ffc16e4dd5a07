"""gen_videos: films of seeds, interpolated or one by one."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import click

from dnnlib.util import written_beside
from eg3d.cli import options

FOCALS = {"ffhq": "FFHQ_FOCAL", "afhq": "FFHQ_FOCAL", "shapenet": "SHAPENET_FOCAL"}
SECONDS_A_KEYFRAME = 2
MOST_FRAMES = 1_000_000


@click.command("videos")
@options.network_options
@click.option("--seeds", type=options.SeedRange(), required=True, help="Like 0-3,7.")
@click.option("--shuffle-seed", type=click.IntRange(0, 2**32 - 1), help="Shuffle the seeds, in this way.")
@click.option("--grid", type=options.GridSize(), default="1x1", show_default=True, help="Columns and rows, like 4x2.")
@click.option("--num-keyframes", type=click.IntRange(1, MOST_FRAMES), help="Seeds of each cell; by default all are used once.")
@click.option("--w-frames", type=click.IntRange(1, MOST_FRAMES),
              help="Frames between keyframes; by default two seconds of them, 120.")
@options.truncation_options
@click.option("--outdir", type=options.Output(folder=True), metavar="FOLDER", help="Write FOLDER/interpolation.mp4.")
@click.option("--output", type=options.Output(folder=None), metavar="FILE|FOLDER/",
              help="Instead of --outdir: the film itself, .mp4, .webm or .gif, or a folder for its frames as PNGs.")
@click.option("--fps", type=options.Finite(0.1, 240), help="Frames a second; by default 60, in a .gif 25.")
@click.option("--seconds", type=options.Finite(0, 86400, min_open=True),
              help="Length of the whole film, instead of --w-frames.")
@click.option("--orbit", type=options.Finite(0, 360, min_open=True), is_flag=False, flag_value=360.0, metavar="[DEGREES]",
              help="Go round instead of the official path: once about, or to and fro over these degrees.")
@click.option("--camera-path", type=options.Input(), metavar="FILE",
              help="Follow a saved path (JSON), a frame for each camera, or as many as --seconds or --w-frames ask for.")
@click.option("--save-camera-path", type=options.Output(), metavar="FILE", help="Save the path that is filmed (JSON).")
@click.option("--cfg", type=click.Choice(["FFHQ", "AFHQ", "Shapenet"], case_sensitive=False),
              help="The data whose focal length to use, for the film (but for a saved path) and the mapping; by default the "
                   "network's.")
@click.option("--image_mode", "mode", type=click.Choice(["image", "image_depth", "image_raw"]), default="image",
              show_default=True, help="The final picture, the depth, or the rendering before super-resolution.")
@click.option("--depth-colors", type=click.Choice(["grey", "viridis"]), default="grey", show_default=True,
              help="Of --image_mode=image_depth: near is bright.")
@click.option("--sample_mult", "multiplier", type=options.Finite(0, 64, min_open=True), default=2, show_default=True,
              help="Multiplies the samples along each ray.")
@click.option("--nrr", "rendered", type=click.IntRange(8, 1024),
              help="Neural rendering resolution; by default the network's.")
@options.switch("--shapes", default=False, help="Write the first cell's shape for every frame, and the camera's trajectory.")
@options.shape_options
@options.switch("--interpolate", default=True, help="One film through all seeds; false makes a film of each seed.")
def videos(load, seeds, shuffle_seed, grid, num_keyframes, w_frames, outdir, output, fps, seconds, orbit, camera_path,
           save_camera_path, interpolate, cfg, shapes, mode, depth_colors, multiplier, rendered, psi, cutoff, **shape):
    """A film, interpolation.mp4: the camera goes round while the identity passes from seed to seed."""
    from eg3d import cameras, encoding, video

    options.check_shape_options(shapes, shape["suffix"])
    if mode != "image_depth":
        options.needs("depth_colors", because="--image_mode=image_depth")
    films, columns = _films(outdir, output, seeds, grid, num_keyframes, shuffle_seed, interpolate)
    first = next(iter(films))
    fps = fps or (encoding.GIF_FPS if first.endswith(".gif") else encoding.FPS)
    encoding.check_fps(first, fps)
    _check_places(films, save_camera_path, shapes)
    saved = cameras.load_path(camera_path) if camera_path else None
    if save_camera_path and os.path.exists(save_camera_path):
        cameras.load_path(save_camera_path)  # refuses to replace what is no camera path
        if camera_path and os.path.samefile(camera_path, save_camera_path):
            raise click.UsageError(f"--save-camera-path: {save_camera_path} is the path that is followed")
    if saved is not None and orbit is not None:
        raise click.UsageError("--orbit and --camera-path are two paths: give one of them")
    frames = _frame_count(len(films[first][0]), w_frames, seconds, fps, saved)
    focal = getattr(cameras, FOCALS[cfg.lower()]) if cfg else None

    G = load()
    if saved is not None:
        labels = saved if len(saved) == frames else cameras.resample(saved, frames)
    elif orbit is not None:
        labels = cameras.orbit(G.rendering_kwargs, frames, orbit, focal=focal)
    else:
        labels = cameras.film_path(G.rendering_kwargs, frames, focal=focal)
    video.sampling_options(G, multiplier)  # refuses too few samples before anything is written
    without = []
    with contextlib.ExitStack() as saving:
        if save_camera_path:  # written now, so that a place that cannot be written to is told before the film
            cameras.save_path(labels, saving.enter_context(written_beside(save_camera_path)))
        for name, cells in films.items():
            film = video.Film(G, cells, labels, columns, psi, cutoff, mode, rendered, multiplier, focal, depth_colors)
            encoding.write(_Shown(film, Path(name).name), name, fps)
            saving.close()  # and there as soon as a film is
            if shapes:
                without += _save_shapes(film, _base(name), **shape)
    if without:
        raise click.ClickException(f"{len(without)} frames have no surface; the first: {without[0]}")


def _films(outdir: Optional[str], output: Optional[str], seeds: List[int], grid: Tuple[int, int], keyframes: Optional[int],
           shuffle_seed: Optional[int], interpolate: bool) -> Tuple[Dict[str, List[List[int]]], int]:
    """Where each film goes -> the keyframes of its cells; and the columns of its grid."""
    from eg3d import encoding, video

    if (outdir is None) == (output is None):
        raise click.UsageError("give --outdir=FOLDER or --output=FILE, one of them")
    if interpolate:
        columns, rows = grid
        if (keyframes or 1) * columns * rows > MOST_FRAMES:
            raise click.UsageError(f"--num-keyframes in every cell of --grid are more than {MOST_FRAMES}")
        path = output or str(Path(outdir) / "interpolation.mp4")
        encoding.is_folder(path)  # refuses suffixes that are not written
        return {path: video.assign_seeds(seeds, columns * rows, keyframes, shuffle_seed)}, columns
    if grid != (1, 1) or keyframes or shuffle_seed is not None:
        raise click.UsageError("--interpolate=false films each seed alone: leave out --grid, --num-keyframes, --shuffle-seed")
    if output is not None and not encoding.is_folder(output):
        if len(set(seeds)) > 1:
            raise click.UsageError("--interpolate=false makes a film of each seed: give --outdir, or a folder as --output")
        return {output: [[seeds[0]]]}, 1
    return {str(Path(outdir) / f"{seed}.mp4" if outdir else Path(output) / str(seed)): [[seed]] for seed in seeds}, 1


def _frame_count(keyframes: int, w_frames: Optional[int], seconds: Optional[float], fps: float, saved) -> int:
    if w_frames is not None and seconds is not None:
        raise click.UsageError("--w-frames and --seconds both tell the film's length: give one of them")
    if seconds is not None:
        frames = max(1, round(seconds * fps))
    elif w_frames is None and saved is not None:
        frames = len(saved)
    else:
        frames = keyframes * (w_frames or max(1, round(SECONDS_A_KEYFRAME * fps)))
    if frames > MOST_FRAMES:
        raise click.UsageError(f"a film of {frames} frames: at most {MOST_FRAMES} are made")
    return frames


def _base(name: str) -> Path:
    """What the files that go with a film are called after."""
    from eg3d import encoding

    return Path(name) if encoding.is_folder(name) else Path(name).with_suffix("")


def _trajectory(base: Path) -> Path:
    """Beside the folder of shapes, or in it where its name is not told, as in --output=."""
    return base.with_name(f"{base.name}_trajectory.npy") if base.name not in ("", "..") else base / "trajectory.npy"


def _check_places(films: Dict[str, List[List[int]]], camera_path: Optional[str], shapes: bool) -> None:
    """What would only show when a film is made: that two files have the same place."""
    from eg3d import encoding

    for name in films:
        base = _base(name)
        if encoding.is_folder(name):
            encoding.check_folder(name)
        if shapes and any(base.glob("[0-9]" * 4 + "_shape.*")):
            raise click.UsageError(f"{base}: holds numbered shapes already: choose another place, or empty it")
        if (shapes or encoding.is_folder(name)) and base.exists() and not base.is_dir():
            raise click.UsageError(f"{base}: a file is there, but frames or shapes need a folder of that name")
        taken = {os.path.abspath(path) for path in (name, base, _trajectory(base))}
        if camera_path and os.path.abspath(camera_path) in taken:
            raise click.UsageError(f"--save-camera-path: {camera_path} is the film's own place")


class _Shown:
    """Frames under a progress bar; they can be gone through again."""

    def __init__(self, frames, title: str):
        self.frames, self.title = frames, title

    def __iter__(self):
        import tqdm

        yield from tqdm.tqdm(self.frames, desc=self.title, unit="frame")


def _save_shapes(film, base: Path, suffix: str, **shape) -> List[str]:
    """Shapes of the first cell, base/0000_shape.mrc and on, and base_trajectory.npy: poses [frames, 4, 4].

    Returns what was said of frames that have no surface.
    """
    import numpy as np
    import tqdm

    from eg3d import shapes

    before, last, failed, without = None, None, None, []
    for index in tqdm.tqdm(range(len(film)), desc="shapes", unit="frame"):
        session = film.session(index)
        if session is failed:
            without.append(without[-1])
            continue
        path = base / f"{index:04d}_shape{suffix}"
        try:
            if session is before is not None:
                with written_beside(path) as temporary:
                    shutil.copyfile(last, temporary)
            else:
                shapes.save(session, path, **shape)
        except shapes.NoSurface as error:
            if not without:  # now, since the others may take long
                warnings.warn(str(error), RuntimeWarning, stacklevel=2)
            without.append(str(error))
            failed = session
            continue
        before, last = session, path
    with written_beside(_trajectory(base)) as temporary:
        np.save(temporary, film.labels[:, :16].reshape(-1, 4, 4).numpy())
    return without


def main() -> None:
    """The gen_videos.py command."""
    options.run(videos)
