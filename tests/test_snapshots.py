"""Snapshots: what is written here shows the same pictures in the official code, and comes back unchanged.

The official code is represented by tests/official_host, which executes the source that objects carry, accepts only the
official arguments, and computes naively. Tolerances: both sides compute in float32 and differ in the order of sums, which
measures a few 1e-6 of a picture's range; 1e-4 leaves room for other CPUs. Tensors and attributes that must be copies are
compared exactly.
"""

import copy
import inspect
import io
import os
import pickle
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe import fill

from dnnlib import EasyDict
from torch_utils import persistence, pickles, tensor_files
from torch_utils.persistence import import_hook, is_persistent, persistent_class
from training.augment import AugmentPipe
from training.dual_discriminator import DualDiscriminator
from training.networks_stylegan2 import Discriminator, FullyConnectedLayer
from training.superresolution import SuperresolutionHybrid2X
from training.triplane import OSGDecoder, TriPlaneGenerator
from training.volumetric_rendering import renderer

HOST = Path(__file__).parent / "official_host"
ONE_THREAD = dict(os.environ, OMP_NUM_THREADS="1")  # beside this process, more would only wait for each other
CLOSE = 1e-4  # of the range
NOT_OFFICIAL = {"plane_resolution", "plane_channels", "decoder_width", "plane_axes", "input_resolution"}

BACKBONE = dict(channel_base=1024, channel_max=8, num_fp16_res=0, conv_clamp=None)
RENDERING = dict(
    superresolution_module="training.superresolution.SuperresolutionHybrid2X", depth_resolution=8,
    depth_resolution_importance=8, ray_start=2.25, ray_end=3.3, box_warp=1, disparity_space_sampling=False,
    clamp_mode="softplus", c_scale=1, c_gen_conditioning_zero=False, superresolution_noise_mode="none", sr_antialias=True,
    decoder_lr_mul=1)


# ------------------------------------------------------------------------------------------------ what is saved

def default_networks():
    """Every size at its official default but channel counts, which are small."""
    G = TriPlaneGenerator(
        z_dim=64, c_dim=25, w_dim=512, img_resolution=128, img_channels=3, sr_num_fp16_res=4,
        mapping_kwargs=dict(num_layers=2, layer_features=32, embed_features=32), rendering_kwargs=dict(RENDERING),
        sr_kwargs=dict(fused_modconv_default="inference_only"), fused_modconv_default="inference_only", **BACKBONE)
    D = DualDiscriminator(c_dim=25, img_resolution=128, img_channels=3, channel_base=1024, channel_max=8)
    return snapshot_of(G, D)


def sized_networks():
    """Sizes and plane axes that the official code does not have; rays from 'auto', white background, an AugmentPipe."""
    rendering = dict(
        RENDERING, superresolution_module="training.superresolution.SuperresolutionGeneral", ray_start="auto", ray_end="auto",
        white_back=True)
    G = TriPlaneGenerator(
        z_dim=16, c_dim=25, w_dim=24, img_resolution=64, img_channels=3, mapping_kwargs=dict(num_layers=2),
        rendering_kwargs=rendering, sr_kwargs=dict(channel_base=1024), plane_resolution=64, plane_channels=16,
        decoder_width=32, plane_axes=renderer.CORRECTED_AXES, **BACKBONE)
    D = DualDiscriminator(c_dim=25, img_resolution=64, img_channels=3, channel_base=512, channel_max=8, disc_c_noise=0.5)
    pipe = AugmentPipe(xflip=1, rotate90=1, xint=1, scale=1, rotate=1, aniso=1, xfrac=1, brightness=1, contrast=1, lumaflip=1,
                       hue=1, saturation=1, imgfilter=1, noise=1, cutout=1)
    return snapshot_of(G, D, pipe)


def snapshot_of(G, D, augment_pipe=None):
    fill(G).eval().requires_grad_(False)
    fill(D).eval().requires_grad_(False)
    G.neural_rendering_resolution = 16
    data = dict(class_name="training.dataset.ImageFolderDataset", path="faces.zip", use_labels=True)
    return dict(G=copy.deepcopy(G), D=D, G_ema=G, augment_pipe=augment_pipe, training_set_kwargs=data)


def small_networks():
    """A snapshot of few kilobytes, for tests that need no picture."""
    return dict(G_ema=fill(FullyConnectedLayer(4, 3)).requires_grad_(False))


def pictures(snapshot, c):
    """Everything that a snapshot shows from the cameras c, as arrays. The subprocess below runs this function's text."""
    import numpy as np
    import torch

    G, D, pipe = [snapshot[key] for key in ("G_ema", "D", "augment_pipe")]
    z = torch.from_numpy(np.random.RandomState(3).standard_normal([len(c), G.z_dim]).astype(np.float32))
    c = torch.from_numpy(c)
    points = torch.from_numpy(np.random.RandomState(4).uniform(-0.6, 0.6, [len(c), 50, 3]).astype(np.float32))
    with torch.no_grad():
        shown = dict(ws=G.mapping(z, c, truncation_psi=0.7, truncation_cutoff=4))
        torch.manual_seed(9)
        shown.update(G.synthesis(shown["ws"], c, noise_mode="const"))
        shown["random_noise"] = G(z, c, neural_rendering_resolution=8)["image_raw"]
        shown["sigma"] = G.sample_mixed(points, points, shown["ws"], noise_mode="const")["sigma"]
        shown["logits"] = D(shown, c)
        if pipe is not None:
            shown["augmented"] = pipe(torch.cat([shown["image"], shown["image"] * 0.5], dim=1))
    G.neural_rendering_resolution = 16
    return {key: value.numpy() for key, value in shown.items()}


def same(shown, expected):
    assert shown.keys() >= expected.keys()
    for key, want in expected.items():
        have = shown[key]
        assert have.shape == want.shape, key
        assert np.abs(have - want).max() <= CLOSE * np.ptp(want), key


@pytest.fixture(scope="module")
def snapshots():
    torch.manual_seed(0)
    return dict(default=default_networks(), sized=sized_networks())


@pytest.fixture(scope="module")
def files(snapshots, tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshots")
    for name, snapshot in snapshots.items():
        pickles.save(snapshot, folder / f"{name}.pkl")
    return {name: folder / f"{name}.pkl" for name in snapshots}


@pytest.fixture(scope="module")
def shown(snapshots, tiny_expected):
    return {name: pictures(snapshot, tiny_expected["c"]) for name, snapshot in snapshots.items()}


def saved(obj, folder):
    pickles.save(obj, folder / "network.pkl")
    return folder / "network.pkl"


def plain_load(path):
    with open(path, "rb") as file:
        return pickle.load(file)


BOTH_LOADERS = pytest.mark.parametrize("load", [pickles.load, plain_load], ids=["pickles.load", "pickle.load"])
BOTH_SIZES = pytest.mark.parametrize("name", ["default", "sized"])


# ------------------------------------------------------------------------------------------------ in the official code

OFFICIAL_RUN = """
import pickle, sys, warnings
host, cameras, *files = sys.argv[1:]
sys.path.insert(0, host)
import numpy as np, torch

{pictures}

for file in files:
    with open(file, "rb") as stream:
        snapshot = pickle.load(stream)
    np.savez(file + ".npz", **pictures(snapshot, np.load(cameras)))
    with open(file + ".again", "wb") as stream:
        pickle.dump(snapshot, stream)

for name, module in list(sys.modules.items()):
    if name.partition(".")[0] in ("dnnlib", "torch_utils", "training", "eg3d"):
        assert module.__file__.startswith(host), module
"""


@pytest.fixture(scope="module")
def official(files, tiny_expected, tmp_path_factory):
    """Runs the stand-in for the official code, isolated from this project, on every snapshot."""
    folder = tmp_path_factory.mktemp("official")
    np.save(folder / "cameras.npy", tiny_expected["c"])
    code = OFFICIAL_RUN.format(pictures=inspect.getsource(pictures))
    run = subprocess.run(
        [sys.executable, "-I", "-c", code, str(HOST), str(folder / "cameras.npy"), *map(str, files.values())],
        cwd=folder, env=ONE_THREAD, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return {name: dict(np.load(f"{path}.npz")) for name, path in files.items()}


@BOTH_SIZES
def test_official_code_shows_the_same_pictures(official, shown, name):
    """The carried source, executed with only official modules around, draws and computes what this project does."""
    same(shown[name], official[name])


@BOTH_SIZES
def test_snapshot_written_by_official_code_comes_back(official, files, shown, tiny_expected, name):
    """Saved once more over there, with the carried source unchanged, a snapshot loads here as data."""
    same(pictures(pickles.load(f"{files[name]}.again"), tiny_expected["c"]), shown[name])


@BOTH_LOADERS
def test_official_file(load, tiny_path, tiny_expected):
    """The shipped official-format file gives the official code's pictures (image was stored as float16)."""
    snapshot = load(tiny_path)
    G, D = snapshot["G_ema"], snapshot["D"]
    seed = zlib.crc32(b"pickle.z")
    z = torch.from_numpy(np.random.RandomState(seed).standard_normal([2, 64]).astype(np.float32))
    c = torch.from_numpy(tiny_expected["c"])
    with torch.no_grad():
        ws = G.mapping(z, c, truncation_psi=0.7, truncation_cutoff=14)
        torch.manual_seed(9)
        shown = G.synthesis(ws, c, noise_mode="const")
        shown["logits"] = D(shown, c)
    shown["ws"] = ws[:, 0]
    for key in ("ws", "image", "image_raw", "image_depth", "logits"):
        want = tiny_expected[key]
        # Logits of two samples: their range says little, so their size counts.
        allowed = CLOSE * (np.abs(want).max() if key == "logits" else np.ptp(want))
        if key == "image":
            allowed = allowed + np.spacing(np.abs(want).astype(np.float16)).astype(np.float32) / 2
        assert (np.abs(shown[key].numpy() - want) <= allowed).all(), key
    assert snapshot["augment_pipe"] is None
    assert snapshot["training_set_kwargs"]["class_name"] == "training.dataset.ImageFolderDataset"


def test_default_sizes_need_no_new_argument(snapshots):
    """The official constructors can be called with the remembered arguments, those of inner modules included."""
    for key in ("G_ema", "D"):
        for module in snapshots["default"][key].modules():
            if is_persistent(module):
                assert not NOT_OFFICIAL & set(module.init_kwargs)
    G = snapshots["default"]["G_ema"]
    assert G.init_args == () and G.superresolution.init_args == ()


def test_given_defaults_are_not_remembered(snapshots):
    """An argument that the official code lacks is remembered only when it differs from its default, the official value."""
    arguments = snapshots["default"]["G_ema"].init_kwargs
    G = TriPlaneGenerator(**arguments, plane_resolution=256, plane_channels=32, decoder_width=64, plane_axes=None)
    assert G.init_kwargs == arguments


# ------------------------------------------------------------------------------------------------ and back

@BOTH_SIZES
@BOTH_LOADERS
def test_round_trip(load, name, files, snapshots, shown, tiny_expected):
    """A snapshot comes back with equal tensors, arguments, flags and pictures."""
    back = load(files[name])
    assert list(back) == list(snapshots[name]) and back["training_set_kwargs"] == snapshots[name]["training_set_kwargs"]
    for key in ("G", "D", "G_ema"):
        mine, other = snapshots[name][key], back[key]
        assert type(other) is type(mine) and not other.training
        assert other.init_args == mine.init_args and other.init_kwargs == mine.init_kwargs
        theirs = other.state_dict()
        assert theirs.keys() == mine.state_dict().keys()
        assert all(torch.equal(tensor, theirs[path]) for path, tensor in mine.state_dict().items())
        assert not any(parameter.requires_grad for parameter in other.parameters())
    same(pictures(back, tiny_expected["c"]), shown[name])


@BOTH_LOADERS
def test_one_object_stays_one(load, tmp_path):
    """A network under two names is one network again, not two that share their memory."""
    D = fill(Discriminator(c_dim=0, img_resolution=8, img_channels=3, channel_max=4))
    back = load(saved(dict(D=D, D_again=D), tmp_path))
    assert back["D"] is back["D_again"]
    back = load(saved(dict(D=D, D_again=copy.deepcopy(D)), tmp_path))
    first, second = [{tensor.data_ptr() for tensor in back[key].state_dict().values()} for key in back]
    assert first.isdisjoint(second)


def test_saving_replaces_a_file_only_when_complete(tmp_path):
    """After a failed save the old file is there and nothing else."""
    path = saved(small_networks(), tmp_path)
    before = path.read_bytes()
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickles.save(dict(G_ema=lambda: None), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_deepcopy(snapshots, shown, tiny_expected):
    """A copy shows the same, shares no tensor, is persistent and keeps its arguments."""
    G = snapshots["sized"]["G_ema"]
    twin = copy.deepcopy(G)
    assert type(twin) is type(G) and twin.init_kwargs == G.init_kwargs and is_persistent(twin)
    same(pictures(dict(snapshots["sized"], G_ema=twin), tiny_expected["c"]), shown["sized"])
    mine = {tensor.data_ptr() for tensor in [*G.parameters(), *G.buffers(), G.renderer.plane_axes]}
    assert mine.isdisjoint(tensor.data_ptr() for tensor in [*twin.parameters(), *twin.buffers(), twin.renderer.plane_axes])
    twin.rendering_kwargs["box_warp"] = 7
    assert G.rendering_kwargs["box_warp"] == 1


@BOTH_LOADERS
def test_what_was_set_after_construction_survives(load, tmp_path):
    """Attributes that training changes: rendering, resolution, axes, mode, gradients, the buffer of label deviations."""
    G = sized_networks()["G_ema"].train()
    G.requires_grad_(True)
    G.backbone.mapping.requires_grad_(False)
    G.rendering_kwargs.update(box_warp=1.5, depth_resolution=5, new_option=[1, 2.5, "x", None, True])
    G.neural_rendering_resolution = 23
    G.renderer.plane_axes = torch.eye(3).repeat(3, 1, 1) * 2
    G.register_buffer("dataset_label_std", torch.arange(25.0))
    G.superresolution.eval()
    back = load(saved(G, tmp_path))
    assert back.rendering_kwargs == G.rendering_kwargs and back.neural_rendering_resolution == 23
    assert torch.equal(back.renderer.plane_axes, G.renderer.plane_axes)
    assert torch.equal(back.dataset_label_std, G.dataset_label_std) and "dataset_label_std" in back.state_dict()
    assert [module.training for module in back.modules()] == [module.training for module in G.modules()]
    assert [(name, p.requires_grad) for name, p in back.named_parameters()] == [
        (name, p.requires_grad) for name, p in G.named_parameters()]
    assert all(parameter.is_leaf for parameter in back.parameters())


def test_rendering_options_of_old_checkpoints(snapshots, tmp_path, tiny_expected):
    """Missing keys mean what the official code does without them; a missing c_scale makes the label count for nothing."""
    G = copy.deepcopy(snapshots["default"]["G_ema"])
    G.rendering_kwargs["c_scale"] = 0
    z, c = torch.ones(2, 64), torch.from_numpy(tiny_expected["c"])
    with torch.no_grad():
        unlabelled = G.mapping(z, torch.zeros_like(c))
        torch.manual_seed(1)
        image = G.synthesis(unlabelled, c, noise_mode="const")["image"]
    for key in ("c_scale", "c_gen_conditioning_zero", "superresolution_noise_mode", "disparity_space_sampling", "clamp_mode"):
        del G.rendering_kwargs[key]
    back = pickles.load(saved(G, tmp_path))
    assert "c_scale" not in back.rendering_kwargs
    with torch.no_grad():
        torch.testing.assert_close(back.mapping(z, c), unlabelled)
        torch.manual_seed(1)
        same(dict(image=back.synthesis(unlabelled, c, noise_mode="const")["image"].numpy()), dict(image=image.numpy()))


def test_tensors_saved_on_a_gpu_come_to_the_cpu(monkeypatch, tmp_path):
    """The device is a word inside PyTorch's own bytes; here it is rewritten to a GPU's."""
    def as_if_on_gpu(storage):
        stream = io.BytesIO()
        torch.save(storage, stream, _use_new_zipfile_serialization=False)
        on_cpu, on_gpu = [b"X" + len(name).to_bytes(4, "little") + name for name in (b"cpu", b"cuda:0")]
        assert on_cpu in stream.getvalue()
        return torch.storage._load_from_bytes, (stream.getvalue().replace(on_cpu, on_gpu),)

    networks = small_networks()
    with monkeypatch.context() as patch:
        patch.setattr(torch.storage.TypedStorage, "__reduce__", as_if_on_gpu)
        path = saved(networks, tmp_path)
    assert b"cuda:0" in path.read_bytes()
    for trust in (False, True):
        weight = pickles.load(path, trust=trust)["G_ema"].weight
        assert weight.device.type == "cpu" and torch.equal(weight, networks["G_ema"].weight)


@BOTH_LOADERS
def test_numpy_numbers_become_plain(load, tmp_path):
    """Official state holds NumPy scalars (gains, for one); they come as Python numbers, inside dicts and lists too."""
    layer = FullyConnectedLayer(4, 3)
    layer.weight_gain = np.float64(0.25)
    layer.in_features = np.int64(4)
    layer.bias_gain = np.float32(0.5)
    back = load(saved(dict(G_ema=layer), tmp_path))["G_ema"]
    assert (back.weight_gain, back.in_features, back.bias_gain) == (0.25, 4, 0.5)
    assert [type(x) for x in (back.weight_gain, back.in_features, back.bias_gain)] == [float, int, float]

    sr = SuperresolutionHybrid2X(channels=4, img_resolution=128, sr_num_fp16_res=0, w_dim=8)
    sr.input_resolution = np.int32(64)
    back = load(saved(sr, tmp_path))
    assert back.input_resolution == 64 and type(back.input_resolution) is int

    G = sized_networks()["G_ema"]
    G.rendering_kwargs = dict(G.rendering_kwargs, avg_camera_pivot=[0, np.float64(0.5), np.int32(1)])
    back = load(saved(G, tmp_path)).rendering_kwargs["avg_camera_pivot"]
    assert back == [0, 0.5, 1] and [type(x) for x in back] == [int, float, int]


SIZES = [("backbone.mapping", "num_ws", 3), ("backbone.mapping", "num_ws", 10**6), ("backbone.mapping", "z_dim", 5),
         ("backbone.synthesis", "block_resolutions", [4, 8]), ("superresolution", "input_resolution", 16384),
         ("", "w_dim", "8"), ("backbone.synthesis.b8", "architecture", "resnet"),
         ("backbone.mapping.fc0", "activation", "tanh")]


@pytest.mark.parametrize("part, name, value", SIZES)
def test_sizes_are_what_the_arguments_make(tmp_path, part, name, value):
    """Attributes that a file has against its own arguments are told and left out, in either format: the network stays whole."""
    snapshot = sized_networks()
    right = getattr(snapshot["G_ema"].get_submodule(part), name)
    setattr(snapshot["G_ema"].get_submodule(part), name, value)
    pickles.save(snapshot, tmp_path / "x.pkl")
    tensor_files.save(dict(G_ema=snapshot["G_ema"]), tmp_path / "x.safetensors")
    for path, load in ((tmp_path / "x.pkl", pickles.load), (tmp_path / "x.safetensors", tensor_files.load)):
        with pytest.warns(RuntimeWarning, match=f"G_ema.*{name} is .* in the file, but .* by the arguments"):
            G = load(path)["G_ema"]
        assert getattr(G.get_submodule(part), name) == right


def test_older_protocols(snapshots, tmp_path):
    """Pickles of protocols 2 to 5 hold the same network, those of 2 with bytes as text."""
    snapshot = snapshots["sized"]
    for protocol in (2, 3, 4, 5):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(dict(G_ema=snapshot["G_ema"]), protocol=protocol))
        back = pickles.load(tmp_path / "x.pkl")["G_ema"].state_dict()
        assert all(torch.equal(back[key], tensor) for key, tensor in snapshot["G_ema"].state_dict().items())


def test_easydict_stays_one(tmp_path):
    """A dict with attributes, as official training code puts into snapshots, is one again."""
    back = pickles.load(saved(dict(training_set_kwargs=EasyDict(path="a.zip", deep=EasyDict(x=1))), tmp_path))
    assert type(back["training_set_kwargs"]) is EasyDict and back["training_set_kwargs"].deep.x == 1


def test_loading_warns_of_nothing(tiny_path, tmp_path):
    """No deprecation of PyTorch's reaches the user."""
    torch.storage._reset_warn_typed_storage_removal()  # PyTorch warns once a process
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pickles.load(tiny_path)
        pickles.load(saved(small_networks(), tmp_path))


# ------------------------------------------------------------------------------------------------ persistence

@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")])
def test_too_little_memory_is_no_damage(monkeypatch, tmp_path, trust, error):
    """Where memory ends the error says so, and blames no file."""
    def full(*_args, **_kwargs):
        raise error

    pickles.save(dict(note=torch.zeros(2)), tmp_path / "x.pkl")
    tensor_files.save(dict(layer=FullyConnectedLayer(2, 3)), tmp_path / "x.safetensors")
    monkeypatch.setattr(torch, "frombuffer", full)
    monkeypatch.setattr(torch, "load", full)
    monkeypatch.setattr(torch.Tensor, "clone", full)
    with pytest.raises(type(error)) as caught:
        pickles.load(tmp_path / "x.pkl", trust=trust)
    assert caught.value is error
    with pytest.raises(type(error)) as caught:
        tensor_files.load(tmp_path / "x.safetensors")
    assert caught.value is error


def test_is_persistent():
    """Decorated classes and their objects; not what they contain, nor undecorated subclasses."""
    class Undecorated(FullyConnectedLayer):
        pass

    layer = FullyConnectedLayer(2, 2)
    assert is_persistent(layer) and is_persistent(FullyConnectedLayer) and is_persistent(TriPlaneGenerator)
    assert not is_persistent(OSGDecoder) and not is_persistent(torch.nn.Linear(1, 1)) and not is_persistent(3)
    assert not is_persistent(Undecorated) and not is_persistent(Undecorated(2, 2))


def test_arguments_are_remembered_as_given():
    """Positional and keyword arguments, as deep copies both ways; a subclass remembers its own."""
    kwargs = dict(mbstd_group_size=2)
    D = DualDiscriminator(25, 16, img_channels=3, channel_max=4, epilogue_kwargs=kwargs)
    kwargs["mbstd_group_size"] = 1
    assert D.init_args == (25, 16)
    assert D.init_kwargs == dict(img_channels=3, channel_max=4, epilogue_kwargs=dict(mbstd_group_size=2))
    D.init_kwargs["epilogue_kwargs"]["mbstd_group_size"] = 1
    assert D.init_kwargs["epilogue_kwargs"]["mbstd_group_size"] == 2
    assert D.b4.init_kwargs["mbstd_group_size"] == 2
    again = DualDiscriminator(*D.init_args, **D.init_kwargs)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in D.state_dict().items()}


def test_a_class_of_ones_own_persists(tmp_path):
    """persistent_class works on classes of other modules: this one's own source is found again without being executed."""
    thing = OwnThing(2, scale=3)
    back = pickles.load(saved(thing, tmp_path))
    assert type(back) is OwnThing and back.scale == 3 and back.init_kwargs == dict(scale=3)
    assert torch.equal(back.inner.weight, thing.inner.weight)


@persistent_class
class OwnThing(torch.nn.Module):
    def __init__(self, size, scale=1):
        super().__init__()
        self.scale = scale
        self.inner = FullyConnectedLayer(size, size)


@BOTH_LOADERS
def test_import_hook(load, monkeypatch, tmp_path):
    """A hook sees every persistent object's description before it is rebuilt, and may change it."""
    monkeypatch.setattr(persistence, "_import_hooks", [])
    seen = []

    @import_hook
    def rename(meta):
        seen.append(meta["class_name"])
        assert meta["type"] == "class" and meta["version"] == 6 and isinstance(meta["state"], dict)
        return dict(meta, class_name=meta["class_name"].replace("Critic", "Discriminator"))

    D = fill(Critic(c_dim=0, img_resolution=8, img_channels=3, channel_max=4))
    back = load(saved(D, tmp_path))
    assert "Critic" in seen and "Conv2dLayer" in seen
    assert type(back) is Discriminator and torch.equal(back.b8.conv0.weight, D.b8.conv0.weight)


@persistent_class
class Critic(Discriminator):
    """A fork's name for it."""


# ------------------------------------------------------------------------------------------------ trust

def test_trust_runs_the_source_that_a_file_carries(snapshots, tmp_path, monkeypatch, tiny_expected):
    """With a sign changed in the carried source, the picture changes with trust=True, and only then."""
    ours, theirs = "image_raw = feature_image[:, :3]", "image_raw = -feature_image[:, :3]"
    source = Path(inspect.getfile(TriPlaneGenerator)).read_text()
    assert ours in source
    with monkeypatch.context() as patch:
        patch.setitem(persistence._sources, TriPlaneGenerator.__module__, source.replace(ours, theirs))
        path = saved(snapshots["sized"], tmp_path)

    expected = pictures(snapshots["sized"], tiny_expected["c"])
    same(pictures(pickles.load(path), tiny_expected["c"]), expected)
    trusted = pickles.load(path, trust=True)
    shown = pictures(trusted, tiny_expected["c"])
    same(dict(image_raw=-shown["image_raw"], image_depth=shown["image_depth"]),
         {key: expected[key] for key in ("image_raw", "image_depth")})
    assert is_persistent(trusted["G_ema"]) and trusted["G_ema"].init_kwargs == snapshots["sized"]["G_ema"].init_kwargs
    # What was trusted once is not trusted later: neither for this file nor for one written from it.
    for later in (path, saved(trusted, tmp_path)):
        back = pickles.load(later)
        assert type(back["G_ema"]) is TriPlaneGenerator
        same(pictures(back, tiny_expected["c"]), expected)


def test_trusting_our_own_source_leaves_our_classes_in_place(tmp_path):
    """A file with this very source, loaded with trust, does not change what later loads without trust return."""
    path = saved(small_networks(), tmp_path)
    assert type(pickles.load(path, trust=True)["G_ema"]) is not FullyConnectedLayer
    assert type(pickles.load(path)["G_ema"]) is FullyConnectedLayer


def test_trust_of_official_file(tiny_path):
    """The shipped file has its source left out, so there is nothing to trust, and the message says so."""
    with pytest.raises(pickles.CheckpointError, match="without --trust") as caught:
        pickles.load(tiny_path, trust=True)
    assert "\n" not in str(caught.value)
