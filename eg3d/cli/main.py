"""The `eg3d` command: every command of the project under one name."""

import click

from eg3d.cli import options
from eg3d.cli.samples import samples
from eg3d.cli.videos import videos


@click.group(commands=[samples, videos])
@click.version_option(package_name="eg3d")
def eg3d() -> None:
    """Tri-plane generators: pictures and films from official checkpoints, on any machine."""


def main() -> None:
    """Entry point of the console command."""
    options.run(eg3d)
