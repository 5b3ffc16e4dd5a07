"""Synthetic heads: pictures, depth and labels agree, and a seed always gives the same. A ball stands in for the body model."""

import dataclasses
import importlib.util
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import heads_on_balls
import numpy as np
import PIL.Image
import pytest
from scipy.ndimage import maximum_filter, minimum_filter

from eg3d.cli import dataset as command
from eg3d.cli import options
from eg3d.scenes.heads import collection, looks, studio
from eg3d.scenes.heads import hair as hairs
from training.dataset import ImageFolderDataset

ROOT = Path(__file__).parents[2]
RESOLUTION = 64
STEP = 0.02  # units: depth that may change from a pixel to the next; four pixels' width
FRONT = collection.label(0.0, 0.0)
needs_embree = pytest.mark.skipif(importlib.util.find_spec("embreex") is None, reason="embreex, which traces rays, is missing")
needs_anny = pytest.mark.skipif(importlib.util.find_spec("anny") is None, reason="anny, the body model, is not installed")
pytestmark = needs_embree


@pytest.fixture(scope="module")
def maker():
    return studio.Studio(heads_on_balls.Balls())


def bald(seed=0, **changed):
    """A look without hair."""
    look = looks.drawn(np.random.RandomState(seed))
    return dataclasses.replace(look, hair=dataclasses.replace(look.hair, style="bald"), **changed)


def projected(points, label):
    """Pixel positions [N, 2] (x, y) in a picture of side 1, and distances from the camera, by the pinhole formula."""
    pose, K = label[:16].reshape(4, 4).astype(np.float64), label[16:].reshape(3, 3).astype(np.float64)
    seen = (points - pose[:3, 3]) @ pose[:3, :3]  # world to camera: the transposed rotation
    pixels = seen @ K.T
    return pixels[:, :2] / pixels[:, 2:], np.linalg.norm(points - pose[:3, 3], axis=1)


@pytest.mark.parametrize("yaw, pitch", [(0, 0), (0.7, 0.2), (-1.2, -0.4)])
def test_labels_are_the_cameras(maker, yaw, pitch):
    """Known vertices fall on pixels where the depth is their distance: those that nothing hides, and none lies before it."""
    label = collection.label(yaw, pitch)
    head = maker.head_of(bald())
    view = head.view(label, 128)
    places, distances = projected(head.vertices, label)
    columns, rows = (places * 128).astype(int).T
    inside = (columns >= 0) & (columns < 128) & (rows >= 0) & (rows < 128)
    depth = view.depth[rows[inside], columns[inside]]
    filled = np.nan_to_num(view.depth)
    smooth = maximum_filter(filled, 3) - minimum_filter(filled, 3) < STEP
    behind = (distances[inside] - depth)[smooth[rows[inside], columns[inside]]]
    assert (behind > -STEP).all()  # nothing is seen before a surface
    assert (np.abs(behind) < STEP).mean() > 0.25  # a camera sees less than half of a ball


def test_directions():
    """Positive yaw takes the camera to +x, positive pitch down (its place is the label's fourth column)."""
    side, down = collection.label(0.5, 0.0), collection.label(0.0, 0.3)
    assert side[3] > 1 and abs(side[7]) < 1e-5
    assert down[7] < -0.5 and abs(down[3]) < 1e-5


def test_depth_of_a_ball(maker):
    """Against the formula of a ray and a sphere; the mesh's flat triangles lie up to 1 % of the radius inside."""
    head = maker.head_of(bald(phenotypes=dict(weight=0.5)))
    depth = head.view(FRONT, RESOLUTION).depth
    pose = FRONT[:16].reshape(4, 4).astype(np.float64)
    centres = (np.arange(RESOLUTION) + 0.5) / RESOLUTION
    checked = 0
    for row in range(RESOLUTION):
        for column in range(0, RESOLUTION, 7):
            way = pose[:3, :3] @ [(centres[column] - 0.5) / 4.2647, (centres[row] - 0.5) / 4.2647, 1]
            way = way / np.linalg.norm(way)
            away = pose[:3, 3] - heads_on_balls.MIDDLE
            inside = (way @ away) ** 2 - away @ away + heads_on_balls.RADIUS**2
            if inside < 0.02:  # near the edge, and beside
                continue
            truth = -(way @ away) - np.sqrt(inside)
            if abs(depth[row, column] - truth) > 0.01:  # only where an eyeball is in front
                assert depth[row, column] < truth
            else:
                checked += 1
    assert checked > 150


def test_background_and_mask(maker):
    """Beside the head the picture is plain, depth is NaN and the mask 0; on it the mask is 1."""
    head = maker.head_of(bald())
    view = head.view(FRONT, RESOLUTION)
    beside = view.mask == 0
    assert 0.1 < beside.mean() < 0.9
    assert (view.image[beside] == np.floor(head.background * 255 + 0.5).astype(np.uint8)).all()
    assert np.isnan(view.depth[beside]).all() and np.isfinite(view.depth[view.mask == 1]).all()


def test_light_comes_from_its_side(maker):
    """A light from +x brightens that side of a head of one colour."""
    light = dataclasses.replace(bald().light, direction=(0.8, 0.2, np.sqrt(1 - 0.68)))
    image = maker.head_of(bald(light=light, flush=0.0)).view(FRONT, RESOLUTION).image.astype(float)
    view = maker.head_of(bald(light=light)).view(FRONT, RESOLUTION)
    pose = FRONT[:16].reshape(4, 4)
    assert pose[0, 0] > 0  # +x is to the right of the picture
    whole = view.mask == 1
    right = np.arange(RESOLUTION)[None] >= RESOLUTION // 2
    assert image[whole & right].mean() > 1.15 * image[whole & ~right].mean()


@pytest.mark.parametrize("style", looks.STYLES)
def test_hair(maker, style):
    """Every style but the bald one adds a surface outside the skull, and the picture changes; all is finite."""
    look = bald()
    random = np.random.RandomState(1)
    while True:
        other = looks.drawn(random)
        if other.hair.style == style:
            break
    plain = maker.head_of(look)
    haired = maker.head_of(dataclasses.replace(look, hair=other.hair))
    assert np.isfinite(haired.vertices).all()
    extra = haired.vertices[len(plain.vertices):]
    if style == "bald":
        assert len(extra) == 0
        return
    radii = np.linalg.norm(extra - heads_on_balls.MIDDLE, axis=1)
    assert (radii > 0.9 * heads_on_balls.RADIUS).mean() > 0.85  # what hangs down may curl inwards
    assert (plain.view(FRONT, 32).image != haired.view(FRONT, 32).image).any()


def test_hairline_moves():
    """A fringe brings the hairline down, receding takes it up, and behind nothing changes."""
    hair = bald().hair
    front, back = np.array([0.0]), np.array([np.pi])
    usual = dataclasses.replace(hair, fringe=0.0, recede=0.0, peak=0.0)
    for changed, sign in ((dict(fringe=0.3), 1), (dict(recede=0.3), -1), (dict(peak=0.1), 1)):
        other = dataclasses.replace(usual, **changed)
        assert np.sign(hairs.hairline(other, front) - hairs.hairline(usual, front)) == sign
        np.testing.assert_allclose(hairs.hairline(other, back), hairs.hairline(usual, back), atol=1e-6)


def test_supersampling(maker):
    """Nine samples a pixel soften edges; an even number has no sample in the middle."""
    head = maker.head_of(bald())
    hard, soft = head.view(FRONT, 32, supersampling=1), head.view(FRONT, 32)
    assert set(np.unique(hard.mask)) == {0, 1} and len(np.unique(soft.mask)) > 4
    np.testing.assert_array_equal(np.isnan(hard.depth), np.isnan(soft.depth))
    with pytest.raises(ValueError, match="odd"):
        head.view(FRONT, 32, supersampling=2)


def test_looks_vary():
    """Skins, hair, ages and cameras differ from picture to picture; the same number gives the same."""
    drawn = [collection.picture(0, index) for index in range(300)]
    assert len({look.hair.style for look, _ in drawn}) == len(looks.STYLES)
    assert np.std([look.skin for look, _ in drawn], axis=0).min() > 0.1
    assert np.std([look.phenotypes["age"] for look, _ in drawn]) > 0.1
    again, label = collection.picture(0, 7)
    assert again == drawn[7][0] and (label == drawn[7][1]).all()
    assert collection.picture(1, 7)[0] != again
    positions = np.array([label[[3, 11]] for _, label in drawn])
    yaw = np.arctan2(positions[:, 0], positions[:, 1])
    assert 0.35 < yaw.std() < 0.5  # a fifth of the cameras is spread by 0.65 instead of 0.35: 0.43


# ------------------------------------------------------------------------------------------------ data sets

@pytest.fixture()
def on_balls(monkeypatch):
    """dataset_tool renders balls; in this process."""
    monkeypatch.setattr(collection, "Studio", lambda: studio.Studio(heads_on_balls.Balls()))
    collection._studio.cache_clear()
    yield
    collection._studio.cache_clear()


def make(dest, count=4, **changed):
    collection.make(str(dest), **{**dict(count=count, resolution=32, seed=0, workers=1, with_truth=True), **changed})


def test_data_set(on_balls, tmp_path):
    """Pictures, labels and truth; the trainer reads it, and finds no picture in the truth."""
    make(tmp_path / "heads.zip")
    data = ImageFolderDataset(tmp_path / "heads.zip", use_labels=True)
    assert len(data) == 4 and data.resolution == 32
    for index in range(4):
        np.testing.assert_array_equal(data.get_label(index), collection.picture(0, index)[1])
    with zipfile.ZipFile(tmp_path / "heads.zip") as archive:
        truth = np.load(io.BytesIO(archive.read("00000/img00000002.npz")))
        image = np.asarray(PIL.Image.open(io.BytesIO(archive.read("00000/img00000002.png"))))
    look, label = collection.picture(0, 2)
    view = studio.Studio(heads_on_balls.Balls()).head_of(look).view(label, 32)
    np.testing.assert_array_equal(image, view.image)
    np.testing.assert_allclose(truth["depth"], view.depth, atol=2e-3)  # float16 between 2 and 4
    np.testing.assert_allclose(truth["mask"] / 255, view.mask, atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(truth["shape"], look.numbers())
    assert truth["shape"].std() > 0


def test_same_bytes(on_balls, tmp_path):
    """The same seed gives the same file, whether at once or in two goes; another seed another one."""
    make(tmp_path / "one.zip")
    with pytest.raises(KeyboardInterrupt):
        interrupted = tmp_path / "two.zip"
        original = collection._keep

        def stop(kept, index, png, truth):
            if index == 2:
                raise KeyboardInterrupt
            original(kept, index, png, truth)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(collection, "_keep", stop)
            make(interrupted)
    assert not interrupted.exists() and (tmp_path / "two.zip.unfinished").is_dir()
    make(interrupted)
    assert not (tmp_path / "two.zip.unfinished").exists()
    assert (tmp_path / "one.zip").read_bytes() == interrupted.read_bytes()
    make(tmp_path / "three.zip", seed=1)
    assert (tmp_path / "one.zip").read_bytes() != (tmp_path / "three.zip").read_bytes()


def test_a_folder_with_a_slash(on_balls, tmp_path, monkeypatch):
    """What is unfinished lies beside the folder; the command itself says so, also while it packs."""
    dest, add = f"{tmp_path}/heads/", collection._files
    monkeypatch.setattr(collection, "_files", lambda kept, index, truth: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt, match="heads.unfinished keeps what is rendered"):
        make(dest)
    assert [path.name for path in tmp_path.iterdir()] == ["heads.unfinished"]
    monkeypatch.setattr(collection, "_files", add)
    make(dest)
    assert [path.name for path in tmp_path.iterdir()] == ["heads"]


def test_an_interruption_tells_what_is_kept(capsys):
    """click turns an interruption into one without words."""
    @click.command()
    def stops():
        raise KeyboardInterrupt("x.unfinished keeps what is rendered")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sys, "argv", ["stops"])
        options.run(stops)
    assert capsys.readouterr().err.strip().endswith("Interrupted: x.unfinished keeps what is rendered")


def test_a_damaged_plan(on_balls, tmp_path):
    (tmp_path / "heads.zip.unfinished").mkdir()
    for text in ("{", "[1]"):
        (tmp_path / "heads.zip.unfinished" / collection.PLAN).write_text(text)
        with pytest.raises(ValueError, match="is damaged: delete the folder .*heads.zip.unfinished"):
            make(tmp_path / "heads.zip")


def test_goes_on_only_with_the_same(on_balls, tmp_path):
    """What another seed or size left is neither mixed in nor deleted."""
    dest = tmp_path / "heads.zip"
    plan = dict(meaning=collection.MEANING, resolution=32, seed=5, with_truth=True)
    collection._begin(tmp_path / "heads.zip.unfinished", plan)
    with pytest.raises(ValueError, match="part of another data set .seed 5.*delete the folder"):
        make(dest)
    assert (tmp_path / "heads.zip.unfinished" / collection.PLAN).exists()


FULL_DISK = """
import resource, sys
sys.path[:0] = [{tests!r}, {root!r}]
import click
import heads_on_balls
from eg3d.cli import options
from eg3d.cli.dataset import dataset
from eg3d.scenes.heads import anatomy, collection, studio
anatomy.unprepared = lambda: None
collection.Studio = lambda: studio.Studio(heads_on_balls.Balls())
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
sys.argv = ["dataset_tool.py", "--source=heads", "--count=6", "--resolution=32", "--workers=1", "--dest={dest}"]
options.run(dataset)
"""


@pytest.mark.parametrize("limit", [2000, 16000], ids=["while rendering", "while packing"])
def test_full_disk(tmp_path, limit):
    """One line, no data set; what is rendered stays, and the same command goes on."""
    dest = tmp_path / "heads.zip"
    script = FULL_DISK.format(tests=str(Path(__file__).parent), root=str(ROOT), limit=limit, dest=dest)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("Error: ") and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["heads.zip.unfinished"]
    free = script.replace(f"({limit}, {limit})", "(resource.RLIM_INFINITY, resource.RLIM_INFINITY)")
    done = subprocess.run([sys.executable, "-c", free], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(ImageFolderDataset(dest, use_labels=True)) == 6 and [path.name for path in tmp_path.iterdir()] == ["heads.zip"]


def test_existing_destination(on_balls, tmp_path):
    (tmp_path / "heads.zip").write_bytes(b"mine")
    with pytest.raises(ValueError, match="is there already"):
        make(tmp_path / "heads.zip")
    assert (tmp_path / "heads.zip").read_bytes() == b"mine"


# ------------------------------------------------------------------------------------------------ the command

def run(*arguments, **environment):
    return subprocess.run([sys.executable, str(ROOT / "dataset_tool.py"), *arguments], capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", **environment}, timeout=120)


def refused(done, *words):
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4  # click's usage lines before the one
    for word in words:
        assert word in done.stderr


@pytest.mark.parametrize("options, word", [
    (["--count=0"], "0 is not in the range"), (["--transform=center-crop"], "--transform needs pictures"),
    (["--check"], "--check"), (["--resolution=48"], "power of two")])
def test_bad_options(tmp_path, options, word):
    refused(run("--source=heads", f"--dest={tmp_path / 'x.zip'}", *options), word)
    assert not list(tmp_path.iterdir())


def test_options_of_heads_alone(tmp_path):
    refused(run(f"--source={tmp_path}", f"--dest={tmp_path / 'x.zip'}", "--count=3"), "--count needs --source=heads")


def test_missing_package(tmp_path):
    """One line that names the package and how to install it."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "anny.py").write_text("raise ModuleNotFoundError('not here', name='anny')")
    done = run("--source=heads", f"--dest={tmp_path / 'x.zip'}", "--count=2", PYTHONPATH=f"{hidden}:{ROOT}")
    refused(done, "heads need the package anny: pip install")
    assert not (tmp_path / "x.zip.unfinished").exists()


def test_default_size():
    assert command.HEADS_SIZE == (128, 128)


# ------------------------------------------------------------------------------------------------ the body model itself

@needs_anny
@pytest.mark.slow
def test_real_heads(tmp_path):
    """Two workers and one give the same bytes; eyes lie where FFHQ's labels have them; the face looks to the camera."""
    for workers in (1, 2):
        done = run("--source=heads", "--count=6", "--resolution=64", "--with-truth", f"--workers={workers}",
                   f"--dest={tmp_path / f'{workers}.zip'}", HOME=str(Path.home()))
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    head = studio.Studio().head(0)
    np.testing.assert_allclose(head.eyeballs.mean(axis=0), [0, 0.06, 0.24], atol=5e-3)
    view = head.view(FRONT, 64)
    nose = np.unravel_index(np.nanargmin(view.depth[20:50]), view.depth[20:50].shape)
    assert abs(nose[1] - 31.5) < 5  # the nearest point is the nose, in the middle column


def test_plan_is_json(on_balls, tmp_path):
    collection._begin(tmp_path / "x", dict(seed=1))
    assert json.loads((tmp_path / "x" / collection.PLAN).read_text()) == {"seed": 1}
