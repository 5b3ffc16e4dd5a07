"""gen_samples: pictures of seeds from three sides, and their shapes."""

import warnings
from pathlib import Path

import click

from eg3d.cli import options


@click.command("samples")
@options.network_options
@click.option("--seeds", type=options.SeedRange(), required=True, help="Like 0-3,7.")
@options.truncation_options
@click.option("--outdir", type=options.Output(folder=True), required=True, metavar="FOLDER")
@options.switch("--shapes", default=False, help="Write each seed's shape too.")
@options.shape_options
@click.option("--fov-deg", type=options.Finite(0.1, 179.9),
              help="Diagonal field of view; by default the data's: 18.83 for faces, 45 for ShapeNet. The original cut it to "
                   "whole degrees: --fov-deg=18 gives its view.")
def samples(load, seeds, psi, cutoff, outdir, shapes, fov_deg, **shape):
    """Pictures of seeds: each from yaw 0.4, 0 and -0.4, side by side in seed0000.png."""
    import tqdm

    from eg3d import sampling
    from eg3d import shapes as surfaces
    from torch_utils import images

    suffix = shape.pop("suffix")
    options.check_shape_options(shapes, suffix)
    G = load()
    without = []
    views = sampling.sample_views(G, seeds, psi, cutoff, fov_deg)
    for seed, session, pictures in tqdm.tqdm(views, total=len(seeds), unit="seed"):
        images.save_png(images.grid(pictures, columns=len(pictures)), Path(outdir) / f"seed{seed:04d}.png")
        if shapes:
            try:
                surfaces.save(session, Path(outdir) / f"seed{seed:04d}{suffix}", **shape)
            except surfaces.NoSurface as error:  # the other seeds may have one
                warnings.warn(str(error), RuntimeWarning, stacklevel=2)
                without.append(str(error))
    if without:
        raise click.ClickException(f"{len(without)} of {len(seeds)} seeds have no surface; the first: {without[0]}")


def main() -> None:
    """The gen_samples.py command."""
    options.run(samples)
