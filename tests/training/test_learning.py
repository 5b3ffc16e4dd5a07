"""A small network learns: some minutes of training on posed pictures of heads, which are rendered, so that depth is known."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scene
import torch

from eg3d import generator
from eg3d.metrics.patches import picture_distance
from torch_utils import images

ROOT = Path(__file__).parents[2]
PICTURES, RESOLUTION = 1000, 32
OPTIONS = (
    "--cfg=ffhq --batch=8 --gamma=0.1 --cbase=1024 --cmax=64 --latent=64 --plane_resolution=32 --plane_channels=16 "
    "--decoder_width=32 --samples=10 --importance=10 --neural_rendering_resolution_initial=16 --metrics=none --grid=8x4 "
    "--workers=1 --tick=1 --snap=4 --kimg=12 --blur_fade_kimg=6").split()
FALL = 3  # of the distance, asked of every run
CORRELATION = 0.3  # of rendered with true depth over the head: a plane, however tilted, explains about nothing of a ball's


def generated(G, labels, seed=0):
    """uint8 [N, 3, R, R] and depth [N, 1, r, r] of one random latent for each label."""
    z = torch.randn((len(labels), G.z_dim), generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)  # of the depths along rays
    with torch.inference_mode():
        parts = [G(some, c, noise_mode="const") for some, c in zip(z.split(50), labels.split(50))]
    return (torch.cat([images.to_uint8(part["image"]) for part in parts]),
            torch.cat([part["image_depth"] for part in parts]))


def distance(reals, fakes):
    return picture_distance(reals, fakes)["mean"]


def depth_correlation(G, labels):
    """Mean over pictures of the correlation, over the head's pixels, of rendered depth with the average head's."""
    _, depths = generated(G, labels)
    found = []
    for depth, label in zip(depths[:, 0], labels.numpy()):
        _, truth = scene.render(label, scene.Look(), depth.shape[-1])
        head = np.isfinite(truth)
        found.append(np.corrcoef(depth.numpy()[head], truth[head])[0, 1])
    return float(np.mean(found))


def judged(folder):
    """The figures of a run: distances at the start and the end, of the mean picture, between halves of the data; depth."""
    pixels, labels, _, _ = scene.pictures(PICTURES, RESOLUTION, seed=0)
    reals = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(labels)
    half = PICTURES // 2
    snapshots = sorted(folder.glob("network-snapshot-*.pkl"))
    first, last = [generator.load(path, device="cpu") for path in (snapshots[0], snapshots[-1])]
    mean = reals.float().mean(dim=0, keepdim=True).to(torch.uint8).repeat(half, 1, 1, 1)
    return dict(
        start=distance(reals[:half], generated(first, labels[half:])[0]),
        end=distance(reals[:half], generated(last, labels[half:])[0]),
        mean_picture=distance(reals[:half], mean), halves=distance(reals[:half], reals[half:]),
        depth_start=depth_correlation(first, labels[:50]), depth=depth_correlation(last, labels[:50]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_learns(seed, tmp_path):
    """The distance falls threefold and ends below the mean picture's; depth follows the shape."""
    data = tmp_path / "heads.zip"
    scene.write_zip(data, PICTURES, RESOLUTION, seed=0)
    command = [sys.executable, str(ROOT / "train.py"), f"--outdir={tmp_path}", f"--data={data}", f"--seed={seed}", *OPTIONS]
    subprocess.run(command, check=True, timeout=3600)
    [folder] = tmp_path.glob("0*")
    figures = judged(folder)
    print(json.dumps(figures))
    assert figures["start"] > FALL * figures["end"]
    assert figures["end"] < figures["mean_picture"]
    assert figures["halves"] < figures["end"]  # or the measure would not tell
    assert figures["depth"] > CORRELATION
