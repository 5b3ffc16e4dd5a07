"""Three ways to keep a scene: planes, voxels, and a network of coordinates. All give colour and density at points.

Grids begin coarse and grow while they are fitted: a coarse feature is met by many rays, so the whole comes before the details,
and empty space stays empty. Notation: M points, C channels, R pixels along a plane's side, D voxels along the box's side.
"""

from __future__ import annotations

import math
from typing import Dict

import torch
import torch.nn.functional as F
from torch import Tensor

from training.triplane import OSGDecoder
from training.volumetric_rendering.renderer import CORRECTED_AXES, ImportanceRenderer, sample_from_planes

NUM_PLANES = 3
INITIAL = 0.1  # deviation of features
DECODER = dict(decoder_lr_mul=1, decoder_output_dim=3, decoder_width=32)
GROWTH = ((0.6, 1), (0.2, 2), (0.0, 4))  # share of the work from which on a grid is so many times coarser than at its end
FREQUENCIES, WIDTH, DEPTH, SKIP = 10, 128, 4, 2  # NeRF has 256, 8 and 4 (appendix A): minutes on a CPU are too few for them
RATES = dict(triplane=1e-1, voxel=1e-1, mlp=5e-3)  # learning rates of features, and of the mlp
DECODER_RATE = 5e-2  # of the decoder's equalized layers


class Field(torch.nn.Module):
    """points [1, M, 3] -> 'rgb' [1, M, 3] in [0, 1], 'sigma' [1, M, 1]."""

    def groups(self) -> list:
        """Parameters with their learning rates, as optimizers want them."""
        return [dict(params=list(self.parameters()), lr=RATES["mlp"])]

    def grow(self, share: float) -> bool:
        """Takes the size that belongs to a share of the work; whether that is another one."""
        return False

    def size(self) -> int:
        """Bytes of all parameters."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.parameters())


class _Features(Field):
    """Grids [P, C, ...] of features, read by the GAN's light decoder."""

    kind = ""

    def __init__(self, box: float, shape: tuple):
        super().__init__()
        self.box, self.sides = box, shape[2:]
        self.features = torch.nn.Parameter(INITIAL * torch.randn(shape))
        self.decoder = OSGDecoder(shape[1], DECODER)

    def grow(self, share: float) -> bool:
        coarser = next(coarser for start, coarser in GROWTH if share >= start)
        sides = [round(side / coarser) for side in self.sides]
        if sides == list(self.features.shape[2:]):
            return False
        mode = {2: "bilinear", 3: "trilinear"}[len(sides)]
        self.features = torch.nn.Parameter(F.interpolate(self.features.detach(), size=sides, mode=mode, align_corners=False))
        return True

    def groups(self) -> list:
        return [dict(params=[self.features], lr=RATES[self.kind]),
                dict(params=list(self.decoder.parameters()), lr=DECODER_RATE)]


class Triplane(_Features):
    """Three planes of R x R, with axes that see all three pairs of coordinates."""

    kind = "triplane"

    def __init__(self, box: float, resolution: int = 128, channels: int = 16):
        super().__init__(box, (NUM_PLANES, channels, resolution, resolution))
        self.register_buffer("axes", torch.tensor(CORRECTED_AXES), persistent=False)

    def forward(self, points: Tensor) -> Dict[str, Tensor]:
        return self.decoder(sample_from_planes(self.axes, self.features[None], points, box_warp=self.box), None)


class Voxel(_Features):
    """A grid of D x D x D: as many features as three planes of R x R have."""

    kind = "voxel"

    def __init__(self, box: float, resolution: int = 128, channels: int = 16):
        side = round((NUM_PLANES * resolution**2) ** (1 / 3))
        super().__init__(box, (1, channels, side, side, side))

    def forward(self, points: Tensor) -> Dict[str, Tensor]:
        places = (points * (2 / self.box))[:, :, None, None]
        found = F.grid_sample(self.features, places, mode="bilinear", padding_mode="zeros", align_corners=False)
        return self.decoder(found[:, :, :, 0, 0].transpose(1, 2)[:, None], None)


class Mlp(Field):
    """A network of encoded positions as NeRF's, without view directions: DEPTH layers of WIDTH units."""

    def __init__(self, box: float):
        super().__init__()
        self.box = box
        size = 3 + 6 * FREQUENCIES
        inputs = [size] + [WIDTH + size * (layer == SKIP) for layer in range(1, DEPTH)]
        self.layers = torch.nn.ModuleList([torch.nn.Linear(count, WIDTH) for count in inputs])
        self.out = torch.nn.Linear(WIDTH, 4)

    def forward(self, points: Tensor) -> Dict[str, Tensor]:
        x = points * (2 / self.box)
        angles = x[..., None] * (2.0 ** torch.arange(FREQUENCIES, device=x.device) * math.pi / 2)
        encoded = torch.cat([x, angles.sin().flatten(-2), angles.cos().flatten(-2)], dim=-1)
        h = encoded
        for index, layer in enumerate(self.layers):
            h = torch.relu(layer(torch.cat([h, encoded], dim=-1) if index == SKIP else h))
        out = self.out(h)
        return {"rgb": torch.sigmoid(out[..., 1:]), "sigma": out[..., :1]}


KINDS = dict(triplane=Triplane, voxel=Voxel, mlp=Mlp)


class FieldRenderer(ImportanceRenderer):
    """The GAN's renderer, with a field in the place of planes and decoder."""

    def decode(self, planes: Tensor, decoder: Field, coordinates: Tensor, directions: Tensor, options) -> Dict[str, Tensor]:
        return decoder(coordinates)
