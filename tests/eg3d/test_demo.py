"""The network that ships shows heads: the camera moves around solids, and each seed is another one."""

import subprocess
import sys

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
import trimesh
from click.testing import CliRunner

from eg3d import cameras, generator, sampling
from eg3d.cli.convert import convert
from eg3d.cli.samples import samples
from eg3d.cli.videos import videos
from eg3d.metrics import regressor
from eg3d.session import Session

MOST_BYTES = 12e6
FRAMES = 12  # of the tests' film
FOLLOWS = 0.9  # correlation of the yaw that is seen with the camera's
CHANGES = 1.0  # of 255: the least mean difference of two frames that are a twelfth of the way apart; encoding alone is below


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


def test_shape_is_one_head(tmp_path):
    """The shape of `make demo`: one component, upright in the middle, as large as a head, its face towards +z."""
    run(samples, "--seeds=3", "--trunc=0.7", f"--outdir={tmp_path}", "--shapes", "--shape-format=.ply", "--shape-res=96",
        "--shape-level=4", "--shape-part=largest")
    mesh = trimesh.load(tmp_path / "seed0003.ply")
    assert len(mesh.split(only_watertight=False)) == 1
    middle, (width, height, depth) = mesh.bounds.mean(axis=0), mesh.extents
    assert np.abs(middle[:2]).max() < 0.05
    assert 0.35 < width < height < 0.65 and 0.25 < depth < 0.5  # an adult: 0.15, 0.23, 0.19 m, 0.37 m a unit
    assert abs(mesh.vertices[mesh.vertices[:, 2].argmax(), 0]) < 0.05  # what is in front, nose or mouth, lies in the middle


LOAD = """
import sys
import torch
import training.triplane
program = torch.export.load(sys.argv[1])
z, c, image = torch.load(sys.argv[2])
torch.manual_seed(0)
torch.testing.assert_close(program.module()(z, c)["image"], image, rtol=0, atol=1e-6)
"""


def test_becomes_a_program(tmp_path, demo):
    """An exported program loads in a process that has imported training.triplane, and gives the same picture."""
    z, c = torch.randn(1, demo.z_dim, generator=torch.Generator().manual_seed(0)), cameras.view(demo.rendering_kwargs)
    with torch.no_grad():
        torch.export.save(torch.export.export(demo, (z, c)), tmp_path / "demo.pt2")
        torch.manual_seed(0)
        torch.save((z, c, demo(z, c)["image"]), tmp_path / "expected.pt")
    done = subprocess.run([sys.executable, "-c", LOAD, str(tmp_path / "demo.pt2"), str(tmp_path / "expected.pt")],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_becomes_a_pickle(tmp_path, demo):
    """eg3d convert writes it in the official format, with the same pictures."""
    run(convert, "demo", tmp_path / "demo.pkl")
    again = generator.load(tmp_path / "demo.pkl", device="cpu")
    c = cameras.view(demo.rendering_kwargs)
    pictures = [Session(G, sampling.styles(G, 3, 0.7)).render(c)["image"] for G in (demo, again)]
    torch.testing.assert_close(*pictures, rtol=0, atol=0)
