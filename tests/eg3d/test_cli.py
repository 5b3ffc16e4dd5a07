"""Commands: what they write, that they write it twice alike, and mistakes that cost the user one line and exit code 2."""

import importlib.metadata
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import imageio
import mrcfile
import numpy as np
import PIL.Image
import pytest
import torch
import trimesh
from hypothesis import example, given
from hypothesis import strategies as st

from eg3d import cameras, generator, sampling
from eg3d.cli import main, options
from eg3d.cli.samples import samples
from eg3d.cli.videos import videos
from torch_utils import images, persistence, pickles
from torch_utils.persistence import CheckpointError

ROOT = Path(__file__).parents[2]
ONE_THREAD = dict(os.environ, OMP_NUM_THREADS="1")
QUICK = ("--device=cpu", "--sample_mult=0.5", "--nrr=8", "--w-frames=2")  # of a film


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a command as its script does: (exit code, standard output, lines of standard error but 'Loading ...')."""
    def run(command, *arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            options.run(command)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, [line for line in err.splitlines() if line and not line.startswith("Loading ")]

    return run


def script(name, *arguments, cwd):
    """Runs a script in a process of its own; standard output."""
    done = subprocess.run([sys.executable, str(ROOT / name), *arguments], cwd=cwd, env=ONE_THREAD, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def film(path):
    """Frames [F, H, W, 3] and what the file says of itself."""
    with imageio.get_reader(path) as reader:
        return np.stack(list(reader.iter_data())), reader.get_meta_data()


# ------------------------------------------------------------------------------------------------ whole runs

def test_gen_samples_end_to_end(tmp_path):
    """The script, as users call it: a sheet of three views a seed, and its volume."""
    script("gen_samples.py", "--outdir=out", "--trunc=0.7", "--seeds=0,12", "--network=tiny-random", "--shapes=True",
           "--shape-res=16", cwd=tmp_path)
    assert sorted(os.listdir(tmp_path / "out")) == ["seed0000.mrc", "seed0000.png", "seed0012.mrc", "seed0012.png"]
    assert PIL.Image.open(tmp_path / "out" / "seed0012.png").size == (3 * 128, 128)
    with mrcfile.open(tmp_path / "out" / "seed0012.mrc") as volume:
        assert volume.data.shape == (16, 16, 16)


def test_gen_videos_end_to_end(tmp_path):
    """The script, with the official example's options: one film of a 2x2 grid, 60 frames a second."""
    script("gen_videos.py", f"--outdir={tmp_path / 'out'}", "--trunc=0.7", "--seeds=0-3", "--grid=2x2",
           "--network=tiny-random", "--w-frames=2", cwd=tmp_path)
    assert os.listdir(tmp_path / "out") == ["interpolation.mp4"]
    frames, about = film(tmp_path / "out" / "interpolation.mp4")
    assert frames.shape == (2, 256, 256, 3) and about["fps"] == 60


def test_gen_samples_shows_what_the_library_shows(run, tmp_path):
    """The sheet is the three views of sampling.sample_views."""
    assert run(samples, "--network=tiny-random", "--device=cpu", "--seeds=5", "--trunc=0.7", "--trunc-cutoff=8", "--fov-deg=20",
               f"--outdir={tmp_path}")[0] == 0
    [(_, _, views)] = sampling.sample_views(generator.load("tiny-random", device="cpu"), [5], 0.7, 8, 20)
    assert np.array_equal(np.asarray(PIL.Image.open(tmp_path / "seed0005.png")), images.grid(views, columns=3))


def test_same_command_same_files(run, tmp_path):
    """A second later, into another folder: every file is the same, byte by byte."""
    for folder in ("a", "b"):
        common = ("--network=tiny-random", "--device=cpu", f"--outdir={tmp_path / folder}", "--shapes", "--shape-res=8")
        assert run(samples, *common, "--seeds=1")[0] == 0
        assert run(videos, *common, *QUICK, "--seeds=0-1")[0] == 0
        if folder == "a":
            time.sleep(1.1)  # dates in files have seconds
    first, second = [
        {path.relative_to(tmp_path / folder): path.read_bytes() for path in (tmp_path / folder).rglob("*") if path.is_file()}
        for folder in ("a", "b")]
    assert len(first) == 2 + 1 + 4 + 1  # sheet, volume; film, volumes, trajectory
    assert first.keys() == second.keys() and [str(path) for path in first if first[path] != second[path]] == []


# ------------------------------------------------------------------------------------------------ options

def test_shapes_false(run, tmp_path):
    """--shapes takes a value, as in the original: false writes none; alone it means true."""
    for value, expected in (("--shapes=false", ["seed0000.png"]), ("--shapes", ["seed0000.mrc", "seed0000.png"])):
        assert run(samples, "--network=tiny-random", "--device=cpu", "--seeds=0", f"--outdir={tmp_path}", value,
                   "--shape-res=8")[0] == 0
        assert sorted(os.listdir(tmp_path)) == expected


def test_interpolate_false(run, tmp_path):
    """A film of each seed, which is what that seed's film shows alone."""
    common = ("--network=tiny-random", *QUICK)
    assert run(videos, *common, "--seeds=3,7", f"--outdir={tmp_path / 'each'}", "--interpolate=false")[0] == 0
    assert sorted(os.listdir(tmp_path / "each")) == ["3.mp4", "7.mp4"]
    assert run(videos, *common, "--seeds=7", f"--outdir={tmp_path / 'alone'}")[0] == 0
    alone = (tmp_path / "alone" / "interpolation.mp4").read_bytes()
    assert (tmp_path / "each" / "7.mp4").read_bytes() == alone != (tmp_path / "each" / "3.mp4").read_bytes()


def test_film_options(run, tmp_path):
    """Grid, keyframes and mode arrive: two columns, one row, two keyframes of two frames, the raw rendering."""
    assert run(videos, "--network=tiny-random", *QUICK, "--seeds=0-2", "--grid=2x1", "--num-keyframes=2", "--shuffle-seed=1",
               "--image_mode=image_raw", "--nrr=16", "--cfg=shapenet", f"--outdir={tmp_path}")[0] == 0
    frames, _ = film(tmp_path / "interpolation.mp4")
    assert frames.shape == (4, 16, 32, 3)


def test_shapes_of_a_film(run, tmp_path):
    """A volume a frame, and the cameras' poses: rigid motions at the network's radius."""
    assert run(
        videos, "--network=tiny-random", *QUICK, "--seeds=0", "--shapes", "--shape-res=8", f"--outdir={tmp_path}")[0] == 0
    assert sorted(os.listdir(tmp_path / "interpolation")) == ["0000_shape.mrc", "0001_shape.mrc"]
    poses = np.load(tmp_path / "interpolation_trajectory.npy")
    assert poses.shape == (2, 4, 4)
    np.testing.assert_allclose(poses[:, :3, :3] @ poses[:, :3, :3].transpose(0, 2, 1), [np.eye(3)] * 2, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), 2.7, rtol=1e-6)


# ------------------------------------------------------------------------------------------------ kinds of films

FILM = ("--network=tiny-random", "--device=cpu", "--sample_mult=0.5", "--nrr=8", "--seeds=0", "--image_mode=image_raw")  # 8x8


def pngs(folder):
    """Frames [F, H, W, 3] of a folder: 00000.png and on, nothing else."""
    names = sorted(os.listdir(folder))
    assert names == [f"{index:05d}.png" for index in range(len(names))]
    return np.stack([np.asarray(PIL.Image.open(folder / name)) for name in names])


def test_kinds_of_films(run, tmp_path):
    """.mp4, .webm, .gif and a folder hold the same three frames, each at its rate."""
    for output in ("film.mp4", "film.webm", "film.gif", "frames/"):
        code, _, err = run(videos, *FILM[:-1], "--w-frames=3", f"--output={tmp_path}/{output}")
        assert code == 0 and not any("Warning" in line for line in err), err
    assert sorted(os.listdir(tmp_path)) == ["film.gif", "film.mp4", "film.webm", "frames"]
    exact = pngs(tmp_path / "frames").astype(float)
    assert exact.shape == (3, 128, 128, 3)
    for suffix in (".mp4", ".webm", ".gif"):
        frames, about = film(tmp_path / f"film{suffix}")
        assert frames.shape == exact.shape
        if suffix == ".gif":
            assert PIL.Image.open(tmp_path / "film.gif").info["duration"] == 40  # milliseconds a frame: 25 a second
        else:
            assert about["fps"] == pytest.approx(60)
        # Codecs keep the picture, not the bit: halved colour resolution and palettes cost a few of 255 in the mean.
        assert np.abs(frames - exact).mean() < 6, suffix


@pytest.mark.parametrize("seconds, fps, frames", [("0.1", None, 6), ("1.25", "4", 5)])
def test_seconds_times_fps(run, tmp_path, seconds, fps, frames):
    """The length of the whole film, whatever the number of keyframes; 60 frames a second unless told otherwise."""
    rate = [f"--fps={fps}"] if fps else []
    assert run(videos, *FILM, "--seeds=0-1", f"--seconds={seconds}", *rate, f"--output={tmp_path}/film.mp4")[0] == 0
    shown, about = film(tmp_path / "film.mp4")
    assert len(shown) == frames and about["fps"] == float(fps or 60)


def test_default_length(run, tmp_path):
    """Two seconds a keyframe, at the rate that is asked for."""
    assert run(videos, *FILM, "--seeds=0-1", "--fps=1", f"--output={tmp_path}/frames/")[0] == 0
    assert len(pngs(tmp_path / "frames")) == 2 * 2 * 1


def saved_yaws(path):
    """Yaw of each saved camera from the frontal one, in degrees, and the cameras."""
    labels = np.array(json.loads(path.read_text())["cameras"])
    poses = labels[:, :16].reshape(-1, 4, 4)
    looks = poses[:, :3, 2]  # along +z; the frontal camera looks along -z
    return np.degrees(np.arctan2(looks[:, 0], -looks[:, 2])), labels


@pytest.mark.parametrize("orbit, expected", [
    ("--orbit", [0, 90, 180, 270]), ("--orbit=360", [0, 90, 180, 270]), ("--orbit=60", [0, 30, 0, -30])])
def test_orbit(run, tmp_path, orbit, expected):
    """Once about in even steps, or to and fro: half the angle to either side. It turns about the world's origin."""
    assert run(videos, *FILM, "--w-frames=4", orbit, f"--save-camera-path={tmp_path}/path.json",
               f"--output={tmp_path}/frames/")[0] == 0
    _, labels = saved_yaws(tmp_path / "path.json")
    centres = labels[:, [3, 7, 11]]
    turned = np.degrees(np.arctan2(centres[:, 0], centres[:, 2]))
    turned *= np.sign(turned[1])  # either way about
    # float32 positions 2.7 from the origin: 1e-7 of a radian; arcs of a degree would be a mistake
    np.testing.assert_allclose(np.cos(np.radians(turned - expected)), 1, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 2.7, rtol=1e-6)
    np.testing.assert_allclose(centres[:, 1], 0, atol=1e-5)
    assert len(np.unique(pngs(tmp_path / "frames"), axis=0)) > 1


def test_saved_path_is_followed(run, tmp_path):
    """The film of a saved path is the film that it was saved from; the path saved again is the same."""
    assert run(videos, *FILM, "--w-frames=3", f"--output={tmp_path}/first/", f"--save-camera-path={tmp_path}/path.json")[0] == 0
    assert run(videos, *FILM, f"--camera-path={tmp_path}/path.json", f"--output={tmp_path}/second/",
               f"--save-camera-path={tmp_path}/again.json")[0] == 0
    first, second = pngs(tmp_path / "first"), pngs(tmp_path / "second")
    assert len(first) == 3 and np.array_equal(first, second) and not np.array_equal(first[0], first[1])
    assert (tmp_path / "path.json").read_bytes() == (tmp_path / "again.json").read_bytes()


def test_followed_path_is_resampled(run, tmp_path):
    """Three cameras become five frames: the first, middle and last are the path's own, those between turn half-way.

    It can be told in frames or in seconds.
    """
    labels = torch.cat([cameras.view({}, yaw=math.radians(yaw)) for yaw in (0, 20, 60)])
    (tmp_path / "path.json").write_text(json.dumps(dict(cameras=labels.tolist())))
    for length in ("--w-frames=5", "--seconds=0.5"):
        assert run(videos, *FILM, f"--camera-path={tmp_path}/path.json", length, "--fps=10", f"--output={tmp_path}/{length}/",
                   f"--save-camera-path={tmp_path}/five.json")[0] == 0
        assert len(pngs(tmp_path / length)) == 5
        yaws, five = saved_yaws(tmp_path / "five.json")
        # float32 rotations: 1e-7 of a radian is 1e-5 degrees
        np.testing.assert_allclose(np.abs(yaws), [0, 10, 20, 40, 60], atol=1e-4)
        np.testing.assert_allclose(five[::2], labels, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(five[:, [3, 7, 11]], axis=1), 2.7, rtol=1e-6)


def test_what_a_saved_path_replaces(run, tmp_path):
    """Another path that is not the one followed; nothing else, and that is told before anything is loaded."""
    path, other = tmp_path / "path.json", tmp_path / "other.json"
    other.write_text('{"labels": []}')
    line = (*FILM, "--w-frames=2", f"--output={tmp_path}/film.gif", "--fps=10")
    assert run(videos, *line, f"--save-camera-path={path}")[0] == 0
    first = path.read_bytes()
    fails(run(videos, *line, f"--save-camera-path={other}"), "other.json", "holds no camera path")
    fails(run(videos, *line, f"--camera-path={path}", f"--save-camera-path={tmp_path}/./path.json"),
          "the path that is followed")
    assert path.read_bytes() == first and other.read_text() == '{"labels": []}'
    assert run(videos, *line, "--orbit", f"--save-camera-path={path}")[0] == 0 and path.read_bytes() != first


def test_shapes_of_another_film_are_not_mixed(run, tmp_path):
    """A folder with numbered shapes is refused; in --output=. the trajectory has a name that is seen."""
    line = (*FILM, "--w-frames=1", "--shapes", "--shape-res=8", f"--outdir={tmp_path}")
    assert run(videos, *line)[0] == 0
    before = sorted(os.listdir(tmp_path))
    fails(run(videos, *line), "holds numbered shapes already")
    assert before == sorted(os.listdir(tmp_path)) == ["interpolation", "interpolation.mp4", "interpolation_trajectory.npy"]


def test_shapes_of_this_folder(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(videos, *FILM, "--w-frames=1", "--shapes", "--shape-res=8", "--output=.")[0] == 0
    assert sorted(os.listdir()) == ["00000.png", "0000_shape.mrc", "trajectory.npy"]


def test_home_and_links(run, tmp_path, monkeypatch):
    """~ stands for the home folder, which shells leave as it is in --option=~/place; a link to a place is followed."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run(main.eg3d, "convert", "tiny-random", "~/net.pkl")[0] == 0
    (tmp_path / "real").mkdir()
    (tmp_path / "film.gif").symlink_to("real/film.gif")
    assert run(videos, "--network=~/net.pkl", *FILM[1:], "--w-frames=2", "--output=~/film.gif")[0] == 0
    assert (tmp_path / "film.gif").is_symlink() and os.listdir(tmp_path / "real") == ["film.gif"]
    assert len(film(tmp_path / "real" / "film.gif")[0]) == 2


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are POSIX's")
def test_pipe_for_a_network(run, tmp_path):
    """A network is read twice, so a pipe is refused, and nobody waits for its other end."""
    os.mkfifo(tmp_path / "pipe")
    fails(run(samples, f"--network={tmp_path / 'pipe'}", "--seeds=0", f"--outdir={tmp_path / 'out'}"), "pipe", "disk")


def test_published_commands_name_a_size_without_shapes(run, tmp_path):
    """--shape-res alone does nothing, in the original too."""
    assert run(samples, "--network=tiny-random", "--device=cpu", "--seeds=0", "--shape-res=16", f"--outdir={tmp_path}")[0] == 0
    assert os.listdir(tmp_path) == ["seed0000.png"]


def test_depth_colors(run, tmp_path):
    """Grey shows depth as one value; viridis gives near yellow and far violet, and its order of lightness is grey's."""
    for colors in ("grey", "viridis"):
        assert run(videos, *FILM, "--image_mode=image_depth", "--w-frames=1", f"--depth-colors={colors}",
                   f"--output={tmp_path}/{colors}/")[0] == 0
    [grey], [viridis] = pngs(tmp_path / "grey"), pngs(tmp_path / "viridis")
    assert (grey == grey[..., :1]).all() and grey.min() == 0 and grey.max() == 255
    near, far = grey[..., 0] == 255, grey[..., 0] == 0
    # The ends of viridis, van der Walt and Smith 2015; one of 255 for rounding.
    np.testing.assert_allclose(viridis[near], [[253, 231, 37]] * near.sum(), atol=1)
    np.testing.assert_allclose(viridis[far], [[68, 1, 84]] * far.sum(), atol=1)
    order = np.argsort(grey[..., 0].ravel(), kind="stable")
    lightness = (viridis.astype(float) @ [0.2126, 0.7152, 0.0722]).ravel()[order]
    assert (np.diff(lightness) > -2).all()  # rounding of three channels


def test_encoder_that_fails(run, tmp_path, monkeypatch):
    """Without a working ffmpeg the frames become PNGs: one line of warning, and exit code 0."""
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", "/bin/false")
    code, _, err = run(videos, *FILM, "--w-frames=2", f"--output={tmp_path}/film.mp4")
    warned = [line for line in err if line.startswith("Warning: ")]
    assert code == 0 and len(warned) == 1 and "film-frames" in warned[0] and not any("Error: " in line for line in err), err
    assert os.listdir(tmp_path) == ["film-frames"] and len(pngs(tmp_path / "film-frames")) == 2


# ------------------------------------------------------------------------------------------------ surfaces

CROSSED = "--shape-level=-1"  # the shipped network's density lies between about -2.5 and -0.7


@pytest.mark.parametrize("seeds, same", [("0,0", True), ("0-1", False)], ids=["fixed", "moving"])
def test_surfaces_of_a_film(run, tmp_path, seeds, same):
    """A surface a frame; those of a fixed identity are equal, those of one that changes are not."""
    assert run(videos, *FILM, f"--seeds={seeds}", "--num-keyframes=2", "--w-frames=1", "--shapes", "--shape-res=16", CROSSED,
               "--shape-format=.glb", f"--output={tmp_path}/film/")[0] == 0
    assert sorted(os.listdir(tmp_path / "film")) == ["00000.png", "00001.png", "0000_shape.glb", "0001_shape.glb"]
    first, second = [(tmp_path / "film" / f"{index:04d}_shape.glb").read_bytes() for index in range(2)]
    assert (first == second) == same and len(trimesh.load_mesh(tmp_path / "film" / "0001_shape.glb").faces) > 0
    assert np.load(tmp_path / "film_trajectory.npy").shape == (2, 4, 4)


def test_surfaces_of_seeds(run, tmp_path):
    """.ply, .obj and .glb hold the same surface, inside the network's box, coloured; the largest part is no larger."""
    meshes = {}
    for part, suffix in (("all", ".ply"), ("all", ".obj"), ("all", ".glb"), ("largest", ".ply")):
        folder = tmp_path / part
        code, _, err = run(samples, "--network=tiny-random", "--device=cpu", "--seeds=0", "--shapes", "--shape-res=24", CROSSED,
                           f"--shape-format={suffix}", f"--shape-part={part}", f"--outdir={folder}")
        assert code == 0, err
        meshes[part, suffix] = trimesh.load_mesh(folder / f"seed0000{suffix}", process=False)
    ply = meshes["all", ".ply"]
    assert len(ply.faces) > 100 and np.abs(ply.vertices).max() <= 0.5
    for suffix in (".obj", ".glb"):
        other = meshes["all", suffix]
        assert len(other.faces) == len(ply.faces)
        # Eight decimals in .obj, float32 elsewhere, in a box of side 1.
        np.testing.assert_allclose(other.bounds, ply.bounds, atol=1e-6)
        np.testing.assert_allclose(other.area, ply.area, rtol=1e-4)
    assert len(np.unique(ply.visual.vertex_colors, axis=0)) > 1
    parts = ply.split(only_watertight=False)
    largest = max(parts, key=lambda part: part.area)
    assert len(meshes["largest", ".ply"].faces) == len(largest.faces)


# ------------------------------------------------------------------------------------------------ fields of view

def with_rendering(tiny_path, path, **changed):
    """The shipped snapshot with other rendering_kwargs."""
    snapshot = pickles.load(tiny_path)
    snapshot["G_ema"].rendering_kwargs.update(changed)
    pickles.save(snapshot, path)
    return path


def test_networks_of_shapenet(run, tiny_path, tmp_path):
    """A camera at distance 1.7 means ShapeNet's focal length 1.7074 in pictures and in films, unless --fov-deg or --cfg say so.

    The diagonal field of view of that focal length is 2 atan(sqrt(1/2) / 1.7074) = 45 degrees.
    """
    network = with_rendering(tiny_path, tmp_path / "cars.pkl", avg_camera_radius=1.7, avg_camera_pivot=[0, 0, 0])
    fov = math.degrees(2 * math.atan(math.sqrt(0.5) / 1.7074))
    sheets = {}
    for name, angle in (("own", ()), ("shapenet", (f"--fov-deg={fov!r}",)), ("ffhq", ("--fov-deg=18.83",))):
        assert run(samples, f"--network={network}", "--device=cpu", "--seeds=0", f"--outdir={tmp_path / name}",
                   *angle)[0] == 0
        sheets[name] = np.asarray(PIL.Image.open(tmp_path / name / "seed0000.png")).astype(int)
    # The two focal lengths differ in the last bit of float32: where a picture is truncated to bytes, by one.
    assert np.abs(sheets["own"] - sheets["shapenet"]).max() <= 1 and np.abs(sheets["own"] - sheets["ffhq"]).max() > 1
    for index, (cfg, focal) in enumerate([((), 1.7074), (("--cfg=FFHQ",), 4.2647), (("--cfg=Shapenet",), 1.7074)]):
        assert run(videos, f"--network={network}", *FILM[1:], "--w-frames=2", *cfg, f"--output={tmp_path}/film{index}/",
                   f"--save-camera-path={tmp_path}/path.json")[0] == 0
        _, labels = saved_yaws(tmp_path / "path.json")
        np.testing.assert_allclose(labels[:, 16:], [[focal, 0, 0.5, 0, focal, 0.5, 0, 0, 1]] * 2, rtol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(labels[:, [3, 7, 11]], axis=1), 1.7, rtol=1e-6)


def test_fov_defaults_to_the_data(run, tmp_path):
    """Of the shipped network: FFHQ's focal length 4.2647, a diagonal of 18.83 degrees, not the original's 18."""
    fov = math.degrees(2 * math.atan(math.sqrt(0.5) / 4.2647))
    sheets = []
    for name, more in (("own", ()), ("same", (f"--fov-deg={fov!r}",)), ("cut", ("--fov-deg=18",))):
        assert run(samples, "--network=tiny-random", "--device=cpu", "--seeds=0", f"--outdir={tmp_path / name}", *more)[0] == 0
        sheets.append(np.asarray(PIL.Image.open(tmp_path / name / "seed0000.png")).astype(int))
    assert np.abs(sheets[0] - sheets[1]).max() <= 1 < np.abs(sheets[0] - sheets[2]).max()  # as above


# ------------------------------------------------------------------------------------------------ mistakes

def fails(result, *words):
    """Exit code 2, nothing on standard output, and one line of error that holds these words."""
    code, out, err = result
    assert code == 2 and out == "" and len(err) == 1 and err[0].startswith("Error: "), result
    assert all(word in err[0] for word in words), err[0]


MISTAKES = {  # what is typed -> words of the message
    "--seeds=3-1": "upwards", "--seeds=a": "'a' is no seed", "--seeds=": "--seeds", "--seeds=-1": "--seeds",
    "--seeds=1,,2": "--seeds", "--seeds=4294967296": "below 4294967296", "--seeds=0-2000000": "a million",
    "--grid=2": "4x2", "--grid=0x1": "--grid", "--grid=65x1": "1 to 64", "--grid=2x2": "1 seeds do not fill a grid of 4",
    "--device=gpu": "choose auto, cpu, cuda or mps", "--device=cuda:99": "cuda:99 is not available",
    "--device=cpu --precision=tf32": "--precision=tf32 is of CUDA cards", "--precision=half": "tf32",
    "--network=ffhq": "ffhq: no such file; known names: demo, tiny-random", "--network=.": "a folder",
    "--network=pyproject.toml": "pyproject.toml: not a pickle", "--network=http://localhost:x/y.pkl": "http://localhost:x/y.pkl",
    "--cfg=cats": "shapenet", "--image_mode=depth": "image_raw", "--w-frames=0": "--w-frames", "--trunc=high": "--trunc",
    "--trunc=nan": "--trunc", "--trunc=inf": "--trunc", "--sample_mult=nan": "--sample_mult",
    "--nrr=1": "--nrr", "--sample_mult=0": "--sample_mult", "--interpolate=perhaps": "perhaps",
    "--num-keyframes=0": "--num-keyframes", "--shuffle-seed=-1": "--shuffle-seed", "--frames=3": "--frames", "more": "more",
    "--reload_modules=1 --trust": "--trust", "--fps=0": "--fps", "--fps=inf": "--fps", "--seconds=0": "--seconds",
    "--seconds=1": "--w-frames and --seconds", "--orbit=0": "--orbit", "--orbit=361": "--orbit",
    "--output=film.mp4": "--outdir=FOLDER or --output=FILE", "--camera-path=nowhere.json": "nowhere.json",
    "--camera-path=pyproject.toml": "pyproject.toml: no JSON", "--depth-colors=red": "viridis",
    "--save-camera-path=README.md/path.json": "README.md", "--seeds=0-1 --w-frames=1000000": "2000000 frames",
}


@pytest.mark.parametrize("typed", MISTAKES)
def test_mistakes(run, tmp_path, monkeypatch, typed):
    """Values that do not exist; nothing is written."""
    monkeypatch.chdir(ROOT)
    out = tmp_path / "out"
    fails(run(videos, "--network=tiny-random", *QUICK, "--seeds=0", f"--outdir={out}", *typed.split(" ")), MISTAKES[typed])
    assert not out.exists() or os.listdir(out) == []


@pytest.mark.parametrize("command", [samples, videos], ids=["samples", "videos"])
@pytest.mark.parametrize("missing", ["seeds", "outdir"])
def test_missing_options(run, tmp_path, command, missing):
    given = dict(network="tiny-random", seeds="0", outdir=tmp_path)
    fails(run(command, *[f"--{name}={value}" for name, value in given.items() if name != missing]), f"--{missing}")


@pytest.mark.parametrize("command", [samples, videos], ids=["samples", "videos"])
def test_outdir_that_is_a_file(run, tmp_path, command):
    """A file in the folder's place, or in its parent's."""
    (tmp_path / "file").write_text("kept")
    for outdir in (tmp_path / "file", tmp_path / "file" / "out"):
        fails(run(command, "--network=tiny-random", "--device=cpu", "--seeds=0", f"--outdir={outdir}"), str(outdir))
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("option, words", [
    ("--fov-deg=0", ("--fov-deg",)), ("--fov-deg=180", ("--fov-deg",)), ("--fov-deg=nan", ("--fov-deg",)),
    ("--trunc=nan", ("--trunc",)), ("--trunc=-inf", ("--trunc",)), ("--shape-res=7", ("--shape-res",)),
    ("--shape-format=.stl", ("--shape-format", ".mrc", ".ply", ".obj", ".glb")),
    ("--shape-part=none", ("--shape-part", "largest")),
    ("--shape-level=nan", ("--shape-level",)), ("--shapes=maybe", ("--shapes", "maybe")),
    ("--trunc-cutoff=-1", ("--trunc-cutoff",))])
def test_mistakes_of_samples(run, tmp_path, option, words):
    fails(run(samples, "--network=tiny-random", "--device=cpu", "--seeds=0", f"--outdir={tmp_path / 'out'}", option), *words)


def test_mistakes_that_show_late(run, tmp_path):
    """With progress on the screen already: exit code 2, the error is the last line, and no film is left."""
    code, _, err = run(videos, "--network=tiny-random", *QUICK, "--seeds=0", "--sample_mult=0.01", f"--outdir={tmp_path}")
    assert code == 2 and err[-1].startswith("Error: ") and "0 samples on a ray" in err[-1] and os.listdir(tmp_path) == []


def test_seeds_without_surface(run, tmp_path):
    """A density that nowhere crosses the level is a warning for each seed and, after all pictures were made, an error."""
    code, _, err = run(samples, "--network=tiny-random", "--device=cpu", "--seeds=0-1", "--shapes", "--shape-res=8",
                       "--shape-format=.ply", f"--outdir={tmp_path}")
    assert code == 2 and sorted(os.listdir(tmp_path)) == ["seed0000.png", "seed0001.png"]
    assert err[-1].startswith("Error: ") and "--shape-level" in err[-1]
    assert "2 of 2 seeds have no surface" in err[-1]
    assert all(any("Warning" in line and f"seed000{seed}.ply: no surface" in line for line in err) for seed in range(2))


@pytest.mark.parametrize("option", ["--grid=2x1", "--num-keyframes=2", "--shuffle-seed=0"])
def test_options_of_one_film_only(run, tmp_path, option):
    """What arranges seeds in a film is refused where each seed gets its own."""
    fails(run(videos, "--network=tiny-random", *QUICK, "--seeds=0-1", f"--outdir={tmp_path}", "--interpolate=false", option),
          "--interpolate", option.split("=")[0])


@pytest.mark.parametrize("error, code", [
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), 2), (OSError("no space\nleft"), 2),
    (ValueError("a\nb"), 2), (CheckpointError("damaged"), 2), (click.UsageError("not so"), 2), (KeyboardInterrupt(), 130),
    (MemoryError(), 2), (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."), 2),
    (click.Abort(), 130)], ids=lambda value: type(value).__name__)
def test_how_commands_end(run, error, code):
    """Whatever the user or the machine may cause ends in one line without traceback."""
    @click.command()
    def command():
        raise error

    ended, _, err = run(command)
    assert ended == code and len(err) == 1 and err[0].startswith("Error: " if code == 2 else "Interrupted")


def test_our_own_mistakes_are_not_hidden(run):
    """An error that nobody foresaw shows where it happened."""
    @click.command()
    def command():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        run(command)


@pytest.mark.parametrize("command, typed, words", [
    (samples, ["--shape-level=1"], "--shape-level needs --shapes"),
    (samples, ["--shapes", "--shape-part=largest"], "--shape-part needs"),
    (samples, ["--shape-format=.ply"], "--shape-format needs --shapes"),
    (videos, [*QUICK, "--shape-format=.mrc"], "--shape-format needs --shapes"),
    (videos, [*QUICK, "--shapes", "--shape-format=.mrc", "--shape-level=1"], "--shape-level needs"),
    (videos, [*QUICK, "--depth-colors=viridis"], "--depth-colors needs --image_mode=image_depth")])
def test_options_that_nothing_would_read(run, tmp_path, command, typed, words):
    """They are refused, before the network is loaded."""
    fails(run(command, "--network=nowhere.pkl", "--seeds=0", f"--outdir={tmp_path / 'out'}", *typed), words)


# ------------------------------------------------------------------------------------------------ trust

@pytest.fixture
def fork(tiny_path, tmp_path, monkeypatch):
    """A network whose file carries source of its own, which leaves a mark where it is executed: (network, mark)."""
    mark = tmp_path / "executed"
    source = (ROOT / "training" / "triplane.py").read_text() + f"\nimport pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    snapshot = pickles.load(tiny_path)
    with monkeypatch.context() as patch:
        patch.setitem(persistence._sources, "training.triplane", source)
        pickles.save(snapshot, tmp_path / "fork.pkl")
    return tmp_path / "fork.pkl", mark


def test_only_trust_executes_what_a_file_carries(run, fork, tmp_path):
    """Without --trust, with or without --reload_modules, the carried source stays text; the pictures are the same."""
    network, mark = fork
    sheets = []
    for folder, flags in (("data", []), ("reloaded", ["--reload_modules=True"]), ("trusted", ["--trust"])):
        code, _, err = run(
            samples, f"--network={network}", "--device=cpu", "--seeds=0", f"--outdir={tmp_path / folder}", *flags)
        assert code == 0, err
        assert mark.exists() == (folder == "trusted")
        sheets.append(np.asarray(PIL.Image.open(tmp_path / folder / "seed0000.png")))
    assert np.array_equal(sheets[0], sheets[1]) and np.array_equal(sheets[0], sheets[2])


def test_trust_and_reload_exclude_each_other(run, fork, tmp_path):
    """They contradict; --reload_modules=false contradicts nothing. Nothing is executed before that is settled."""
    network, mark = fork
    common = (f"--network={network}", "--device=cpu", "--seeds=0", f"--outdir={tmp_path / 'out'}", "--trust")
    for flag in ("--reload_modules", "--reload_modules=True"):
        fails(run(samples, *common, flag), "--trust", "--reload_modules")
    assert not mark.exists()
    assert run(samples, *common, "--reload_modules=False")[0] == 0 and mark.exists()


# ------------------------------------------------------------------------------------------------ interruption and help

@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_interrupted_film_leaves_nothing(tmp_path, ending):
    """In the middle of a film, by Ctrl-C, kill, or a terminal that closes: exit code 130, no traceback, no file."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "gen_videos.py"), f"--outdir={tmp_path / 'out'}", "--seeds=0", "--network=tiny-random",
         "--w-frames=5000"], env=ONE_THREAD, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(getattr(signal, ending), signal.SIG_DFL))  # as on a terminal, wherever tests run
    try:
        began = time.monotonic()
        while not list((tmp_path / "out").glob(".*.mp4")) and process.poll() is None and time.monotonic() < began + 120:
            time.sleep(0.1)
        time.sleep(0.5)
        process.send_signal(getattr(signal, ending))
        err = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Interrupted" in err.splitlines()[-1] and "Traceback" not in err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["gen_samples.py", "gen_videos.py"])
def test_help_of_scripts(tmp_path, name):
    """From any folder; every option that the original has is listed."""
    shown = script(name, "--help", cwd=tmp_path)
    common = "network seeds trunc trunc-cutoff outdir reload_modules shapes shape-res shape-format shape-level shape-part"
    more = dict(gen_samples="fov-deg",
                gen_videos="shuffle-seed grid num-keyframes w-frames cfg image_mode sample_mult nrr interpolate output fps "
                           "seconds orbit camera-path save-camera-path depth-colors")
    assert [option for option in f"{common} {more[Path(name).stem]}".split() if f"--{option} " not in shown] == []
    assert "None" not in shown


def test_eg3d_as_a_module(tmp_path):
    """python -m eg3d is the command."""
    done = subprocess.run([sys.executable, "-m", "eg3d", "check", "nowhere.pkl"], cwd=ROOT, env=ONE_THREAD, capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 2 and "nowhere.pkl: no such file" in done.stderr


def test_help_of_eg3d(run):
    """One name for every command; without a command it tells which there are."""
    for arguments in (["--help"], []):
        code, out, err = run(main.eg3d, *arguments)
        lines = [line.split()[0] for line in [*out.splitlines(), *err] if line.strip()]
        assert code == 0 and {"samples", "videos", "convert", "check"} <= set(lines)
    assert "--seeds" in run(main.eg3d, "samples", "--help")[1]


def test_version(run):
    """The installed version; in a mere checkout a line that says so."""
    code, out, err = run(main.eg3d, "--version")
    try:
        assert code == 0 and importlib.metadata.version("eg3d") in out
    except importlib.metadata.PackageNotFoundError:
        assert len(out.splitlines()) + len(err) == 1


def test_eg3d_runs_its_commands(run, tmp_path):
    """eg3d samples and eg3d videos do what the scripts do, their mistakes included."""
    common = ("--network=tiny-random", "--seeds=0", f"--outdir={tmp_path}")
    assert run(main.eg3d, "videos", *common, *QUICK)[0] == 0 and os.listdir(tmp_path) == ["interpolation.mp4"]
    fails(run(main.eg3d, "samples", *common, "--device=gpu"), "'gpu'")
    fails(run(main.eg3d, "paint"), "paint")


# ------------------------------------------------------------------------------------------------ option types

@given(st.text(st.characters(codec="utf-8")) | st.text("0123456789-, "))
@example("0-3,7")
@example("9" * 5000)
@example("٣")
def test_any_text_as_seeds(text):
    """Seeds that NumPy takes, or a message for the user."""
    try:
        seeds = options.SeedRange().convert(text, None, None)
    except click.BadParameter as error:
        assert error.message
    else:
        assert seeds and all(type(seed) is int and 0 <= seed < 2**32 for seed in (seeds[0], seeds[-1]))


@given(st.text(st.characters(codec="utf-8")) | st.text("0123456789x, "))
@example("4x2")
@example("9" * 5000 + "x1")
def test_any_text_as_grid(text):
    """Columns and rows from 1 to 64, or a message for the user."""
    try:
        columns, rows = options.GridSize().convert(text, None, None)
    except click.BadParameter as error:
        assert error.message
    else:
        assert 1 <= columns <= 64 and 1 <= rows <= 64


def test_seeds_and_grids():
    """What the types make of what users write, the original's comma in grids included."""
    seeds, grid = options.SeedRange().convert, options.GridSize().convert
    assert seeds("0-3,7, 12", None, None) == [0, 1, 2, 3, 7, 12] and seeds("4294967295", None, None) == [2**32 - 1]
    assert seeds([1], None, None) == [1]
    assert grid("4x2", None, None) == grid("4,2", None, None) == grid((4, 2), None, None) == (4, 2)
