"""Seconds and memory of a 512x512 frame and of a 256^3 shape of ffhq512-128, as the original works and as this project does.

As the original: for every picture mapping, backbone, 128x128 rays with 96 + 96 samples at once, super-resolution, one picture
at a time; for a shape a million points at a time, each million with a mapping and a backbone of its own. Here: eg3d.session,
whose planes are kept and whose rays and points come in chunks. Sorting and gathering of samples, NCHW and grouped convolution
are in both. Both get the same draws; a frame's error is the largest difference of a picture in [-1, 1], a shape's that of a
density.
"""

import click
import torch
from measuring import compare, machine, official_generator

from eg3d import cameras, generator, sampling, shapes, video
from eg3d.session import Session

POINTS_OF_A_CHUNK = 1_000_000
SEED = 0


def original_frame(G, c):
    """Everything anew."""
    ws = sampling.styles(G, SEED)
    planes = G.planes(ws, noise_mode="const", fused_modconv=True)
    options = dict(video.sampling_options(G, 2), ray_chunk=None, generator=torch.Generator().manual_seed(SEED))
    return G.render(planes, ws, c.to(ws.device), 128, rendering_options=options, fused_modconv=True)["image"]


def new_session(G):
    return Session(G, sampling.styles(G, SEED), SEED, video.sampling_options(G, 2))


def original_shape(G, resolution):
    """The whole cube, and its borders emptied afterwards."""
    half = G.rendering_kwargs["box_warp"] / 2
    axis = torch.linspace(-half, half, resolution)
    points = torch.cartesian_prod(axis, axis, axis)[None]
    z, c = sampling.latent(G, SEED), cameras.view(G.rendering_kwargs)
    parts = []
    for some in points.split(POINTS_OF_A_CHUNK, dim=1):
        some = some.to(z.device)
        parts.append(G.sample(some, torch.zeros_like(some), z, c.to(z.device), noise_mode="const")["sigma"].cpu())
    grid = torch.cat(parts, dim=1).reshape(resolution, resolution, resolution)
    cut = int(shapes.BORDER * resolution)
    inner = (slice(cut, resolution - cut),) * 3
    whole = torch.full_like(grid, shapes.EMPTY)
    whole[inner] = grid[inner]
    return whole


def largest_difference(a, b):
    return f"{(torch.as_tensor(a).cpu() - torch.as_tensor(b).cpu()).abs().max().item():.1e}"


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--device", "name", default="auto", show_default=True)
@click.option("--shape-res", type=click.IntRange(16, 512), default=256, show_default=True)
@torch.inference_mode()
def main(rounds, name, shape_res):
    """Prints two tables."""
    device = generator.choose_device(name)
    G = official_generator().to(device)
    c = cameras.view(G.rendering_kwargs)
    print(machine(device))
    kept = new_session(G)
    compare("One frame, 512x512, 128x128 rays, 96 + 96 samples", {
        "as the original": lambda: original_frame(G, c),
        "new identity": lambda: new_session(G).render(c)["image"],
        "same identity, another view": lambda: kept.render(c)["image"],
    }, rounds, device, largest_difference)
    compare(f"Densities of a shape, {shape_res}^3", {
        "as the original": lambda: original_shape(G, shape_res),
        "here": lambda: shapes.density_grid(new_session(G), shape_res),
    }, rounds, device, largest_difference)


if __name__ == "__main__":
    main()
