"""What people wrote for the original keeps working: the calls of its README, of its scripts and of notebooks around them.

Each snippet runs as it would in a notebook beside the code, in an empty namespace. `.cuda()` stays where it is found: on a
machine without a GPU it returns its object.
"""

import ast
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import camera_utils
import legacy
from eg3d import cameras
from torch_utils import pickles
from torch_utils.persistence import CheckpointError

ROOT = Path(__file__).parents[1]

LOADING = """
import pickle, torch

with open("ffhq.pkl", "rb") as f:
    G = pickle.load(f)["G_ema"].cuda()
"""

CAMERA = """
from camera_utils import LookAtPoseSampler, FOV_to_intrinsics

cam2world_pose = LookAtPoseSampler.sample(3.14 / 2, 3.14 / 2, torch.tensor([0, 0, 0.2]).cuda(), radius=2.7, device=device)
intrinsics = FOV_to_intrinsics(18.837, device=device)
c = torch.cat([cam2world_pose.reshape(-1, 16), intrinsics.reshape(-1, 9)], 1)
z = torch.randn([1, G.z_dim]).cuda()
"""

PICTURE = """
img = G(z, c)["image"]
"""

TWO_STEPS = """
w = G.mapping(z, c, truncation_psi=0.5, truncation_cutoff=8)
img = G.synthesis(w, c)["image"]
"""

BY_SEED = """
import dnnlib, legacy
import numpy as np

with dnnlib.util.open_url("ffhq.pkl") as f:
    G = legacy.load_network_pkl(f)["G_ema"].to(device)
z = torch.from_numpy(np.random.RandomState(7).randn(1, G.z_dim)).to(device)
pivot = torch.tensor(G.rendering_kwargs.get("avg_camera_pivot", [0, 0, 0]), device=device)
radius = G.rendering_kwargs.get("avg_camera_radius", 2.7)
pose = LookAtPoseSampler.sample(np.pi / 2 + 0.4, np.pi / 2 - 0.2, pivot, radius=radius, device=device)
camera = torch.cat([pose.reshape(-1, 16), intrinsics.reshape(-1, 9)], 1)
ws = G.mapping(z, c, truncation_psi=0.7, truncation_cutoff=14)
out = G.synthesis(ws, camera, noise_mode="const", neural_rendering_resolution=16, cache_backbone=True)
again = G.synthesis(ws, camera, noise_mode="const", use_cached_backbone=True)
img = out["image"]
pixels = (img.permute(0, 2, 3, 1) * 127.5 + 128).clamp(0, 255).to(torch.uint8)[0].cpu().numpy()
"""

POINTS = """
points = torch.rand(1, 100, 3, device=device) - 0.5
directions = torch.zeros_like(points)
directions[..., -1] = -1
sigma = G.sample(points, directions, z, c, truncation_psi=0.7, truncation_cutoff=14, noise_mode="const")["sigma"]
mixed = G.sample_mixed(points, directions, ws, truncation_psi=1, noise_mode="const")["sigma"]
"""

NEW_CODE = """
from torch_utils import misc
from training.triplane import TriPlaneGenerator

fresh = TriPlaneGenerator(*G.init_args, **G.init_kwargs).eval().requires_grad_(False).to(device)
misc.copy_params_and_buffers(G, fresh, require_all=True)
fresh.neural_rendering_resolution = G.neural_rendering_resolution
fresh.rendering_kwargs = G.rendering_kwargs
torch.manual_seed(0)
copied = fresh.synthesis(ws, camera, noise_mode="const")["image"]
"""


@pytest.fixture
def notebook(tiny_path, tmp_path, monkeypatch):
    """Runs snippets one after the other, in a folder that holds a network called ffhq.pkl."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
        monkeypatch.setattr(torch.nn.Module, "cuda", lambda self: self)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ffhq.pkl").write_bytes(tiny_path.read_bytes())
    names = dict(torch=torch, device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def run(*snippets):
        for snippet in snippets:
            torch.manual_seed(0)
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # what still works but complains does not count
                exec(compile(snippet, "<notebook>", "exec"), names)
        return names

    return run


def test_pictures(notebook):
    """pickle.load, a camera, a picture in one call and in two."""
    one = notebook(LOADING, CAMERA, PICTURE)["img"]
    assert one.shape == (1, 3, 128, 128) and one.dtype == torch.float32 and torch.isfinite(one).all()
    two = notebook(TWO_STEPS)["img"]
    assert two.shape == one.shape and not torch.equal(one, two)


def test_pictures_by_seed(notebook):
    """legacy.load_network_pkl, cached planes, pixels; float64 latents are taken as they come from NumPy."""
    names = notebook(LOADING, CAMERA, BY_SEED)
    assert names["pixels"].shape == (128, 128, 3) and names["pixels"].dtype == np.uint8
    assert names["out"]["image_raw"].shape == names["again"]["image_raw"].shape == (1, 3, 16, 16)
    assert names["out"]["image_depth"].shape == (1, 1, 16, 16)


def test_points_and_new_code(notebook):
    """Densities of shapes, and the weights of a file in a network made from its arguments."""
    names = notebook(LOADING, CAMERA, BY_SEED, POINTS, NEW_CODE)
    assert names["sigma"].shape == (1, 100, 1)
    torch.testing.assert_close(names["sigma"], names["mixed"])  # the same styles, truncated once
    torch.manual_seed(0)
    again = names["G"].synthesis(names["ws"], names["camera"], noise_mode="const")["image"]
    torch.testing.assert_close(names["copied"], again)


def test_old_addresses_hold_the_same_things():
    """camera_utils gives eg3d.cameras' own objects; both old modules are only names and say why they exist."""
    for name in camera_utils.__all__:
        assert getattr(camera_utils, name) is getattr(cameras, name)
    for module in (camera_utils, legacy):
        text = Path(module.__file__).read_text()
        assert "Kept for notebooks and forks" in module.__doc__
        assert len(ast.parse(text).body) <= 3 and len(text.splitlines()) < 30


def test_legacy_loader_keeps_its_second_argument(tiny_path):
    """What asks for half precision is refused, by place and by name: it must not come to mean trust."""
    for given, named in (((True,), {}), ((), dict(force_fp16=True))):
        with open(tiny_path, "rb") as file, pytest.raises(ValueError, match="force_fp16"):
            legacy.load_network_pkl(file, *given, **named)
    with open(tiny_path, "rb") as file:
        assert legacy.load_network_pkl(file, False)["G_ema"] is not None


def test_legacy_loader(tiny_path, tmp_path):
    """Everything that the official loader promises is there; what is no snapshot is refused by name."""
    with open(tiny_path, "rb") as file:
        assert {"G", "D", "G_ema", "training_set_kwargs", "augment_pipe"} <= legacy.load_network_pkl(file).keys()
    old = {key: value for key, value in pickles.load(tiny_path).items() if key in ("G", "D", "G_ema")}
    pickles.save(old, tmp_path / "old.pkl")
    with open(tmp_path / "old.pkl", "rb") as file:
        assert legacy.load_network_pkl(file)["augment_pipe"] is None
    pickles.save([1, 2], tmp_path / "list.pkl")
    with open(tmp_path / "list.pkl", "rb") as file, pytest.raises(CheckpointError, match="list.pkl: holds no snapshot"):
        legacy.load_network_pkl(file)
