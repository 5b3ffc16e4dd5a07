"""The `eg3d` command: every command of the project under one name."""

import importlib.metadata

import click

from eg3d.cli import options
from eg3d.cli.check import check
from eg3d.cli.convert import convert
from eg3d.cli.dataset import dataset
from eg3d.cli.fit_scene import fit_scene
from eg3d.cli.metrics import metrics
from eg3d.cli.regressor import regressor
from eg3d.cli.samples import samples
from eg3d.cli.train import train
from eg3d.cli.videos import videos


def _version() -> str:
    try:
        return importlib.metadata.version("eg3d")
    except importlib.metadata.PackageNotFoundError:
        return "(a checkout that is not installed)"


@click.group(commands=[dataset, train, samples, videos, metrics, convert, check, fit_scene, regressor],
             invoke_without_command=True)
@click.version_option(_version(), prog_name="eg3d")
@click.pass_context
def eg3d(ctx: click.Context) -> None:
    """Tri-plane generators: pictures and films from official checkpoints, on any machine."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> None:
    """Entry point of the console command."""
    options.run(eg3d)
