"""Metrics of synthetic heads and their regressor, on the simple heads of scene.py, whose cameras and depth are known."""

import hashlib
import io
import json
import sys
import zipfile

import numpy as np
import pytest
import scene
import scipy.linalg
import torch

from eg3d import metrics
from eg3d.cli import main, options
from eg3d.metrics import heads, regressor
from eg3d.metrics.fakes import Work
from torch_utils import images
from training import labels
from training.dataset import ImageFolderDataset

CPU = torch.device("cpu")
FAR = 3.3  # what a generator's depth is beside the head


def write_truth(path, count, resolution=64, change=None):
    """A data set of dataset_tool.py --source=heads --with-truth; `change(members)` may spoil it. Returns its depths."""
    scene.write_zip(path, count, resolution)
    _, _, depths, there = scene.pictures(count, resolution)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for index, (depth, mask) in enumerate(zip(depths, there)):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, depth=depth.astype(np.float16), mask=mask.astype(np.uint8) * 255, shape=np.zeros(3))
        members[f"{index // 1000:05d}/img{index:08d}.npz"] = buffer.getvalue()
    if change:
        change(members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return depths


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("truth") / "heads.zip"
    write_truth(path, 300)
    return str(path)


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(regressor, "BATCH", 8)


@pytest.fixture(scope="module")
def truth(data):
    return regressor.read(data)


@pytest.fixture(scope="module")
def learnt(truth):
    """A regressor that learnt for seconds: small batches make more steps of them, pictures that stay in place are easy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regressor, "BATCH", 8)
        patch.setattr(regressor, "MOST_MOVED", 1)
        return regressor.train(truth, kimg=0.5, seed=0)


# ------------------------------------------------------------------------------------------------ the network

def test_what_it_says():
    network = regressor.Regressor()
    seen = network(regressor.prepared(torch.randint(0, 256, [3, 3, 128, 128], dtype=torch.uint8)))
    assert seen.depth.shape == seen.head.shape == (3, 32, 32) and seen.features.shape == (3, 128)
    assert seen.direction.norm(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-6)  # float32


def test_prepared():
    """Bytes become -1..1; a larger picture of one colour stays so, and halves stay halves."""
    small = torch.arange(256, dtype=torch.uint8).repeat(48).reshape(1, 3, 64, 64)
    assert regressor.prepared(small).double().numpy() == pytest.approx(small.double().numpy() / 127.5 - 1, abs=1e-6)  # float32
    large = torch.full([1, 3, 256, 256], 51, dtype=torch.uint8)
    large[..., 128:] = 204
    shrunk = regressor.prepared(large)
    assert shrunk.shape == (1, 3, 64, 64)
    assert torch.allclose(shrunk[..., :31], torch.tensor(-0.6)) and torch.allclose(shrunk[..., 33:], torch.tensor(0.6))


def test_direction_and_angle():
    c = torch.from_numpy(scene.labels(5))
    towards = np.stack([pose[:3, 3] / np.sqrt((pose[:3, 3]**2).sum()) for pose in c[:, :16].numpy().reshape(-1, 4, 4)])
    found = regressor.direction_of(c)
    assert found.numpy() == pytest.approx(towards, abs=1e-6)
    assert regressor.direction_of(labels.mirrored(c)).numpy() == pytest.approx(towards * [-1, 1, 1], abs=1e-6)
    expected = np.degrees(np.arccos((towards[:-1].astype(float) * towards[1:]).sum(axis=1)))
    assert regressor.angle(found[:-1], found[1:]).numpy() == pytest.approx(expected, abs=1e-3)  # arccos of float32
    assert regressor.angle(found, -found).tolist() == pytest.approx([180.0] * 5, abs=0.1)  # asin is steep there


def test_depth_errors():
    random = np.random.RandomState(0)
    one, other = random.rand(2, 32, 32)
    there = random.rand(32, 32) < 0.4
    there.flat[:1] ^= there.sum() % 2 == 0  # an odd number has one median
    a, b = one[there], other[there]
    expected = np.corrcoef(a, b)[0, 1], np.abs(a - b - np.median(a - b)).mean()
    assert regressor.depth_errors(*map(torch.from_numpy, (one, other, there))) == pytest.approx(expected, rel=1e-9)
    shifted = regressor.depth_errors(*map(torch.from_numpy, (one, one + 0.7, there)))
    assert shifted == pytest.approx((1, 0), abs=1e-9)
    flat, all_there = torch.full([32, 32], 2.7, dtype=torch.float64), torch.ones([32, 32], dtype=torch.bool)
    assert regressor.depth_errors(flat, torch.from_numpy(other), all_there)[0] == pytest.approx(0, abs=1e-9)
    there[:] = False
    there.flat[:regressor.LEAST - 1] = True
    assert np.isnan(regressor.depth_errors(*map(torch.from_numpy, (one, other, there)))).all()


# ------------------------------------------------------------------------------------------------ learning

def test_truth_is_read(tmp_path):
    """Pictures, directions, and blocks of 2 x 2 depths: their mean where the head covers half of them."""
    depths = write_truth(tmp_path / "heads.zip", 3)
    found = regressor.read(str(tmp_path / "heads.zip"))
    pictures, c, _, _ = scene.pictures(3)
    assert torch.equal(found.pictures, torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()))
    assert torch.equal(found.directions, regressor.direction_of(torch.from_numpy(c)))
    for depth, small in zip(depths.astype(np.float16), found.depths):
        for row in range(32):
            for column in range(32):
                block = [x for x in depth[2 * row:2 * row + 2, 2 * column:2 * column + 2].ravel() if not np.isnan(x)]
                expected = np.mean(np.array(block, dtype=np.float64)) if len(block) >= 2 else np.nan
                assert float(small[row, column]) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    with zipfile.ZipFile(tmp_path / "heads.zip") as archive:
        archive.extractall(tmp_path / "heads")
    assert regressor.fingerprint(regressor.read(str(tmp_path / "heads"))) == regressor.fingerprint(found)


def test_the_same_seed_gives_the_same_bits(truth, small_batches):
    """And leaves PyTorch's random numbers alone."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second, other = (regressor.train(truth, kimg=0.05, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["direction.weight"], other["direction.weight"])


def test_it_learns(learnt, truth):
    """It is far better than the mean direction; and better than the mean depth, by a loop."""
    found = regressor.judged(learnt, truth)
    directions = truth.directions.double().numpy()
    blind = np.degrees(np.arccos(directions[::10] @ directions.mean(0) / np.linalg.norm(directions.mean(0))))
    assert found["blind_pose_median"] == pytest.approx(np.sort(blind)[(len(blind) - 1) // 2], abs=0.01)  # float32
    assert found["pose_median"] < 0.6 * found["blind_pose_median"] and found["pose_median"] < found["pose_p90"]
    depths = truth.depths.numpy()
    known = np.isfinite(depths)
    mean = np.where(known, depths, 0).sum(0) / np.maximum(known.sum(0), 1)
    apart = [(mean - one)[np.isfinite(one)] for one in depths[::10]]
    expected = np.mean([np.abs(one - np.sort(one)[(len(one) - 1) // 2]).mean() for one in apart])
    assert found["blind_depth_error"] == pytest.approx(expected, rel=1e-4)  # float32
    assert found["depth_error"] < found["blind_depth_error"] and found["depth_correlation"] > found["blind_depth_correlation"]


def test_only_what_is_not_held_out_is_learnt(truth, small_batches):
    """Every tenth picture could hold anything."""
    spoilt = regressor.Truth(truth.pictures.clone(), truth.directions, truth.depths)
    spoilt.pictures[::10] = 255
    one, other = (regressor.train(some, kimg=0.05, seed=0).state_dict() for some in (truth, spoilt))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_moved():
    """Down and to the right by so many pixels, the edges repeated; NaN moves, too."""
    maps, shift = torch.rand([2, 2, 6, 6]), torch.tensor([[2, -1], [-6, 0]])
    maps[0, 1, 3, 4] = torch.nan
    found = regressor.moved(maps, shift)
    for index, channel, row, column in np.ndindex(2, 2, 6, 6):
        down, right = shift[index].tolist()
        expected = maps[index, channel, min(max(row - down, 0), 5), min(max(column - right, 0), 5)]
        assert float(found[index, channel, row, column]) == pytest.approx(float(expected), abs=0, nan_ok=True)


# ------------------------------------------------------------------------------------------------ metrics

class Painter(torch.nn.Module):
    """A generator that paints scene.py's heads, from `turned` radians beside the camera that is asked for."""

    z_dim, rendering_kwargs = 2, dict(box_warp=1)

    def __init__(self, turned=0.0, resolution=64):
        super().__init__()
        self.turned, self.resolution = turned, resolution

    def forward(self, z, c, noise_mode):
        cosine, sine = np.cos(self.turned), np.sin(self.turned)
        about_y = np.array([[cosine, 0, sine, 0], [0, 1, 0, 0], [-sine, 0, cosine, 0], [0, 0, 0, 1]])
        shown, depths = [], []
        for label in c.numpy():
            seen = label.copy()
            seen[:16] = (about_y @ label[:16].reshape(4, 4)).ravel()
            picture, depth = scene.render(seen, scene.Look(), self.resolution)
            shown.append(picture.transpose(2, 0, 1))
            depths.append(np.nan_to_num(depth, nan=FAR)[None])
        return dict(image=torch.from_numpy(np.stack(shown)) / 127.5 - 1, image_depth=torch.from_numpy(np.stack(depths)))


@pytest.fixture
def work(data, learnt, monkeypatch):
    """A small evaluation, by the regressor of this file in place of the one that ships."""
    monkeypatch.setattr(regressor, "load", lambda device="cpu": learnt)
    return Work(Painter(), ImageFolderDataset(data, use_labels=True), CPU, batch=4, seed=0, progress=False)


def seen_of(work, learnt, count):
    """What the generator makes of items, what the regressor says of it, and the labels: all at once."""
    made, c = work.generated(0, count)
    return made, learnt(regressor.prepared(images.to_uint8(made["image"]))), c


def degrees(direction, c):
    """Angles by arccos."""
    centres = c[:, [3, 7, 11]].double()
    cosine = (direction.double() * centres).sum(1) / centres.norm(dim=1) / direction.double().norm(dim=1)
    return np.degrees(np.arccos(cosine.clamp(max=1).numpy()))


def test_pose(work, learnt):
    found = metrics.evaluate(["heads_pose_9"], work.G, work.dataset, CPU, batch=4)["heads_pose_9"]
    _, seen, c = seen_of(work, learnt, 9)
    wrong = degrees(seen.direction, c)
    assert found["heads_pose_9_median"] == pytest.approx(np.median(wrong), abs=0.01)  # float32
    assert found["heads_pose_9_p90"] == pytest.approx(np.quantile(wrong, 0.9), abs=0.01)
    items = np.sort(np.random.RandomState(0).permutation(300)[:9])
    pictures = torch.from_numpy(np.stack([work.dataset[item][0] for item in items]))
    own = degrees(learnt(regressor.prepared(pictures)).direction, torch.from_numpy(work.dataset.labels()[items]))
    assert found["heads_pose_9_real_median"] == pytest.approx(np.median(own), abs=0.01)


@pytest.mark.slow
def test_the_face_counts_not_its_place(work, truth, monkeypatch):
    """Heads that look 29 degrees aside, where those that were asked for would be in the picture: most of that is seen."""
    monkeypatch.setattr(regressor, "BATCH", 16)
    network = regressor.train(truth, kimg=2, seed=0)
    monkeypatch.setattr(regressor, "load", lambda device="cpu": network)
    straight = heads.pose(work, None, 40, False)["median"]
    work.G = Painter(turned=0.5)
    assert straight < 8 and heads.pose(work, None, 40, False)["median"] > 18


def test_pose_of_data_without_labels(data, learnt, monkeypatch):
    """Trained without poses: the cameras come from elsewhere, and nothing is known of the real pictures."""
    monkeypatch.setattr(regressor, "load", lambda device="cpu": learnt)
    dataset = ImageFolderDataset(data, use_labels=False)
    found = metrics.evaluate(["heads_pose_4"], Painter(), dataset, CPU,
                             cameras=lambda count: torch.from_numpy(scene.labels(count)))
    assert set(found["heads_pose_4"]) == {"heads_pose_4_median", "heads_pose_4_p90"}


def test_depth(work, learnt):
    """Correlation, and the error without the offset, over what the regressor takes for the head."""
    found = heads.depth(work, None, 6, False)
    made, seen, _ = seen_of(work, learnt, 6)
    rendered = made["image_depth"][:, 0].reshape(6, 32, 2, 32, 2).mean((2, 4))
    pairs = []
    for depth, other, logit in zip(rendered.numpy(), seen.depth.numpy(), seen.head.numpy()):
        a, b = depth[logit > 0], other[logit > 0]
        pairs.append((np.corrcoef(a, b)[0, 1], np.abs(a - b - np.median(a - b)).mean()))
    expected = np.mean(pairs, axis=0)
    # Shrinking weighs a few neighbours, too, which differ at the outline: by far less than the errors themselves.
    assert (found["correlation"], found["error"]) == pytest.approx(tuple(expected), rel=0.15)
    assert found["headless"] == 0


def test_depth_at_its_own_size(work, learnt):
    """Where nothing is shrunk, the figures are the formula's."""
    work.G = Painter(resolution=32)
    found = heads.depth(work, None, 6, False)
    made, seen, _ = seen_of(work, learnt, 6)
    pairs = []
    for depth, other, logit in zip(made["image_depth"][:, 0].numpy(), seen.depth.numpy(), seen.head.numpy()):
        a, b = depth[logit > 0].astype(float), other[logit > 0].astype(float)
        apart = np.sort(a - b)
        pairs.append((np.corrcoef(a, b)[0, 1], np.abs(apart - apart[(len(apart) - 1) // 2]).mean()))
    assert (found["correlation"], found["error"]) == pytest.approx(tuple(np.mean(pairs, axis=0)), rel=1e-4)  # float32


def test_no_head_at_all(work, monkeypatch):
    monkeypatch.setattr(heads, "HEAD", 1e9)
    found = heads.depth(work, None, 5, False)
    assert found["headless"] == 1 and np.isnan([found["correlation"], found["error"]]).all()


def test_frechet(work, learnt):
    """The formula with the matrix root; beside it the halves of the real pictures, and their mean."""
    found = heads.frechet(work, None, 40, False)
    items = np.sort(np.random.RandomState(0).permutation(300)[:40])
    pictures = torch.from_numpy(np.stack([work.dataset[item][0] for item in items]))
    made = torch.cat([work.fakes(first, first + 4) for first in range(0, 40, 4)])
    mean = pictures.double().mean(0, keepdim=True).round().to(torch.uint8)
    fake, real, alone = (learnt(regressor.prepared(some)).features.double().numpy() for some in (made, pictures, mean))

    def distance(one, other):
        root = np.trace(scipy.linalg.sqrtm(np.cov(one.T, ddof=0) @ np.cov(other.T, ddof=0)).real)
        return (np.square(one.mean(0) - other.mean(0)).sum() + np.trace(np.cov(one.T, ddof=0))
                + np.trace(np.cov(other.T, ddof=0)) - 2 * root)

    # Of less than 128 pictures the covariance is singular, where sqrtm is only near the root.
    assert found[""] == pytest.approx(distance(fake, real), rel=1e-3)
    assert found["halves"] == pytest.approx(distance(real[::2], real[1::2]), rel=1e-3)
    assert found["mean_picture"] == pytest.approx(
        np.square(alone[0] - real.mean(0)).sum() + np.trace(np.cov(real.T, ddof=0)), rel=1e-2)  # a mean beside .5 may round up


def test_small_pictures(work):
    work.dataset.image_shape = [3, 16, 16]
    for compute in (heads.pose, heads.depth, heads.frechet):
        with pytest.raises(ValueError, match=r"heads.zip: its pictures are 16 pixels wide; metrics of heads need 32 or more"):
            compute(work, None, 4, False)


def test_names():
    assert {"heads_pose", "heads_depth", "heads_frechet"} <= set(metrics.names())
    assert not any("fid" in name for name in metrics.names() if name.startswith("heads"))
    with pytest.raises(ValueError, match="metric 'heads_fid' is unknown: choose from .*heads_pose, heads_depth, heads_frechet"):
        metrics.check(["heads_fid"])


# ------------------------------------------------------------------------------------------------ files

def test_saved_and_loaded(learnt, tmp_path):
    """The same numbers come back; the checksum is the file's, and the same for the same network."""
    path = tmp_path / "new" / "heads.safetensors"
    digest = regressor.save(learnt, path, dict(kimg=0.8))
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    found, expected = regressor.load(path).state_dict(), learnt.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in found)
    assert regressor.save(learnt, tmp_path / "again.safetensors", dict(kimg=0.8)) == digest


def test_the_one_that_ships_must_be_it(learnt, tmp_path, monkeypatch):
    """One bit changes; it is not there; another has its name."""
    path = tmp_path / "heads-regressor.safetensors"
    digest = regressor.save(learnt, path, {})
    monkeypatch.setattr(regressor, "SHIPPED", path)
    monkeypatch.setattr(regressor, "SHA256", digest)
    regressor.load(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"heads-regressor.safetensors: is not the file that shipped .* check the project out"):
        regressor.load(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"heads-regressor.safetensors: cannot be read .*No such file.*check the project out"):
        regressor.load(path)


@pytest.mark.parametrize("content, problem", [
    (b"no safetensors at all", "cannot be read as a regressor"), (b"", "cannot be read as a regressor"),
    (b"\x02\0\0\0\0\0\0\0{}", "is no regressor of heads")])
def test_other_files(tmp_path, content, problem):
    (tmp_path / "other.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        regressor.load(tmp_path / "other.safetensors")


def test_the_one_that_ships():
    """It is there, small, and says how well it sees."""
    metrics.check(["heads_pose", "heads_depth_10", "heads_frechet_1k"])
    assert regressor.SHIPPED.stat().st_size < 2e6
    with regressor.safe_open(regressor.SHIPPED, "pt") as file:
        about = json.loads(file.metadata()[regressor.KEY])
    assert about["pose_median"] < 4 and about["depth_correlation"] > 0.9


# ------------------------------------------------------------------------------------------------ the command

@pytest.fixture
def run(monkeypatch, capsys):
    """Runs eg3d: (exit code, lines of standard output, lines of standard error)."""
    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["eg3d", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            options.run(main.eg3d)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out.splitlines(), err.splitlines()
    return run


def test_command(run, data, truth, small_batches, tmp_path):
    """The figures that it prints are kept in the file, whose checksum stands in the last line."""
    path = tmp_path / "heads.safetensors"
    code, out, _ = run("train-regressor", f"--data={data}", f"--dest={path}", "--kimg=0.05", "--seed=3")
    assert code == 0 and out[-1] == f"{path}: SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"
    with regressor.safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[regressor.KEY])
    printed = {name: float(value) for name, value in (line.split() for line in out[:-1])}
    assert printed == {name: pytest.approx(about[name], abs=5.1e-5) for name in printed} and "pose_median" in printed
    expected = hashlib.sha256(b"".join(part.numpy().tobytes() for part in truth)).hexdigest()
    assert (about["kimg"], about["seed"], about["pictures"], about["data"]) == (0.05, 3, 300, expected)


def without_labels(members):
    members["dataset.json"] = b'{"labels": null}'


def without_a_truth(members):
    del members["00000/img00000001.npz"]


def damaged(members):
    members["00000/img00000001.npz"] = members["00000/img00000001.npz"][:200]


def without_depth(members):
    buffer = io.BytesIO()
    np.savez(buffer, mask=np.zeros((64, 64)))
    members["00000/img00000001.npz"] = buffer.getvalue()


def of_another_size(members):
    buffer = io.BytesIO()
    np.savez(buffer, depth=np.zeros((32, 32)))
    members["00000/img00000001.npz"] = buffer.getvalue()


@pytest.mark.parametrize("change, problem", [
    (without_labels, "holds no labels"), (without_a_truth, "holds 2 pictures and the truth of 1: make it by dataset_tool.py"),
    (damaged, "00000/img00000001.npz holds no depth"), (without_depth, "00000/img00000001.npz holds no depth"),
    (of_another_size, "00000/img00000001.npz holds depth of shape (32, 32), expected that of the pictures, (64, 64)")])
def test_bad_data_is_one_line(run, tmp_path, change, problem):
    write_truth(tmp_path / "bad.zip", 2, change=change)
    code, out, err = run("train-regressor", f"--data={tmp_path / 'bad.zip'}", f"--dest={tmp_path / 'a.safetensors'}")
    assert code == 2 and out == [] and len(err) == 1 and err[0].startswith("Error: ") and problem in err[0]
    assert [path.name for path in tmp_path.iterdir()] == ["bad.zip"]


def test_mistakes_are_one_line(run, data, tmp_path):
    write_truth(tmp_path / "small.zip", 1, 16)
    write_truth(tmp_path / "one.zip", 1)
    for arguments, problem in (
            ([f"--data={tmp_path / 'small.zip'}", "--dest=a.safetensors"], "expected pictures in colour, 32 or more"),
            ([f"--data={tmp_path / 'one.zip'}", "--dest=a.safetensors"], "holds one picture"),
            (["--data=nowhere.zip", "--dest=a.safetensors"], "nowhere.zip"),
            ([f"--data={data}", "--dest=a.pkl"], "a.pkl: a regressor is written as .safetensors"),
            ([f"--data={data}", "--dest=a.safetensors", "--kimg=0"], "--kimg")):
        code, out, err = run("train-regressor", *arguments)
        assert code == 2 and out == [] and len(err) == 1 and problem in err[0]


def test_a_changed_file_stops_the_metrics_before_they_begin(run, data, tmp_path, monkeypatch):
    monkeypatch.setattr(regressor, "SHA256", "0" * 64)
    code, out, err = run("metrics", "--network=nowhere.pkl", f"--data={data}", "--metrics=heads_pose", "--device=cpu")
    assert code == 2 and out == [] and len(err) == 1 and "is not the file that shipped" in err[0]
