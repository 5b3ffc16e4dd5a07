"""eg3d fit-scene: one scene from its views, without a generator."""

from __future__ import annotations

import os
from pathlib import Path

import click

from eg3d.cli import options

FRAMES, FPS = 90, 30
SHAPE_RESOLUTION = 192
KINDS = ("triplane", "voxel", "mlp")


@click.command("fit-scene")
@click.option("--scene", required=True, metavar="heads:SEED|FOLDER|ZIP",
              help="A rendered head, or posed pictures of one scene: a data set, NeRF's or COLMAP's data.")
@click.option("--representation", type=click.Choice(KINDS), default="triplane", show_default=True, help="What is fitted.")
@click.option("--compare", is_flag=True, help="Fit all three for the same time; a table and a plot.")
@click.option("--minutes", type=options.Finite(0.01, 1e4), default=3, show_default=True, help="Of fitting, for each.")
@click.option("--steps", type=click.IntRange(1), help="Stop after so many, even if there is time left.")
@click.option("--views", type=click.IntRange(16, 10**5), default=80, show_default=True,
              help="At most so many; every eighth is held out, to judge by.")
@click.option("--resolution", type=click.IntRange(32, 1024), default=128, show_default=True, help="Pixels along a side.")
@click.option("--shape-level", type=options.Finite(-1e4, 1e4), default=10, show_default=True, help="Density at the surface.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Start of all random numbers.")
@click.option("--outdir", required=True, type=options.Output(folder=True), metavar="FOLDER", help="Where results go.")
@options.device_option
def fit_scene(scene, representation, compare, minutes, steps, views, resolution, shape_level, seed, outdir, device):
    """Fits planes, voxels or a network of coordinates to views of one scene, and films it from new places.

    Writes film.mp4, views.png (truth above, fit below), shape.ply, field.safetensors and fit.json; with --compare of the
    tri-planes, beside table.md and plot.png of all three.
    """
    from eg3d import generator
    from eg3d.fitting import fit as fitting
    from eg3d.fitting import report
    from eg3d.fitting import views as posed

    if compare:
        options.needs("representation", because="one fit: leave --compare out")
    if resolution & (resolution - 1):
        raise click.UsageError(f"--resolution={resolution} is no power of two")
    device = generator.choose_device(device)
    shown = posed.opened(scene, views, resolution)
    click.echo(f"{shown.name}: {len(shown.fitted())} views to fit, {len(shown.held_out())} to judge by, {resolution} x "
               f"{resolution}", err=True)
    fits = []
    for kind in KINDS if compare else (representation,):
        with _Bar(kind) as told:
            fits.append(fitting.fit(shown, kind, minutes * 60, steps, seed, device, told))
        click.echo(f"{kind}: PSNR {fits[-1].psnr:.2f} dB, SSIM {fits[-1].ssim:.3f} on held-out views after "
                   f"{fits[-1].seconds:.0f} s, {fits[-1].steps} steps")
    folder = Path(outdir)
    folder.mkdir(parents=True, exist_ok=True)
    _write_numbers(fits, scene, folder)
    if compare:
        text = report.table(fits)
        _write_text(folder / "table.md", text)
        report.plot(fits, shown.name, folder / "plot.png")
        click.echo(text)
    _write_results(fits[0], shown, shape_level, folder)


class _Bar:
    """A progress bar of a fit."""

    def __init__(self, kind: str):
        self.kind = kind

    def __enter__(self):
        import tqdm

        self.bar = tqdm.tqdm(total=100, desc=self.kind, unit="%", disable=None,
                             bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed} {postfix}")
        return self

    def __call__(self, share: float, moment) -> None:
        self.bar.set_postfix_str(f"{moment.psnr:.1f} dB", refresh=False)
        self.bar.update(100 * share - self.bar.n)

    def __exit__(self, *error):
        self.bar.close()


def _write_numbers(fits: list, scene: str, folder: Path) -> None:
    import json

    _write_text(folder / "fit.json", json.dumps(dict(scene=scene, fits=[fit.numbers() for fit in fits]), indent=1))


def _write_text(path: Path, text: str) -> None:
    from dnnlib.util import written_beside

    with written_beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _write_results(fit, scene, level: float, folder: Path) -> None:
    """Film, views, shape and weights of a fit."""
    import numpy as np
    import tqdm

    from eg3d import encoding, shapes
    from torch_utils import images

    size = scene.pictures.shape[1]

    def picture(label):
        return (fit.fitted.view(label.to(fit.fitted.background.device), size)["colour"].clamp(0, 1).cpu().numpy() * 255
                + 0.5).astype(np.uint8)

    path = tqdm.tqdm(scene.path(FRAMES), desc="film", unit="frame", disable=None)
    encoding.write((picture(label) for label in path), folder / "film.mp4", fps=FPS)
    held = scene.held_out()[:6]
    truth = (scene.pictures[held].numpy() * 255 + 0.5).astype(np.uint8)
    rows = [np.concatenate(list(row), axis=1) for row in (truth, [picture(scene.labels[index]) for index in held])]
    images.save_png(np.concatenate(rows), folder / "views.png")
    fit.fitted.save(folder / "field.safetensors")
    names = ["film.mp4", "views.png", "field.safetensors", "fit.json"]
    try:
        shapes.save(fit.fitted, folder / "shape.ply", SHAPE_RESOLUTION, level, part="largest")
        names.insert(2, "shape.ply")
    except shapes.NoSurface as error:
        (folder / "shape.ply").unlink(missing_ok=True)  # an earlier run's
        click.echo(f"Note: {error}", err=True)
    click.echo(f"{folder}{os.sep}: {', '.join(names)}")
