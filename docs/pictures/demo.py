"""Draws demo.png, what the network that ships has learnt: python docs/pictures/demo.py"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from eg3d import cameras, generator, sampling, video
from eg3d.session import Session
from torch_utils import images

SEEDS, YAWS, PSI = range(8), (-0.6, 0.0, 0.6), 0.7
SIDE = 128  # pixels of a picture, twice as large as the network makes it

G = generator.load("demo", device="cpu")
options = video.sampling_options(G, 2)
rows = []
for yaw in YAWS:
    c = cameras.view(G.rendering_kwargs, yaw=yaw)
    shown = [Session(G, sampling.styles(G, seed, PSI), seed, options).render(c) for seed in SEEDS]
    rows.append(torch.cat([view["image"] for view in shown]))
    if yaw == 0:
        depth = images.depth_image(torch.cat([view["image_depth"] for view in shown])).expand(-1, 3, -1, -1)
rows = [torch.nn.functional.interpolate(row, (SIDE, SIDE), mode="bicubic", align_corners=False) for row in (*rows, depth)]
images.save_png(images.grid(torch.cat(rows), columns=len(SEEDS)), Path(__file__).with_suffix(".png"))
