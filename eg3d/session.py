"""One identity, seen from anywhere: its planes are computed once, each view costs rendering and super-resolution only.

A picture depends on network, styles, camera and `seed` alone: noise is the stored pattern, and the jitter of depths comes
from a generator that starts from `seed` for every picture. So a cell of a grid, or one frame of a film, equals the picture
made alone on the same machine.
"""

from __future__ import annotations

import contextlib
from typing import Dict, Optional

import torch
from torch import Tensor

SAMPLES_AT_ONCE = {"cpu": 1 << 17, "cuda": 1 << 20}  # samples of one ray chunk: bounds memory, and fits a CPU's caches
POINTS_AT_ONCE = 1 << 18  # of `density`


class Session:
    """Renders one identity, styles `ws` [1, L, W], of a generator.

    `rendering_options` go over the network's own for this session; the network itself is not changed.
    """

    def __init__(self, G: torch.nn.Module, ws: Tensor, seed: int = 0, rendering_options: Optional[dict] = None):
        if ws.shape[0] != 1:
            raise ValueError(f"a session renders one identity, not {ws.shape[0]}")
        self.G, self.ws, self.seed = G, ws, seed
        self.options = dict(rendering_options or {})
        self.device = ws.device
        # A fork's generator, executed from its own source, may render in its own way: then only official calls are made.
        self.own_planes = hasattr(G, "planes") and hasattr(G, "render")
        with torch.inference_mode():
            self.planes = G.planes(ws, noise_mode="const") if self.own_planes else None  # else kept at the first call

    @torch.inference_mode()
    def render(self, c: Tensor, resolution: Optional[int] = None) -> Dict[str, Tensor]:
        """The identity from a camera c [1, 25]: image [1, 3, R, R], image_raw [1, 3, r, r], image_depth [1, 1, r, r].

        `resolution` of the raw rendering defaults to the network's.
        """
        if c.shape != (1, 25):
            raise ValueError(f"a picture is seen from one camera, a label of shape [1, 25], not {list(c.shape)}")
        resolution = resolution or self.G.neural_rendering_resolution
        c = c.to(self.device)
        if not self.own_planes:
            return self._official_render(c, resolution)
        options = dict(self.G.rendering_kwargs, **self.options)
        samples = int(options["depth_resolution"]) + int(options["depth_resolution_importance"])
        budget = SAMPLES_AT_ONCE.get(self.device.type, SAMPLES_AT_ONCE["cpu"])
        if options.get("superresolution_noise_mode") == "random":
            options["superresolution_noise_mode"] = "const"
        options.update(ray_chunk=max(1, budget // samples), generator=torch.Generator().manual_seed(self.seed))
        return self.G.render(self.planes, self.ws, c, resolution, rendering_options=options)

    def _official_render(self, c: Tensor, resolution: int) -> Dict[str, Tensor]:
        cuda = [self.device] if self.device.type == "cuda" else []
        with self._own_settings(self.options), torch.random.fork_rng(devices=cuda):
            torch.manual_seed(self.seed)
            self.G._last_planes = self.planes
            pictures = self.G.synthesis(
                self.ws, c, neural_rendering_resolution=resolution, noise_mode="const", cache_backbone=True,
                use_cached_backbone=self.planes is not None)
            self.planes = self.G._last_planes
            return pictures

    @contextlib.contextmanager
    def _own_settings(self, options: dict):
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
    def density(self, points: Tensor) -> Tensor:
        """Densities [M] at world points [M, 3], before the marcher's softplus."""
        parts = []
        options = dict(self.options, density_noise=0)
        for some in points.split(POINTS_AT_ONCE):
            some = some[None].to(self.device)
            if self.own_planes:
                out = self.G.renderer.run_model(
                    self.planes, self.G.decoder, some, torch.zeros_like(some), dict(self.G.rendering_kwargs, **options))
            else:
                with self._own_settings(options):
                    out = self.G.sample_mixed(some, torch.zeros_like(some), self.ws, noise_mode="const")
            parts.append(out["sigma"].reshape(-1))
        return torch.cat(parts)
