"""Seconds and memory to load a snapshot of official size (G, D and G_ema of ffhq512-128), in three ways.

The error counts tensors whose bits differ from those that Python's own pickle gives.
"""

import pickle
import tempfile
from pathlib import Path

import click
import torch
from measuring import compare, machine, official_discriminator, official_generator

from eg3d import generator
from torch_utils import pickles


def plainly(path):
    """What a notebook does; the classes are this project's."""
    with open(path, "rb") as file:
        return pickle.load(file)


def differing(a, b):
    """How many tensors of the networks differ."""
    pairs = [(tensor, b[key].state_dict()[name]) for key in ("G", "D", "G_ema") for name, tensor in a[key].state_dict().items()]
    return f"{sum(not torch.equal(one, other) for one, other in pairs)} of {len(pairs)} tensors"


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
def main(rounds):
    """Prints a table."""
    cpu = torch.device("cpu")
    print(machine(cpu))
    with tempfile.TemporaryDirectory() as folder:
        file, tensors = Path(folder) / "snapshot.pkl", Path(folder) / "snapshot.safetensors"
        pickles.save(dict(G=official_generator(), D=official_discriminator(), G_ema=official_generator(), augment_pipe=None,
                          training_set_kwargs=None), file)
        generator.save_snapshot(pickles.load(file), tensors)
        compare(f"A snapshot of {file.stat().st_size / 1e6:.0f} MB", {
            "pickle.load": lambda: plainly(file),
            "eg3d.generator.load_snapshot, .pkl": lambda: generator.load_snapshot(file),
            "eg3d.generator.load_snapshot, .safetensors": lambda: generator.load_snapshot(tensors),
        }, rounds, cpu, differing)


if __name__ == "__main__":
    main()
