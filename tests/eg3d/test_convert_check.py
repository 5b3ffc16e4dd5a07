"""eg3d convert and eg3d check: what they write and print; whatever is no checkpoint ends in one line and exit code 2."""

import functools
import hashlib
import http.server
import io
import os
import pickle
import re
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from recipe import fill

from eg3d import cameras, generator, sampling
from eg3d.cli import main, options
from eg3d.session import Session
from torch_utils import persistence, pickles, tensor_files
from training.dual_discriminator import DualDiscriminator
from training.networks_stylegan2 import FullyConnectedLayer
from training.triplane import TriPlaneGenerator
from training.volumetric_rendering import renderer

ROOT = Path(__file__).parents[2]
RENDERING = dict(
    superresolution_module="training.superresolution.SuperresolutionGeneral", depth_resolution=6, depth_resolution_importance=5,
    ray_start=2.25, ray_end=3.3, box_warp=1, disparity_space_sampling=False, clamp_mode="softplus", c_scale=1,
    superresolution_noise_mode="none", sr_antialias=True, decoder_lr_mul=1, avg_camera_radius=2.7, avg_camera_pivot=[0, 0, 0.2])
TITLES = ["file", "sha256", "format", "loads", "holds", "pictures", "latents", "samples", "camera", "plane axes", "enlarged by",
          "picture"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `eg3d ...`: (exit code, lines of standard output, lines of standard error)."""
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["eg3d", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            options.run(main.eg3d)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out.splitlines(), err.splitlines()

    return run


@pytest.fixture
def convert(run):
    return functools.partial(run, "convert")


@pytest.fixture
def check(run, tmp_path):
    """Runs `eg3d check FILE ...` with its picture at tmp_path/picture.png: (exit code, [(title, text)], lines of error)."""
    def check(*arguments):
        code, out, err = run("check", *arguments, "--device=cpu", f"--output={tmp_path / 'picture.png'}")
        return code, [(line[:14].rstrip(), line[14:]) for line in out], err

    return check


def generator_of(**rendering):
    """A small generator of 32x32 pictures."""
    torch.manual_seed(0)
    G = TriPlaneGenerator(
        z_dim=8, c_dim=25, w_dim=12, img_resolution=32, img_channels=3, mapping_kwargs=dict(num_layers=2),
        rendering_kwargs=dict(RENDERING, **rendering), sr_kwargs=dict(channel_base=256), plane_resolution=32, channel_base=256,
        channel_max=8, num_fp16_res=0, conv_clamp=None)
    G.neural_rendering_resolution = 12
    return fill(G).eval().requires_grad_(False)


def small_snapshot(**changes):
    D = fill(DualDiscriminator(25, 32, 3, channel_base=64, channel_max=4))
    data = dict(class_name="training.dataset.ImageFolderDataset", path="faces.zip", size=(3, None))
    return dict(dict(G=generator_of(), D=D, G_ema=generator_of(), augment_pipe=None, training_set_kwargs=data), **changes)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """One snapshot in both formats: suffix -> path."""
    folder = tmp_path_factory.mktemp("files")
    for suffix in generator.WRITERS:
        generator.save_snapshot(small_snapshot(), folder / f"small{suffix}")
    return {suffix: folder / f"small{suffix}" for suffix in generator.WRITERS}


BOTH = pytest.mark.parametrize("suffix", [".pkl", ".safetensors"])


def fails(result, *words):
    """Exit code 2 and a last line of error that holds these words; every line of it is one."""
    code, _, err = result
    assert code == 2 and err and err[-1].startswith("Error: ") and not any("Traceback" in line for line in err), result
    assert all(re.search(word, err[-1]) for word in words), err[-1]


def same_weights(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert list(first) == list(second)
    assert all(torch.equal(first[name], second[name]) for name in first)


# ------------------------------------------------------------------------------------------------ convert

def test_there_and_back(convert, tiny_path, tmp_path):
    """The shipped network, by its name: each file in its format, each result one line, all weights and settings kept."""
    there, back = tmp_path / "new" / "tiny.safetensors", tmp_path / "tiny.pkl"
    for source, target in (("tiny-random", there), (there, back)):
        assert convert(source, target) == (0, [f"{target}: {target.stat().st_size / 1e6:.1f} MB"], [])
    assert tensor_files.is_tensor_file(there) and back.read_bytes()[:2] == b"\x80\x04"
    want, have = pickles.load(tiny_path), pickles.load(back)
    assert list(have) == list(want) and have["training_set_kwargs"] == want["training_set_kwargs"]
    for key in ("G", "D", "G_ema"):
        same_weights(have[key], want[key])
        assert have[key].init_kwargs == want[key].init_kwargs
    assert have["G_ema"].neural_rendering_resolution == want["G_ema"].neural_rendering_resolution == 32
    assert sorted(os.listdir(tmp_path)) == ["new", "tiny.pkl"] and os.listdir(tmp_path / "new") == ["tiny.safetensors"]


def test_twice_the_same_bytes(convert, files, tmp_path):
    """From either format, and from one to itself."""
    for source in files.values():
        assert convert(source, tmp_path / "x.safetensors")[0] == 0
        assert (tmp_path / "x.safetensors").read_bytes() == files[".safetensors"].read_bytes()


@BOTH
@pytest.mark.parametrize("name", ["G_ema", "D"])
def test_only(convert, files, tmp_path, suffix, name):
    """One network of the snapshot, under its name."""
    for index, source in enumerate(files.values()):
        target = tmp_path / f"{index}{suffix}"
        assert convert(source, target, f"--only={name}")[0] == 0
        snapshot = generator.load_snapshot(target)
        assert list(snapshot) == [name]
        same_weights(snapshot[name], small_snapshot()[name])
        assert target.stat().st_size < files[suffix].stat().st_size


@pytest.mark.parametrize("name", ["H", "g_ema", "augment_pipe", "", "training_set_kwargs"])
def test_only_what_is_no_network(convert, files, tmp_path, name):
    """A name that is not there, one that stands for nothing, and one that stands for something else."""
    fails(convert(files[".pkl"], tmp_path / "x.safetensors", f"--only={name}"), "small.pkl: ", name, "G_ema")
    assert os.listdir(tmp_path) == []


def test_only_of_one_network(convert, tmp_path):
    """A file that is a network has no names in it."""
    pickles.save(generator_of(), tmp_path / "bare.pkl")
    fails(convert(tmp_path / "bare.pkl", tmp_path / "x.safetensors", "--only=G_ema"), "G_ema", "a bare network")
    assert convert(tmp_path / "bare.pkl", tmp_path / "x.safetensors")[0] == 0
    same_weights(generator.load(tmp_path / "x.safetensors", device="cpu"), generator_of())


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    """The address of a server of the files; downloads go to tmp_path/cache."""
    monkeypatch.setenv("EG3D_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    folder = files[".pkl"].parent
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@BOTH
def test_addresses(convert, check, server, files, tmp_path, suffix):
    """From a server, and by a file URL."""
    for index, source in enumerate((f"{server}/small{suffix}", files[suffix].as_uri())):
        target = tmp_path / f"{index}.safetensors"
        assert convert(source, target)[0] == 0
        assert target.read_bytes() == files[".safetensors"].read_bytes()
    code, lines, err = check(f"{server}/small{suffix}")
    assert code == 0 and err == [] and dict(lines)["file"].startswith(str(tmp_path / "cache"))
    fails(convert(f"{server}/none.pkl", tmp_path / "none.safetensors"), re.escape(f"{server}/none.pkl"))


def test_the_same_file(convert, files, tmp_path, monkeypatch):
    """By whatever way the two names lead to one file, it is refused and stays as it was."""
    path = tmp_path / "x.pkl"
    path.write_bytes(files[".pkl"].read_bytes())
    (tmp_path / "link.pkl").symlink_to(path)
    os.link(path, tmp_path / "hard.pkl")
    monkeypatch.chdir(tmp_path)
    pairs = [(path, path), (path, "x.pkl"), ("./x.pkl", "x.pkl"), ("link.pkl", "x.pkl"), ("x.pkl", "link.pkl"),
             ("hard.pkl", "x.pkl")]
    for source, target in pairs:
        fails(convert(source, target, "--only=G_ema"), "same file")
        assert path.read_bytes() == files[".pkl"].read_bytes()


def test_the_same_file_by_its_address(convert, files, tmp_path):
    """A file URL is a way to it, too."""
    path = tmp_path / "x.pkl"
    path.write_bytes(files[".pkl"].read_bytes())
    fails(convert(path.as_uri(), path, "--only=G_ema"), "same file")
    assert path.read_bytes() == files[".pkl"].read_bytes()


@pytest.mark.parametrize("target", ["x.txt", "x", "x.PKL", "x.safetensors.bak", ".pkl", "x.pt"])
def test_unknown_suffixes(convert, tmp_path, target):
    """Refused before anything is loaded: the source is not even there."""
    fails(convert("no-such-network.pkl", tmp_path / target), re.escape(target), r"\.pkl or \.safetensors")
    assert os.listdir(tmp_path) == []


def test_places_that_cannot_be_written(convert, files, tmp_path):
    """A file as a folder, a folder as a file, and no name at all; nothing changes."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder.safetensors").mkdir()
    for target in ("file/x.safetensors", "folder.safetensors"):
        fails(convert(files[".pkl"], tmp_path / target), target)
    fails(convert(files[".pkl"], ""), "empty")
    fails(convert("no-such-network", tmp_path / "file" / "x.pkl"), "file, not a folder")  # before anything is loaded
    assert (tmp_path / "file").read_text() == "kept" and os.listdir(tmp_path / "folder.safetensors") == []
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.safetensors"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a user whom the system can forbid something")
def test_folders_without_permission(convert, files, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    fails(convert("no-such-network", tmp_path / "locked" / "x.pkl"), "permission")


def test_sources_that_are_none(convert, tmp_path):
    """A name that nobody knows, a folder, and no argument."""
    fails(convert("no-such-network", tmp_path / "x.pkl"), "no-such-network: no such file")
    fails(convert(tmp_path, tmp_path / "x.pkl"), "folder")
    fails(convert(tmp_path / "x.pkl"), "TO")
    fails(convert(), "FROM")
    assert os.listdir(tmp_path) == []


def fork_in(folder):
    """Writes fork.pkl, a network of other code, which leaves a file when it runs: the path of that file."""
    mark = folder / "executed"
    with pytest.MonkeyPatch.context() as patch:
        source = (ROOT / "training" / "triplane.py").read_text() + f"\nopen({str(mark)!r}, 'w').close()\n"
        patch.setitem(persistence._sources, "training.triplane", source)
        pickles.save(dict(G_ema=generator_of()), folder / "fork.pkl")
    return mark


def test_what_only_pickles_keep(convert, tmp_path):
    """A network of other code, trusted: one format carries its code, the other refuses it, and no file is left."""
    mark = fork_in(tmp_path)
    assert convert(tmp_path / "fork.pkl", tmp_path / "data.safetensors")[0] == 0 and not mark.exists()
    fails(convert(tmp_path / "fork.pkl", tmp_path / "x.safetensors", "--trust"), "G_ema", "other code", r"pickle")
    assert mark.exists()
    assert convert(tmp_path / "fork.pkl", tmp_path / "again.pkl", "--trust")[0] == 0
    assert f"open({str(mark)!r}, 'w').close()".encode() in (tmp_path / "again.pkl").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again.pkl", "data.safetensors", "executed", "fork.pkl"]


# ------------------------------------------------------------------------------------------------ check

def told(result):
    """The lines of a check that went well: title -> text, 'holds' and 'carries' as lists."""
    code, lines, err = result
    assert code == 0 and err == [], result
    several = {title: [text for own, text in lines if own == title] for title in ("holds", "carries")}
    once = [title for title, _ in lines if title not in several]
    assert len(once) == len(set(once))
    return {**dict(lines), **several}


def picture(path):
    return np.asarray(PIL.Image.open(path)).astype(int)


@BOTH
def test_what_check_tells(check, files, tmp_path, suffix):
    """The same of both formats, but what they are."""
    path = files[suffix]
    result = check(path, "--seed=3")
    lines = told(result)
    assert [title for title in dict(result[1]) if title != "carries"] == TITLES
    assert lines["file"] == f"{path}, {path.stat().st_size / 1e6:.1f} MB"
    assert lines["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert lines["format"].startswith("pickle" if suffix == ".pkl" else "safetensors")
    assert lines["loads"].startswith("as data: nothing in it was executed")
    count = sum(parameter.numel() for parameter in generator_of().parameters())
    assert [lines["holds"][index] for index in (0, 2)] == [
        f"{name}: TriPlaneGenerator, {count / 1e6:.2f} M parameters" for name in ("G", "G_ema")]
    assert [text.split(":")[0] for text in lines["holds"]] == ["G", "D", "G_ema", "augment_pipe", "training_set_kwargs"]
    assert lines["holds"][3] == "augment_pipe: nothing" and "'faces.zip'" in lines["holds"][4]
    assert lines["pictures"] == "32x32, from 12x12 rays"
    assert "z 8" in lines["latents"] and "w 12" in lines["latents"]
    assert lines["samples"] == "6 + 5 from 2.25 to 3.3, in a box of 1"
    assert lines["enlarged by"] == "SuperresolutionGeneral"
    assert lines["picture"].startswith(f"{tmp_path / 'picture.png'}, seed 3, ")
    assert len(lines["carries"]) == (2 if suffix == ".pkl" else 0)
    assert all("this very version" in text for text in lines["carries"])
    assert os.listdir(tmp_path) == ["picture.png"]


def test_the_picture(check, files, tmp_path):
    """What the network shows of the seed at psi 0.7, and its depth, near in yellow; the same from both formats."""
    told(check(files[".pkl"], "--seed=3"))
    both = picture(tmp_path / "picture.png")
    assert both.shape == (32, 64, 3)
    G = generator_of()
    ws, c = sampling.styles(G, 3, 0.7), cameras.view(G.rendering_kwargs)
    with torch.no_grad():
        image = G.synthesis(ws, c, noise_mode="const")["image"][0].permute(1, 2, 0)
    want = ((image + 1) * 127.5).clamp(0, 255).numpy()
    # Samples along rays are drawn at random, which measures 0.3 grey levels here; another seed's picture is 15 away.
    assert np.abs(both[:, :32] - want).mean() < 3 < want.std()

    depth = Session(G, ws, 3).render(c)["image_depth"][0, 0].numpy()
    enlarged = depth[np.arange(32)[:, None] * 12 // 32, np.arange(32) * 12 // 32].reshape(-1)
    colours = both[:, 32:].reshape(-1, 3)
    assert tuple(colours[enlarged.argmin()]) == (253, 231, 37) and tuple(colours[enlarged.argmax()]) == (68, 1, 84)
    green = colours[enlarged.argsort(), 1]  # grows from one end of viridis to the other
    assert (np.diff(green) <= 0).all()

    told(check(files[".safetensors"], "--seed=3"))
    assert np.array_equal(picture(tmp_path / "picture.png"), both)
    told(check(files[".safetensors"], "--seed=4"))
    assert not np.array_equal(picture(tmp_path / "picture.png"), both)


def test_the_shipped_network(run, tiny_path, tmp_path, monkeypatch):
    """By its name; the picture goes into the working folder under the network's name."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run("check", "tiny-random")
    assert code == 0 and err == [] and os.listdir(tmp_path) == ["tiny-random-check.png"]
    assert picture(tmp_path / "tiny-random-check.png").shape == (128, 256, 3)
    text = "\n".join(out)
    assert str(tiny_path) in text and hashlib.sha256(tiny_path.read_bytes()).hexdigest() in text
    assert "official: (x, y), (x, z), (z, x)" in text and "of other code" in text and "4.2647 (inferred)" in text


@BOTH
@pytest.mark.parametrize("axes, words", [
    (renderer.OFFICIAL_AXES, "official: (x, y), (x, z), (z, x)"),
    (renderer.CORRECTED_AXES, "corrected: (x, y), (x, z), (z, y)"),
    ((np.eye(3) * 2).tolist(), "of its own: [[[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0]]")],
    ids=["official", "corrected", "own"])
def test_axes(check, tmp_path, suffix, axes, words):
    """Which axes the planes have, wherever they were set."""
    G = generator_of()
    G.renderer.plane_axes = torch.tensor(axes).expand(3, 3, 3).clone()
    generator.save_snapshot(G, tmp_path / f"x{suffix}")
    assert told(check(tmp_path / f"x{suffix}"))["plane axes"].startswith(words)


@pytest.mark.parametrize("rendering, words", [
    (dict(), "2.7 from the centre, looks at [0, 0, 0.2], focal length 4.2647 (inferred)"),
    (dict(avg_camera_radius=1.7, avg_camera_pivot=[0, 0, 0]), "1.7 from the centre, looks at [0, 0, 0], focal length 1.7074"),
    (dict(avg_camera_radius=1.7, focal_length=3.5), "focal length 3.5 (its own)")], ids=["faces", "shapenet", "own"])
def test_camera(check, tmp_path, rendering, words):
    """The focal length that the network says, or the one that its camera's distance tells."""
    generator.save_snapshot(dict(G_ema=generator_of(**rendering)), tmp_path / "x.safetensors")
    camera = told(check(tmp_path / "x.safetensors"))["camera"]
    assert words in camera and camera.endswith("(its own)" if "focal_length" in rendering else "(inferred)")


def torch_saved():
    stream = io.BytesIO()
    torch.save(dict(G_ema=1), stream)
    return stream.getvalue()


def zipped():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "x")
    return stream.getvalue()


def png():
    stream = io.BytesIO()
    PIL.Image.new("RGB", (4, 4)).save(stream, format="PNG")
    return stream.getvalue()


def weights_alone():
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)


NO_CHECKPOINTS = {  # -> bytes, words of the message
    "empty": (lambda: b"", "empty"), "text": (lambda: b"hello", "not a pickle"),
    "web page": (lambda: b"<!DOCTYPE html><html>", "web page"), "picture": (png, "not a pickle"),
    "zip": (zipped, "zip"), "torch.save": (torch_saved, "torch.save"), "weights alone": (weights_alone, "configuration"),
    "pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
    "a list": (lambda: pickle.dumps([1, 2]), "list"), "a number": (lambda: pickle.dumps(3), "int"),
    "nothing": (lambda: pickle.dumps(None), "no G_ema"), "empty dict": (lambda: pickle.dumps({}), "no G_ema"),
    "no generator": (lambda: pickle.dumps(dict(D=1)), "D, but no G_ema"),
    "layer": (lambda: pickle.dumps(dict(G_ema=FullyConnectedLayer(2, 2))), "FullyConnectedLayer, which is no tri-plane"),
    "number as generator": (lambda: pickle.dumps(dict(G_ema=3)), "int, which is no tri-plane"),
}


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_no_checkpoints(check, convert, tmp_path, name):
    """The last line says what the file is; no picture."""
    make, words = NO_CHECKPOINTS[name]
    path = tmp_path / "file"
    path.write_bytes(make())
    fails(check(path), re.escape(f"{path}: "), words)
    assert os.listdir(tmp_path) == ["file"]


@BOTH
@pytest.mark.parametrize("share", [0.0001, 0.3, 0.999])
def test_truncated(check, convert, files, tmp_path, suffix, share):
    data = files[suffix].read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(data[:int(len(data) * share)])
    fails(check(path), re.escape(f"{path}: "))
    fails(convert(path, tmp_path / "x.pkl"), re.escape(f"{path}: "))
    assert os.listdir(tmp_path) == [path.name]


@BOTH
@pytest.mark.parametrize("network, tensor, number", [
    ("G_ema", "backbone.synthesis.b8.conv1.weight", float("nan")), ("G", "backbone.mapping.w_avg", float("inf")),
    ("D", "b4.out.bias", -float("inf"))])
def test_numbers_that_are_none(check, convert, tmp_path, suffix, number, network, tensor):
    """Whatever network they are in, the tensor is named; converting keeps them, since they are what the file holds."""
    snapshot = small_snapshot()
    snapshot[network].state_dict()[tensor].view(-1)[-1] = number
    path = tmp_path / f"x{suffix}"
    generator.save_snapshot(snapshot, path)
    fails(check(path), re.escape(f"{path}: {network}.{tensor} holds NaN or infinity"))
    assert os.listdir(tmp_path) == [path.name]
    assert convert(path, tmp_path / "y.safetensors")[0] == 0
    back = generator.load_snapshot(tmp_path / "y.safetensors")[network].state_dict()[tensor].view(-1)[-1].item()
    assert repr(back) == repr(number)


class Caller:
    """Pickles to a call of os.mkdir."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_foreign_calls(check, convert, tmp_path):
    """A pickle that would make a folder: refused by name, and only --trust lets it."""
    mark, path = tmp_path / "executed", tmp_path / "x.pkl"
    pickles.save(small_snapshot(note=Caller(mark)), path)
    fails(check(path), re.escape(f"{path}: "), "mkdir", "--trust")
    fails(convert(path, tmp_path / "y.pkl"), "mkdir", "--trust")
    assert os.listdir(tmp_path) == ["x.pkl"]

    lines = told(check(path, "--trust"))
    assert mark.is_dir() and "mkdir" in lines["as data"] and lines["as data"].startswith("no: ")
    assert "executed (--trust)" in lines["loads"] and (tmp_path / "picture.png").exists()


def test_trust_has_nothing_to_do_with_safetensors(check, files):
    """Nothing in it can be executed, and the report says so even then."""
    assert told(check(files[".safetensors"], "--trust"))["loads"].startswith("as data: nothing in it was executed")


def test_code_of_a_fork(check, tmp_path):
    """The report tells that the file carries other code, which is executed with --trust only."""
    mark = fork_in(tmp_path)
    lines = told(check(tmp_path / "fork.pkl"))
    assert lines["carries"] == ["source of TriPlaneGenerator, of other code; only --trust executes it"]
    assert not mark.exists()
    before = picture(tmp_path / "picture.png")
    assert told(check(tmp_path / "fork.pkl", "--trust"))["as data"] == "yes, without --trust too"
    assert mark.exists() and np.array_equal(picture(tmp_path / "picture.png"), before)


@BOTH
def test_words_of_the_file_stay_in_their_line(check, tmp_path, suffix):
    """Whatever a file says, it writes no lines of its own and no control characters to the terminal."""
    evil = "x\n\x1b[2Jholds         nothing bad\r\x9b1m\u2028\u202e"
    snapshot = small_snapshot(**{"note": evil, evil: 1, "training_set_kwargs": {evil: evil}})
    generator.save_snapshot(snapshot, tmp_path / f"x{suffix}")
    code, lines, err = check(tmp_path / f"x{suffix}")
    assert code == 0 and err == []
    assert {title for title, _ in lines} <= {*TITLES, "carries"}
    assert [title for title, _ in lines].count("holds") == len(snapshot)
    assert all(text.isprintable() for _, text in lines)


DOUBLING = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from eg3d.cli import main, options
resource.setrlimit(resource.RLIMIT_CPU, (15, 15))
sys.argv[1:] = sys.argv[2:]
options.run(main.eg3d)
"""


def test_values_that_unfold_without_end(tmp_path):
    """A list that holds the one below twice, sixty levels deep: tiny in the file, endless when printed."""
    pytest.importorskip("resource")  # of Unix
    value = []
    for _ in range(60):
        value = [value, value]
    pickles.save(small_snapshot(training_set_kwargs=value), tmp_path / "x.pkl")
    run = subprocess.run(
        [sys.executable, "-c", DOUBLING, str(ROOT), "check", str(tmp_path / "x.pkl"), f"--output={tmp_path / 'picture.png'}"],
        env=dict(os.environ, OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=120)
    assert run.returncode in (0, 2) and "Traceback" not in run.stderr, run.stderr[-500:]
    assert len(run.stdout) < 10_000


@pytest.mark.parametrize("option, words", [
    ("--output=x.jpg", "x.jpg.*png"), ("--output=x", "png"), ("--output=", "empty"), ("--device=gpu", "choose auto, cpu"),
    ("--seed=-1", "--seed"), ("--seed=4294967296", "--seed"), ("--seed=a", "--seed"), ("more", "more")])
def test_mistakes(run, files, tmp_path, monkeypatch, option, words):
    """Nothing is told of the file and nothing is written."""
    monkeypatch.chdir(tmp_path)
    result = run("check", files[".pkl"], option)
    fails(result, words)
    assert result[1] == [] and os.listdir(tmp_path) == []


def test_sources_of_check_that_are_none(check, run, tmp_path):
    fails(check("no-such-network"), "no-such-network: no such file; known names: demo, tiny-random")
    fails(check(tmp_path), "folder")
    fails(run("check"), "FILE")
    assert os.listdir(tmp_path) == []


def test_pictures_that_cannot_be_written(run, files, tmp_path):
    """A folder in the picture's place shows at the end; the error names it."""
    (tmp_path / "x.png").mkdir()
    fails(run("check", files[".pkl"], f"--output={tmp_path / 'x.png'}"), re.escape(str(tmp_path / "x.png")))
    fails(run("check", files[".pkl"], f"--output={files['.pkl'] / 'x.png'}"), "file, not a folder")
    assert os.listdir(tmp_path) == ["x.png"] and os.listdir(tmp_path / "x.png") == []
