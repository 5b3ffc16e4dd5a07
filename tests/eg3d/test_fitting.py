"""Fitting one scene: fields look up what is there, fits learn and never see what they are judged by, the command writes all.

Views of one analytic head (tests/scene.py) are small, and so are the networks: these fits take seconds.
"""

import dataclasses
import importlib.util
import io
import json
import math
import sys
import zipfile

import heads_on_balls
import imageio_ffmpeg
import numpy as np
import PIL.Image
import pytest
import safetensors.torch
import scene as heads
import torch
import trimesh

from eg3d.cli import fit_scene as command
from eg3d.cli import main
from eg3d.fitting import fields, fit, report, views
from eg3d.scenes.heads import studio
from training.labels import problem

CPU = torch.device("cpu")
COUNT, SIZE = 24, 32  # views, pixels
ROUNDING = 1e-5  # float32 sums of some tens of terms near 1
needs_embree = pytest.mark.skipif(importlib.util.find_spec("embreex") is None, reason="embreex, which traces rays, is missing")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Fewer samples of pictures, a narrow network: what is tested does not depend on them."""
    monkeypatch.setattr(fit, "VIEW_SAMPLES", 16)
    monkeypatch.setattr(fields, "WIDTH", 32)


def rendered(count=COUNT):
    labels = heads.labels(count)
    found = [heads.render(label, heads.Look(), SIZE) for label in labels]
    return labels, *(np.stack(part) for part in zip(*found))


@pytest.fixture(scope="module")
def one():
    """The head as a scene, with its depth."""
    labels, images, depths = rendered()
    return views.Scene(
        name="a head", pictures=torch.from_numpy(images).float() / 255, labels=torch.from_numpy(labels),
        depths=torch.from_numpy(depths), ray_start=2.25, ray_end=3.3, box=1.0, radius=heads.RADIUS, pivot=heads.PIVOT,
        focal=heads.FFHQ_FOCAL)


def write_data(path, count=COUNT, labelled=True, change=lambda labels: labels):
    """A data set of views of one head."""
    labels, images, _ = rendered(count)
    names = [f"img{index:08d}.png" for index in range(count)]
    pairs = [[name, label.tolist()] for name, label in zip(names, change(labels))]
    with zipfile.ZipFile(path, "w") as archive:
        for name, image in zip(names, images):
            file = io.BytesIO()
            PIL.Image.fromarray(image).save(file, format="PNG")
            archive.writestr(name, file.getvalue())
        archive.writestr("dataset.json", json.dumps({"labels": pairs if labelled else None}))
    return path


# ------------------------------------------------------------------------------------------------ fields

class Seen(torch.nn.Module):
    """In the decoder's place: keeps what it is given, [1, P, M, C]."""

    def forward(self, features, directions):
        self.features = features
        return features


def test_equal_memory():
    """As many features in voxels as in planes, to half a voxel of the cube's side D: 3 / 2D of the whole, and its square."""
    planes, voxels = fields.Triplane(1.0, 32, 8).features, fields.Voxel(1.0, 32, 8).features
    side = voxels.shape[-1]
    assert planes.shape == (3, 8, 32, 32) and voxels.shape == (1, 8, side, side, side)
    assert abs(voxels.numel() / planes.numel() - 1) < 1.5 / side + 1.5 / side**2


def test_voxels():
    """Half-way between eight voxels lies their mean; x, y, z are the grid's last, middle and first axis."""
    box = 1.6
    field = fields.Voxel(box, 8, 4)
    field.decoder = Seen()
    side = field.features.shape[-1]
    i, j, k = 1, 2, 3
    field(torch.tensor([[[(index + 1) / side - 0.5 for index in (i, j, k)]]]) * box)
    cube = field.features[0, :, k : k + 2, j : j + 2, i : i + 2].flatten(1).mean(dim=1)
    torch.testing.assert_close(field.decoder.features[0, 0, 0], cube, atol=ROUNDING, rtol=0)


def test_planes():
    """Half-way between four features of each plane lies their mean; the planes see (x, y), (x, z) and (z, y)."""
    box, side = 1.6, 8
    field = fields.Triplane(box, side, 4)
    field.decoder = Seen()
    place = dict(x=1, y=2, z=3)
    field(torch.tensor([[[(place[axis] + 1) / side - 0.5 for axis in "xyz"]]]) * box)
    for plane, (across, down) in enumerate(("xy", "xz", "zy")):
        i, j = place[across], place[down]
        square = field.features[plane, :, j : j + 2, i : i + 2].flatten(1).mean(dim=1)
        torch.testing.assert_close(field.decoder.features[0, plane, 0], square, atol=ROUNDING, rtol=0)


@pytest.mark.parametrize("kind", fields.KINDS)
def test_fields(kind):
    """Colours and densities of points, which depend on where they are; every parameter has a learning rate."""
    torch.manual_seed(0)
    field = fields.KINDS[kind](1.0)
    found = field(torch.rand(1, 50, 3) - 0.5)
    assert found["rgb"].shape == (1, 50, 3) and found["sigma"].shape == (1, 50, 1)
    assert found["rgb"].min() >= -0.01 and found["rgb"].max() <= 1.01
    assert found["sigma"].std() > 1e-4
    grouped = [parameter for group in field.groups() for parameter in group["params"]]
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in field.parameters()}
    assert field.size() == 4 * sum(parameter.numel() for parameter in field.parameters())  # float32


def test_background(one):
    """Where nothing is, rays show the background; where all is solid, the field's colour."""
    fitted = fit.Fitted("triplane", 1.0, one.ray_start, one.ray_end, one.backdrop())

    class Even(torch.nn.Module):
        density = -100.0

        def forward(self, points):
            return {"rgb": torch.full_like(points, 0.25), "sigma": torch.full_like(points[..., :1], self.density)}

    fitted.field = Even()
    label = one.labels[0]
    empty = fitted.view(label, 4)
    assert empty["weight"].max() < ROUNDING
    behind = torch.sigmoid(fitted.background).detach()
    torch.testing.assert_close(empty["colour"], behind.expand(4, 4, 3), atol=ROUNDING, rtol=0)
    np.testing.assert_allclose(behind, heads.BACKGROUND, atol=0.5 / 255 + ROUNDING)  # eight bits
    Even.density = 1e4
    solid = fitted.view(label, 4)
    torch.testing.assert_close(solid["colour"], torch.full((4, 4, 3), 0.25), atol=ROUNDING, rtol=0)
    assert solid["depth"].max() < one.ray_start + 0.2  # within the first samples


# ------------------------------------------------------------------------------------------------ fits

def test_held_out(one):
    """Every view is either fitted or held out, and every eighth is."""
    held, fitted = one.held_out().tolist(), one.fitted().tolist()
    assert sorted(held + fitted) == list(range(COUNT)) and len(held) == COUNT // 8


def test_never_sees_what_judges(one):
    """A fit is the same whatever the held-out views show, also where backgrounds are not even."""
    grainy = (one.pictures + 0.1 * torch.rand(one.pictures.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    changed = grainy.clone()
    changed[one.held_out()] = 0.0
    found = [fit.fit(dataclasses.replace(one, pictures=pictures), "voxel", math.inf, 2, 0, CPU)
             for pictures in (grainy, changed)]
    for name, tensor in found[0].fitted.state_dict().items():
        assert torch.equal(tensor, found[1].fitted.state_dict()[name]), name
    assert found[0].psnr != found[1].psnr


@pytest.mark.parametrize("kind, steps", [("triplane", 60), ("voxel", 60), ("mlp", 60)])
def test_learns(one, kind, steps):
    """Held-out views become better than one colour for all pixels, the best there is: the mean of what was fitted."""
    mean = one.pictures[one.fitted()].mean(dim=(0, 1, 2))
    constant = np.mean([-10 * math.log10((one.pictures[index] - mean).square().mean()) for index in one.held_out()])
    told = []
    found = fit.fit(one, kind, math.inf, steps, 0, CPU, lambda share, moment: told.append((share, moment)))
    assert found.psnr > constant + 1.5
    assert found.steps == steps == len(told) and told[-1][0] == 1
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert found.curve[0].steps == 0 and found.curve[-1].steps == steps and found.curve[-1].psnr > found.curve[0].psnr


def test_grows(one):
    """Grids are coarse at first and keep what they have learnt; in the end they are as large as they should be."""
    for kind, side in (("triplane", 32), ("voxel", 15)):  # 15^3 is nearest to 3 * 32^2
        field = fields.KINDS[kind](1.0, 32, 4)
        field.decoder = Seen()
        # where the coarsest grid has neighbours on both sides
        points = torch.linspace(-0.3, 0.3, 50)[None, :, None].expand(1, 50, 3)
        assert field.features.shape[-1] == side and field.grow(0.0) and field.features.shape[-1] <= side // 3
        with torch.no_grad():  # smooth, as what is learnt first: a ramp, which interpolation keeps
            field.features.copy_(torch.linspace(-1, 1, field.features.shape[-1]).expand_as(field.features))
        before = field(points)
        assert field.grow(1.0) and field.features.shape[-1] == side and not field.grow(1.0)
        assert isinstance(field.features, torch.nn.Parameter)
        assert before.std() > 0.2
        torch.testing.assert_close(field(points), before, atol=ROUNDING, rtol=0)
    assert not fields.Mlp(1.0).grow(1.0)


def test_depth_of_the_truth(one, monkeypatch):
    """A field that is the head's own ellipsoids has the depth that was traced, up to the edges, where samples are too few."""
    monkeypatch.setattr(fit, "VIEW_SAMPLES", 64)
    fitted = fit.Fitted("triplane", 1.0, one.ray_start, one.ray_end, one.backdrop())

    class Ellipsoids(fields.Field):
        def forward(self, points):
            inside = torch.stack([((points - torch.tensor(centre)) / torch.tensor(radii)).square().sum(-1) < 1
                                  for centre, radii, _ in heads.PARTS]).any(dim=0)
            return {"rgb": torch.full_like(points, 0.5), "sigma": (inside.float() * 2000 - 1000)[..., None]}

    fitted.field = Ellipsoids()
    result = fit.Fit("triplane", fitted, 0.0, 0, [])
    fit.judge(result, one)
    assert result.depth_correlation > 0.9
    assert set(result.numbers()) >= {"representation", "psnr", "ssim", "seconds", "steps", "megabytes", "depth_correlation"}


def test_time_ends_a_fit(one):
    found = fit.fit(one, "triplane", 1e-6, None, 0, CPU)
    assert found.steps == 1 and found.seconds > 1e-6


def test_same_seed(one):
    """The same seed makes the same field; another seed another."""
    same, again, other = (fit.fit(one, "triplane", math.inf, 2, seed, CPU).fitted.field.features for seed in (3, 3, 4))
    assert torch.equal(same, again) and not torch.equal(same, other)


def test_decibels():
    """An error of 0.1 everywhere is 20 dB."""
    assert fit.psnr(np.zeros((4, 4, 3)), np.full((4, 4, 3), 0.1)) == pytest.approx(20)


# ------------------------------------------------------------------------------------------------ views

def test_labelled(tmp_path):
    """A data set's pictures and labels, at most so many, from the first to the last; its range holds the head."""
    labels, images, depths = rendered()
    found = views.opened(str(write_data(tmp_path / "one.zip")), COUNT, SIZE)
    np.testing.assert_array_equal((found.pictures * 255).round().numpy(), images)
    np.testing.assert_array_equal(found.labels, labels)
    assert found.depths is None
    assert found.ray_start < np.nanmin(depths) and np.nanmax(depths) < found.ray_end and found.box > 0.9
    fewer = views.opened(str(tmp_path / "one.zip"), 16, SIZE)
    assert len(fewer.pictures) == 16
    np.testing.assert_array_equal(fewer.labels[[0, -1]], labels[[0, -1]])


def test_nerf(tmp_path):
    """A transforms.json and its folder are the same scene; transparent pictures lie on white; the origin is what is seen."""
    frames = []
    for index in range(16):
        turn = 2 * math.pi * index / 16
        back = np.array([math.sin(turn), -math.cos(turn), 0.5]) / math.sqrt(1.25)
        right = np.cross([0, 0, 1], back) / np.linalg.norm(np.cross([0, 0, 1], back))
        pose = np.eye(4)
        pose[:3] = np.stack([right, np.cross(back, right), back, 4 * back + [1, 2, 3]], axis=1)
        PIL.Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(tmp_path / f"{index}.png")
        frames.append(dict(file_path=f"{index}.png", transform_matrix=pose.tolist()))
    (tmp_path / "transforms.json").write_text(json.dumps(dict(camera_angle_x=0.7, frames=frames)))
    found = [views.opened(str(place), 100, SIZE) for place in (tmp_path, tmp_path / "transforms.json")]
    assert torch.equal(found[0].labels, found[1].labels) and found[0].pictures.shape == (16, SIZE, SIZE, 3)
    assert found[0].pictures.min() == 1
    assert found[0].radius == pytest.approx(2.7) and found[0].pivot == pytest.approx((0, 0, 0), abs=1e-6)
    film = found[0].path(8)
    assert len({tuple(label[:16].tolist()) for label in film}) == 8  # all the way round
    height = film[:, 7] / film[:, [3, 7, 11]].norm(dim=1)
    np.testing.assert_allclose(height, 0.5 / math.sqrt(1.25), atol=1e-3)  # as high as the cameras that took the pictures


def test_film_stays_where_views_are(one):
    """The film's cameras are labels, as far away as the views', and not further to the side."""
    film = one.path(10)
    assert all(problem(label.tolist()) is None for label in film)
    yaw = lambda labels: torch.atan2(labels[:, 3], labels[:, 11]).abs().max()  # noqa: E731
    assert 0.1 < yaw(film) < yaw(one.labels) + 1e-4
    np.testing.assert_allclose(film[:, [3, 7, 11]].norm(dim=1), heads.RADIUS, atol=1e-4)


@needs_embree
def test_rendered_heads(monkeypatch):
    """heads:SEED is one head from all over the front, with depth where it is; the same seed, the same views."""
    monkeypatch.setattr(studio, "Studio", lambda: _OnBalls)
    found, again = (views.opened("heads:3", 17, SIZE) for _ in range(2))
    assert torch.equal(found.pictures, again.pictures) and found.pictures.shape == (17, SIZE, SIZE, 3)
    there = torch.isfinite(found.depths)
    assert 0.1 < there.float().mean() < 0.9
    assert found.ray_start < found.depths[there].min() and found.depths[there].max() < found.ray_end
    yaw = torch.atan2(found.labels[:, 3], found.labels[:, 11])
    assert yaw.min() < -0.9 and yaw.max() > 0.9
    assert found.held_out().numel() == 2


class _OnBalls:
    @staticmethod
    def head(seed):
        return studio.Head(heads_on_balls.Balls(), studio.drawn(np.random.RandomState(seed)))


# ------------------------------------------------------------------------------------------------ tables and plots

def made_up(kind, curve):
    class Sized:
        class field:
            @staticmethod
            def size():
                return 3_000_000

    moments = [fit.Moment(seconds, index, psnr) for index, (seconds, psnr) in enumerate(curve)]
    return fit.Fit(kind, Sized, curve[-1][0], len(curve), moments, psnr=curve[-1][1], ssim=0.5)


def test_reached():
    """By a straight line between two looks: from 10 dB at 2 s to 20 dB at 4 s, 15 dB come at 3 s."""
    found = made_up("triplane", [(0, 5), (2, 10), (4, 20), (6, 19)])
    assert report.reached(found, 15) == pytest.approx(3)
    assert report.reached(found, 20) == pytest.approx(4)
    assert report.reached(found, 4) == 0
    assert report.reached(found, 21) is None


def test_table_and_plot(tmp_path):
    """A row for each with the time until the mlp's last PSNR; a line for each in the plot."""
    fits = [made_up("triplane", [(0, 5), (2, 25), (10, 30)]), made_up("voxel", [(0, 5), (2, 6), (10, 8)]),
            made_up("mlp", [(0, 5), (5, 10), (10, 15)])]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in report.table(fits).splitlines()]
    assert rows[0][-1] == "seconds to 15.00 dB" and len({len(row) for row in rows}) == 1
    assert [(row[0], row[-1]) for row in rows[2:]] == [("triplane", "1.0"), ("voxel", "never"), ("mlp", "10.0")]
    report.plot(fits, "made up", tmp_path / "plot.png")
    pixels = np.asarray(PIL.Image.open(tmp_path / "plot.png")).astype(int)
    for kind, colour in report.COLOURS.items():
        line = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)])
        assert (np.abs(pixels - line).sum(axis=2) < 30).sum() > 300, kind


# ------------------------------------------------------------------------------------------------ the command

def run(monkeypatch, *arguments):
    """The exit code of `eg3d fit-scene`."""
    monkeypatch.setattr(sys, "argv", ["eg3d", "fit-scene", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main.main()
    return ended.value.code or 0


@pytest.fixture
def short(monkeypatch, tmp_path):
    monkeypatch.setattr(command, "FRAMES", 4)
    monkeypatch.setattr(command, "SHAPE_RESOLUTION", 24)
    monkeypatch.chdir(tmp_path)
    return write_data(tmp_path / "one.zip")


def test_writes_all(short, monkeypatch, capsys):
    """Film, views, shape, numbers, and weights that give the same pictures when they are read again."""
    assert run(monkeypatch, "--scene=one.zip", "--steps=40", f"--resolution={SIZE}", "--views=24", "--shape-level=1",
               "--device=cpu", "--outdir=out") == 0
    out = short.parent / "out"
    names = {path.name for path in out.iterdir()}
    assert names == {"film.mp4", "views.png", "shape.ply", "field.safetensors", "fit.json"}
    assert imageio_ffmpeg.count_frames_and_secs(str(out / "film.mp4"))[0] == 4
    assert PIL.Image.open(out / "views.png").size == (3 * SIZE, 2 * SIZE)  # three held-out views: truth above, fit below
    [numbers] = json.loads((out / "fit.json").read_text())["fits"]
    assert numbers["representation"] == "triplane" and numbers["steps"] == 40 and 5 < numbers["psnr"] < 50
    mesh = trimesh.load(out / "shape.ply", process=False)
    assert len(mesh.faces) > 100 and np.asarray(mesh.visual.vertex_colors)[:, :3].std() > 1
    assert np.abs(mesh.vertices).max() < 1  # inside the box
    opened = views.opened("one.zip", 24, SIZE)
    fitted = fit.load(out / "field.safetensors")
    below = np.asarray(PIL.Image.open(out / "views.png"))[SIZE:, :SIZE].astype(int)
    again = fitted.view(opened.labels[opened.held_out()[0]], SIZE)["colour"].clamp(0, 1).numpy() * 255
    assert np.abs(below - again).max() <= 0.5 + 255 * ROUNDING
    assert "PSNR" in capsys.readouterr().out


@pytest.mark.parametrize("change", [
    lambda state, about: about.update(representation="cube"), lambda state, about: about.pop("box"),
    lambda state, about: about.update(box="wide"), lambda state, about: about.update(more="1"),
    lambda state, about: about.clear(), lambda state, about: state.pop("background"),
    lambda state, about: state.update(background=torch.zeros(4))])
def test_other_files_are_no_fields(tmp_path, change):
    path = tmp_path / "field.safetensors"
    fit.Fitted("mlp", 1.0, 2.25, 3.3).save(path)
    assert fit.load(path).kind == "mlp"
    with safetensors.safe_open(path, "pt") as file:
        about = file.metadata()
    state = safetensors.torch.load_file(path)
    change(state, about)
    safetensors.torch.save_file(state, path, about)
    with pytest.raises(ValueError, match="field.safetensors: no field that eg3d fit-scene wrote"):
        fit.load(path)
    path.write_text("text")
    with pytest.raises(ValueError, match="no field"):
        fit.load(path)
    with pytest.raises(FileNotFoundError):
        fit.load(tmp_path / "none.safetensors")


def test_compares(short, monkeypatch, capsys):
    """Three fits, their table and their plot; pictures and film of the tri-planes."""
    assert run(monkeypatch, "--scene=one.zip", "--compare", "--steps=2", f"--resolution={SIZE}", "--device=cpu",
               "--outdir=out") == 0
    out = short.parent / "out"
    assert {"table.md", "plot.png", "fit.json", "film.mp4", "views.png", "field.safetensors"} <= {p.name for p in out.iterdir()}
    fits = json.loads((out / "fit.json").read_text())["fits"]
    assert [fit["representation"] for fit in fits] == ["triplane", "voxel", "mlp"]
    table = (out / "table.md").read_text()
    assert all(f"| {kind} |" in table for kind in fields.KINDS) and table in capsys.readouterr().out


def apart(labels):
    """Every camera looks away from the origin."""
    turned = labels.copy()
    turned[:, [0, 2, 4, 6, 8, 10]] *= -1
    return turned


FAULTS = {
    "no seed": (["--scene=heads:abc"], "heads:0"),
    "negative seed": (["--scene=heads:-1"], "heads:0"),
    "nothing there": (["--scene=nowhere.zip"], "nowhere.zip"),
    "no transforms": (["--scene=folder/transforms.json"], "transforms.json"),
    "no labels": (["--scene=unlabelled.zip"], "unlabelled.zip: 0 of 24 pictures have a camera"),
    "few views": (["--scene=few.zip"], "few.zip"),
    "cameras apart": (["--scene=apart.zip"], "apart.zip: the cameras look away from each other"),
    "small": (["--resolution=8"], "--resolution"),
    "no power of two": (["--resolution=48"], "--resolution=48"),
    "unknown": (["--representation=mesh"], "mesh"),
    "one of three": (["--compare", "--representation=voxel"], "--representation"),
    "no views": (["--views=3"], "--views"),
    "no time": (["--minutes=0"], "--minutes"),
    "a file": (["--outdir=one.zip"], "one.zip"),
    "below a file": (["--outdir=one.zip/out"], "one.zip"),
    "no such device": (["--device=tpu"], "tpu"),
}


@pytest.mark.parametrize("arguments, words", FAULTS.values(), ids=FAULTS)
def test_bad_input(short, monkeypatch, capsys, arguments, words):
    """Exit code 2, one line that names what is wrong, and nothing is written."""
    (short.parent / "folder").mkdir()
    write_data(short.parent / "unlabelled.zip", labelled=False)
    write_data(short.parent / "few.zip", count=5)
    write_data(short.parent / "apart.zip", change=apart)
    before = sorted(short.parent.rglob("*"))
    base = ["--scene=one.zip", "--steps=1", f"--resolution={SIZE}", "--device=cpu", "--outdir=out"]
    typed = {argument.partition("=")[0] for argument in arguments}
    line = [*(argument for argument in base if argument.partition("=")[0] not in typed), *arguments]
    assert run(monkeypatch, *line) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("Error: ") and words in error
    assert sorted(short.parent.rglob("*")) == before


@pytest.mark.parametrize("package", ["anny", "embreex"])
def test_no_body_model(short, monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, "embreex.rtcore_scene", None)
    assert run(monkeypatch, "--scene=heads:0", "--device=cpu", "--outdir=out") == 2
    assert "heads need the package" in capsys.readouterr().err
    assert not (short.parent / "out").exists()


def test_help_is_quick(monkeypatch, capsys):
    """Every option has words of its own, and the three kinds are the three that there are."""
    assert tuple(fields.KINDS) == command.KINDS
    assert all(param.help for param in command.fit_scene.params)
    assert run(monkeypatch, "--help") == 0
    assert "--representation" in capsys.readouterr().out
