"""eg3d check: what a file is, what it holds, whether it loads as data, and one picture of it."""

import click

from eg3d.cli import options


@click.command("check")
@click.argument("source", metavar="FILE")
@click.option("--output", type=options.Output(), metavar="PNG", help="The picture; by default NAME-check.png, here.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Of the picture.")
@options.device_option
@options.trust_option
def check(source, output, seed, device, trust):
    """Tells what a checkpoint is, what it holds, whether it loads as data, and renders picture and depth side by side.

    FILE is a path, URL or name. Ends with an error and exit code 2 where something does not work.
    """
    from pathlib import Path

    from eg3d import checking, generator

    device = generator.choose_device(device)
    path = Path(output or f"{Path(generator.find(source)).stem}-check.png")
    if path.suffix != ".png":
        raise click.UsageError(f"{path}: the picture is a .png")
    for title, text in checking.report(source, path, seed, device, trust):
        click.echo(f"{title:<14}{text}")
