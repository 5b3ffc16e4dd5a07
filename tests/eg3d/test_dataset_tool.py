"""dataset_tool: what it writes, that labels still say where points are seen, and mistakes that cost one line.

Labels are proven on pictures: a bright dot is drawn where the source's camera sees a point of the world, and must be found
where the written label says that this point is seen. A dot's centre of mass is known to a tenth of a pixel; resizing keeps it.
"""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from eg3d.cli import options
from eg3d.cli.dataset import dataset
from eg3d.scenes import pictures, sources, workers
from training.dataset import ImageFolderDataset

ROOT = Path(__file__).parents[2]
POINT = np.array([0.05, -0.08, 0.1])
DOT = 0.25  # pixels: tolerance of where a dot is found


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command as its script does: (exit code, standard output, lines of standard error but the progress bar's)."""
    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["dataset_tool.py", "--workers=1", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            options.run(dataset)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, [line for line in err.splitlines() if line and "picture/s" not in line]

    return run


def turned(yaw, pitch):
    """Camera-to-world rotation of a camera turned from looking along -z, y down: first pitch, then yaw."""
    a, b = np.cos(yaw), np.sin(yaw)
    c, d = np.cos(pitch), np.sin(pitch)
    return np.array([[a, 0, b], [0, 1, 0], [-b, 0, a]]) @ np.array([[1, 0, 0], [0, c, -d], [0, d, c]]) @ np.diag([1.0, -1, -1])


def label(yaw=0.2, pitch=-0.1, K=((2.1, 0.01, 0.52), (0, 2.3, 0.47), (0, 0, 1)), distance=2.7):
    """A camera that looks at the origin."""
    pose = np.eye(4)
    pose[:3, :3] = turned(yaw, pitch)
    pose[:3, 3] = -distance * pose[:3, 2]
    return [*pose.ravel().tolist(), *np.array(K, dtype=float).ravel().tolist()]


def seen(numbers, point):
    """Where a label sees a point of the world, in shares of the picture's width and height."""
    pose, K = np.array(numbers[:16]).reshape(4, 4), np.array(numbers[16:]).reshape(3, 3)
    x, y, z = K @ pose[:3, :3].T @ (np.asarray(point) - pose[:3, 3])
    return x / z, y / z


def dotted(size, place):
    """A dark picture with a bright soft dot; `place` in shares of its size."""
    y, x = np.mgrid[:size[1], :size[0]] + 0.5
    width = max(size) / 40
    glow = np.exp(-((x - place[0] * size[0]) ** 2 + (y - place[1] * size[1]) ** 2) / (2 * width**2))
    return PIL.Image.fromarray((glow * 255).round().astype(np.uint8)).convert("RGB")


def found(image):
    """The dot's centre of mass, in shares of the picture's size."""
    glow = np.asarray(image.convert("L"), dtype=float)
    glow[glow < 8] = 0  # rounding, ringing
    y, x = np.mgrid[:glow.shape[0], :glow.shape[1]] + 0.5
    return (x * glow).sum() / glow.sum() / glow.shape[1], (y * glow).sum() / glow.sum() / glow.shape[0]


def write_folder(folder, images, labels=None):
    """Pictures by name, and dataset.json."""
    for name, image in images.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    if labels is not None:
        (folder / "dataset.json").write_text(json.dumps({"labels": labels}))
    return folder


def noise(size, seed=0, mode="RGB"):
    """A picture of random pixels."""
    shape = (size[1], size[0], len(mode)) if len(mode) > 1 else (size[1], size[0])
    return PIL.Image.fromarray(np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8))


def posed(folder, count=3, size=(32, 32)):
    """A folder of random pictures with labels."""
    names = [f"sub/{index}.png" for index in range(count)]
    return write_folder(folder, {name: noise(size, index) for index, name in enumerate(names)},
                        [[name, label(yaw=0.1 * index)] for index, name in enumerate(names)])


def contents(path):
    """Pictures and labels of a written zip."""
    with zipfile.ZipFile(path) as archive:
        labels = json.loads(archive.read("dataset.json"))["labels"]
        images = {name: PIL.Image.open(io.BytesIO(archive.read(name))) for name in archive.namelist() if name.endswith(".png")}
    return images, labels


# ------------------------------------------------------------------------------------------------ what is written

def test_zip(run, tmp_path):
    """Stored, with the official names, pixels and labels as they were; what training reads."""
    source = posed(tmp_path / "in")
    code, out, err = run(f"--source={source}", f"--dest={tmp_path / 'out.zip'}")
    assert (code, err) == (0, []) and out == f"{tmp_path / 'out.zip'}: 3 pictures of 32 x 32, with labels\n"
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.namelist() == [f"00000/img{index:08d}.png" for index in range(3)] + ["dataset.json"]
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.getinfo("00000/img00000000.png").file_size > 32 * 32 * 3  # PNG compression 0
    images, labels = contents(tmp_path / "out.zip")
    assert labels == [[f"00000/img{index:08d}.png", label(yaw=0.1 * index)] for index in range(3)]
    read = ImageFolderDataset(tmp_path / "out.zip", use_labels=True)
    for index in range(3):
        pixels, camera = read[index]
        assert np.array_equal(pixels.transpose(1, 2, 0), np.asarray(noise((32, 32), index)))
        np.testing.assert_array_equal(camera, np.float32(label(yaw=0.1 * index)))


def test_folder_from_zip(run, tmp_path):
    """A zip as the source and a folder as the destination: the same files; --max-images takes the first."""
    source = posed(tmp_path / "in")
    assert run(f"--source={source}", f"--dest={tmp_path / 'a.zip'}")[0] == 0
    (tmp_path / "b").mkdir()  # an empty folder is as good as none
    assert run(f"--source={tmp_path / 'a.zip'}", f"--dest={tmp_path / 'b'}", "--max-images=2")[0] == 0
    files = {str(path.relative_to(tmp_path / "b")): path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert set(files) == {*archive.namelist()[:2], "dataset.json"}
        assert all(archive.read(name) == data for name, data in files.items() if name.endswith(".png"))
    assert json.loads(files["dataset.json"])["labels"] == contents(tmp_path / "a.zip")[1][:2]


def test_same_bytes_from_any_number_of_workers(run, tmp_path):
    """Two processes and one write the same zip."""
    source = posed(tmp_path / "in", count=20, size=(48, 64))
    for count in (1, 2):
        code, _, err = run(f"--source={source}", f"--dest={tmp_path / f'{count}.zip'}", "--transform=center-crop",
                           "--resolution=32", "--mirror", f"--workers={count}")
        assert (code, err) == (0, [])
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()


@pytest.mark.parametrize("size", [(400, 400), (600, 400), (401, 602)])
@pytest.mark.parametrize("how", ["none", "center-crop", "center-crop-wide"])
def test_labels_fit_the_pictures(run, tmp_path, size, how):
    """Crops and black rows change the intrinsics so that the point is where its dot is, mirrored ones too."""
    if how == "none" and size[0] != size[1]:
        return
    source = write_folder(tmp_path / "in", {"a.png": dotted(size, seen(label(), POINT))}, [["a.png", label()]])
    form = {"none": ["--resolution=128"], "center-crop": ["--transform=center-crop", "--resolution=128x128"],
            "center-crop-wide": ["--transform=center-crop-wide", "--resolution=128x64"]}[how]
    code, _, err = run(f"--source={source}", f"--dest={tmp_path / 'out.zip'}", "--mirror", *form)
    assert (code, err) == (0, [])
    images, [(name, camera), (mirrored, flipped)] = contents(tmp_path / "out.zip")
    assert [name, mirrored] == ["00000/img00000000.png", "00000/img00000000_mirror.png"]
    assert camera[:16] == label()[:16] and images[name].size == (128, 128)
    np.testing.assert_allclose(found(images[name]), seen(camera, POINT), atol=DOT / 128)
    np.testing.assert_allclose(found(images[mirrored]), seen(flipped, POINT * [-1, 1, 1]), atol=DOT / 128)
    assert abs(found(images[name])[0] - found(images[mirrored])[0]) > 4 * DOT / 128  # the dot is not in the middle


def test_pixels_of_transforms():
    """The crops are those of naive slices, black rows are black, small pictures are dropped."""
    file, image = io.BytesIO(), noise((90, 70))
    image.save(file, "PNG")
    pixels = np.asarray(image)

    def converted(transform, size):
        result = pictures.made(file.getvalue(), "x", None, None, pictures.Form(transform, size))
        return result and np.asarray(PIL.Image.open(io.BytesIO(result.files[0])))

    assert np.array_equal(converted("center-crop", (32, 32)),
                          np.asarray(PIL.Image.fromarray(pixels[:, 10:80]).resize((32, 32), PIL.Image.Resampling.LANCZOS)))
    wide = converted("center-crop-wide", (64, 32))
    assert np.array_equal(wide[16:48], np.asarray(PIL.Image.fromarray(pixels[12:57]).resize(  # 45 of 70 rows
        (64, 32), PIL.Image.Resampling.LANCZOS)))
    assert not wide[:16].any() and not wide[48:].any()
    assert converted("center-crop-wide", (128, 32)) is None
    assert converted("center-crop-wide", (64, 64)) is None


def test_dropped_pictures_are_told(run, tmp_path):
    """center-crop-wide leaves out what is too small, and says so; with nothing left it is an error."""
    source = write_folder(tmp_path / "in", {"a.png": noise((64, 64)), "b.png": noise((40, 40))})
    common = (f"--source={source}", f"--dest={tmp_path / 'out.zip'}", "--transform=center-crop-wide")
    code, _, err = run(*common, "--resolution=64x32")
    assert code == 0 and "Note: 1 pictures were too small and are left out; the first is b.png" in err
    assert list(contents(tmp_path / "out.zip")[0]) == ["00000/img00000000.png"]
    code, _, [line] = run(*common, "--resolution=128x64")
    assert code == 2 and "no picture is large enough" in line


def test_crops(run, tmp_path):
    """A label belongs to the crop, which may reach beyond the picture, where it is black."""
    image = noise((60, 60))
    source = write_folder(tmp_path / "in", {"a.png": image}, [["a.png", label()]])
    (tmp_path / "crops.json").write_text('{"a.png": [10, -4, 74.2, 60], "other.png": [0, 0, 1, 1]}')
    assert run(f"--source={source}", f"--dest={tmp_path / 'out.zip'}", f"--crops={tmp_path / 'crops.json'}")[0] == 0
    images, labels = contents(tmp_path / "out.zip")
    expected = np.zeros((64, 64, 3), dtype=np.uint8)
    expected[4:, :50] = np.asarray(image)[:, 10:]
    assert np.array_equal(np.asarray(images["00000/img00000000.png"]), expected)
    assert labels == [["00000/img00000000.png", label()]]


def test_modes(run, tmp_path):
    """Greyscale and opaque pictures become RGB, which is told; transparent ones are laid on the background."""
    grey, clear = noise((32, 32), mode="L"), noise((32, 32), mode="RGBA")
    opaque = clear.copy()
    opaque.putalpha(255)
    source = write_folder(tmp_path / "in", {"a.png": grey, "b.png": opaque, "c.png": grey.convert("P")})
    common = (f"--source={source}", f"--dest={tmp_path / 'out.zip'}")
    code, _, err = run(*common)
    assert code == 0 and "Note: 3 pictures were converted to RGB; the first is a.png (L)" in err
    images = [np.asarray(image) for image in contents(tmp_path / "out.zip")[0].values()]
    assert np.array_equal(images[0], np.repeat(np.asarray(grey)[..., None], 3, axis=2))
    assert np.array_equal(images[1], np.asarray(clear)[..., :3])
    clear.save(source / "d.png")
    before = (tmp_path / "out.zip").read_bytes()
    code, _, [line] = run(*common)
    assert code == 2 and str(source / "d.png") in line and "--background" in line
    assert (tmp_path / "out.zip").read_bytes() == before  # the old zip is still there
    assert run(*common, "--background=white")[0] == 0
    pixels = np.asarray(clear).astype(float)
    share = pixels[..., 3:] / 255
    expected = pixels[..., :3] * share + 255 * (1 - share)
    written = np.asarray(contents(tmp_path / "out.zip")[0]["00000/img00000003.png"])
    np.testing.assert_allclose(written, expected, atol=1)  # one rounding


def test_missing_labels(run, tmp_path):
    """One picture without a label: the labels are null, and the picture is named. Labels without a picture are told."""
    source = posed(tmp_path / "in")
    pairs = json.loads((source / "dataset.json").read_text())["labels"]
    (source / "dataset.json").write_text(json.dumps({"labels": [pairs[0], pairs[2], ["gone.png", pairs[1][1]]]}))
    code, out, err = run(f"--source={source}", f"--dest={tmp_path / 'out.zip'}")
    assert code == 0 and "without labels" in out and contents(tmp_path / "out.zip")[1] is None
    assert err == ["Note: no labels are written, since 1 of 3 pictures have none; the first is sub/1.png",
                   "Note: 1 labels belong to no picture, like that of gone.png"]
    assert run(f"--source={tmp_path / 'out.zip'}", f"--dest={tmp_path / 'again.zip'}")[0] == 0  # null is read too


def test_hidden_files_are_no_pictures(run, tmp_path):
    source = posed(tmp_path / "in", 1)
    (source / "._0.png").write_bytes(b"resource fork")
    (source / "__MACOSX").mkdir()
    (source / "__MACOSX" / "0.png").write_bytes(b"resource fork")
    assert "1 pictures" in run(f"--source={source}", f"--dest={tmp_path / 'out.zip'}")[1]


# ------------------------------------------------------------------------------------------------ mistakes

def nothing(folder):
    """Spoils nothing."""


def cut_picture(folder):
    path = folder / "sub" / "1.png"
    path.write_bytes(path.read_bytes()[:-800])


def text_picture(folder):
    (folder / "sub" / "1.png").write_text("no picture")


def other_size(folder):
    noise((64, 64)).save(folder / "sub" / "1.png")


def oblong(folder):
    noise((64, 32)).save(folder / "sub" / "1.png")


def odd_size(folder):
    noise((40, 40)).save(folder / "sub" / "0.png")


def deep(folder):
    PIL.Image.fromarray(np.zeros((32, 32), dtype=np.uint16)).save(folder / "sub" / "1.png")


def wrong_label(folder):
    labels = json.loads((folder / "dataset.json").read_text())
    labels["labels"][1][1][0] = 3
    (folder / "dataset.json").write_text(json.dumps(labels))


def no_json(folder):
    (folder / "dataset.json").write_text("{")


def two_formats(folder):
    (folder / "transforms.json").write_text("{}")


def binary_colmap(folder):
    (folder / "dataset.json").unlink()
    (folder / "sparse" / "0").mkdir(parents=True)
    (folder / "sparse" / "0" / "cameras.bin").touch()


def no_pictures(folder):
    for path in (folder / "sub").iterdir():
        path.unlink()
    (folder / "dataset.json").unlink()


@pytest.mark.parametrize("spoil, arguments, expected", [
    (cut_picture, [], "1.png: cannot be read as an image"),
    (text_picture, [], "1.png: cannot be read as an image"),
    (other_size, [], "1.png: would become 64 x 64, the pictures before it 32 x 32: give --resolution"),
    (oblong, ["--resolution=32"], "1.png: is 64 x 32, not square: give --transform=center-crop"),
    (odd_size, [], "0.png: would become 40 x 40, expected a power of two"),
    (deep, [], "1.png: has mode I;16, expected 8 bits"),
    (wrong_label, [], "1.png: its label has a matrix whose upper left 3x3 is no rotation"),
    (no_json, [], "dataset.json: no JSON"),
    (two_formats, [], "labels and nerf format: say which by --format=labels or --format=nerf"),
    (binary_colmap, [], "make them of a binary model by"), (binary_colmap, ["--check"], "make them of a binary model by"),
    (no_pictures, [], "holds no images"),
    (nothing, ["--format=nerf"], "holds no transforms.json"),
    (nothing, ["--format=colmap"], "holds no cameras.txt and images.txt"),
    (nothing, ["--resolution=100"], "a power of two"),
    (nothing, ["--resolution=64x32"], "is not square: only --transform=center-crop-wide"),
    (nothing, ["--transform=center-crop-wide"], "needs --resolution"),
    (nothing, ["--radius=2"], "--radius needs cameras in nerf or colmap format"),
    (nothing, ["--check", "--mirror"], "--mirror needs a conversion: leave --check out"),
    (nothing, ["--check", "--resolution=64"], "--resolution needs a conversion: leave --check out"),
    (nothing, ["--check"], "with --check it is the picture of the cameras, a .png"),
], ids=lambda value: getattr(value, "__name__", None))
def test_one_line(run, tmp_path, spoil, arguments, expected):
    """The culprit, the expectation, the remedy; nothing is left behind."""
    source = posed(tmp_path / "in")
    spoil(source)
    before = sorted(tmp_path.rglob("*"))
    code, out, [line] = run(f"--source={source}", f"--dest={tmp_path / 'out.zip'}", *arguments)
    assert (code, out) == (2, "") and line.startswith("Error: ") and expected in line
    assert sorted(tmp_path.rglob("*")) == before


def test_places(run, tmp_path):
    """Sources that are not there or cut short, destinations that hold something."""
    source = posed(tmp_path / "in")
    assert "no such zip or folder" in run("--source=nowhere.zip", f"--dest={tmp_path / 'o.zip'}")[2][0]
    assert "--dest is needed" in run(f"--source={source}")[2][0]
    assert "is not empty: give a new one" in run(f"--source={source}", f"--dest={source / 'sub'}")[2][0]
    assert run(f"--source={source}", f"--dest={tmp_path / 'a.zip'}")[0] == 0
    assert "--dest is --source" in run(f"--source={tmp_path / 'a.zip'}", f"--dest={tmp_path / 'a.zip'}")[2][0]
    (tmp_path / "cut.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-100])
    [line] = run(f"--source={tmp_path / 'cut.zip'}", f"--dest={tmp_path / 'o.zip'}")[2]
    assert "cut.zip" in line and "cut short" in line
    damaged = bytearray((tmp_path / "a.zip").read_bytes())
    damaged[2000] ^= 255  # inside the first picture
    (tmp_path / "bad.zip").write_bytes(damaged)
    [line] = run(f"--source={tmp_path / 'bad.zip'}", f"--dest={tmp_path / 'o.zip'}")[2]
    assert "img00000000.png: cannot be read" in line
    assert not (tmp_path / "o.zip").exists()


@pytest.mark.parametrize("crops, expected", [
    ("{}", "has no crop of sub/0.png"), ("[]", "holds no crops"), ("{", "no JSON"),
    ('{"sub/0.png": [0, 0, "x", 9]}', "the crop of sub/0.png is no"),
    ('{"sub/0.png": [9, 0, 9, 9]}', "the crop of sub/0.png is no"),
])
def test_bad_crops(run, tmp_path, crops, expected):
    source = posed(tmp_path / "in")
    (tmp_path / "crops.json").write_text(crops)
    code, _, [line] = run(f"--source={source}", f"--dest={tmp_path / 'o.zip'}", f"--crops={tmp_path / 'crops.json'}")
    assert code == 2 and f"{tmp_path / 'crops.json'}: {expected}" in line


def test_published_labels_beside_other_pictures(run, tmp_path):
    """FFHQ's focal length with 1024 px pictures is refused unless the user insists; other focal lengths and sizes pass."""
    ffhq = label(K=((4.2647, 0, 0.5), (0, 4.2647, 0.5), (0, 0, 1)))
    source = write_folder(tmp_path / "in", {"a.png": PIL.Image.new("RGB", (1024, 1024))}, [["a.png", ffhq]])
    common = (f"--source={source}", f"--dest={tmp_path / 'o.zip'}", "--resolution=64")
    code, _, [line] = run(*common)
    assert code == 2 and "--crops" in line and "--accept-labels" in line and not (tmp_path / "o.zip").exists()
    assert run(*common, "--accept-labels")[0] == 0
    (tmp_path / "crops.json").write_text('{"a.png": [0, 0, 1024, 1024]}')
    assert run(*common, f"--crops={tmp_path / 'crops.json'}")[0] == 0
    write_folder(source, {}, [["a.png", label()]])
    assert run(*common)[0] == 0
    write_folder(source, {"a.png": PIL.Image.new("RGB", (512, 512))}, [["a.png", ffhq]])
    assert run(*common)[0] == 0


# ------------------------------------------------------------------------------------------------ cut off

def test_interrupted(tmp_path):
    """Ctrl-C in a terminal, which workers hear too: exit code 130, one line, no file."""
    source = posed(tmp_path / "in", 1)
    pairs = json.loads((source / "dataset.json").read_text())["labels"]
    PIL.Image.new("RGB", (1024, 1024)).save(source / "sub" / "0.png")
    for index in range(1, 400):
        os.link(source / "sub" / "0.png", source / "sub" / f"{index}.png")
    (source / "dataset.json").write_text(json.dumps({"labels": pairs}))
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "dataset_tool.py"), f"--source={source}", f"--dest={tmp_path / 'out.zip'}", "--workers=2"],
        stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not any(path.stat().st_size for path in tmp_path.glob(".out*")):  # the temporary zip has begun
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and "nothing half-written" in err
    assert os.listdir(tmp_path) == ["in"]


def test_full_disk(tmp_path):
    """No room in the middle of the zip: one line that names it, and no file. A limit on files' sizes stands for the disk's."""
    source = posed(tmp_path / "in", 20, size=(64, 64))
    done = subprocess.run(
        [sys.executable, str(ROOT / "dataset_tool.py"), f"--source={source}", f"--dest={tmp_path / 'out.zip'}", "--workers=1"],
        capture_output=True, text=True, timeout=100,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"Error: {tmp_path / 'out.zip'}: File too large" in done.stderr
    assert os.listdir(tmp_path) == ["in"]


def test_killed_worker():
    """A worker that dies is an error of one line, not a wait without end."""
    with pytest.raises(OSError, match="try fewer --workers"):
        list(workers.in_order(os._exit, [(1,)] * 3, 2))


def test_jobs_are_taken_as_needed():
    """Of a long list only what the workers can use soon is read."""
    taken = []
    results = workers.in_order(abs, ((taken.append(number) or -number,) for number in range(1000)), 2)
    assert next(results) == 0 and len(taken) <= 2 * workers.AHEAD
    results.close()


def test_source_kinds(tmp_path):
    """auto goes by what lies there."""
    assert sources.opened(str(posed(tmp_path / "in")), None, 2.7, None, None).kind == "labels"
