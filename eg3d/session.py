"""Identities, seen from anywhere: their planes are computed once, each view costs rendering and super-resolution only.

A picture depends on network, styles, camera and `seed` alone: noise is the stored pattern, and the jitter of depths comes
from a generator that starts from `seed` for every picture. So a cell of a grid, or one frame of a film, is the picture made
alone on the same machine (to the last bit when rendered alone; to rounding when a batch is rendered together).

Notation: N identities, M points, L styles, W style size.
"""

from __future__ import annotations

import contextlib
import numbers
from typing import Dict, Iterator, Optional, Sequence, Union

import torch
from torch import Tensor

from eg3d import cameras
from training.triplane import RENDERING_DEFAULTS
from training.volumetric_rendering.fused import channels_together

SAMPLES_AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 20}  # samples of one ray chunk: bounds memory, and fits a CPU's caches
POINTS_AT_ONCE = 1 << 15  # of `density` and `colors`: fits a CPU's caches
FOREIGN_POINTS_AT_ONCE = 1 << 20


class Session:
    """Renders identities, styles `ws` [N, L, W], of a generator.

    `seed` is one for all, or a sequence with one for each. `rendering_options` go over the network's own for this session;
    the network itself is not changed.
    """

    def __init__(self, G: torch.nn.Module, ws: Tensor, seed: Union[int, Sequence[int]] = 0,
                 rendering_options: Optional[dict] = None):
        seeds = [seed] * len(ws) if isinstance(seed, numbers.Integral) else seed
        self.seeds = [int(one) for one in seeds]  # NumPy's too
        if len(self.seeds) != len(ws):
            raise ValueError(f"{len(self.seeds)} seeds for {len(ws)} identities")
        self.G, self.ws = G, ws
        self.options = dict(rendering_options or {})
        unknown = [key for key in self.options if key not in {**RENDERING_DEFAULTS, **G.rendering_kwargs}]
        if unknown:
            raise ValueError(f"rendering option {unknown[0]!r}: this network knows {', '.join(sorted(G.rendering_kwargs))}")
        self.device = ws.device
        # A fork's generator, executed from its own source, may render in its own way: then only official calls are made.
        self.own_planes = hasattr(G, "planes") and hasattr(G, "render")
        if self.own_planes and ws.shape[1:] != (G.backbone.num_ws, G.w_dim):
            raise ValueError(f"styles of shape {list(ws.shape)}: this network's are [N, {G.backbone.num_ws}, {G.w_dim}]")
        with torch.inference_mode():
            # A fork's are kept at the first call, one by one.
            self.planes = channels_together(G.planes(ws, noise_mode="const")) if self.own_planes else [None] * len(ws)

    @property
    def box(self) -> float:
        """Side of the box that the planes span."""
        return self._all_options()["box_warp"]

    def _all_options(self) -> dict:
        return dict(self.G.rendering_kwargs, **self.options)

    @torch.inference_mode()
    def render(self, c: Tensor, resolution: Optional[int] = None) -> Dict[str, Tensor]:
        """The identities from one camera c [1, 25]: image [N, 3, R, R], image_raw [N, 3, r, r], image_depth [N, 1, r, r].

        `resolution` of the raw rendering defaults to the network's.
        """
        if c.shape != (1, 25):
            raise ValueError(f"a picture is seen from one camera, a label of shape [1, 25], not {list(c.shape)}")
        cameras.check(c)
        resolution = resolution or self.G.neural_rendering_resolution
        c = c.to(self.device)
        if not self.own_planes:
            views = [self._official_render(index, c, resolution) for index in range(len(self.ws))]
            return {key: torch.cat([view[key] for view in views]) for key in views[0]}
        options = self._all_options()
        samples = int(options["depth_resolution"]) + int(options["depth_resolution_importance"])
        budget = SAMPLES_AT_ONCE.get(self.device.type, SAMPLES_AT_ONCE["cpu"])
        if options.get("superresolution_noise_mode") == "random":
            options["superresolution_noise_mode"] = "const"
        options.update(ray_chunk=max(1, budget // (samples * len(self.ws))), depth_limits="sample",
                       generator=[torch.Generator().manual_seed(seed) for seed in self.seeds])
        return self.G.render(self.planes, self.ws, c.expand(len(self.ws), -1), resolution, rendering_options=options)

    def _official_render(self, index: int, c: Tensor, resolution: int) -> Dict[str, Tensor]:
        cuda = [self.device] if self.device.type == "cuda" else []
        with self._own_settings(self.options), torch.random.fork_rng(devices=cuda):
            torch.manual_seed(self.seeds[index])
            self.G._last_planes = self.planes[index]
            pictures = self.G.synthesis(
                self.ws[index : index + 1], c, neural_rendering_resolution=resolution, noise_mode="const",
                cache_backbone=True, use_cached_backbone=self.planes[index] is not None)
            self.planes[index] = self.G._last_planes
            return pictures

    @contextlib.contextmanager
    def _own_settings(self, options: dict) -> Iterator[None]:
        """A foreign network has no other place for options than itself: set for one call, then put back."""
        G = self.G
        before = G.rendering_kwargs, G.neural_rendering_resolution, getattr(G, "_last_planes", None)
        G.rendering_kwargs = type(before[0])(before[0])
        G.rendering_kwargs.update(options)
        try:
            yield
        finally:
            G.rendering_kwargs, G.neural_rendering_resolution, G._last_planes = before

    @torch.inference_mode()
    def density(self, points: Tensor, identity: int = 0) -> Tensor:
        """Densities [M] of one identity at world points [M, 3], before the marcher's softplus."""
        return self._decode(points, identity, lambda out: out["sigma"].reshape(-1), colors=False)

    @torch.inference_mode()
    def colors(self, points: Tensor, identity: int = 0) -> Tensor:
        """Colours [M, 3] in [-1, 1] of one identity at world points [M, 3]: what the raw rendering blends."""
        return self._decode(points, identity, lambda out: out["rgb"][0, :, :3] * 2 - 1)

    def _decode(self, points: Tensor, identity: int, chosen, colors: bool = True) -> Tensor:
        options = dict(self.options, density_noise=0)
        ws = self.ws[identity][None]
        planes = self.planes[identity][None] if self.own_planes else None
        parts = []
        # A fork's backbone runs for every part.
        for some in points.split(POINTS_AT_ONCE if self.own_planes else FOREIGN_POINTS_AT_ONCE):
            some = some[None].to(self.device)
            if self.own_planes:
                asked = dict(self.G.rendering_kwargs, **options, colors=colors)
                out = self.G.renderer.run_model(planes, self.G.decoder, some, torch.zeros_like(some), asked)
            else:
                with self._own_settings(options):
                    out = self.G.sample_mixed(some, torch.zeros_like(some), ws, noise_mode="const")
            parts.append(chosen(out))
        return torch.cat(parts)
