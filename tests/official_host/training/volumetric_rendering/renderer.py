"""Stand-in for the official module of this name, written for a test: two passes over all rays at once, no chunks.

torch's generator is asked in the official order: coarse depths, density noise if any, fine depths, density noise.
"""

import torch

from . import math_utils


class ImportanceRenderer(torch.nn.Module):
    """Takes ray_marcher and plane_axes from a snapshot."""

    def forward(self, planes, decoder, ray_origins, ray_directions, rendering_options):
        n, m, _ = ray_origins.shape
        coarse = self._coarse_depths(ray_origins, ray_directions, rendering_options)
        scene = planes, decoder, ray_origins, ray_directions, rendering_options
        colors, densities = self._samples(*scene, coarse)
        if rendering_options["depth_resolution_importance"] > 0:
            weights = self.ray_marcher(colors, densities, coarse, rendering_options)[2]
            fine = self._fine_depths(coarse.reshape(n * m, -1), weights.reshape(n * m, -1), rendering_options)
            fine = fine.detach().reshape(n, m, -1, 1)
            more = self._samples(*scene, fine)
            depths, order = torch.sort(torch.cat([coarse, fine], 2), dim=2)
            colors, densities = [
                torch.take_along_dim(torch.cat(pair, 2), order, 2) for pair in zip((colors, densities), more)]
        else:
            depths = coarse
        rgb, depth, weights = self.ray_marcher(colors, densities, depths, rendering_options)
        return rgb, depth, weights.sum(2)

    def run_model(self, planes, decoder, sample_coordinates, sample_directions, options):
        n, p, c, h, w = planes.shape
        scaled = sample_coordinates * 2 / options["box_warp"]
        looked_up = []
        for plane, axes in enumerate(self.plane_axes):
            grid = (scaled @ torch.linalg.inv(axes))[..., :2]
            found = torch.nn.functional.grid_sample(planes[:, plane], grid[:, :, None], align_corners=False)
            looked_up.append(found[..., 0].transpose(1, 2))
        out = decoder(torch.stack(looked_up, 1), sample_directions)
        if options.get("density_noise", 0) > 0:
            out["sigma"] = out["sigma"] + torch.randn_like(out["sigma"]) * options["density_noise"]
        return out

    def _samples(self, planes, decoder, origins, directions, options, depths):
        n, m, s, _ = depths.shape
        points = (origins[:, :, None] + depths * directions[:, :, None]).reshape(n, m * s, 3)
        out = self.run_model(planes, decoder, points, directions.repeat_interleave(s, 1), options)
        return out["rgb"].reshape(n, m, s, -1), out["sigma"].reshape(n, m, s, 1)

    def _coarse_depths(self, origins, directions, options):
        assert not options["disparity_space_sampling"]
        n, m, _ = origins.shape
        s = options["depth_resolution"]
        steps = torch.arange(s)[:, None] / (s - 1)
        if options["ray_start"] != "auto":
            near, far = options["ray_start"], options["ray_end"]
            return near + (steps + torch.rand(n, m, s, 1) / (s - 1)) * (far - near)
        near, far = math_utils.get_ray_limits_box(origins, directions, box_side_length=options["box_warp"])
        hit = far > near
        near, far = torch.where(hit, near, near[hit].min()), torch.where(hit, far, near[hit].max())
        noise = torch.rand(s, n, m, 1).permute(1, 2, 0, 3)  # drawn sample by sample
        return near[..., None] + (steps + noise / (s - 1)) * (far - near)[..., None]

    def _fine_depths(self, depths, weights, options):
        """[R, S] and [R, S - 1] -> [R, F]."""
        edge = torch.full_like(weights[:, :1], -float("inf"))
        larger = torch.maximum(torch.cat([edge, weights], 1), torch.cat([weights, edge], 1))
        smooth = (larger[:, 1:] + larger[:, :-1]) / 2 + 0.01
        bins = (depths[:, 1:] + depths[:, :-1]) / 2
        pdf = smooth[:, 1:-1] + 1e-5
        cdf = torch.cat([torch.zeros_like(pdf[:, :1]), torch.cumsum(pdf / pdf.sum(1, keepdim=True), 1)], 1)
        u = torch.rand(len(depths), options["depth_resolution_importance"])
        passed = (cdf[:, None, :] <= u[:, :, None]).sum(2)
        below, above = (passed - 1).clamp(min=0), passed.clamp(max=cdf.shape[1] - 1)
        low, high, left, right = cdf.gather(1, below), cdf.gather(1, above), bins.gather(1, below), bins.gather(1, above)
        width = torch.where(high - low < 1e-5, torch.ones_like(low), high - low)
        return left + (u - low) / width * (right - left)
