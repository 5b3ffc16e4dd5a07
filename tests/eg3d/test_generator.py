"""Loading: names, paths and URLs become a generator that is ready to use; whatever is none is refused in one line."""

import pickle
import re
from pathlib import Path

import pytest
import torch
from recipe import fill

from eg3d import generator
from torch_utils import pickles
from torch_utils.persistence import CheckpointError
from training.networks_stylegan2 import FullyConnectedLayer


def pickled(obj, folder):
    path = folder / "network.pkl"
    path.write_bytes(pickle.dumps(obj))
    return path


def refused(kind, match, source, **kwargs):
    """Loading `source` raises `kind` with one line that fits `match`."""
    with pytest.raises(kind, match=match) as caught:
        generator.load(source, device="cpu", **kwargs)
    assert len(str(caught.value).splitlines()) == 1


# ------------------------------------------------------------------------------------------------ what can be loaded

@pytest.mark.parametrize("source", [
    "tiny-random", lambda path: str(path), lambda path: path, lambda path: path.as_uri()], ids=["name", "text", "path", "url"])
def test_sources(source, tiny_path):
    """A name, a path as text or Path, and a file URL all lead to the same network."""
    G = generator.load(source(tiny_path) if callable(source) else source, device="cpu")
    same = pickles.load(tiny_path)["G_ema"].state_dict()
    assert G.state_dict().keys() == same.keys()
    assert all(torch.equal(tensor, same[name]) for name, tensor in G.state_dict().items())


def test_a_file_named_like_a_network_comes_first(tiny_path, tmp_path, monkeypatch):
    """In a folder that holds a file called tiny-random, that file is meant."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny-random").write_bytes(b"mine")
    refused(CheckpointError, "tiny-random: not a pickle", "tiny-random")


def test_a_network_without_its_snapshot(tiny_path, tmp_path):
    """A pickle of a generator itself, as forks write it, is a generator too."""
    path = tmp_path / "bare.pkl"
    pickles.save(pickles.load(tiny_path)["G_ema"], path)
    assert generator.load(path, device="cpu").z_dim == 64


def test_ready_for_inference(tiny_path, tmp_path):
    """Saved while training or not: every module is in eval mode, no tensor wants a gradient, all are on the device."""
    training = pickles.load(tiny_path)["G_ema"].train().requires_grad_(True)
    pickles.save(dict(G_ema=training), tmp_path / "training.pkl")
    for path in (tiny_path, tmp_path / "training.pkl"):
        G = generator.load(path, device="cpu")
        assert not any(module.training for module in G.modules())
        assert not any(parameter.requires_grad for parameter in G.parameters())
        assert {tensor.device.type for tensor in [*G.parameters(), *G.buffers()]} == {"cpu"}


def test_whole_snapshot(tiny_path):
    """load_snapshot returns all that the file holds."""
    assert list(generator.load_snapshot("tiny-random")) == list(pickles.load(tiny_path))


def test_names(tiny_path):
    """Names lead to what ships and to NVIDIA's released networks."""
    names = generator.names()
    assert names["tiny-random"] == str(tiny_path)
    assert Path(names["demo"]).is_file()
    released = {name: url for name, url in names.items() if name not in ("demo", "tiny-random")}
    assert set(released) == set(generator.RELEASED) and len(released) == 6
    assert all(url.startswith("https://") and url.endswith(f"/{name}.pkl") for name, url in released.items())


# ------------------------------------------------------------------------------------------------ what cannot

def test_unknown_name():
    """The message lists the names that exist."""
    refused(FileNotFoundError, "ffhq-512.*no such file.*tiny-random.*ffhq512-128", "ffhq-512")


def test_missing_file(tmp_path):
    """A path and a file URL that lead nowhere are named."""
    refused(FileNotFoundError, "missing.pkl", tmp_path / "missing.pkl")
    refused(FileNotFoundError, "missing.pkl", (tmp_path / "missing.pkl").as_uri())


def test_folder(tmp_path):
    refused(IsADirectoryError, "a folder, not a network file", tmp_path)
    refused(IsADirectoryError, tmp_path.name, tmp_path.as_uri())


@pytest.mark.parametrize("url", ["http://localhost:port/x.pkl", "http://localhost:1/x y.pkl", "http://[::1/x.pkl", "http://"])
def test_url_that_is_none(url, tmp_path, monkeypatch):
    """A URL with a typing error is the user's mistake: one line that names it."""
    monkeypatch.setenv("EG3D_CACHE_DIR", str(tmp_path))
    refused(OSError, re.escape(url), url)


@pytest.mark.parametrize("obj, match", [
    (dict(G=None, D=None), "holds G, D, but no G_ema"), (dict(), "no G_ema"), (dict(G_ema=None), "no G_ema"),
    (dict(G_ema=3), "no tri-plane generator"), ([1], "holds a list"), (None, "network.pkl: holds")])
def test_pickles_of_something_else(obj, match, tmp_path):
    """Snapshots without G_ema, and pickles that are no snapshot."""
    for trust in (False, True):
        refused(CheckpointError, match, pickled(obj, tmp_path), trust=trust)


def test_network_that_is_no_generator(tiny_path, tmp_path):
    """A persistent network under the name G_ema that cannot do what a tri-plane generator does."""
    path = tmp_path / "network.pkl"
    for network in (pickles.load(tiny_path)["D"], fill(FullyConnectedLayer(2, 2))):
        pickles.save(dict(G_ema=network), path)
        refused(CheckpointError, f"holds a {type(network).__name__}, which is no tri-plane generator", path)


@pytest.mark.parametrize("content, match", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "git-lfs pointer"), (b"", "empty"),
    (b"<!DOCTYPE html>\n<html>", "web page"), (b"hello", "not a pickle"), (b"\x80\x04}", "truncated")])
def test_files_of_something_else(content, match, tmp_path):
    """Files that are often mistaken for a network, and ends that were never downloaded."""
    path = tmp_path / "network.pkl"
    path.write_bytes(content)
    refused(CheckpointError, f"network.pkl: .*{match}", path)


# ------------------------------------------------------------------------------------------------ devices

def test_auto_device(monkeypatch):
    """CUDA where there is one, else the CPU."""
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=available: answer)
        assert generator.choose_device("auto").type == kind


def test_cpu_device():
    assert generator.choose_device("cpu") == generator.choose_device(torch.device("cpu")) == torch.device("cpu")


@pytest.mark.parametrize("name", ["", "gpu", "CPU", "cuda:x", "cuda:-1", "cpu:99999999999999", "meta", "cpu:1"])
def test_bad_device(name):
    """Names that no device has, and devices that hold no data."""
    with pytest.raises(ValueError, match="device .*choose auto") as caught:
        generator.choose_device(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:1"])
def test_cuda_without_cuda(name, monkeypatch, tmp_path):
    """The device is refused before any file is opened."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=f"device {name} is not available here: choose auto or cpu"):
        generator.load(tmp_path / "missing.pkl", device=name)


def test_cuda_beyond_the_last(monkeypatch):
    """With one GPU there is no second."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert generator.choose_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(ValueError, match="cuda:1 is not available"):
        generator.choose_device("cuda:1")


# ------------------------------------------------------------------------------------------------ settings that cannot be

@pytest.mark.parametrize("key, value", [
    ("depth_resolution", 6.5), ("depth_resolution", 10**6), ("depth_resolution_importance", -1), ("box_warp", "large"),
    ("c_scale", "a"), ("density_noise", "x"), ("avg_camera_pivot", [0, 0]), ("ray_start", None), ("focal_length", 0)])
def test_rendering_options_that_cannot_be(tiny_path, tmp_path, key, value):
    """They are named when the network is loaded, before anything is rendered."""
    snapshot = pickles.load(tiny_path)
    snapshot["G_ema"].rendering_kwargs[key] = value
    pickles.save(snapshot, tmp_path / "odd.pkl")
    refused(CheckpointError, f"odd.pkl: its rendering_kwargs say {key} = ", tmp_path / "odd.pkl")


@pytest.mark.parametrize("name, value", [("neural_rendering_resolution", "big"), ("neural_rendering_resolution", 10**5)])
def test_attributes_that_cannot_be(tiny_path, tmp_path, name, value):
    """In either format."""
    snapshot = pickles.load(tiny_path)
    setattr(snapshot["G_ema"], name, value)
    for suffix in (".pkl", ".safetensors"):
        generator.save_snapshot(snapshot, tmp_path / f"odd{suffix}")
        refused(CheckpointError, f"odd{suffix}: its {name} is ", tmp_path / f"odd{suffix}")
