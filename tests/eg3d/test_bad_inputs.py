"""Bad input: whatever is wrong with a command line, or with what it names, costs the user one line, and nothing is left behind.

Every command has a line that works, and faults: what can be made wrong in it. Each fault is tried alone, and many in pairs that
are drawn with a fixed seed. The property: exit code 2; on standard error nothing but 'Loading', warnings and progress before
one last line 'Error: ...'; no traceback; and the working folder as it was, to the last file. Faults that can be seen in what
was typed are found before a network is loaded.
"""

import io
import json
import math
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import torch

from eg3d.cli import main, options
from eg3d.cli.samples import samples
from eg3d.cli.videos import videos
from torch_utils import pickles, tensor_files
from training.networks_stylegan2 import FullyConnectedLayer

ROOT = Path(__file__).parents[2]
ENVIRONMENT = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
LONGEST_MESSAGE = 700  # characters: some ten lines of a terminal

BASES = {  # lines that work, as in test_lines_that_work
    "samples": {"--network": "tiny-random", "--device": "cpu", "--seeds": "0", "--outdir": "out"},
    "videos": {"--network": "tiny-random", "--device": "cpu", "--seeds": "0", "--output": "out/", "--nrr": "8",
               "--sample_mult": "0.5", "--w-frames": "2"},
    "convert": {"FROM": "tiny-random", "TO": "out.pkl"},
    "check": {"FILE": "tiny-random", "--device": "cpu", "--output": "out.png"},
}
SCRIPTS = {"samples": samples, "videos": videos}  # commands that also stand alone


class Fault(NamedTuple):
    changes: dict  # of the line: option or place -> value, True for an option alone, None to leave it out
    late: bool = False  # whether it shows only when the network is looked for, or later


def typed(base, changes):
    """The line as arguments."""
    line = []
    for name, value in {**base, **changes}.items():
        if value is True:
            line.append(name)
        elif value is not None:
            line.append(f"{name}={value}" if name.startswith("-") else value)
    return line


# ------------------------------------------------------------------------------------------------ faults of values

NO_NUMBERS = ("", "x", "1,5", "0x10", "--1", "½")
NO_WHOLE_NUMBERS = (*NO_NUMBERS, "1.5", "nan", "1e3")
NO_FINITE_NUMBERS = (*NO_NUMBERS, "nan", "inf", "-inf", "1e400")
WHOLE = {  # option -> least and largest
    "--nrr": (8, 1024), "--shape-res": (8, 1024), "--w-frames": (1, 1_000_000), "--num-keyframes": (1, 1_000_000),
    "--shuffle-seed": (0, 2**32 - 1), "--trunc-cutoff": (0, math.inf), "--seed": (0, 2**32 - 1)}
REAL = {  # option -> the first numbers that are too small and too large
    "--trunc": (-100.001, 100.001), "--fov-deg": (0, 180), "--fps": (0.0999, 240.001), "--seconds": (0, 86400.001),
    "--orbit": (0, 360.001), "--sample_mult": (0, 64.001), "--shape-level": (-math.inf, math.inf)}
CHOICES = {
    "--cfg": ("cats", "", "FFHQ2", "ffhq,afhq"), "--image_mode": ("depth", "", "IMAGE", "image_depth "),
    "--depth-colors": ("gray", "", "Viridis"), "--shape-format": (".stl", "ply", ".PLY", ""), "--shape-part": ("some", ""),
    "--shapes": ("maybe", "2"), "--interpolate": ("perhaps", "-1"), "--reload_modules": ("2", "None"),
    "--precision": ("half", "", "TF32", "16"),
    "--trust": ("1", "", "no")}
SEEDS = ("", " ", "a", "-1", "3-1", "1,,2", ",", "1,", "4294967296", "0-4294967296", "0-2000000", "1.5", "0x10", "٣", "1-2-3",
         "1e3", "0;1", "99999999999", "9" * 5000, "0-", "seed0000", "1\n2", "0\0")
GRIDS = ("", "2", "0x1", "1x0", "65x1", "1x65", "x", "2x2x2", "2*2", "-1x2", "1.5x2", "2x", "100x1", "٢x٢", "2X2",
         "9" * 5000 + "x1")
DEVICES = ("gpu", "", "cuda:99", "cuda:x", "cpu:1", "cpu:-1", "meta", "auto:0", "CPU", "xpu", "cpu,cuda", "a\0b", "n" * 5000)


def scrambled(text, letters, count, seed):
    """A text with a letter put in somewhere, in many ways."""
    draw = random.Random(seed)
    for _ in range(count):
        where = draw.randint(0, len(text))
        yield text[:where] + draw.choice(letters) + text[where:]


def wrong_values(names):
    """Faults of options that have one value."""
    bad = {**CHOICES, "--seeds": (*SEEDS, *scrambled("0-3,7", "abcx.;:/é+_\t", 10, 1)),
           "--grid": (*GRIDS, *scrambled("1x1", "abcyz.;:/é+-_", 10, 2))}
    bad.update((name, (*NO_WHOLE_NUMBERS, str(low - 1), *([str(high + 1)] if high < math.inf else []), "-9" + "9" * 400))
               for name, (low, high) in WHOLE.items())
    bad.update((name, (*NO_FINITE_NUMBERS, str(low), str(high))) for name, (low, high) in REAL.items())
    return [Fault({name: value}) for name in names for value in dict.fromkeys(bad[name])]


def places(name, suffix, file="file"):
    """Faults of where something goes: no path, one that no system takes, or one where something else is."""
    early = ("", "  ", f"a\0b{suffix}", f"{file}/out{suffix}", f"{file}/more/out{suffix}", f"/dev/null/out{suffix}",
             "n" * 300 + suffix, "n" * 5000 + suffix, "n/" * 3000 + f"out{suffix}", f"pipe{suffix}")
    return [*(Fault({name: place}) for place in early), Fault({name: f"/proc/nowhere/out{suffix}"}, late=True)]


def missing(base):
    has_default = ("--device", "--network", "--nrr", "--sample_mult", "--w-frames")
    return [Fault({name: None}) for name in base if name not in has_default
            and (base, name) != (BASES["check"], "--output")]


def unknown(*extra):
    """Options that are not there, and arguments that nobody expects."""
    names = ("--frames", "-x", "--Seeds", "--seed-s", "---", "--net work", "--é")
    return [*(Fault({name: "3"}) for name in names), *(Fault({name: True}) for name in (*names, "--outdirs")),
            *(Fault({"": more}) for more in ("more", "", " ", "tiny-random", "a\0b", *extra))]


# ------------------------------------------------------------------------------------------------ faults of files

CAMERA = [1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, 2.7, 0, 0, 0, 1, 4.2647, 0, 0.5, 0, 4.2647, 0.5, 0, 0, 1]  # in front, 2.7 away


def path_text(*cameras):
    return json.dumps(dict(cameras=cameras))


def camera_with(**changed):
    """The camera with some of its numbers changed: _3=1 changes the fourth."""
    return [changed.get(f"_{index}", number) for index, number in enumerate(CAMERA)]


def transposed(numbers, size):
    return [number for column in range(size) for number in numbers[column::size]]


CAMERA_PATHS = {  # name -> content
    "empty": "", "word": "cameras", "cut": path_text(CAMERA)[:100], "cut-late": path_text(CAMERA)[:-1],
    "bytes": bytes(range(256)), "latin": path_text(CAMERA).encode() + b"\xe9", "utf16": path_text(CAMERA).encode("utf-16"),
    "null": "null", "number": "3", "text": '"cameras"', "list": json.dumps([CAMERA]), "no-cameras": "{}",
    "other-key": json.dumps(dict(Cameras=[CAMERA])),
    "two-texts": path_text(CAMERA) * 2, "no-frames": path_text(), "dict": '{"cameras": {"0": 1}}',
    "text-inside": '{"cameras": "25"}', "flat": path_text(*CAMERA), "null-camera": path_text(None),
    "empty-camera": path_text([]),     "short": path_text(CAMERA[:24]), "long": path_text([*CAMERA, 0]),
    "pose-only": path_text(CAMERA[:16]),
    "matrix": path_text([CAMERA[:4], CAMERA[4:8], CAMERA[8:12], CAMERA[12:16]]), "second-short": path_text(CAMERA, CAMERA[:9]),
    "text-number": path_text(camera_with(_3="0")), "null-number": path_text(camera_with(_3=None)),
    "true": path_text(camera_with(_0=True)), "nested": path_text(camera_with(_3=[0])),
    "nan": path_text(camera_with(_3=math.nan)),
    "inf": path_text(camera_with(_11=math.inf)), "minus-inf": path_text(camera_with(_7=-math.inf)),
    "far": path_text(camera_with(_11=1e7)), "vast": path_text(camera_with(_11=10**400)),
    "digits": '{"cameras": [[' + "9" * 5000 + "]]}", "deep": "[" * 100_000, "mirrored": path_text(camera_with(_0=-1)),
    "scaled": path_text(camera_with(_0=2, _5=-2, _10=-2)), "sheared": path_text(camera_with(_1=0.1)),
    "no-rotation": path_text(camera_with(_0=0, _5=0, _10=0)), "zeros": path_text([0] * 25),
    "transposed": path_text(transposed(CAMERA[:16], 4) + CAMERA[16:]), "last-row": path_text(camera_with(_15=2)),
    "focal-zero": path_text(camera_with(_16=0)), "focal-negative": path_text(camera_with(_20=-1)),
    "focal-vanishes": path_text(camera_with(_16=1e-60)),  # zero in float32
    "intrinsics-transposed": path_text(CAMERA[:16] + transposed(CAMERA[16:], 3)),
    "intrinsics-last-row": path_text(camera_with(_24=0)), "second-mirrored": path_text(CAMERA, camera_with(_0=-1)),
}
CUTS = (1, 2, 9, 100, 1000, 10_000, 50_000, 300_000, 0.25, 0.5, 0.75, 0.999, -1000, -2, -1)  # bytes, shares, bytes from the end


class Hostile:
    """Asks whoever unpickles it to make a file."""

    def __reduce__(self):
        return os.system, ("touch executed",)


def torch_file(value):
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def with_options(snapshot, **changed):
    """A snapshot whose generator has other rendering options; None leaves one out."""
    G = snapshot["G_ema"]
    before = dict(G.rendering_kwargs)
    kept = {**before, **changed}
    G.rendering_kwargs = type(G.rendering_kwargs)({key: value for key, value in kept.items() if value is not None})
    written = io.BytesIO()
    pickle.dump(dict(G_ema=G), written, protocol=4)
    G.rendering_kwargs = type(G.rendering_kwargs)(before)
    return written.getvalue()


def make_networks(folder, tiny_path):
    """Files that are no networks, or networks that cannot be shown: where FAULTY_NETWORKS expects them."""
    tiny = tiny_path.read_bytes()
    snapshot = pickles.load(tiny_path)
    tensor_files.save(dict(G_ema=snapshot["G_ema"]), folder / "good.safetensors")
    tensors = (folder / "good.safetensors").read_bytes()
    shutil.copyfile(tiny_path, folder / "good.pkl")
    def with_rays(rays):
        G = pickles.load(tiny_path)["G_ema"]
        G.neural_rendering_resolution = rays
        G.rendering_kwargs["depth_resolution"] = 64
        return pickle.dumps(dict(G_ema=G))

    def with_axes(axes):
        G = pickles.load(tiny_path)["G_ema"]
        G.renderer.plane_axes = axes
        return pickle.dumps(dict(G_ema=G))

    draw = random.Random(3)
    contents = {
        "empty.pkl": b"", "text.pkl": b"hello\n", "zeros.pkl": bytes(1000), "noise.pkl": draw.randbytes(5000),
        "page.pkl": b"<!DOCTYPE html><html></html>", "lfs.pkl": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "picture.pkl": b"\x89PNG\r\n\x1a\n", "json.pkl": b'{"G_ema": 1}', "newer.pkl": b"\x80\x09.",
        "torch.pkl": torch_file([1]),
        "hostile.pkl": pickle.dumps(dict(G_ema=Hostile())), "tensors.pkl": pickle.dumps(torch.zeros(3), protocol=2)[:-9],
        "no-configuration.safetensors": safetensors.torch.save(dict(a=torch.zeros(2))),
        "claims.safetensors": (2**62).to_bytes(8, "little") + b"{}", "header.safetensors": (2).to_bytes(8, "little") + b"{]   ",
        "other.safetensors": safetensors.torch.save(dict(a=torch.zeros(2)), metadata=dict(eg3d="{}"))}
    contents.update((f"cut{index}.pkl", tiny[: cut if isinstance(cut, int) else int(cut * len(tiny))])
                    for index, cut in enumerate(CUTS))
    contents.update((f"cut{index}.safetensors", tensors[: cut if isinstance(cut, int) else int(cut * len(tensors))])
                    for index, cut in enumerate(CUTS))
    layer = FullyConnectedLayer(4, 3)
    diverged = pickles.load(tiny_path)["G_ema"]
    next(diverged.parameters()).data.view(-1)[0] = math.nan
    contents.update({
        "whole/number.pkl": pickle.dumps(3), "whole/list.pkl": pickle.dumps([1]), "whole/none.pkl": pickle.dumps(None),
        "whole/nothing.pkl": pickle.dumps({}), "whole/others.pkl": pickle.dumps(dict(a=1)),
        "whole/no-G.pkl": pickle.dumps(dict(G_ema=None)), "whole/text-G.pkl": pickle.dumps(dict(G_ema="G")),
        "whole/layer.pkl": pickle.dumps(dict(G_ema=layer)), "whole/D.pkl": pickle.dumps(dict(G_ema=snapshot["D"])),
        "whole/layer-alone.pkl": pickle.dumps(layer), "whole/no-box.pkl": with_options(snapshot, box_warp=None),
        "whole/no-depths.pkl": with_options(snapshot, depth_resolution=None, ray_start=None),
        "whole/text-depths.pkl": with_options(snapshot, depth_resolution="many"),
        "whole/negative-depths.pkl": with_options(snapshot, depth_resolution=-16),
        "whole/text-start.pkl": with_options(snapshot, ray_start="near"),
        "whole/text-box.pkl": with_options(snapshot, box_warp="large"),
        "whole/text-radius.pkl": with_options(snapshot, avg_camera_radius="far"),
        "whole/text-pivot.pkl": with_options(snapshot, avg_camera_pivot="here"),
        "whole/tiny-focal.pkl": with_options(snapshot, focal_length=1e-9),
        "whole/tensor-back.pkl": with_options(snapshot, white_back=torch.zeros(3)),
        "whole/tensor-zero.pkl": with_options(snapshot, c_gen_conditioning_zero=torch.ones(2)),
        "whole/tensor-disparity.pkl": with_options(snapshot, disparity_space_sampling=torch.ones(2)),
        "whole/tensor-clamp.pkl": with_options(snapshot, clamp_mode=torch.ones(2)),
        "whole/relu-clamp.pkl": with_options(snapshot, clamp_mode="relu"),
        "whole/list-noise.pkl": with_options(snapshot, superresolution_noise_mode=["none"]),
        "whole/flat-axes.pkl": with_axes(torch.zeros(3, 3, 3)),
        "whole/nan-axes.pkl": with_axes(torch.full((3, 3, 3), math.nan)),
        "whole/whole-axes.pkl": with_axes(torch.ones(3, 3, 3, dtype=torch.long)),
        "whole/most-samples.pkl": with_rays(4096),
        "nan/G.pkl": pickle.dumps(dict(G_ema=diverged))})
    for name, content in contents.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)


BROKEN = (  # no command reads them; nets/ is what make_networks fills
    "empty.pkl", "text.pkl", "zeros.pkl", "noise.pkl", "page.pkl", "lfs.pkl", "picture.pkl", "json.pkl", "newer.pkl",
    "torch.pkl", "hostile.pkl", "tensors.pkl", "no-configuration.safetensors", "claims.safetensors", "header.safetensors",
    "other.safetensors",
    *(f"cut{index}{suffix}" for index in range(len(CUTS)) for suffix in (".pkl", ".safetensors")))
NO_GENERATORS = ("number", "list", "none", "nothing", "others", "no-G", "text-G", "layer", "D", "layer-alone", "no-box",
                 "no-depths", "text-depths", "negative-depths", "text-start", "text-box", "text-radius", "text-pivot",
                 "tiny-focal", "tensor-back", "tensor-zero", "tensor-disparity", "tensor-clamp", "relu-clamp", "list-noise",
                 "flat-axes", "nan-axes", "whole-axes", "most-samples")
NO_NETWORKS = (
    "", " ", "ffhq", "TINY-RANDOM", "nowhere.pkl", "nowhere/net.pkl", "folder", ".", "/", "file", "file/net.pkl", "/dev/null",
    "/proc/self/mem", "a\0b.pkl", "a\nb.pkl", "n" * 300, "n" * 5000, "~/nowhere.pkl", "$HOME", "http://", "https:///net.pkl",
    "http://localhost:x/net.pkl", "http://[::1/net.pkl", "http://127.0.0.1:1/net.pkl", "http://a..b/net.pkl",
    "http://a b/net.pkl", "http://127.0.0.1:1/" + "n" * 300, "http://127.0.0.1:1/" + "n" * 5000, "file://",
    "file:///nowhere.pkl", "file:///a%00b", "ftp://localhost/net.pkl", "s3://bucket/net.pkl", "--network")


def networks(name, broken=BROKEN, whole=NO_GENERATORS, trusted=()):
    """Faults of what is to be loaded; `trusted` are for Python's own unpickler."""
    found = [network for network in NO_NETWORKS if name.startswith("-") or network != "--network"]
    found += [f"../nets/{network}" for network in broken] + [f"../nets/whole/{network}.pkl" for network in whole]
    return [*(Fault({name: network}, late=True) for network in found),
            *(Fault({name: f"../nets/{network}", "--trust": True}, late=True) for network in trusted)]


def make_working_folder(folder):
    """What the faults find where they run: they leave all of it as it is."""
    for inner in ("folder", "folder.pkl", "folder.png", "folder.json", "paths", "occupied/seed0000.png", "frames"):
        (folder / inner).mkdir(parents=True)
    for name in ("file", "folder/file", "film", "frames/00000.png", "occupied.pkl"):
        (folder / name).write_text("kept\n")
    for suffix in ("", ".pkl", ".safetensors", ".png", ".gif", ".mp4", ".json"):
        os.mkfifo(folder / f"pipe{suffix}")
    os.symlink("../nets/good.pkl", folder / "same.pkl")
    for name, content in CAMERA_PATHS.items():
        (folder / "paths" / f"{name}.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "paths" / "good.json").write_text(path_text(CAMERA, CAMERA))


# ------------------------------------------------------------------------------------------------ faults of each command

COMMON = [
    *wrong_values(["--seeds", "--trunc", "--trunc-cutoff", "--shape-res", "--shape-format", "--shape-level", "--shape-part",
                   "--shapes", "--reload_modules", "--precision", "--trust"]),
    Fault({"--device": "cpu", "--precision": "tf32"}, late=True),
    *(Fault({"--device": device}, late=True) for device in DEVICES), *unknown(),
    Fault({"--trust": True, "--reload_modules": True}), Fault({"--trust": True, "--reload_modules": "yes"})]

FAULTS = {
    "samples": [
        *COMMON, *networks("--network", trusted=[network for network in BROKEN[::2] if network != "hostile.pkl"]),
        *missing(BASES["samples"]), *wrong_values(["--fov-deg"]), *places("--outdir", ""),
        Fault({"--fov-deg": "1e-323"}, late=True),  # half of it is zero, and its tangent divides
        Fault({"--outdir": "file"}), Fault({"--outdir": "file/"}), Fault({"--outdir": "/dev/null"}),
        Fault({"--outdir": "occupied"}, late=True), *(Fault({name: "1"}) for name in ("--grid", "--fps", "--output"))],
    "videos": [
        *COMMON, *networks("--network", BROKEN[::8], ("number", "text-depths", "negative-depths", "text-box")),
        *missing(BASES["videos"]), *places("--output", ".mp4"),
        *wrong_values(["--grid", "--num-keyframes", "--shuffle-seed", "--w-frames", "--fps", "--orbit", "--cfg", "--image_mode",
                       "--depth-colors", "--sample_mult", "--nrr", "--interpolate"]),
        *(Fault({**fault.changes, "--w-frames": None}) for fault in wrong_values(["--seconds"])),
        # Where it goes.
        *(Fault({**fault.changes, "--output": None}, fault.late) for fault in places("--outdir", "")),
        *(Fault({"--output": output}) for output in (
            "film.avi", "film.mp4.txt", "film.MP4", "film.png", "file", "file/", "pipe", "pipe/")),
        Fault({"--outdir": "out"}), Fault({"--outdir": "out", "--output": "out/film.mp4"}),
        Fault({"--output": "film.gif", "--shapes": True, "--shape-res": "8"}),  # film/ for the shapes: a file is there
        *places("--save-camera-path", ".json"),
        *(Fault({"--save-camera-path": place}) for place in ("folder", "folder.json", ".", "folder/", "file/", "out", "out/")),
        Fault({"--output": "film.gif", "--save-camera-path": "film.gif"}),
        Fault({"--output": "film.gif", "--save-camera-path": "./folder/../film.gif"}),
        # How long, how fast.
        Fault({"--seconds": "1"}), Fault({"--seconds": "86400", "--fps": "240", "--w-frames": None}),
        Fault({"--w-frames": "1000000", "--seeds": "0-1"}), Fault({"--num-keyframes": "500001"}),
        *(Fault({"--output": "film.gif", "--fps": fps}) for fps in ("60", "30", "24", "51", "100", "240", "33.3", "0.3")),
        # What is filmed.
        *(Fault({"--grid": grid, "--seeds": seeds}) for grid, seeds in (("2x2", "0"), ("2x1", "0-2"), ("64x64", "0-9"))),
        *(Fault({"--interpolate": "false", **changes}) for changes in (
            {"--grid": "2x1"}, {"--num-keyframes": "2"}, {"--shuffle-seed": "0"}, {"--seeds": "0-1", "--output": "film.gif"})),
        *(Fault({"--sample_mult": less}, late=True) for less in ("0.01", "1e-300", "0.24")),
        # Which way.
        *(Fault({"--camera-path": "paths/good.json", **more}) for more in (
            {"--orbit": True}, {"--orbit": "90"}, {"--seconds": "1"})),
        *(Fault({"--camera-path": place}) for place in (
            "", " ", "nowhere.json", "folder", ".", "file", "file/path.json", "/dev/null", "a\0b", "n" * 300, "n" * 5000,
            "../nets/good.pkl", "/proc/self/mem")),
        *(Fault({"--camera-path": f"paths/{name}.json"}) for name in CAMERA_PATHS)],
    "convert": [
        *networks("FROM", whole=(), trusted=BROKEN[:5]), *missing(BASES["convert"]), *places("TO", ".pkl"),
        *places("TO", ".safetensors"), *unknown("out.pkl"), *wrong_values(["--trust"]),
        *(Fault({"TO": target}) for target in (
            "out", "out.pt", "out.PKL", "out.pkl.gz", ".pkl", "out.", "folder", "file", "out.pkl/", "occupied.pkl/",
            "folder.pkl")),
        Fault({"FROM": "../nets/good.pkl", "TO": "same.pkl"}), Fault({"FROM": "same.pkl", "TO": "../nets/good.pkl"}),
        Fault({"FROM": "same.pkl", "TO": "./same.pkl"}), Fault({"--device": "cpu"}), Fault({"--seeds": "0"}),
        *(Fault({"--only": name}) for name in ("G_emma", "", " ", "g_ema", "G_ema ", "augment_pipe", "0", "é", "n" * 5000,
                                              "a\0b")),
        Fault({"FROM": "../nets/good.safetensors", "--only": "D"})],
    "check": [
        *networks("FILE", BROKEN[::3]), *missing(BASES["check"]), *places("--output", ".png"), *unknown(),
        *wrong_values(["--seed", "--trust"]), *(Fault({"--device": device}) for device in DEVICES),
        Fault({"FILE": "../nets/nan/G.pkl"}), Fault({"--seeds": "0"}),
        *(Fault({"--output": output}) for output in (
            "out.jpg", "out", "out.PNG", "out.png.txt", ".png", "folder", "folder.png", "file", "out.png/", "."))],
    "": [Fault({"": word, "more": more}) for word in ("paint", "", " ", "Samples", "samples ", "--frames", "-q", "--version=1",
                                                      "é", "a\0b", "n" * 5000) for more in (None, "more", "--seeds=0")],
}
PAIRS = 30  # for each command


def cases():
    """(command, changes, late): every fault alone, then pairs whose first is told by its value, so that no other cures it."""
    draw = random.Random(4)
    told = (*WHOLE, *REAL, *CHOICES, "--seeds", "--frames", "--only", "TO")
    for command, faults in FAULTS.items():
        yield from ((command, *fault) for fault in faults)
        certain = [fault for fault in faults if not fault.late and len(fault.changes) == 1
                   and None not in fault.changes.values() and next(iter(fault.changes)) in told]
        for _ in range(PAIRS if command else 0):
            first = draw.choice(certain)
            second = draw.choice([fault for fault in faults if not fault.changes.keys() & first.changes.keys()])
            yield command, {**first.changes, **second.changes}, False


CASES = list(cases())


def case_id(case):
    number, (command, changes, _late) = case
    what = "-".join(re.sub(r"\W", "", name) for name in changes)
    return f"{number}-{command or 'eg3d'}-{what}"


# ------------------------------------------------------------------------------------------------ the property

def tree(folder):
    """What is there: path -> kind, size, times of the last change of content and of status. Of folders only that they are."""
    found = {}
    for place, folders, files in os.walk(folder):
        found.update((os.path.join(place, name), None) for name in folders)
        for path in (os.path.join(place, name) for name in files):
            state = os.lstat(path)
            found[path] = (state.st_mode, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return found


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_path):
    """Two folders: here, where commands run, and nets."""
    world = tmp_path_factory.mktemp("world")
    for name, fill in (("nets", lambda folder: make_networks(folder, tiny_path)), ("here", make_working_folder)):
        (world / name).mkdir()
        fill(world / name)
    return world


@pytest.fixture
def run(world, tmp_path_factory, monkeypatch, capfd):
    """Runs a line: (exit code or what was raised, standard output, standard error)."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.chdir(world / "here")
    monkeypatch.setenv("EG3D_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    capfd.readouterr()

    def run(command, arguments):
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        try:
            options.run(command)
            code = None
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException as error:
            code = repr(error)
        return code, *capfd.readouterr()

    yield run
    signal.signal(signal.SIGTERM, before)


def complaint(code, out, err, late):
    """What the property misses in how a command ended, or None."""
    lines = [line for line in re.split(r"[\r\n]+", err) if line.strip()]
    if code != 2:
        return f"ended with {code}"
    if "Traceback" in out + err:
        return "a traceback"
    if not lines or not re.match(r"Error: \S", lines[-1]):
        return "the last line is no error"
    other = [line for line in lines[:-1] if not re.match(r"Loading .* \.\.\.$|Warning: \S|[\w. -]*:?\s*\d+%\|", line)]
    if other:
        return f"unexpected line {other[0]!r}"
    if len(lines[-1]) > LONGEST_MESSAGE:
        return f"a message of {len(lines[-1])} characters"
    if not late and "Loading" in err:
        return "loads a network before it finds the fault"
    return None


@pytest.mark.parametrize("case", list(enumerate(CASES)), ids=case_id)
def test_bad_input(run, world, case):
    """One fault or two: one line, and nothing left."""
    number, (command, changes, late) = case
    arguments = typed(BASES.get(command, {}), changes)
    script = SCRIPTS.get(command) if number % 2 else None  # half of these as the script, half as a command of eg3d
    before = tree(world)
    code, out, err = run(script or main.eg3d, arguments if script or not command else [command, *arguments])
    after = tree(world)
    if before != after:
        shutil.rmtree(world / "here")  # the next case finds it as it was
        (world / "here").mkdir()
        make_working_folder(world / "here")
    shown = [argument if len(argument) < 100 else f"{argument[:100]}..." for argument in arguments]
    wrong = complaint(code, out, err, late)
    assert wrong is None, f"{wrong}: {command} {shown}\n{err[-2000:]}"
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path, 0) != after.get(path, 0))
    assert changed == [], f"left or changed: {command} {shown}\n{err[-2000:]}"


def test_there_are_enough_cases():
    assert len(CASES) >= 300 and len({(command, *typed({}, changes)) for command, changes, _ in CASES}) >= 300


@pytest.mark.parametrize("command", BASES)
def test_lines_that_work(run, world, tmp_path, monkeypatch, command):
    """Without a fault each line does its work, so the faults are what the others end with."""
    monkeypatch.chdir(tmp_path)
    code, _, err = run(main.eg3d, [command, *typed(BASES[command], {})])
    assert code == 0 and "Error" not in err and len(os.listdir(tmp_path)) == 1


def test_the_files_that_work(run, world, tmp_path, monkeypatch):
    """The good neighbours of the faulty files are taken."""
    monkeypatch.chdir(tmp_path)
    for name, file in (("--camera-path", "here/paths/good.json"), ("--network", "nets/good.safetensors")):
        assert run(videos, typed(BASES["videos"], {name: str(world / file), "--output": f"{name}/"}))[0] == 0


# ------------------------------------------------------------------------------------------------ more than fits

def test_keyframes_that_fit_no_memory(tmp_path):
    """A million keyframes in each of 4096 cells: refused as too long a film, before a list of them is made."""
    limited = "import resource as r; r.setrlimit(r.RLIMIT_DATA, (3 << 29,) * 2); from eg3d.cli.videos import main; main()"
    line = typed(BASES["videos"], {"--num-keyframes": "1000000", "--grid": "64x64"})
    done = subprocess.run([sys.executable, "-c", limited, *line], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True,
                          timeout=120)
    assert complaint(done.returncode, done.stdout, done.stderr, late=False) is None, done.stderr[-500:]


# Runs lines with a limit on the size of files, which is what a full disk looks like: a write that fails half-way.
FULL_DISK = """
import contextlib, io, json, os, resource, signal, sys
from eg3d.cli import main, options

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
ended = []
for folder, limit, line in json.loads(sys.argv[1]):
    os.mkdir(folder)
    os.chdir(folder)
    sys.argv = ["eg3d", *line]
    out, err, code = io.StringIO(), io.StringIO(), 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            options.run(main.eg3d)
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            code = repr(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    left = sorted(os.path.join(place, name) for place, folders, files in os.walk(".") for name in (*folders, *files))
    ended.append([code, out.getvalue(), err.getvalue(), left])
print(json.dumps(ended))
"""
TINY_DISK, SMALL_DISK = 50, 100_000  # bytes: less than any file; more than pictures, less than shapes and networks
FILM = {"--output": "film.mp4"}
VOLUME = {"--shapes": True, "--shape-res": "48"}
SURFACE = {**VOLUME, "--shape-level": "-1.5"}
ON_FULL_DISKS = {  # what is written -> command, changes, limit, the file to be named, complete files that may stay
    "picture": ("samples", {}, TINY_DISK, "out/seed0000.png", []),
    "mrc": ("samples", {**VOLUME, "--shape-format": ".mrc"}, SMALL_DISK, "out/seed0000.mrc", ["./out", "./out/seed0000.png"]),
    "ply": ("samples", {**SURFACE, "--shape-format": ".ply"}, SMALL_DISK, "out/seed0000.ply", ["./out", "./out/seed0000.png"]),
    "mp4": ("videos", FILM, TINY_DISK, "film", []), "gif": ("videos", {"--output": "film.gif"}, TINY_DISK, "film", []),
    "deep-mp4": ("videos", {"--output": "a/b/film.mp4"}, TINY_DISK, "a/b/film", []),
    "pngs": ("videos", {"--output": "frames/"}, TINY_DISK, "frames", []),
    "camera-path": ("videos", {"--output": "f/", "--image_mode": "image_depth", "--save-camera-path": "path.json"}, 600,
                    "path.json", ["./f", "./f/00000.png", "./f/00001.png"]),
    "pkl": ("convert", {}, SMALL_DISK, "out.pkl", []),
    "pkl-at-once": ("convert", {"TO": "a/out.pkl"}, TINY_DISK, "a/out.pkl", []),
    "safetensors": ("convert", {"TO": "out.safetensors"}, SMALL_DISK, "out.safetensors", []),
    "check": ("check", {}, TINY_DISK, "out.png", []),
}


@pytest.fixture(scope="module")
def full_disks(tmp_path_factory):
    """How every line of ON_FULL_DISKS ended."""
    folder = tmp_path_factory.mktemp("full")
    lines = [(str(folder / name), limit, [command, *typed(BASES[command], changes)])
             for name, (command, changes, limit, *_) in ON_FULL_DISKS.items()]
    done = subprocess.run([sys.executable, "-B", "-c", FULL_DISK, json.dumps(lines)], env=ENVIRONMENT, capture_output=True,
                          text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return folder, dict(zip(ON_FULL_DISKS, json.loads(done.stdout)))


@pytest.mark.parametrize("written", ON_FULL_DISKS)
def test_full_disk(full_disks, written):
    """The error names the file that was asked for, not the one it is written as; half a file is never left."""
    folder, ended = full_disks
    code, out, err, left = ended[written]
    _, _, _, named, complete = ON_FULL_DISKS[written]
    assert complaint(code, out, err, late=True) is None, err
    last = err.splitlines()[-1]
    assert named in last and not re.search(r"(^|[ /])\.\w", last), last
    assert [path for path in left if path not in complete] == []
    for path in left:
        if path.endswith(".png"):
            assert np.asarray(PIL.Image.open(folder / written / path)).ndim == 3
