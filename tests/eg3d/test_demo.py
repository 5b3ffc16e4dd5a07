"""The network that ships shows heads: the camera moves around solids, and each seed is another one."""

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import trimesh
from click.testing import CliRunner

from eg3d import cameras, generator, sampling, shapes
from eg3d.cli.convert import convert
from eg3d.cli.samples import samples
from eg3d.cli.videos import videos
from eg3d.metrics import regressor
from eg3d.session import Session

MOST_BYTES = 12e6
FRAMES = 12  # of the tests' film
FOLLOWS = 0.9  # correlation of the yaw that is seen with the camera's
CHANGES = 1.0  # of 255: the least mean difference of two frames that are a twelfth of the way apart; encoding alone is below
MAIN_SHARE = 0.9  # of the surface's area in its largest component


@pytest.fixture(scope="module")
def demo():
    return generator.load("demo", device="cpu")


def run(command, *arguments):
    done = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_file(demo):
    """Small enough for a repository, and of the corrected plane axes."""
    path = generator.SHIPPED / "demo.safetensors"
    assert path.stat().st_size < MOST_BYTES and path.with_suffix(".md").is_file()
    assert demo.img_resolution == 64
    assert torch.linalg.matrix_rank(demo.renderer.plane_axes[:, :, :2].reshape(3, -1)) == 3


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Frames [F, 64, 64, 3] of one seed on the official path: the default network, without --network."""
    folder = tmp_path_factory.mktemp("film")
    run(videos, "--seeds=0", f"--w-frames={FRAMES}", "--trunc=0.7", f"--outdir={folder}", "--sample_mult=1")
    return np.stack(list(imageio.imiter(folder / "interpolation.mp4")))


def test_film_moves(film):
    """No two neighbouring frames are the same picture."""
    assert film.shape == (FRAMES, 64, 64, 3)
    change = np.abs(film[1:].astype(float) - film[:-1]).mean(axis=(1, 2, 3))
    assert change.min() > CHANGES


def test_film_follows_the_camera(film, demo):
    """A regressor that knows rendered heads sees the head turn as the camera does."""
    labels = cameras.film_path(demo.rendering_kwargs, FRAMES)
    seen = regressor.load()(regressor.prepared(torch.from_numpy(film).permute(0, 3, 1, 2))).direction
    asked = regressor.direction_of(labels)
    assert np.corrcoef(seen[:, 0], asked[:, 0])[0, 1] > FOLLOWS


def test_seeds_differ(demo):
    """Two seeds are farther apart than a head is from its neighbouring view."""
    c = cameras.view(demo.rendering_kwargs)
    one, other = (Session(demo, sampling.styles(demo, seed, 0.7)) for seed in (0, 1))
    pictures = [session.render(c)["image"] for session in (one, other)]
    beside = one.render(cameras.view(demo.rendering_kwargs, yaw=0.05))["image"]
    assert (pictures[0] - pictures[1]).abs().mean() > (pictures[0] - beside).abs().mean()


def test_shape_is_one_head(tmp_path, demo):
    """The command writes it; its largest component is nearly all of it, and of a head's size."""
    run(samples, "--seeds=0", "--trunc=0.7", f"--outdir={tmp_path}", "--shapes", "--shape-format=.ply", "--shape-res=64")
    mesh = trimesh.load(tmp_path / "seed0000.ply")
    parts = sorted((part.area for part in mesh.split(only_watertight=False)), reverse=True)
    assert parts[0] > MAIN_SHARE * sum(parts)
    assert 0.2 < mesh.extents.max() < 1.0
    session = Session(demo, sampling.styles(demo, 0, 0.7))
    shapes.save(session, tmp_path / "largest.ply", 64, part="largest")
    assert len(trimesh.load(tmp_path / "largest.ply").split(only_watertight=False)) == 1


def test_becomes_a_pickle(tmp_path, demo):
    """eg3d convert writes it in the official format, with the same pictures."""
    run(convert, "demo", tmp_path / "demo.pkl")
    again = generator.load(tmp_path / "demo.pkl", device="cpu")
    c = cameras.view(demo.rendering_kwargs)
    pictures = [Session(G, sampling.styles(G, 3, 0.7)).render(c)["image"] for G in (demo, again)]
    torch.testing.assert_close(*pictures, rtol=0, atol=0)
