"""eg3d train-regressor: the small network behind the metrics of synthetic heads."""

import os

import click

from eg3d.cli import options


@click.command("train-regressor")
@click.option("--data", required=True, metavar="ZIP|FOLDER", help="Of dataset_tool.py --source=heads --with-truth.")
@click.option("--dest", required=True, type=options.Output(), metavar="FILE", help="What is written, a .safetensors.")
@click.option("--kimg", type=options.Finite(0.01, 1e5), default=120, show_default=True, help="Thousand pictures to learn from.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Start of all random numbers.")
def regressor(data, dest, kimg, seed):
    """Train what the metrics heads_pose, heads_depth and heads_frechet see with, on the CPU.

    It prints the errors on every tenth picture, which it does not learn from, and the file's SHA-256, by which the one that
    ships is known.
    """
    import torch

    from eg3d.metrics import regressor as heads

    if not dest.endswith(".safetensors"):
        raise click.UsageError(f"{dest}: a regressor is written as .safetensors")
    truth = heads.read(os.path.expanduser(data))
    network = heads.train(truth, kimg, seed, progress=True)
    with torch.inference_mode():
        figures = heads.judged(network, truth)
    for name, value in figures.items():
        click.echo(f"{name:<26}{value:.4f}")
    about = dict(figures, kimg=kimg, seed=seed, pictures=len(truth.pictures), data=heads.fingerprint(truth))
    digest = heads.save(network, dest, about)
    click.echo(f"{dest}: SHA-256 {digest}")
