"""Tri-plane look-up and two-pass volume rendering (EG3D, sections 3 and 4.1; importance sampling as NeRF, section 5.2).

Notation: N batch, M rays, S samples along a ray, C channels, P = 3 planes. World coordinates; depth is distance along the
ray. What the renderer does is told by `rendering_options`, a mapping:

    ray_start, ray_end            numbers, or 'auto' for both: the rays' way through the box
    box_warp                      side of the box that the planes span
    depth_resolution              samples of the first pass
    depth_resolution_importance   samples of the second pass; 0 leaves it out
    disparity_space_sampling      first pass linear in 1 / depth
    clamp_mode                    'softplus'
    white_back                    white where rays leave the scene (default False)
    density_noise                 standard deviation added to densities (default 0)
    depth_limits                  depth ends at the nearest and furthest sample of the whole 'call' (default, official), or of
                                  each 'sample' of the batch, so that it does not depend on its neighbours
    impl                          'cpu' or 'cuda' for the fused kernels (fused.py), 'ref' for plain PyTorch, 'auto' (default)
                                  for the kernels where they suit
    colors                        False leaves them out where points are asked for (default True)
    ray_chunk                     rays that the reference renders at a time, which bounds memory and changes nothing else
                                  (default: all)
    generator                     torch.Generator for every draw, or a list with one for each sample (default: torch's own)
"""

from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from training.volumetric_rendering import fused, math_utils
from training.volumetric_rendering.ray_marcher import MipRayMarcher2, check_clamp_mode, composite

# Rows of each plane's frame: a point's coordinates in it are point @ inverse, the first two are looked up.
OFFICIAL_AXES = (
    ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),  # (x, y)
    ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)),  # (x, z)
    ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0)),  # (z, x): repeats (x, z), as in every released checkpoint
)
CORRECTED_AXES = (
    OFFICIAL_AXES[0],
    OFFICIAL_AXES[1],
    ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)),  # (z, y), as the paper draws it
)
PDF_FLOOR = 0.01  # added to smoothed weights, so that empty intervals are sampled too
PDF_EPS = 1e-5


# ------------------------------------------------------------------------------------------------ planes

def generate_planes() -> Tensor:
    """The official axes, [3, 3, 3], on the CPU."""
    return torch.tensor(OFFICIAL_AXES, device="cpu")


def project_onto_planes(
    planes: Tensor,  # [P, 3, 3]
    coordinates: Tensor,  # [N, M, 3]
) -> Tensor:
    """Coordinates of every point in every plane, [N * P, M, 2]."""
    inverses = torch.linalg.inv(planes.cpu()).to(coordinates)
    return torch.einsum("nmi,pij->npmj", coordinates, inverses)[..., :2].flatten(0, 1)


def sample_from_planes(
    plane_axes: Tensor,  # [P, 3, 3]
    plane_features: Tensor,  # [N, P, C, H, W]
    coordinates: Tensor,  # [N, M, 3]
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    box_warp: Optional[float] = None,
) -> Tensor:
    """Looks points up in each plane; the box of side `box_warp` fills the planes, outside is zero. Returns [N, P, M, C]."""
    batch, planes = plane_features.shape[:2]
    grid = project_onto_planes(plane_axes, coordinates * (2 / box_warp))
    features = F.grid_sample(
        plane_features.flatten(0, 1), grid[:, None], mode=mode, padding_mode=padding_mode, align_corners=False)
    return features[:, :, 0].transpose(1, 2).unflatten(0, (batch, planes))


# ------------------------------------------------------------------------------------------------ depths along rays

def stratified_depths(near: Tensor, far: Tensor, noise: Tensor, disparity: bool) -> Tensor:
    """S evenly spaced depths, each moved on by a share `noise` of the spacing.

    near, far broadcast to [N, M, 1, 1]; noise [N, M, S, 1] in [0, 1). Returns [N, M, S, 1].
    """
    samples = noise.shape[2]
    steps = torch.linspace(0, 1, samples, device=noise.device, dtype=noise.dtype)[:, None]
    if disparity:
        t = steps + noise / (samples - 1)
        return 1 / ((1 - t) / near + t / far)
    return near + (steps + noise / (samples - 1)) * (far - near)


def importance_depths(z_vals: Tensor, weights: Tensor, uniform: Tensor) -> Tensor:
    """Depths drawn where a first pass found matter: the inverse of the distribution function at `uniform`.

    z_vals [R, S] ascending, weights [R, S - 1], uniform [R, F] in [0, 1). Returns [R, F], unsorted.
    """
    smooth = F.max_pool1d(weights[:, None], kernel_size=2, stride=1, padding=1)
    smooth = F.avg_pool1d(smooth, kernel_size=2, stride=1)[:, 0] + PDF_FLOOR
    bins = (z_vals[:, 1:] + z_vals[:, :-1]) / 2
    pdf = smooth[:, 1:-1] + PDF_EPS
    pdf = pdf / pdf.sum(dim=-1, keepdim=True)
    cdf = F.pad(torch.cumsum(pdf, dim=-1), [1, 0])

    above = torch.searchsorted(cdf, uniform.contiguous(), right=True)
    below = (above - 1).clamp(min=0)
    above = above.clamp(max=pdf.shape[-1])
    low, high = cdf.gather(-1, below), cdf.gather(-1, above)
    left, right = bins.gather(-1, below), bins.gather(-1, above)
    width = high - low
    share = (uniform - low) / torch.where(width < PDF_EPS, torch.ones_like(width), width)
    return left + share * (right - left)


# ------------------------------------------------------------------------------------------------ draws

Generator = Union[None, torch.Generator, Sequence[torch.Generator]]


def _draw(
    sampler: Callable,  # torch.rand or torch.randn
    shape: Tuple[int, ...],
    like: Tensor,
    generator: Generator,
    depth_by_depth: bool = False,  # draw [N, M, S, 1] in the order S, N, M
) -> Tensor:
    """Random numbers of this shape; with a list of generators each draws its own row."""
    if isinstance(generator, (list, tuple)):
        if len(generator) != shape[0]:
            raise ValueError(f"rendering option generator: {len(generator)} generators for {shape[0]} samples")
        return torch.cat([_draw(sampler, (1, *shape[1:]), like, one, depth_by_depth) for one in generator])
    if depth_by_depth:
        batch, rays, samples, last = shape
        return _draw(sampler, (samples, batch, rays, last), like, generator).permute(1, 2, 0, 3)
    if generator is None:
        return sampler(shape, device=like.device, dtype=like.dtype)
    return sampler(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


class Draws(NamedTuple):
    """Every random number of one call, so that rendering in chunks changes none."""

    coarse: Tensor  # [N, M, S, 1], uniform
    coarse_noise: Optional[Tensor]  # [N, M, S, 1], normal, scaled
    fine: Optional[Tensor]  # [N, M, F], uniform
    fine_noise: Optional[Tensor]  # [N, M, F, 1], normal, scaled

    def rays(self, start: int, stop: int) -> "Draws":
        return Draws(*[None if part is None else part[:, start:stop] for part in self])


class Limits(NamedTuple):
    """Where rays begin and end, [N or 1, M or 1, 1, 1]."""

    near: Tensor
    far: Tensor

    def rays(self, start: int, stop: int) -> "Limits":
        return self if self.near.shape[1] == 1 else Limits(self.near[:, start:stop], self.far[:, start:stop])


class ImportanceRenderer(torch.nn.Module):
    """Renders tri-planes; checkpoints store this class by name, with `plane_axes` as a plain attribute."""

    def __init__(self):
        super().__init__()
        self.ray_marcher = MipRayMarcher2()
        self.plane_axes = generate_planes()

    def forward(
        self,
        planes: Tensor,  # [N, P, C, H, W]
        decoder: torch.nn.Module,
        ray_origins: Tensor,  # [N, M, 3]
        ray_directions: Tensor,  # [N, M, 3], unit vectors
        rendering_options: Mapping,
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """Returns features [N, M, channels] in [-1, 1], depth [N, M, 1] and the sum of weights [N, M, 1]."""
        if torch.is_autocast_enabled(planes.device.type):  # networks may run in half precision, integrals do not
            with torch.autocast(planes.device.type, enabled=False):
                return self.forward(planes.float(), decoder, ray_origins, ray_directions, rendering_options)
        limits = self._limits(ray_origins, ray_directions, rendering_options)
        draws = self._draws(ray_origins, rendering_options)
        render = self._render_fused if self._impl(
            planes, decoder, rendering_options, ray_origins, ray_directions, limits=limits) != "ref" else self._render_in_chunks
        rgb, depth, weight, nearest, furthest = render(
            planes, decoder, ray_origins, ray_directions, limits, draws, rendering_options)
        if depth.numel() > 0:
            scope = rendering_options.get("depth_limits", "call")
            if scope not in ("call", "sample"):
                raise ValueError(f"rendering option depth_limits={scope!r}: choose call or sample")
            over = (0, 1, 2) if scope == "call" else (1, 2)
            depth = depth.clamp(nearest.amin(over, keepdim=True), furthest.amax(over, keepdim=True))
        return rgb, depth, weight

    def _impl(self, planes, decoder, options, *places, limits=()) -> str:
        """Who computes. A renderer with a decode of its own has no kernels, nor has a second pass after too small a first."""
        impl, own = options.get("impl", "auto"), type(self).decode is not ImportanceRenderer.decode or "decode" in vars(self)
        small = options.get("depth_resolution_importance", 0) > 0 and options["depth_resolution"] < fused.FEWEST_COARSE
        if impl == "auto" and (own or small):
            return "ref"
        if small and impl != "ref":
            raise ValueError(f"rendering option depth_resolution={options['depth_resolution']}: impl={impl!r} needs "
                             f"{fused.FEWEST_COARSE} samples for a second pass to follow; impl='ref' renders this")
        return fused.choose(impl, planes, self.plane_axes, decoder, *places, limits=limits)

    def _render_fused(self, planes, decoder, origins, directions, limits, draws, options) -> fused.Rendered:
        check_clamp_mode(options)
        depths = stratified_depths(limits.near, limits.far, draws.coarse, options["disparity_space_sampling"])
        return fused.render_rays(
            planes, fused.projection(self.plane_axes, options["box_warp"], planes), fused.layers_of(decoder), origins,
            directions, depths, draws, options.get("white_back", False))

    def _render_in_chunks(self, planes, decoder, ray_origins, ray_directions, limits, draws, rendering_options):
        rays = ray_origins.shape[1]
        chunk = rendering_options.get("ray_chunk") or max(rays, 1)
        if chunk < 0:
            raise ValueError(f"rendering option ray_chunk={chunk}: must be positive, or None for all rays at once")
        parts: List[fused.Rendered] = []
        for start in range(0, max(rays, 1), chunk):
            stop = start + chunk
            parts.append(self._render_rays(
                planes, decoder, ray_origins[:, start:stop], ray_directions[:, start:stop], limits.rays(start, stop),
                draws.rays(start, stop), rendering_options))
        return fused.Rendered(*[torch.cat(values, dim=1) for values in zip(*parts)])

    def _limits(self, origins: Tensor, directions: Tensor, options: Mapping) -> Limits:
        start, end = options["ray_start"], options["ray_end"]
        if (start == "auto") != (end == "auto"):
            raise ValueError(f"ray_start={start}, ray_end={end}: 'auto' goes with 'auto'")
        if start != "auto":
            return Limits(*[origins.new_full((1, 1, 1, 1), float(x)) for x in (start, end)])
        near, far = math_utils.get_ray_limits_box(origins, directions, options["box_warp"])
        hit = far > near
        if hit.any():
            # Official: a ray that misses ends at the largest START of the hits, not at the largest end.
            near, far = near.where(hit, near[hit].min()), far.where(hit, near[hit].max())
        return Limits(near[..., None], far[..., None])

    def _draws(self, origins: Tensor, options: Mapping) -> Draws:
        """The reference's draws in its order: coarse depths, their density noise, fine depths, theirs."""
        batch, rays = origins.shape[:2]
        coarse, fine = options["depth_resolution"], options["depth_resolution_importance"]
        if coarse < 1:
            raise ValueError(f"rendering option depth_resolution={coarse}: at least one sample is needed")
        generator, sigma = options.get("generator"), options.get("density_noise", 0)

        def density_noise(samples):
            if sigma <= 0:
                return None
            draw = _draw(torch.randn, (batch, rays * samples, 1), origins, generator) * sigma
            return draw.reshape(batch, rays, samples, 1)

        # Official: depths between limits that vary lie depth by depth in memory, and are drawn so.
        depth_by_depth = options["ray_start"] == "auto" and not options["disparity_space_sampling"]
        first = _draw(torch.rand, (batch, rays, coarse, 1), origins, generator, depth_by_depth)
        first_noise = density_noise(coarse)
        if fine <= 0:
            return Draws(first, first_noise, None, None)
        return Draws(first, first_noise, _draw(torch.rand, (batch, rays, fine), origins, generator), density_noise(fine))

    def _render_rays(self, planes, decoder, origins, directions, limits: Limits, draws: Draws, options) -> fused.Rendered:
        depths = stratified_depths(limits.near, limits.far, draws.coarse, options["disparity_space_sampling"])
        samples = self._evaluate(planes, decoder, origins, directions, depths, draws.coarse_noise, options)
        if draws.fine is not None:
            with torch.no_grad():
                weights = composite(samples["rgb"], samples["sigma"], depths, options).weights
                extra = importance_depths(
                    depths.flatten(0, 1)[..., 0], weights.flatten(0, 1)[..., 0], draws.fine.flatten(0, 1))
                extra = extra.reshape(*draws.fine.shape, 1)
            more = self._evaluate(planes, decoder, origins, directions, extra, draws.fine_noise, options)
            depths, order = torch.cat([depths, extra], dim=2).sort(dim=2)
            samples = {
                key: torch.cat([samples[key], more[key]], dim=2).gather(2, order.expand(-1, -1, -1, more[key].shape[-1]))
                for key in ("rgb", "sigma")}
        rgb, depth, weights = composite(samples["rgb"], samples["sigma"], depths, options)
        return fused.Rendered(rgb, depth, weights.sum(dim=2), depths.amin(dim=2), depths.amax(dim=2))

    def _evaluate(self, planes, decoder, origins, directions, depths, noise, options) -> Dict[str, Tensor]:
        """Colours and densities at these depths, [N, M, S, channels] and [N, M, S, 1]."""
        points = origins[:, :, None] + depths * directions[:, :, None]
        facing = directions[:, :, None].expand_as(points)
        out = self.decode(planes, decoder, points.flatten(1, 2), facing.flatten(1, 2), options)
        out = {key: out[key].unflatten(1, depths.shape[1:3]) for key in ("rgb", "sigma")}
        if noise is not None:
            out["sigma"] = out["sigma"] + noise
        return out

    def decode(self, planes, decoder, coordinates, directions, options) -> Dict[str, Tensor]:
        """Colours and densities at points, as `run_model`'s without noise, by the reference. For subclasses to replace."""
        features = sample_from_planes(self.plane_axes, planes, coordinates, box_warp=options["box_warp"])
        return decoder(features, directions)

    def run_model(
        self,
        planes: Tensor,  # [N, P, C, H, W]
        decoder: torch.nn.Module,
        sample_coordinates: Tensor,  # [N, M, 3]
        sample_directions: Tensor,  # [N, M, 3]
        options: Mapping,
    ) -> Dict[str, Tensor]:
        """Colours 'rgb' [N, M, channels] and densities 'sigma' [N, M, 1] at points, with the option's density noise."""
        colors = options.get("colors", True)
        if torch.is_autocast_enabled(planes.device.type):
            with torch.autocast(planes.device.type, enabled=False):
                return self.run_model(planes.float(), decoder, sample_coordinates, sample_directions, options)
        if self._impl(planes, decoder, options, sample_coordinates) == "ref":
            out = self.decode(planes, decoder, sample_coordinates, sample_directions, options)
        else:
            table = fused.projection(self.plane_axes, options["box_warp"], planes)
            rgb, sigma = fused.decode_points(planes, table, fused.layers_of(decoder), sample_coordinates, colors)
            out = dict(rgb=rgb, sigma=sigma)
        if options.get("density_noise", 0) > 0:
            noise = _draw(torch.randn, tuple(out["sigma"].shape), out["sigma"], options.get("generator"))
            out = dict(out, sigma=out["sigma"] + noise * options["density_noise"])
        return out if colors else dict(sigma=out["sigma"])

    def sample_stratified(self, ray_origins, ray_start, ray_end, depth_resolution, disparity_space_sampling=False) -> Tensor:
        """Depths of the first pass, [N, M, S, 1]; limits are numbers or [N, M, 1] tensors."""
        varying = isinstance(ray_start, Tensor)
        near, far = [torch.as_tensor(x, dtype=torch.float32, device=ray_origins.device) for x in (ray_start, ray_end)]
        shape = (*ray_origins.shape[:2], depth_resolution, 1)
        noise = _draw(torch.rand, shape, ray_origins, None, varying and not disparity_space_sampling)
        return stratified_depths(*[x[..., None] if varying else x for x in (near, far)], noise, disparity_space_sampling)

    @torch.no_grad()
    def sample_importance(self, z_vals, weights, N_importance) -> Tensor:
        """Depths of the second pass, [N, M, N_importance, 1], from depths [N, M, S, 1] and weights [N, M, S - 1, 1]."""
        batch, rays = z_vals.shape[:2]
        uniform = torch.rand(batch * rays, N_importance, device=z_vals.device)
        drawn = importance_depths(z_vals.flatten(0, 1)[..., 0], weights.flatten(0, 1)[..., 0], uniform)
        return drawn.reshape(batch, rays, N_importance, 1)
