"""calc_metrics: metrics of a network, in one process or in as many as torchrun starts."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Optional

import click

from eg3d.cli import options, ranks
from training import config as configs


@click.command("metrics")
@click.option("--network", required=True, metavar="FILE|URL|NAME", help="The network: a snapshot's path, URL or name.")
@click.option("--metrics", "wanted", default="fid50k_full", show_default=True, metavar="NAME,...",
              help="Which; docs/metrics.md tells what there is. Any number may stand in place of 50k.")
@click.option("--data", metavar="FILE|FOLDER", help="Zip or folder of posed pictures; by default what the network learnt from.")
@options.switch("--mirror", default=None, help="Take the pictures' mirror images in, too; by default as in training.")
@click.option("--detector", "detectors", multiple=True, metavar="KIND=FILE|URL",
              help="inception=... or vgg=..., in place of NVIDIA's addresses; may be given twice.")
@click.option("--batch", type=click.IntRange(1, 1024), default=8, show_default=True,
              help="Pictures that a process makes at once.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Start of all random numbers.")
@click.option("--outdir", type=options.Output(folder=True), metavar="FOLDER",
              help="Where metric-NAME.jsonl goes; by default the network's folder, if it is a file here.")
@click.option("--gpus", type=click.IntRange(min=1), help="Processes on this machine; by default torchrun's, else one.")
@options.device_option
@options.trust_option
def metrics(network, wanted, data, mirror, detectors, batch, seed, outdir, gpus, device, trust):
    """Measure a network against real pictures, or its own geometry."""
    import torch

    from eg3d import generator
    from eg3d import metrics as measured
    from torch_utils import distributed

    places = configs.detectors(",".join(detectors))
    wanted = [name.strip() for name in wanted.split(",")]
    device = generator.choose_device(device)
    measured.check(wanted, places)
    torch.backends.cudnn.allow_tf32 = False  # official numbers are of full precision
    if ranks.are_to_start(ranks.count(gpus)):
        return ranks.start(gpus, device)
    snapshot = generator.load_snapshot(network, trust=trust)
    G = generator.generator_of(snapshot, network)
    dataset = _dataset(network, snapshot, G, data, mirror)
    device = distributed.start(device)
    G = G.to(device)
    place = Path(outdir) if outdir else _home(network)
    for name in wanted:
        began = time.time()
        found = measured.evaluate([name], G, dataset, device, places, batch, seed, progress=True)[name]
        if distributed.rank() == 0:
            click.echo(f"{name}: {', '.join(f'{key} {value:.4f}' for key, value in found.items())}")
            if place is not None:
                seen = os.path.relpath(network, place) if os.path.isfile(network) else network
                measured.write_result(place, name, found, time.time() - began, distributed.size(), seen)
    distributed.stop()
    return None


def _dataset(network: str, snapshot, G, data: Optional[str], mirror: Optional[bool]):
    """The real pictures that were asked for, or that the snapshot tells of."""
    from training.dataset import ImageFolderDataset

    known = (snapshot.get("training_set_kwargs") if isinstance(snapshot, dict) else None) or {}
    path = known.get("path") if data is None else data
    if not isinstance(path, str):
        raise click.UsageError(f"{network} does not tell what it learnt from: give --data")
    path = os.path.expanduser(path)
    if data is None and not os.path.exists(path):
        raise click.UsageError(f"{path}, which {network} learnt from, is not here: give --data")
    mirrored = bool(known.get("xflip", False)) if mirror is None else mirror
    return ImageFolderDataset(path, resolution=G.img_resolution, use_labels=True, xflip=mirrored)


def _home(network: str) -> Optional[Path]:
    """The folder of a network that is a file here."""
    return Path(network).parent if os.path.isfile(network) else None


def main() -> None:
    """The calc_metrics.py command."""
    options.run(metrics)
