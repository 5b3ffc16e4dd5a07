"""gen_samples: pictures of seeds from three sides, and their shapes."""

from pathlib import Path

import click

from eg3d.cli import options


@click.command("samples")
@options.network_options
@click.option("--seeds", type=options.SeedRange(), required=True, help="Like 0-3,7.")
@click.option("--trunc", "psi", type=options.Finite(-100, 100), default=1.0, show_default=True,
              help="Truncation psi: below 1, closer to the mean.")
@click.option("--trunc-cutoff", "cutoff", type=click.IntRange(min=0), default=14, show_default=True,
              help="Layers that truncation reaches.")
@click.option("--outdir", type=click.Path(file_okay=False, path_type=Path), required=True, metavar="FOLDER")
@options.switch("--shapes", False, help="Write each seed's shape too.")
@click.option("--shape-res", type=click.IntRange(8, 1024), default=512, show_default=True, help="Grid points along a side.")
@click.option("--shape-format", type=click.Choice([".mrc", ".ply"]), default=".mrc", show_default=True)
@click.option("--fov-deg", type=options.Finite(0, 180, min_open=True, max_open=True), default=18.837, show_default=True,
              help="Diagonal field of view. The original cut it to whole degrees: --fov-deg=18 gives its view.")
def samples(G, seeds, psi, cutoff, outdir, shapes, shape_res, shape_format, fov_deg):
    """Pictures of seeds: each from yaw 0.4, 0 and -0.4, side by side in seed0000.png."""
    import tqdm

    from eg3d import sampling
    from eg3d import shapes as surfaces
    from torch_utils import images

    outdir.mkdir(parents=True, exist_ok=True)
    without = []
    views = sampling.sample_views(G, seeds, psi, cutoff, fov_deg)
    for seed, session, pictures in tqdm.tqdm(views, total=len(seeds), unit="seed"):
        images.save_png(images.grid(pictures, columns=len(pictures)), outdir / f"seed{seed:04d}.png")
        if shapes:
            grid = surfaces.density_grid(session, shape_res)
            try:
                surfaces.save(grid, G.rendering_kwargs["box_warp"], outdir / f"seed{seed:04d}{shape_format}")
            except surfaces.NoSurface as error:  # the other seeds may have one
                without.append(str(error))
    if without:
        raise click.ClickException("; ".join(without))


def main() -> None:
    """The gen_samples.py command."""
    options.run(samples)
