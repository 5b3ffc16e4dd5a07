"""Checkpoints as .safetensors: every bit and every setting comes back, and whatever is no such file is refused in one line.

Weights here are random bits, so that infinities, subnormals, negative zeros and NaN of every payload are among them; nothing is
compared with a tolerance. Damaged files are put together by hand from the format's own description: eight bytes of length,
a header in JSON, the data.
"""

import collections
import copy
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from recipe import fill

from dnnlib import EasyDict
from eg3d import generator
from torch_utils import pickles, tensor_files
from torch_utils.persistence import CheckpointError, is_persistent, persistent_class
from training import superresolution
from training.augment import AugmentPipe
from training.dual_discriminator import DualDiscriminator, DummyDualDiscriminator, SingleDiscriminator
from training.networks_stylegan2 import Discriminator, FullyConnectedLayer, Generator, MappingNetwork
from training.triplane import TriPlaneGenerator
from training.volumetric_rendering import renderer

ROOT = Path(__file__).parents[2]
LONGEST_MESSAGE = 1000  # characters: one line that a person can still read
MEMORY_MB = 200  # for refusing a file that claims to be huge, above what the interpreter has
RENDERING = dict(
    superresolution_module="training.superresolution.SuperresolutionGeneral", depth_resolution=4, depth_resolution_importance=4,
    ray_start=2.25, ray_end=3.3, box_warp=1, disparity_space_sampling=False, clamp_mode="softplus", c_scale=1,
    superresolution_noise_mode="none", sr_antialias=True, decoder_lr_mul=1, avg_camera_pivot=[0, 0, 0.2])


# ------------------------------------------------------------------------------------------------ what is saved

@torch.no_grad()
def random_bits(network, seed=0):
    """Fills every tensor of float32 with random bits."""
    rng = np.random.RandomState(seed)
    for tensor in [*network.parameters(), *network.buffers()]:
        if tensor.dtype == torch.float32:
            bits = rng.randint(0, 2**32, tensor.shape, dtype=np.uint32).reshape(tensor.shape).view(np.float32)
            edges = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, -1e-40, 3.4e38], np.float32)[:bits.size]
            bits.reshape(-1)[:len(edges)] = edges
            tensor.copy_(torch.from_numpy(bits))
    return network


def triplane(**kwargs):
    """A small generator of 32x32 pictures."""
    sizes = dict(z_dim=8, c_dim=25, w_dim=12, img_resolution=32, img_channels=3, mapping_kwargs=dict(num_layers=2),
                 rendering_kwargs=dict(RENDERING), sr_kwargs=dict(channel_base=256), plane_resolution=32, channel_base=256,
                 channel_max=8, num_fp16_res=0, conv_clamp=None)
    return TriPlaneGenerator(**{**sizes, **kwargs})


def changed_triplane():
    """What training and users set after construction, all of it at once."""
    G = triplane(
        plane_axes=renderer.CORRECTED_AXES, plane_channels=6, decoder_width=5, sr_num_fp16_res=4, fused_modconv_default=True,
        rendering_kwargs=EasyDict(RENDERING, c_scale=0.5, deep=EasyDict(box=(1, [2.0, (3,)]), off=None, on=True)),
        mapping_kwargs=EasyDict(num_layers=3), sr_kwargs=EasyDict(channel_base=256, fp16_channels_last=True)).eval()
    G.neural_rendering_resolution = 23
    G.rendering_kwargs.update(box_warp=1.5, ray_end="auto", new=(1, [2.5, None, True], {3: float("inf")}))
    G.rendering_kwargs.deep.box = [1, (2.0, [3])]
    G.renderer.plane_axes = torch.arange(27.0).reshape(3, 3, 3) / 7
    G.register_buffer("dataset_label_std", torch.arange(25.0) / 3)
    G.requires_grad_(True).backbone.mapping.requires_grad_(False)
    G.superresolution.train()
    G.backbone.mapping.w_avg_beta = None
    return G


def label_deviations(dtype):
    G = triplane()
    G.register_buffer("dataset_label_std", (torch.arange(25) / 3).to(dtype))
    return G


def dummy_discriminator():
    D = DummyDualDiscriminator(25, 16, 3, channel_max=4)
    D.raw_fade = 0.1 + 0.2  # more digits than are usually printed
    return D


def own_gains():
    layer = FullyConnectedLayer(4, 3)
    layer.weight_gain, layer.bias_gain = 1 / 3, float("nan")
    return layer


SR = dict(channels=4, sr_num_fp16_res=4, sr_antialias=True, w_dim=6)
NETWORKS = {
    "TriPlaneGenerator": triplane,
    "TriPlaneGenerator changed": changed_triplane,
    "TriPlaneGenerator axes as lists": lambda: triplane(plane_axes=[[[1, 0, 0], [0, 1, 0], [0, 0, 2.5]]] * 3),
    "TriPlaneGenerator half label deviations": lambda: label_deviations(torch.float16),
    "TriPlaneGenerator bfloat16 label deviations": lambda: label_deviations(torch.bfloat16),
    "TriPlaneGenerator double label deviations": lambda: label_deviations(torch.float64),
    "8X": lambda: superresolution.SuperresolutionHybrid8X(img_resolution=512, **SR),
    "8XDC": lambda: superresolution.SuperresolutionHybrid8XDC(img_resolution=512, **SR, fp16_channels_last=True),
    "4X": lambda: superresolution.SuperresolutionHybrid4X(img_resolution=256, **SR),
    "2X": lambda: superresolution.SuperresolutionHybrid2X(4, 128, 0, fused_modconv_default="inference_only"),
    "Deepfp32": lambda: superresolution.SuperresolutionHybridDeepfp32(img_resolution=256, **SR),
    "General": lambda: superresolution.SuperresolutionGeneral(4, 64, 0, True, 16, channel_base=256, w_dim=6),
    "NoUp": lambda: superresolution.SynthesisBlockNoUp(4, 5, 6, 16, 3, False, use_fp16=True, fp16_channels_last=True),
    "DualDiscriminator": lambda: DualDiscriminator(
        25, 32, 3, channel_base=128, channel_max=8, num_fp16_res=2, conv_clamp=256, disc_c_noise=0.5,
        block_kwargs=dict(fp16_channels_last=True, freeze_layers=3), epilogue_kwargs=EasyDict(mbstd_group_size=None)),
    "SingleDiscriminator": lambda: SingleDiscriminator(0, 16, img_channels=3, architecture="skip", channel_max=4),
    "DummyDualDiscriminator": dummy_discriminator,
    "Discriminator": lambda: Discriminator(c_dim=2, img_resolution=16, img_channels=1, architecture="orig", channel_max=4),
    "AugmentPipe": lambda: AugmentPipe(1, 0.5, xint=1, imgfilter=1, imgfilter_bands=(1, 0.1, 1, 2), cutout=True),
    "Generator": lambda: Generator(8, 0, 6, 32, 1, mapping_kwargs=dict(num_layers=1), channel_base=128, channel_max=6),
    "MappingNetwork": lambda: MappingNetwork(0, 3, 4, None, num_layers=2),
    "FullyConnectedLayer": own_gains,
}


def snapshot(tiny_path):
    return pickles.load(tiny_path)


@pytest.fixture(scope="module")
def shipped(tiny_path):
    return pickles.load(tiny_path)


# ------------------------------------------------------------------------------------------------ what must come back

def bits(tensor):
    """All that tells one tensor from another."""
    raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return type(tensor), tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.requires_grad, raw


def exact(value):
    """A value with its types, such that equal means the same: 1 is not True, () is not [], -0.0 is not 0.0, NaN is NaN."""
    if isinstance(value, torch.nn.Module):
        return anatomy(value)
    if isinstance(value, torch.Tensor):
        return bits(value)
    if isinstance(value, dict):
        return type(value), [(exact(key), exact(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value), [exact(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, map(exact, value)))
    return type(value), repr(value)


def anatomy(network):
    """path -> class, arguments, settings, parameters and buffers of every module."""
    return {
        path: dict(
            kind=type(module), settings={key: exact(value) for key, value in vars(module).items() if not key.startswith("_")},
            arguments=exact((module.init_args, module.init_kwargs)) if is_persistent(module) else None,
            parameters={key: tensor if tensor is None else bits(tensor) for key, tensor in module._parameters.items()},
            buffers={key: tensor if tensor is None else bits(tensor) for key, tensor in module._buffers.items()})
        for path, module in network.named_modules()}


def same(have, want):
    """Two networks agree in everything; the message names the first part that does not."""
    have, want = anatomy(have), anatomy(want)
    assert have.keys() == want.keys()
    for path, part in want.items():
        for key, value in part.items():
            assert have[path][key] == value, (path, key)


def through_file(obj, folder, suffix=tensor_files.SUFFIX):
    generator.save_snapshot(obj, folder / f"there{suffix}")
    return generator.load_snapshot(folder / f"there{suffix}")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back(name, tmp_path):
    """Bits, layouts, modes, arguments and settings, in training and in eval mode, from a snapshot and alone."""
    torch.manual_seed(0)
    network = random_bits(NETWORKS[name]())
    same(through_file(dict(x=network), tmp_path)["x"], network)
    network.eval().requires_grad_(False)
    same(through_file(network, tmp_path), network)


def test_the_networks_above_have_what_they_are_for():
    """Layouts that are not contiguous, frozen layers as buffers, parameters with and without gradients."""
    D, G = NETWORKS["DualDiscriminator"](), NETWORKS["TriPlaneGenerator changed"]()
    assert not all(tensor.is_contiguous() for tensor in D.parameters())
    assert any(key.endswith("conv0.weight") for key, _ in D.named_buffers())
    assert {parameter.requires_grad for parameter in G.parameters()} == {True, False}
    assert {module.training for module in G.modules()} == {True, False}


def test_what_was_read_can_be_trained_and_changed(tmp_path):
    """Tensors have memory of their own: neither the file's nor each other's."""
    network = fill(NETWORKS["TriPlaneGenerator changed"]())
    back = through_file(network, tmp_path)
    pointers = [tensor.data_ptr() for tensor in [*back.parameters(), *back.buffers(), back.renderer.plane_axes]]
    assert len(set(pointers)) == len(pointers)
    assert all(parameter.is_leaf for parameter in back.parameters())
    with torch.no_grad():
        for tensor in [*back.parameters(), *back.buffers()]:
            tensor.zero_()
    same(tensor_files.load(tmp_path / "there.safetensors"), network)


def test_the_shipped_snapshot(tiny_path, shipped, tmp_path):
    """Everything in it, in its order."""
    back = through_file(shipped, tmp_path)
    assert exact(back) == exact(generator.load_snapshot(tiny_path))
    assert list(back) == ["training_set_kwargs", "G", "D", "G_ema", "augment_pipe"] and back["augment_pipe"] is None


def changed_snapshot():
    torch.manual_seed(0)
    parts = dict(G_ema=changed_triplane(), D=NETWORKS["DualDiscriminator"](), augment_pipe=NETWORKS["AugmentPipe"]())
    networks = {key: random_bits(part) for key, part in parts.items()}
    return dict(networks, training_set_kwargs=EasyDict(path="a.zip", size=(3, 4)))


@pytest.mark.parametrize("make", [snapshot, lambda path: changed_snapshot(), lambda path: fill(changed_triplane())],
                         ids=["shipped", "changed", "alone"])
def test_to_a_pickle_and_back(make, tiny_path, tmp_path):
    """.pkl, .safetensors, .pkl, .safetensors: the second pair is the first one, to the byte, and nothing is lost on the way."""
    first = through_file(make(tiny_path), tmp_path, ".pkl")
    tensor_files.save(first, tmp_path / "first.safetensors")
    second = through_file(tensor_files.load(tmp_path / "first.safetensors"), tmp_path, ".pkl")
    tensor_files.save(second, tmp_path / "second.safetensors")
    assert (tmp_path / "second.safetensors").read_bytes() == (tmp_path / "first.safetensors").read_bytes()
    assert exact(second) == exact(first)


@pytest.mark.parametrize("make", [lambda path: pickles.load(path)["G_ema"], lambda path: fill(changed_triplane())],
                         ids=["shipped", "changed"])
def test_pictures(make, tiny_path, tmp_path):
    """Before and after, the same pixels."""
    def shown(G):
        G = copy.deepcopy(G).eval()
        G.rendering_kwargs["ray_end"] = 3.3
        c = torch.eye(4).reshape(1, 16).repeat(2, 1)
        c[:, 11] = -2.7
        c = torch.cat([c, torch.tensor([4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]).repeat(2, 1)], dim=1)
        torch.manual_seed(1)
        with torch.no_grad():
            return G(torch.randn(2, G.z_dim), c, noise_mode="const")

    G = make(tiny_path)
    before, after = shown(G), shown(through_file(G, tmp_path))
    assert before["image"].std() > 0
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


def test_one_object_stays_one(tmp_path):
    """A network under two names, beside an equal one."""
    D = fill(Discriminator(0, 8, 3, channel_max=4))
    back = through_file(dict(D=D, again=D, twin=copy.deepcopy(D), none=None), tmp_path)
    assert list(back) == ["D", "again", "twin", "none"] and back["none"] is None
    assert back["D"] is back["again"] and back["twin"] is not back["D"]
    same(back["twin"], D)
    same(back["D"], D)


# ------------------------------------------------------------------------------------------------ plain values

ODD = {
    "numbers": [0.1, -0.0, 1e-320, 1.7e308, float("nan"), float("inf"), -float("inf"), 2**70, -(10**400), True, False, 1, 1.0],
    "text": ["", "\0", "\n", "naïve", "字", "\U0001f600", "\ud800", "a.b", '"', "\\u0041"],
    "keys that are no text": {1: 2, None: 3, False: "x", 2.5: [], (1, (2, "a")): {}, float("inf"): {-1: -2}},
    "keys like the format's own": {"$tuple": 1, "$network": {"$network": "G"}, "$": (), "eg3d": {"$dict": []}, "$EasyDict": {}},
    "empty": [[], (), {}, set(), EasyDict(), collections.OrderedDict(), ((),), [[]], {"a": {}}],
    "nested": EasyDict(a=EasyDict(b=[(EasyDict(c=collections.OrderedDict(z=1, a=2)),)])),
    "sets": [{1, "1", (1,), None, 2.5}, {float("inf")}],
    "one key": {"$set": [1]},
    "deep": json.loads("[" * 60 + "]" * 60),
    "EasyDict of numbers": EasyDict({1: 2}),
    "OrderedDict of $keys": collections.OrderedDict({"$b": 1, "a": 2}),
}


@pytest.mark.parametrize("name", ODD)
def test_plain_values(name, tmp_path):
    """Whatever else a snapshot holds comes back with its types."""
    value = dict(training_set_kwargs=ODD[name], other=[ODD[name]])
    assert exact(through_file(value, tmp_path)) == exact(value)


def test_tensors_and_numpy_numbers(tmp_path):
    """Tensors beside the networks keep type and shape; NumPy's numbers come as Python's."""
    values = [torch.tensor(3, dtype=torch.uint8), torch.tensor([[0.1, -0.0], [float("inf"), 1e-45]]), torch.tensor([True]),
              torch.tensor([1 / 3], dtype=torch.float64), torch.tensor([2**62]), torch.tensor([0.1], dtype=torch.bfloat16)]
    assert exact(through_file(dict(values=values), tmp_path)["values"]) == exact(values)
    numbers = dict(a=np.float32(0.1), b=np.int64(2**62), c=np.bool_(True), d=np.float64("nan"))
    assert exact(through_file(numbers, tmp_path)) == exact({key: value.item() for key, value in numbers.items()})


WHOLE = st.integers(-(2**60), 2**60)  # what keys may be
MEMBERS = st.none() | st.booleans() | WHOLE | st.floats() | st.text(max_size=5)
NUMBERS = MEMBERS | st.integers()
KEYS = st.text(max_size=3) | st.sampled_from(["$tuple", "$network", "$float", "a", "$"])
VALUES = st.recursive(
    NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.lists(inner, max_size=3).map(tuple) | st.sets(MEMBERS, max_size=3)
    | st.dictionaries(KEYS | WHOLE, inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3).map(EasyDict)
    | st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict), max_leaves=8)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, VALUES, max_size=3))
def test_any_plain_value(tmp_path, value):
    """Nothing changes on the way, whatever it is called."""
    assert exact(through_file(value, tmp_path)) == exact(value)


# ------------------------------------------------------------------------------------------------ what others see

def test_names_and_tensors_for_other_programs(shipped, tmp_path):
    """safetensors alone reads it: the state dict's names after the network's, the same values."""
    tensor_files.save(shipped, tmp_path / "tiny.safetensors")
    expected = {f"{key}.{name}": tensor for key in ("G", "D", "G_ema") for name, tensor in shipped[key].state_dict().items()}
    with safetensors.safe_open(tmp_path / "tiny.safetensors", "np") as file:
        assert sorted(file.keys()) == sorted(expected)
        for name, tensor in expected.items():
            assert np.array_equal(file.get_tensor(name), tensor.numpy()) and file.get_tensor(name).dtype == np.float32
        config = json.loads(file.metadata()["eg3d"])
    assert config["version"] == 1 and config["content"]["training_set_kwargs"] == shipped["training_set_kwargs"]
    told = config["networks"]["G_ema"]
    assert told["class"] == "TriPlaneGenerator" and told["kwargs"]["z_dim"] == 64
    assert told["attributes"]["renderer.plane_axes"] == {"$tensor": shipped["G_ema"].renderer.plane_axes.tolist(),
                                                         "dtype": "float32"}


def test_the_bare_network_is_called_network(tmp_path):
    layer = fill(FullyConnectedLayer(2, 3))
    tensor_files.save(layer, tmp_path / "layer.safetensors")
    with safetensors.safe_open(tmp_path / "layer.safetensors", "pt") as file:
        assert sorted(file.keys()) == ["network.bias", "network.weight"]


AGAIN = """
import sys
sys.path.insert(0, sys.argv[1])
from torch_utils import tensor_files
tensor_files.save(tensor_files.load(sys.argv[2]), sys.argv[3])
"""


def test_another_process_writes_the_same_bytes(tmp_path):
    """Order in sets and addresses differ there; bytes do not."""
    value = dict(changed_snapshot(), words={"a", "b", "c", "d", "e"})
    tensor_files.save(value, tmp_path / "here.safetensors")
    files = [str(tmp_path / "here.safetensors"), str(tmp_path / "there.safetensors")]
    subprocess.run([sys.executable, "-c", AGAIN, str(ROOT), *files],
                   env=dict(os.environ, OMP_NUM_THREADS="1", PYTHONHASHSEED="7"), check=True, timeout=120)
    assert (tmp_path / "there.safetensors").read_bytes() == (tmp_path / "here.safetensors").read_bytes()


# ------------------------------------------------------------------------------------------------ files that are refused

def refused(path, *words, load=tensor_files.load):
    """One line that begins with the file's name and holds these words."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and len(message) - len(str(path)) < LONGEST_MESSAGE
    assert len(message.splitlines()) == 1 and message.count(str(path)) == 1, message
    assert all(re.search(word, message) for word in words), message


def take_apart(data):
    """Header and data of a file."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8:8 + length]), data[8 + length:]


def put_together(header, data):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The bytes of a sound file: one small layer, and a generator."""
    path = tmp_path_factory.mktemp("sound") / "sound.safetensors"
    layer = fill(FullyConnectedLayer(in_features=2, out_features=3))
    tensor_files.save(dict(layer=layer, G_ema=fill(triplane()), note="x"), path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The bytes of a sound file of one layer."""
    path = tmp_path_factory.mktemp("small") / "small.safetensors"
    tensor_files.save(dict(layer=fill(FullyConnectedLayer(in_features=2, out_features=3)), note=(1, "x")), path)
    return path.read_bytes()


def rewritten(data, path, change=None, config=None):
    """The file with a changed header: `change(header, config)` edits both, `config` is a text in the configuration's place."""
    header, rest = take_apart(data)
    told = json.loads(header["__metadata__"]["eg3d"])
    if change is not None:
        replaced = change(header, told)
        rest = replaced if isinstance(replaced, bytes) else rest
    header["__metadata__"]["eg3d"] = json.dumps(told) if config is None else config
    path.write_bytes(put_together(header, rest))
    return path


def test_putting_together_is_sound(sound, tmp_path):
    """The tools of the tests below change nothing by themselves."""
    path = rewritten(sound, tmp_path / "x.safetensors", lambda header, config: None)
    (tmp_path / "sound.safetensors").write_bytes(sound)
    assert exact(tensor_files.load(path)) == exact(tensor_files.load(tmp_path / "sound.safetensors"))


def put(*place, value):
    """Sets config["networks"]["layer"][...][...] to a value."""
    def change(header, config):
        inner = config["networks"]["layer"]
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = value
    return change


def top(key, value):
    return lambda header, config: config.update({key: value})


def content(value):
    return top("content", value)


def without(key):
    def change(header, config):
        del config["networks"]["layer"][key]
    return change


def tensors(**entries):
    return lambda header, config: header.update({key.replace("__", "."): value for key, value in entries.items()})


def entry(name, **changes):
    return lambda header, config: header[name].update(changes)


def unnamed(name):
    """The tensor is another network's, its bytes stay where they are."""
    def change(header, config):
        header["other.tensor"] = header.pop(name)
    return change


def renamed(old, new):
    def change(header, config):
        header[new] = header.pop(old)
    return change


def recast(name, dtype):
    """As many elements of another type, at the end of the data."""
    def change(header, config):
        size = {"F16": 2, "F64": 8, "I32": 4, "BF16": 2, "BOOL": 1, "F8_E4M3": 1}[dtype]
        names = sorted((key for key in header if key != "__metadata__"), key=lambda key: header[key]["data_offsets"])
        end, blocks = 0, []
        for key in names:
            width = size if key == name else 4
            count = int(np.prod(header[key]["shape"]))
            header[key].update(data_offsets=[end, end + count * width], dtype=dtype if key == name else header[key]["dtype"])
            end += count * width
            blocks.append(bytes(count * width))
        return b"".join(blocks)
    return change


SPOILT = {  # -> change, words of the message
    "newer version": (top("version", 3), "version 3", "update"),
    "version as text": (top("version", "1"), "version '1'"),
    "no version": (lambda header, config: config.pop("version"), "version None"),
    "networks as list": (top("networks", []), "incomplete"),
    "no content": (lambda header, config: config.pop("content"), "incomplete"),
    "no networks": (top("networks", {}), "belongs to no network"),
    "network that is none": (top("networks", dict(layer=3)), ""),
    "content without such a network": (content({"$network": "H"}), ""),
    "content that names a list": (content({"$network": []}), ""),
    "missing tensor": (unnamed("layer.weight"), "weight is missing|belongs to no network"),
    "tensor of no network": (unnamed("layer.bias"), "bias is missing|belongs to no network"),
    "unknown tensor": (renamed("layer.bias", "layer.bios"), "layer.bios|layer.bias"),
    "tensor of an unknown part": (renamed("layer.bias", "layer.inner.bias"), "layer.inner.bias"),
    "tensor deep inside no part": (renamed("layer.bias", "layer.a.b.c.bias"), "layer.a.b.c.bias"),
    "tensor without a name": (renamed("layer.bias", "layer."), "layer."),
    "transposed": (entry("layer.weight", shape=[2, 3]), r"weight has shape \[2, 3\], expected \[3, 2\]"),
    "one dimension more": (entry("layer.bias", shape=[3, 1]), r"bias has shape \[3, 1\], expected \[3\]"),
    "integers": (entry("layer.weight", dtype="I32"), "weight|floating"),
    "unsigned": (entry("layer.bias", dtype="U32"), "bias|floating"),
    "half": (recast("layer.weight", "F16"), "weight is torch.float16, expected torch.float32"),
    "bfloat16": (recast("layer.weight", "BF16"), "weight is torch.bfloat16, expected torch.float32"),
    "double": (recast("layer.bias", "F64"), "bias is torch.float64, expected torch.float32"),
    "eighth": (recast("layer.weight", "F8_E4M3"), "weight is torch.float8"),
    "truth values": (recast("layer.weight", "BOOL"), "weight|floating"),
    "unknown type": (entry("layer.weight", dtype="F99"), "damaged"),
    "bytes beyond the end": (entry("layer.weight", data_offsets=[10**9, 10**9 + 24]), "damaged"),
    "huge shape": (entry("layer.weight", shape=[10**9, 10**9]), "damaged"),
    "shape beyond 64 bits": (entry("layer.weight", shape=[2**40, 2**40]), "damaged"),
    "negative shape": (entry("layer.weight", shape=[-3, -2]), "damaged"),
    "overlap": (lambda header, config: header["layer.weight"].update(data_offsets=[0, 24]), "damaged"),
    "class of the system": (put("class", value="os.system"), "os.system.*, which is no class of EG3D"),
    "class of PyTorch": (put("class", value="Linear"), "Linear.*, which is no class of EG3D"),
    "class stored by name": (put("class", value="OSGDecoder"), "OSGDecoder.*, which is no class of EG3D"),
    "class that is abstract": (put("class", value="_Official"), "_Official.*, which is no class of EG3D"),
    "class with a dotted name": (put("class", value="training.triplane.TriPlaneGenerator"), "no class of EG3D"),
    "class as number": (put("class", value=3), "no class"),
    "class as list": (put("class", value=["FullyConnectedLayer"]), "no class"),
    "no class": (without("class"), "class"),
    "another class": (put("class", value="AugmentPipe"), "AugmentPipe"),
    "no arguments": (put("kwargs", value={}), "FullyConnectedLayer"),
    "unknown argument": (put("kwargs", "surprise", value=1), "surprise"),
    "arguments as text": (put("kwargs", value="abc"), ""),
    "positional as number": (put("args", value=5), ""),
    "size as text": (put("kwargs", "in_features", value="2"), ""),
    "size beyond reason": (put("kwargs", "in_features", value=10**10), "in_features is beyond all measure"),
    "size beyond float": (put("kwargs", "in_features", value=10**400), "in_features is beyond all measure"),
    "size as float": (put("kwargs", "in_features", value=1e300), ""),
    "size negative": (put("kwargs", "in_features", value=-5), ""),
    "sizes that multiply": (put("kwargs", value=dict(in_features=2**20, out_features=2**20)), "shape"),
    "other size": (put("kwargs", "in_features", value=5), r"weight has shape \[3, 2\], expected \[3, 5\]"),
    "buffers as number": (put("buffers", value=3), ""),
    "buffers of lists": (put("buffers", value=[[1]]), ""),
    "parameter as buffer": (put("buffers", value=["weight"]), "weight"),
    "no list of buffers": (without("buffers"), ""),
    "trainable as null": (put("trainable", value=None), ""),
    "attributes as list": (put("attributes", value=[1]), ""),
    "attribute of an unknown part": (put("attributes", "inner.gain", value=1), "layer.inner.gain belongs to no part"),
    "attribute deep inside no part": (put("attributes", "a.b.c", value=1), "layer.a.b.c belongs to no part"),
    "parameters as attribute": (put("attributes", "_parameters", value=3), "layer._parameters belongs to no part"),
    "modules as attribute": (put("attributes", "_modules", value={"x": 1}), "layer._modules belongs to no part"),
    "unknown tag in arguments": (put("kwargs", "bias", value={"$object": "os.system"}), r"\$object.*update"),
    "unknown tag in attributes": (put("attributes", "weight_gain", value={"$eval": "1"}), r"\$eval.*update"),
    "unknown tag": (content({"$import": "os"}), r"\$import.*update"),
    "unknown tag deep inside": (content([{"a": {"$x": 1}}]), r"\$x.*update"),
    "number that is none": (content({"$float": "one"}), "one"),
    "number of a list": (content({"$float": [1]}), ""),
    "dictionary of no pairs": (content({"$dict": [1, 2]}), ""),
    "dictionary of lists": (content({"$dict": [[[1], 2]]}), ""),
    "set of lists": (content({"$set": [[1]]}), ""),
    "tuple of a number": (content({"$tuple": 1}), ""),
    "EasyDict of a number": (content({"$EasyDict": 1}), ""),
    "tensor of text": (content({"$tensor": "abc", "dtype": "float32"}), ""),
    "tensor without type": (content({"$tensor": [1]}), "dtype"),
    "tensor of no type": (content({"$tensor": [1], "dtype": "save"}), "save, which is no type"),
    "tensor whose type is no text": (content({"$tensor": [1], "dtype": 3}), ""),
    "ragged tensor": (content({"$tensor": [[1], 2], "dtype": "float32"}), ""),
    "tensor beyond its type": (content({"$tensor": [10**30], "dtype": "int64"}), ""),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt(name, small, tmp_path):
    change, *words = SPOILT[name]
    path = rewritten(small, tmp_path / "spoilt.safetensors", change)
    refused(path, *words)
    refused(path, *words, load=generator.load_snapshot)


@pytest.mark.parametrize("name", ["class of the system", "unknown argument", "other size"])
def test_no_message_advises_what_cannot_help(name, small, tmp_path):
    """There is no code in such a file, so trusting it changes nothing."""
    path = rewritten(small, tmp_path / "spoilt.safetensors", SPOILT[name][0])
    for trust in (False, True):
        with pytest.raises(CheckpointError) as caught:
            generator.load_snapshot(path, trust=trust)
        assert "trust" not in str(caught.value)


CONFIGURATIONS = {
    "empty": "", "no JSON": "{", "text": '"x"', "number": "3", "null": "null", "list": "[]", "empty object": "{}",
    "nested lists": "[" * 100_000 + "]" * 100_000, "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "nested content": '{"version": 1, "networks": {}, "content": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "as deep as JSON reads": '{"version": 1, "networks": {}, "content": ' + "[" * 900 + "]" * 900 + "}",
    "endless number": '{"version": ' + "9" * 100_000 + "}",
    "infinite version": '{"version": 1e999, "networks": {}, "content": 1}',
    "Python": "__import__('os').abort()",
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_configurations_that_are_none(name, small, tmp_path):
    """Broken JSON, other JSON, and JSON made to exhaust the reader."""
    header, _ = take_apart(small)
    header = dict(__metadata__=dict(eg3d=CONFIGURATIONS[name]))
    path = tmp_path / "spoilt.safetensors"
    path.write_bytes(put_together(header, b""))
    refused(path)
    refused(path, load=generator.load_snapshot)


@pytest.mark.parametrize("name", [name for name in CONFIGURATIONS if name != "as deep as JSON reads"])
def test_reading_the_configuration_alone(name, small, tmp_path):
    """`configuration` refuses them as `load` does."""
    path = rewritten(small, tmp_path / "spoilt.safetensors", config=CONFIGURATIONS[name])
    refused(path, load=tensor_files.configuration)


@pytest.mark.parametrize("metadata", [None, {}, dict(format="pt"), dict(eg3d_version="1")], ids=str)
def test_weights_alone(metadata, small, tmp_path):
    """Other people's safetensors: the message says what is lacking."""
    header, data = take_apart(small)
    del header["__metadata__"]
    if metadata is not None:
        header["__metadata__"] = metadata
    path = tmp_path / "weights.safetensors"
    path.write_bytes(put_together(header, data))
    refused(path, "configuration")
    refused(path, "configuration", load=generator.load)


@pytest.mark.parametrize("part", range(20))
def test_truncated(part, sound, tmp_path):
    """Cut anywhere, in the length, the header or the data."""
    header = 8 + int.from_bytes(sound[:8], "little")
    ends = [0, 1, 7, 8, 9, header - 1, header, header + 1, len(sound) - 1, *np.linspace(10, len(sound) - 2, 11, dtype=int)]
    path = tmp_path / "cut.safetensors"
    path.write_bytes(sound[:ends[part]])
    refused(path)
    refused(path, load=generator.load)


def test_grown(sound, tmp_path):
    """More than the header tells of."""
    path = tmp_path / "grown.safetensors"
    path.write_bytes(sound + b"\0")
    refused(path)


@pytest.mark.filterwarnings("ignore:.*by the arguments:RuntimeWarning")
def test_flipped(small, tmp_path):
    """Any byte of the header changed in any way: refused in one line, or a file that says something else."""
    length = 8 + int.from_bytes(small[:8], "little")
    chance = random.Random(0)
    path, count = tmp_path / "flipped.safetensors", 0
    for position in [*range(16), *(chance.randrange(length) for _ in range(600))]:
        data = bytearray(small)
        data[position] ^= 1 << chance.randrange(8) if chance.random() < 0.5 else chance.randrange(1, 256)
        path.write_bytes(data)
        try:
            tensor_files.load(path)
        except CheckpointError as error:
            assert str(error).startswith(f"{path}: ") and len(str(error).splitlines()) == 1
            count += 1
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            try:
                generator.load_snapshot("flipped.safetensors")
            except CheckpointError as error:
                assert str(error).startswith("flipped.safetensors: "), error
    assert count > 400


def test_noise_after_the_length(tmp_path):
    """Files that only begin like one."""
    rng = np.random.RandomState(0)
    path = tmp_path / "noise.safetensors"
    for _ in range(50):
        path.write_bytes(int(rng.randint(0, 60)).to_bytes(8, "little") + b"{" + rng.bytes(60))
        refused(path)
        refused(path, load=generator.load_snapshot)


def test_files_that_are_not_there(tmp_path):
    """The disk's errors stay the disk's."""
    with pytest.raises(FileNotFoundError, match="none.safetensors"):
        tensor_files.load(tmp_path / "none.safetensors")
    with pytest.raises(IsADirectoryError):
        tensor_files.load(tmp_path)


def test_messages_name_what_the_user_typed(small, tmp_path):
    """`name` stands in the path's place."""
    path = rewritten(small, tmp_path / "spoilt.safetensors", top("version", 9))
    with pytest.raises(CheckpointError, match="^what I typed: its format is version 9") as caught:
        tensor_files.load(path, name="what I typed")
    assert str(path) not in str(caught.value)


# ------------------------------------------------------------------------------------------------ hostile arguments

FOREIGN = ["os.system", "hostile.run", "training.superresolution.torch.load", "dnnlib.util.construct_class_by_name",
           "training.superresolution", "SuperresolutionHybrid2X", "training.triplane.OSGDecoder", "", ".", "a\nb.c", 5, None,
           ["os.system"], {"$tuple": ["os", "system"]}, {"a": 1}, True]


@pytest.mark.parametrize("value", FOREIGN, ids=repr)
def test_arguments_that_name_foreign_code(value, sound, tmp_path, monkeypatch):
    """Nothing is imported or called, wherever the name stands."""
    (tmp_path / "hostile.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\ndef run(*args, **kwargs): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    outside = dict(RENDERING, superresolution_module=value)
    places = [lambda told: told["kwargs"].update(rendering_kwargs=outside),
              lambda told: told["kwargs"].update(rendering_kwargs={"$EasyDict": outside}),
              lambda told: told["kwargs"].update(rendering_kwargs={"$dict": [[key, value] for key, value in outside.items()]}),
              lambda told: told["kwargs"].update(sr_kwargs=dict(class_name=value)),
              lambda told: told["kwargs"].update(mapping_kwargs=dict(func_name=value))]
    for place in places:
        path = rewritten(sound, tmp_path / "hostile.safetensors", lambda header, config, place=place: place(
            config["networks"]["G_ema"]))
        refused(path, "G_ema", load=generator.load)
    assert not (tmp_path / "executed").exists() and "hostile" not in sys.modules


@pytest.mark.parametrize("name", [
    "forward", "synthesis", "mapping", "backbone", "__class__", "__dict__", "_forward_hooks", "_last_planes", "train",
    "_init_kwargs", "renderer.forward", "decoder.net", "surprise", "renderer.surprise"])
def test_attributes_reach_no_methods(sound, tmp_path, name):
    """A file may set numbers that the class has; anything else is refused by its name."""
    def change(header, config):
        config["networks"]["G_ema"]["attributes"][name] = {"a": 1}

    refused(rewritten(sound, tmp_path / "hostile.safetensors", change), f"G_ema.{name} belongs to no part")


@pytest.mark.parametrize("value", [
    {"$tensor": [1.0], "dtype": "float32"}, {"$tensor": [[[1.0] * 3] * 3] * 2, "dtype": "float32"}, [[1]], None, "official"],
    ids=["vector", "two planes", "list", "null", "text"])
def test_axes_that_are_none(value, sound, tmp_path):
    """The planes' axes are a tensor of the constructor's shape."""
    def change(header, config):
        config["networks"]["G_ema"]["attributes"]["renderer.plane_axes"] = value

    path = rewritten(sound, tmp_path / "axes.safetensors", change)
    refused(path, "renderer.plane_axes", r"expected \[3, 3, 3\]")


@pytest.mark.parametrize("suffix", [".safetensors", ".pkl"])
@pytest.mark.parametrize("value", [5, None, [], "ray_start"], ids=repr)
def test_rendering_options_that_are_none(value, suffix, tmp_path):
    """A generator whose options are no dict cannot be rendered, and loading it for that says so."""
    G = triplane()
    G.rendering_kwargs = value
    generator.save_snapshot(dict(G_ema=G), tmp_path / f"x{suffix}")
    refused(tmp_path / f"x{suffix}", "rendering_kwargs", load=generator.load)


def test_huge_claims_cost_little(sound, tmp_path):
    """Sizes that a file merely claims reserve no memory."""
    resource = pytest.importorskip("resource")  # of Unix
    claims = [dict(plane_resolution=2**20), dict(channel_base=2**20, channel_max=2**20), dict(w_dim=2**20, z_dim=2**20),
              dict(decoder_width=2**20, plane_channels=2**20), dict(mapping_kwargs=dict(num_layers=10**6)),
              dict(img_resolution=2**20), dict(plane_resolution=2**4000), dict(c_dim=2**20)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for claim in claims:
        path = rewritten(sound, tmp_path / "huge.safetensors", lambda header, config, claim=claim: config["networks"]["G_ema"][
            "kwargs"].update(claim))
        refused(path, load=generator.load)
    megabytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / (2**20 if sys.platform == "darwin" else 1024)
    assert megabytes < MEMORY_MB


# ------------------------------------------------------------------------------------------------ what is not written

@persistent_class
class Stranger(torch.nn.Module):
    """A network of somebody else."""

    def __init__(self):
        super().__init__()
        self.inner = FullyConnectedLayer(2, 2)


def impostor():
    """Another class that calls itself TriPlaneGenerator."""
    return persistent_class(type("TriPlaneGenerator", (Stranger,), {}))()


def with_setting(value):
    G = triplane()
    G.rendering_kwargs["odd"] = [value]
    return G


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def endless():
    value = {}
    value["again"] = value
    return value


UNWRITABLE = {  # -> what the snapshot holds as x, words of the message
    "function": (lambda: len, "builtin_function_or_method"), "lambda": (lambda: lambda: None, "function"),
    "object": (object, "object"), "class": (lambda: dict, "type"), "bytes": (lambda: b"x", "bytes"),
    "complex": (lambda: 1j, "complex"), "array": (lambda: np.zeros(3), "ndarray"), "path": (lambda: Path("x"), "Path"),
    "frozenset": (frozenset, "frozenset"), "deep inside": (lambda: [dict(a=(object(),))], "object"),
    "PyTorch's own": (lambda: torch.nn.Linear(2, 2), "Linear"),
    "nested network": (lambda: dict(G=triplane()), "TriPlaneGenerator"),
    "network in a list": (lambda: [FullyConnectedLayer(2, 2)], "FullyConnectedLayer"),
    "stranger": (Stranger, "Stranger of other code"), "impostor": (impostor, "TriPlaneGenerator of other code"),
    "undecorated": (lambda: type("Mine", (FullyConnectedLayer,), {})(2, 2), "Mine of other code"),
    "stored by name": (lambda: triplane().decoder, "OSGDecoder of other code"),
    "setting": (lambda: with_setting(len), "rendering_kwargs", "builtin_function_or_method"),
    "endless": (endless, ""), "nested beyond measure": (lambda: nested(100_000), ""),
    "number beyond text": (lambda: 10**5000, ""),  # Python makes no text of more than 4300 digits
}


@pytest.mark.parametrize("name", UNWRITABLE)
def test_what_is_not_written(name, tmp_path):
    """One line that names it; no file, and a file that was there stays as it was."""
    make, *words = UNWRITABLE[name]
    path = tmp_path / "x.safetensors"
    for before in (None, b"kept"):
        if before:
            path.write_bytes(before)
        with pytest.raises(CheckpointError) as caught:
            tensor_files.save(dict(D=FullyConnectedLayer(2, 2), x=make()), path)
        assert len(str(caught.value).splitlines()) == 1 and all(word in str(caught.value) for word in words), caught.value
        assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


@pytest.mark.parametrize("keys", [
    (1, "1"), (None, "None"), ("G", "G.b"), ("G.b", "G"), ("", "a"), ("", ".weight"), ("a", "\ud800")], ids=repr)
def test_networks_whose_names_collide(keys, tmp_path):
    """Two networks stay two, or the snapshot is refused when it is written; never does one take the other's place."""
    value = {key: random_bits(FullyConnectedLayer(2, 3 + index), seed=index) for index, key in enumerate(keys)}
    try:
        tensor_files.save(value, tmp_path / "x.safetensors")
    except CheckpointError:
        assert os.listdir(tmp_path) == []
    else:
        assert exact(tensor_files.load(tmp_path / "x.safetensors")) == exact(value)


DISK_FULL = """
import os, resource, signal, sys
sys.path.insert(0, sys.argv[1])
from eg3d import generator

snapshot = generator.load_snapshot("tiny-random")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as a full disk, too large a file is an error and not a signal
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for path in sys.argv[2:]:
    try:
        generator.save_snapshot(snapshot, path)
    except OSError as error:
        print(f"{len(str(error).splitlines())} line: {error}")
"""


def test_full_disk(tmp_path):
    """An error that names the file asked for, in either format, and no leftover; what was there stays."""
    pytest.importorskip("resource")  # of Unix
    (tmp_path / "b.safetensors").write_bytes(b"kept")
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "c.pkl", tmp_path / "folder" / "d.safetensors"]
    run = subprocess.run([sys.executable, "-c", DISK_FULL, str(ROOT), *map(str, paths)],
                         env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert len(lines) == len(paths) and all(line.startswith("1 line: ") for line in lines)
    assert all(str(path) in line for path, line in zip(paths, lines))
    assert os.listdir(tmp_path) == ["b.safetensors"] and paths[1].read_bytes() == b"kept"


@pytest.mark.parametrize("name", ["x.pt", "x", "x.PKL", "x.safetensors.gz"])
def test_suffixes(name, tmp_path):
    """Two are known."""
    with pytest.raises(ValueError, match=r"\.pkl or \.safetensors"):
        generator.save_snapshot({}, tmp_path / name)
    assert os.listdir(tmp_path) == []


@example(b"\x02\0\0\0\0\0\0\0{}\0")
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=40))
def test_what_looks_like_a_tensor_file(tmp_path, data):
    """A length that fits, then a brace; everything else is read as a pickle."""
    path = tmp_path / "any"
    path.write_bytes(data)
    looks = len(data) > 8 and data[8:9] == b"{" and sum(byte << 8 * index for index, byte in enumerate(data[:8])) < len(data)
    assert tensor_files.is_tensor_file(path) == looks


def test_sets_and_tensors_among_attributes(tiny_path, tmp_path):
    """Rendering options that hold a set or a tensor come back whole; what the class does not know is left out."""
    G = pickles.load(tiny_path)["G_ema"]
    G.rendering_kwargs.update(box_warp=2.5, tags={"a", "b"}, offset=torch.tensor([1.0, 2.0]))
    G.extra = 3
    tensor_files.save(G, tmp_path / "G.safetensors")
    back = tensor_files.load(tmp_path / "G.safetensors")
    assert back.rendering_kwargs["box_warp"] == 2.5 and back.rendering_kwargs["tags"] == {"a", "b"}
    assert torch.equal(back.rendering_kwargs["offset"], G.rendering_kwargs["offset"]) and not hasattr(back, "extra")


@pytest.mark.parametrize("value", [{"$float": 10**400}, {"$tensor": [10**400], "dtype": "float32"},
                                   {"$tensor": [1], "dtype": "qint8"}, {"$tensor": [1], "dtype": "Tensor"}])
def test_numbers_beyond_measure(tiny_path, tmp_path, value):
    """Refused in one line."""
    G = pickles.load(tiny_path)["G_ema"]
    tensor_files.save(G, tmp_path / "G.safetensors")
    config = tensor_files.configuration(tmp_path / "G.safetensors")
    config["networks"]["network"]["attributes"]["rendering_kwargs"] = {"box_warp": value}
    with safetensors.safe_open(tmp_path / "G.safetensors", "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    safetensors.torch.save_file(tensors, tmp_path / "odd.safetensors", metadata=dict(eg3d=json.dumps(config)))
    with pytest.raises(CheckpointError, match="odd.safetensors: ") as caught:
        tensor_files.load(tmp_path / "odd.safetensors")
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------------ float16

def test_half(tmp_path):
    """Every float32 tensor comes back as float32, rounded to float16; the file is half as large; the rest is as it was."""
    G = fill(triplane())
    tensor_files.save(dict(G_ema=G), tmp_path / "full.safetensors")
    tensor_files.save(dict(G_ema=G), tmp_path / "half.safetensors", half=True)
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half")]
    numbers = sum(tensor.numel() for tensor in [*G.parameters(), *G.buffers()])
    assert sizes[0] - sizes[1] == pytest.approx(2 * numbers, rel=0.1)  # the header grows by the names
    back = tensor_files.load(tmp_path / "half.safetensors")["G_ema"]
    for (name, one), (other_name, other) in zip(G.state_dict().items(), back.state_dict().items()):
        assert name == other_name and other.dtype == one.dtype
        torch.testing.assert_close(other, one.half().float(), rtol=0, atol=0)
    assert back._init_kwargs == G._init_kwargs
    tensor_files.save(back, tmp_path / "again.safetensors")  # in full: what was rounded stays as it is
    again = tensor_files.load(tmp_path / "again.safetensors").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in back.state_dict().items())


def test_too_large_for_half(tmp_path):
    G = fill(triplane())
    with torch.no_grad():
        G.decoder.net[0].weight[0, 0] = 1e6
    with pytest.raises(CheckpointError, match="decoder.net.0.weight holds numbers beyond float16"):
        tensor_files.save(G, tmp_path / "half.safetensors", half=True)
    assert not list(tmp_path.iterdir())


def test_versions(tmp_path):
    """Only files in float16 ask for the newer program."""
    G = fill(triplane())
    for half, version in ((False, 1), (True, 2)):
        tensor_files.save(G, tmp_path / "net.safetensors", half=half)
        assert tensor_files.configuration(tmp_path / "net.safetensors")["version"] == version
