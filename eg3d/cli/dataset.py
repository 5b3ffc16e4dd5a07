"""dataset_tool: posed pictures into a data set for training, and a check of them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Optional, Tuple

import click

from eg3d.cli import options

DEFAULT_WORKERS = 8  # at most
PROBLEMS_SHOWN = 20
HEADS, HEADS_SIZE = "heads", (128, 128)


class Resolution(click.ParamType):
    """512 or WIDTHxHEIGHT -> (width, height)."""

    name = "resolution"

    def convert(self, value, param, ctx) -> Tuple[int, int]:
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"([0-9]{1,5})(?:x([0-9]{1,5}))?", value.strip())
        size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if size[0] < 32 or size[0] & (size[0] - 1) or not 0 < size[1] <= size[0]:
            self.fail(f"{value!r}: write it like 512 or 512x512, with a width that is a power of two, at least 32", param, ctx)
        return size


@click.command("dataset")
@click.option("--source", required=True, metavar="FOLDER|ZIP|heads",
              help="Pictures, with their cameras in one of the formats; heads: synthetic ones, rendered here.")
@click.option("--dest", type=options.Output(folder=None), metavar="ZIP|FOLDER",
              help="What is written; with --check the picture of the cameras, by default SOURCE-cameras.png.")
@click.option("--check", is_flag=True, help="Convert nothing: report problems, draw the cameras, suggest options of train.py.")
@click.option("--max-images", type=click.IntRange(min=1), help="Take only the first ones.")
@click.option("--transform", type=click.Choice(["center-crop", "center-crop-wide"]),
              help="The middle square; or the full width of cars, between black rows.")
@click.option("--resolution", type=Resolution(), metavar="SIZE",
              help="Like 512 or 512x512; with center-crop-wide 512x384 are 384 rows of picture. By default as they come.")
@options.switch("--mirror", default=False, help="Write every picture flipped too, with its camera flipped.")
@click.option("--background", type=click.Choice(["white", "black"]), help="What transparent pictures are laid on.")
@click.option("--format", "kind", type=click.Choice(["auto", "labels", "nerf", "colmap"]), default="auto", show_default=True,
              help="Cameras from dataset.json, NeRF's transforms.json or a COLMAP text model; auto: whichever is there.")
@click.option("--radius", type=options.Finite(1e-3, 1e3), default=2.7, show_default=True,
              help="Of nerf and colmap: mean distance of the cameras from what they look at, which becomes the origin.")
@click.option("--crops", type=options.Input(), metavar="JSON",
              help="Of labels: the part of each picture that its label is for, {NAME: [left, top, right, bottom]} in pixels.")
@click.option("--accept-labels", is_flag=True, help="FFHQ's labels fit these pictures of 1024 x 1024 or 1500 x 1500.")
@click.option("--count", type=click.IntRange(1, 10**8), default=5000, show_default=True, help="Of heads: how many pictures.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True,
              help="Of heads: what they are drawn by.")
@options.switch("--with-truth", default=False, help="Of heads: keep depth, mask and shape beside every picture, in an .npz.")
@click.option("--workers", type=click.IntRange(1, 128), help="Processes; by default one a CPU core, at most 8.")
def dataset(source, dest, check, max_images, transform, resolution, mirror, background, kind, radius, crops, accept_labels,
            count, seed, with_truth, workers):
    """Makes a data set of posed pictures, or checks one.

    Pictures become square PNGs of RGB in a zip (or folder) with a dataset.json, which holds their labels: null if one has none.
    Greyscale and palettes become RGB, which is said. A zip is replaced when the new one is complete.
    """
    from eg3d.scenes import sources

    if check and source != HEADS:
        options.needs("transform", "resolution", "mirror", "background", because="a conversion: leave --check out")
    elif dest is None:
        raise click.UsageError("--dest is needed: the zip or folder to write; or --check to look only")
    _check_size(transform, resolution)
    workers = workers or min(os.cpu_count() or 1, DEFAULT_WORKERS)
    if source == HEADS:
        options.needs("check", "max_images", "transform", "mirror", "background", "kind", "radius", "crops", "accept_labels",
                      because=f"pictures that are there already (--source=./{HEADS} is a folder)")
        _render(dest, count, (resolution or HEADS_SIZE)[0], seed, workers, with_truth)
        return
    options.needs("count", "seed", "with_truth", because=f"--source={HEADS}")
    found = sources.opened(os.path.expanduser(source), None if kind == "auto" else kind, radius, crops, max_images)
    if found.kind == "labels":
        options.needs("radius", because="cameras in nerf or colmap format, since those of a dataset.json stay where they are")
    if check:
        _check(found, dest, workers, accept_labels)
    else:
        _convert(found, dest, (transform, resolution, mirror, background), workers, accept_labels)


def _check_size(transform: Optional[str], resolution: Optional[Tuple[int, int]]) -> None:
    if transform == "center-crop-wide" and resolution is None:
        raise click.UsageError("--transform=center-crop-wide needs --resolution, like 512x384")
    if transform != "center-crop-wide" and resolution is not None and resolution[0] != resolution[1]:
        raise click.UsageError(f"--resolution={resolution[0]}x{resolution[1]} is not square: only --transform=center-crop-wide "
                               "takes such")


def _render(dest: str, count: int, resolution: int, seed: int, workers: int, with_truth: bool) -> None:
    from eg3d.scenes.heads import collection
    from eg3d.scenes.heads.anatomy import unprepared

    folder = unprepared()
    if folder:
        click.echo(f"Preparing the body model in {folder}: a minute and 1 GB, once.", err=True)
    collection.make(dest, count, resolution, seed, workers, with_truth)
    click.echo(f"{dest}: {count} synthetic heads of {resolution} x {resolution}, with labels"
               f"{' and truth' if with_truth else ''}")


def _convert(source, dest: str, form: tuple, workers: int, accept_labels: bool) -> None:
    from eg3d.scenes import conversion
    from eg3d.scenes.pictures import Form

    mismatch = None if accept_labels else source.mismatch()
    if mismatch:
        raise click.ClickException(mismatch)
    done = conversion.convert(source, dest, Form(*form), workers)
    for note in done.notes:
        click.echo(f"Note: {note}", err=True)
    click.echo(f"{dest}: {done.count} pictures of {done.side} x {done.side}, {'with' if done.labelled else 'without'} labels")


def _check(source, dest: Optional[str], workers: int, accept_labels: bool) -> None:
    from eg3d.scenes import checking, cloud

    path = options.Output().convert(dest or checking.cloud_path(source.path), None, None)
    if Path(path).suffix.lower() != ".png":
        raise click.UsageError(f"--dest={path}: with --check it is the picture of the cameras, a .png")
    report = checking.check(source, workers, accept_labels)
    for problem in report.problems[:PROBLEMS_SHOWN]:
        click.echo(problem)
    if len(report.problems) > PROBLEMS_SHOWN:
        click.echo(f"... and {len(report.problems) - PROBLEMS_SHOWN} more")
    for title, text in report.facts:
        click.echo(f"{title:<14}{text}")
    for note in report.notes:
        click.echo(f"Note: {note}", err=True)
    if report.suggestion is not None:
        click.echo(f"suggested     train.py {checking.command(report.suggestion)}")
    if len(report.labels):
        cloud.draw(report.labels, report.suggestion, Path(source.path).name, path)
        click.echo(f"cameras in    {path}")
    if report.problems:
        count = len(report.problems)
        raise click.ClickException(f"{source.path}: {count} problem{'s' if count > 1 else ''}")


def main() -> None:
    """The dataset_tool.py command."""
    options.run(dataset)
