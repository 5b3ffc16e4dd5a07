"""gen_videos: films of seeds, interpolated or one by one."""

from pathlib import Path

import click

from eg3d.cli import options

FOCALS = {"ffhq": "FFHQ_FOCAL", "afhq": "FFHQ_FOCAL", "shapenet": "SHAPENET_FOCAL"}


@click.command("videos")
@options.network_options
@click.option("--seeds", type=options.SeedRange(), required=True, help="Like 0-3,7.")
@click.option("--shuffle-seed", type=click.IntRange(0, 2**32 - 1), help="Shuffle the seeds, in this way.")
@click.option("--grid", type=options.GridSize(), default="1x1", show_default=True, help="Columns and rows, like 4x2.")
@click.option("--num-keyframes", type=click.IntRange(min=1), help="Seeds of each cell; by default all are used once.")
@click.option("--w-frames", type=click.IntRange(min=1), default=120, show_default=True, help="Frames between keyframes.")
@click.option("--trunc", "psi", type=options.Finite(-100, 100), default=1.0, show_default=True,
              help="Truncation psi: below 1, closer to the mean.")
@click.option("--trunc-cutoff", "cutoff", type=click.IntRange(min=0), default=14, show_default=True,
              help="Layers that truncation reaches; 0 switches it off.")
@click.option("--outdir", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="FOLDER")
@click.option("--cfg", type=click.Choice(["FFHQ", "AFHQ", "Shapenet"], case_sensitive=False),
              help="The data whose focal length to film with; by default the network's.")
@click.option("--image_mode", "mode", type=click.Choice(["image", "image_depth", "image_raw"]), default="image",
              show_default=True, help="The final picture, the depth, or the rendering before super-resolution.")
@click.option("--sample_mult", "multiplier", type=options.Finite(0, 64, min_open=True), default=2, show_default=True,
              help="Multiplies the samples along each ray.")
@click.option("--nrr", "resolution", type=click.IntRange(8, 1024),
              help="Neural rendering resolution; by default the network's.")
@options.switch("--shapes", False, help="Write the first cell's volume for every frame (.mrc), and the camera's trajectory.")
@click.option("--shape-res", type=click.IntRange(8, 1024), default=512, show_default=True, help="Grid points along a side.")
@options.switch("--interpolate", True, help="One film through all seeds; false makes a film of each seed.")
def videos(G, seeds, shuffle_seed, grid, num_keyframes, w_frames, outdir, interpolate, cfg, shapes, shape_res, **look):
    """A film, interpolation.mp4: the camera goes round while the identity passes from seed to seed."""
    import tqdm

    from eg3d import cameras, video

    columns, rows = grid
    if not interpolate and (grid != (1, 1) or num_keyframes or shuffle_seed is not None):
        raise click.UsageError("--interpolate=false films each seed alone: leave out --grid, --num-keyframes, --shuffle-seed")
    look["focal"] = getattr(cameras, FOCALS[cfg.lower()]) if cfg else None
    if interpolate:
        films = {"interpolation.mp4": (video.assign_seeds(seeds, columns * rows, num_keyframes, shuffle_seed), columns)}
    else:
        films = {f"{seed}.mp4": ([[seed]], 1) for seed in seeds}
    outdir.mkdir(parents=True, exist_ok=True)
    frames = sum(len(cells[0]) for cells, _ in films.values()) * w_frames
    with tqdm.tqdm(total=frames, unit="frame") as progress:
        for name, (cells, width) in films.items():
            film = video.Film(G, cells, width, w_frames, **look)
            with video.encoder(outdir / name) as add:
                for index, frame in film:
                    add(frame)
                    if shapes:
                        _save_shape(film, index, outdir / Path(name).stem, shape_res)
                    progress.update()
            if shapes:
                _save_trajectory(film, outdir / f"{Path(name).stem}_trajectory.npy")


def _save_shape(film, index: int, folder: Path, resolution: int) -> None:
    from eg3d import shapes

    session = film.session(0, index)
    grid = shapes.density_grid(session, resolution)
    shapes.save(grid, session.G.rendering_kwargs["box_warp"], folder / f"{index:04d}_shape.mrc")


def _save_trajectory(film, path: Path) -> None:
    """Camera-to-world matrices [frames, 4, 4]."""
    import numpy as np

    from dnnlib.util import written_beside

    with written_beside(path) as temporary:
        np.save(temporary, film.labels[:, :16].reshape(-1, 4, 4).numpy())


def main() -> None:
    """The gen_videos.py command."""
    options.run(videos)
