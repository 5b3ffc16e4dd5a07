"""Seconds, memory and errors of ffhq512-128: a frame and its parts, a film, shapes. As the original works, and here.

As the original, in this project's code: plain PyTorch without kernels of our own, NCHW, everything anew for every picture
(mapping, backbone, all rays at once with samples sorted and gathered, super-resolution), one picture at a time; for a shape a
million points at a time, each million with a mapping and a backbone of its own. Here: eg3d.session, as the commands use it.
Both get the same draws. Errors are the largest difference of a picture in [-1, 1] (of planes and of densities: of their
largest number) from the original's way in float64, or, for films and shapes, from the original's way.
"""

import copy
import tempfile
from pathlib import Path

import click
import torch
from measuring import compare, machine, official_generator, plain

from eg3d import cameras, encoding, generator, sampling, shapes, video
from eg3d.session import Session
from torch_utils import images

POINTS_OF_A_CHUNK = 1_000_000
SEED = 0
FRAMES, CELLS = 12, 4  # of a film
TABLES = ("frame", "shapes", "parts", "film")


class Original:
    """The original's way with one network; `dtype` of what it computes in."""

    def __init__(self, G, multiplier=2, dtype=torch.float32):
        self.G, self.dtype = G.to(dtype), dtype
        self.options = video.sampling_options(G, multiplier)

    def styles(self, seed=SEED):
        return sampling.styles(self.G, seed)

    def planes(self, ws):
        with plain(self.dtype):
            return self.G.planes(ws, noise_mode="const").to(self.dtype)

    def superresolution(self, features, ws):
        with plain(self.dtype):
            return self.G.superresolution(features[:, :3], features, ws, noise_mode="none")

    def features(self, planes, c, size, seed=SEED):
        """The rendered feature image [1, 32, size, size]."""
        rays = self.G.ray_sampler(c[:, :16].reshape(1, 4, 4).to(planes), c[:, 16:].reshape(1, 3, 3).to(planes), size)
        options = dict(self.G._options(), **self.options, generator=torch.Generator().manual_seed(seed))
        with plain(self.dtype):
            features = self.G.renderer(planes, self.G.decoder, *rays, options)[0]
        return features.transpose(1, 2).reshape(1, -1, size, size)

    def frame(self, c, seed=SEED):
        ws = self.styles(seed)
        return self.superresolution(self.features(self.planes(ws), c, 128, seed), ws)

    def shape(self, resolution):
        """The whole cube, and its borders emptied afterwards."""
        half = self.G.rendering_kwargs["box_warp"] / 2
        axis = torch.linspace(-half, half, resolution)
        points = torch.cartesian_prod(axis, axis, axis)[None]
        z, c = sampling.latent(self.G, SEED), cameras.view(self.G.rendering_kwargs)
        parts = []
        with plain():
            for some in points.split(POINTS_OF_A_CHUNK, dim=1):
                some = some.to(z.device)
                parts.append(self.G.sample(some, torch.zeros_like(some), z, c.to(z.device), noise_mode="const")["sigma"].cpu())
        grid = torch.cat(parts, dim=1).reshape(resolution, resolution, resolution)
        cut = int(shapes.BORDER * resolution)
        inner = (slice(cut, resolution - cut),) * 3
        whole = torch.full_like(grid, shapes.EMPTY)
        whole[inner] = grid[inner]
        return whole

    def film(self, labels):
        """All frames of all cells, then encoding."""
        frames = [images.grid(torch.cat([self.frame(c[None], seed) for seed in range(CELLS)]), 2) for c in labels]
        with tempfile.TemporaryDirectory() as folder:
            encoding.write(frames, Path(folder) / "film.mp4")
        return torch.from_numpy(frames[-1] / 127.5 - 1)


def film(G, labels):
    film = video.Film(G, [[seed] for seed in range(CELLS)], labels, columns=2)
    with tempfile.TemporaryDirectory() as folder:
        encoding.write(film, Path(folder) / "film.mp4")
    return torch.from_numpy(film.frame(len(film) - 1) / 127.5 - 1)


def largest_difference(a, b):
    a, b = torch.as_tensor(a).cpu().double(), torch.as_tensor(b).cpu().double()
    return f"{(a - b).abs().max().item() / max(1, a.abs().max().item()):.1e}"


def parts_of_a_frame(G, exact, c, rounds, device):
    original, ws = Original(G), sampling.styles(G, SEED)
    planes, session = exact.planes(ws), new_session(G)
    features = exact.features(planes, c, 128)
    compare("Backbone: planes of an identity", {
        "as the original": lambda: original.planes(ws),
        "here": lambda: G.planes(ws, noise_mode="const"),
    }, rounds, device, largest_difference, planes)
    compare("Super-resolution, 128x128 to 512x512", {
        "as the original": lambda: original.superresolution(features.float(), ws),
        "here": lambda: G.superresolution(features[:, :3].float(), features.float(), ws, noise_mode="none"),
    }, rounds, device, largest_difference, exact.superresolution(features, ws))
    for size in (64, 128):
        for multiplier in (1, 2):
            original.options = exact.options = session.options = video.sampling_options(G, multiplier)
            compare(f"Rendering, {size}x{size} rays, {48 * multiplier} + {48 * multiplier} samples", {
                "as the original": lambda: original.features(planes.float(), c, size),  # noqa: B023
                "here": lambda: rendered(session, c, size),  # noqa: B023
            }, rounds, device, largest_difference, exact.features(planes, c, size))


def rendered(session, c, size):
    """What a session renders before super-resolution."""
    G, c = session.G, c.to(session.device)
    rays = G.ray_sampler(c[:, :16].reshape(1, 4, 4), c[:, 16:].reshape(1, 3, 3), size)
    options = dict(G._options(), **session.options, generator=torch.Generator().manual_seed(SEED))
    return G.renderer(session.planes, G.decoder, *rays, options)[0].transpose(1, 2).reshape(1, -1, size, size)


def new_session(G):
    return Session(G, sampling.styles(G, SEED), SEED, video.sampling_options(G, 2))


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--device", "name", default="auto", show_default=True)
@click.option("--only", type=click.Choice(TABLES), multiple=True, help="Some of the tables.  [default: all]")
@torch.inference_mode()
def main(rounds, name, only):
    """Prints tables."""
    only = only or TABLES
    device = generator.choose_device(name)
    G = official_generator().to(device)
    exact = Original(copy.deepcopy(G), dtype=torch.float64)
    original, kept, c = Original(G), new_session(G), cameras.view(G.rendering_kwargs)
    print(machine(device))
    if "frame" in only:
        compare("One frame, 512x512, 128x128 rays, 96 + 96 samples", {
            "as the original": lambda: original.frame(c),
            # In this order what the original's way did to memory is felt by the quickest way only.
            "same identity, another view": lambda: kept.render(c)["image"],
            "new identity": lambda: new_session(G).render(c)["image"],
        }, rounds, device, largest_difference, exact.frame(c))
    for resolution in (128, 256) if "shapes" in only else ():
        compare(f"Densities of a shape, {resolution}^3", {
            "as the original": lambda: original.shape(resolution),  # noqa: B023
            "here": lambda: shapes.density_grid(new_session(G), resolution),  # noqa: B023
        }, rounds, device, largest_difference)
    if "parts" in only:
        parts_of_a_frame(G, exact, c, rounds, device)
    if "film" in only:
        labels = cameras.orbit(G.rendering_kwargs, FRAMES)
        compare(f"A film of {FRAMES} frames, 2x2 heads, encoded", {
            "as the original": lambda: original.film(labels), "here": lambda: film(G, labels)}, 0, device, largest_difference)


if __name__ == "__main__":
    main()
