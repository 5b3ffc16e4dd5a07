"""Whole metrics of a small stand-in for a network: what they compute, what is kept, several ranks, the command."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import scene
import scipy.linalg
import torch

from eg3d import cameras, metrics
from eg3d.cli import main, options
from eg3d.metrics import fakes, patches
from torch_utils import images
from training.labels import unpack

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")


class Colours(torch.nn.Module):
    """A detector of three features, one of each channel."""

    def forward(self, pictures: torch.Tensor, return_features: bool = False, no_output_bias: bool = False):
        x = pictures.float() / 255
        features = torch.stack([x[:, 0].mean(dim=(1, 2)), x[:, 1].amax(dim=(1, 2)), x[:, 2].square().mean(dim=(1, 2))], dim=1)
        return features if return_features else torch.softmax(features * 8, dim=1)


class Pixels(torch.nn.Module):
    """A detector whose perceptual distance is the squared difference of pixels."""

    def forward(self, pictures: torch.Tensor, resize_images: bool = True, return_lpips: bool = False):
        return pictures.flatten(1) / 255


class Shells(torch.nn.Module):
    """A sphere of radius 2.7 around the camera in a colour of z, brighter to one side, with noise; `calls` counts pictures."""

    z_dim, rendering_kwargs = 4, dict(avg_camera_radius=2.7, avg_camera_pivot=[0, 0, 0], box_warp=1, focal_length=4.0)

    def __init__(self, resolution=32, raw=16, noise=0.05):
        super().__init__()
        self.resolution, self.raw, self.noise, self.calls = resolution, raw, noise, 0

    def mapping(self, z, c):
        return torch.tanh(z)

    def synthesis(self, ws, c, noise_mode, **_):
        self.calls += len(ws)
        pose, _ = unpack(c)
        size, times = (len(ws), 3, self.raw, self.raw), self.resolution // self.raw
        raw = 0.6 * ws[:, :3, None, None] + 0.1 * torch.linspace(-1, 1, self.raw) + 0.05 * pose[:, 0, 3, None, None, None]
        raw = raw.expand(size)
        if noise_mode == "random":
            raw = raw + self.noise * torch.randn(size)
        return dict(image=raw.repeat_interleave(times, 2).repeat_interleave(times, 3), image_raw=raw,
                    image_depth=torch.full([len(ws), 1, self.raw, self.raw], 2.7))

    def forward(self, z, c, noise_mode):
        return self.synthesis(self.mapping(z, c), c, noise_mode)


class Data:
    """20 pictures of noise in the data set's interface; `read` counts them."""

    path, resolution, has_labels = "data.zip", 32, True

    def __init__(self, seed=0):
        self.pictures = np.random.RandomState(seed).randint(0, 200, [20, 3, 32, 32]).astype(np.uint8)
        self.pictures = self.pictures // np.arange(1, 21)[:, None, None, None].astype(np.uint8)
        self.seed, self.read = seed, 0

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        self.read += 1
        return self.pictures[index], self.labels()[index]

    def labels(self):
        return torch.cat([cameras.view(Shells.rendering_kwargs, yaw / 20) for yaw in range(-10, 10)]).numpy()

    def fingerprint(self):
        return f"noise {self.seed}"


class Half(Shells):
    """Rounds as networks do on a GPU, unless it is asked not to."""

    def synthesis(self, ws, c, noise_mode, force_fp32=False):
        made = super().synthesis(ws, c, noise_mode)
        return made if force_fp32 else {key: value.half().float() for key, value in made.items()}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Detectors' files; the cache is empty."""
    monkeypatch.setenv("EG3D_CACHE_DIR", str(tmp_path / "cache"))
    found = dict(inception=str(tmp_path / "colours.pt"), vgg=str(tmp_path / "pixels.pt"))
    torch.jit.script(Colours()).save(found["inception"])
    torch.jit.script(Pixels()).save(found["vgg"])
    return found


def made(G, count, batch, seed=0):
    """The network's pictures, uint8, by the rule that fakes.py states: item by item, seeded chunk by chunk."""
    found, labels = [], torch.from_numpy(Data().labels())
    for first in range(0, count, batch):
        zs, cs = [], []
        for item in range(first, min(first + batch, count)):
            random = np.random.default_rng([seed, item])
            zs.append(torch.from_numpy(random.standard_normal(4, dtype=np.float32)))
            cs.append(labels[random.integers(20)])
        torch.manual_seed(int(np.random.default_rng([seed, first, 1]).integers(2**31)))
        found.append(images.to_uint8(G(torch.stack(zs), torch.stack(cs), noise_mode="random")["image"]))
    return torch.cat(found)


# ------------------------------------------------------------------------------------------------ values

@pytest.mark.parametrize("name, reals", [("fid30_full", 20), ("fid15", 15)])
def test_fid(places, name, reals):
    """The formula, with the matrix root, on all features at once."""
    data, count = Data(), int(name[3:5])
    found = metrics.evaluate([name], Shells(), data, CPU, places, batch=4)
    chosen = data.pictures if reals == 20 else data.pictures[np.sort(np.random.RandomState(0).permutation(20)[:15])]
    real = Colours()(torch.from_numpy(chosen), True).double().numpy()
    fake = Colours()(made(Shells(), count, 4), True).double().numpy()
    covariances = [np.cov(x.T, ddof=0) for x in (real, fake)]
    root = np.trace(scipy.linalg.sqrtm(covariances[0] @ covariances[1]).real)
    expected = np.square(real.mean(0) - fake.mean(0)).sum() + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root
    assert found == {name: {name: pytest.approx(expected, rel=1e-5)}}  # float32 features


def test_results_by_name(places):
    """Every metric gives its numbers under its own name, and leaves the random numbers where they were."""
    names = ["kid20_full", "pr203", "is20", "ppl2_wend_6", "swd_20", "reprojection_2", "flatness_3", "raw_agreement_3"]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    found = metrics.evaluate(names, Shells(), Data(), CPU, places, batch=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert [list(results) for results in found.values()] == [
        ["kid20_full"], ["pr203_precision", "pr203_recall"], ["is20_mean", "is20_std"], ["ppl2_wend_6"],
        ["swd_20", "swd_20_level32", "swd_20_level16"],
        ["reprojection_2_error", "reprojection_2_raw_error", "reprojection_2_covered"],
        ["flatness_3_depth", "flatness_3_off_plane"], ["raw_agreement_3_psnr"]]
    assert list(found) == names
    assert found == metrics.evaluate(names, Shells(), Data(), CPU, places, batch=3)
    other = metrics.evaluate(["is20"], Shells(), Data(), CPU, places, batch=3, seed=1)
    assert other["is20"] != found["is20"]


def test_path_length_of_known_paths(places):
    """Pictures are linear in tanh(z) here, so the distance is that of the ends; the noise of the two pictures is the same."""
    found = metrics.evaluate(["ppl2_wend_9"], Half(noise=0.3), Data(), CPU, places, batch=4)["ppl2_wend_9"]
    distances = []
    for item in range(9):
        ends = [np.tanh(np.random.default_rng([0, number]).standard_normal(4, dtype=np.float32))[:3]
                for number in (item, 9 + item)]
        # Colours move by 0.6 of the style, in shares of the range 2; there are 32 x 32 pixels.
        distances.append(np.square(0.3 * (ends[1] - ends[0])).sum() * 32 * 32)
    # 1 % and 99 % of nine, rounded outwards: all. A step of 1e-4 leaves three digits of float32's seven.
    assert found["ppl2_wend_9"] == pytest.approx(np.mean(distances), rel=1e-2)


def test_swd_is_that_of_the_pictures(places):
    """Of as many generated pictures as there are real ones, where those are fewer."""
    found = metrics.evaluate(["swd_50"], Shells(), Data(), CPU, batch=20)["swd_50"]
    expected = patches.picture_distance(torch.from_numpy(Data().pictures), made(Shells(), 20, 20))
    assert found == {"swd_50": expected.pop("mean"), **{f"swd_50_{key}": value for key, value in expected.items()}}


def test_geometry_of_the_shell():
    """Its depth is 2.7 everywhere, and its colours stick to the pixels, which is told."""
    found = metrics.evaluate(["flatness_4", "raw_agreement_4", "reprojection_4"], Shells(noise=0), Data(), CPU, batch=3)
    # Pixels spread over +-1/8 of the depth: z = 2.7 / sqrt(1 + x^2 + y^2).
    axis = (np.arange(16) + 0.5) / 16 / 4 - 1 / 8
    expected = np.std(2.7 / np.sqrt(1 + axis[:, None] ** 2 + axis**2))
    assert found["flatness_4"]["flatness_4_depth"] == pytest.approx(expected, rel=1e-3)
    assert found["raw_agreement_4"]["raw_agreement_4_psnr"] > 50  # a ramp is shrunk exactly but at its two ends
    errors, covered = zip(*[carried(cameras.view(Shells.rendering_kwargs, yaw), x, y) for yaw in (0.2, -0.2) for x in axis
                            for y in axis])
    results = found["reprojection_4"]
    assert results["reprojection_4_covered"] == np.mean(covered)
    assert results["reprojection_4_raw_error"] == pytest.approx(np.mean(np.array(errors)[np.array(covered)]), rel=1e-4)
    assert results["reprojection_4_error"] == pytest.approx(results["reprojection_4_raw_error"], rel=1e-2)  # but at the ends


def carried(label, x, y):
    """A pixel's colour against that of its point in the frontal view, and whether that view covers it."""
    pose = unpack(label)[0][0].double().numpy()
    frontal = unpack(cameras.view(Shells.rendering_kwargs))[0][0].double().numpy()
    ray = pose[:3, :3] @ [x, y, 1]
    point = pose[:3, 3] + 2.7 * ray / np.linalg.norm(ray)
    there = frontal[:3, :3].T @ (point - frontal[:3, 3])
    there, far = there / there[2], np.linalg.norm(there)
    edge = 1 / 8 - 1 / 8 / 16  # the last pixels' centres; there the ramp is +-0.1
    difference = 0.1 * (there[0] - x) / edge + 0.05 * (frontal[0, 3] - pose[0, 3])
    return abs(difference) / 2, max(abs(there[:2])) <= edge and far - 2.7 <= 0.02


def test_data_without_labels():
    data = Data()
    data.has_labels = False
    with pytest.raises(ValueError, match="data.zip: has no labels, from which metrics draw the cameras"):
        metrics.evaluate(["flatness_2"], Shells(), data, CPU)
    asked = []

    def drawn(count):
        asked.append(torch.rand(1).item())
        return cameras.view(Shells.rendering_kwargs, asked[-1])

    metrics.evaluate(["flatness_3"], Shells(), data, CPU, cameras=drawn)
    assert len(set(asked)) == 3
    metrics.evaluate(["flatness_3"], Shells(), data, CPU, cameras=drawn, batch=1)
    assert asked[:3] == asked[3:]


def test_diverged_network():
    G = Shells()
    G.noise = float("nan")
    with pytest.raises(ValueError, match="hold NaN or infinite numbers: its training has diverged"):
        metrics.evaluate(["swd_4"], G, Data(), CPU)


# ------------------------------------------------------------------------------------------------ the cache

@pytest.mark.parametrize("name", ["fid6_full", "kid6_full"])
def test_statistics_are_kept(places, tmp_path, recwarn, name):
    """The data are looked at once; again for other data, another detector, another number of them."""
    def evaluate(name, data, **detector):
        G = Shells()
        found = metrics.evaluate([name], G, data, CPU, dict(places, **detector))[name][name]
        assert G.calls == 6
        return found, data.read

    first, read = evaluate(name, Data())
    assert read == 20
    assert evaluate(name, Data()) == (first, 0)
    assert evaluate(name, Data(seed=1))[1] == 20
    torch.jit.script(Pixels()).save(tmp_path / "same-convention-not.pt")
    os.rename(places["inception"], tmp_path / "moved.pt")
    assert evaluate(name, Data(), inception=str(tmp_path / "moved.pt")) == (first, 0)  # the file's content counts
    assert evaluate(name.removesuffix("_full"), Data(), inception=str(tmp_path / "moved.pt"))[1] == 6
    folder = tmp_path / "cache" / "statistics"
    assert all(path.suffix == ".npz" and not path.name.startswith(".") for path in folder.iterdir())
    assert not [warning for warning in recwarn if warning.category is RuntimeWarning]


@pytest.mark.parametrize("damage", [b"", b"no zip", "cut", "flipped", "other"])
def test_damaged_statistics(places, tmp_path, damage):
    first = metrics.evaluate(["fid6_full"], Shells(), Data(), CPU, places)
    [path] = (tmp_path / "cache" / "statistics").iterdir()
    whole = path.read_bytes()
    if damage == "other":
        np.savez(path, mean=np.zeros(3))
    else:
        middle = len(whole) // 4
        path.write_bytes({"cut": whole[:-40],
                          "flipped": whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1:]}.get(damage, damage))
    data = Data()
    with pytest.warns(RuntimeWarning, match=r"mean-covariance-\w+.npz: these statistics of the data are damaged") as warned:
        assert metrics.evaluate(["fid6_full"], Shells(), data, CPU, places) == first
    assert len([one for one in warned if one.category is RuntimeWarning]) == 1
    assert data.read == 20 and path.read_bytes() == whole


def test_cache_that_cannot_be_written(places, tmp_path):
    """A metric is worth more than what is kept for the next time."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "statistics").write_text("a file")
    with pytest.warns(RuntimeWarning, match="the data's statistics are not kept"):
        metrics.evaluate(["fid6_full"], Shells(), Data(), CPU, places)


# ------------------------------------------------------------------------------------------------ ranks

@pytest.mark.parametrize("count, batch, ranks", [(10, 3, 2), (7, 2, 3), (1, 4, 3), (12, 2, 2)])
def test_ranks_share_the_items(monkeypatch, count, batch, ranks):
    """Every item is made by one rank, in chunks that one process would make; padded to the same shape everywhere."""
    sent = {}
    for rank in range(ranks):
        def gathered(tensor, rank=rank):
            sent.setdefault(rank, []).append(tensor.clone())
            return torch.zeros(ranks * batch, 1)

        monkeypatch.setattr(fakes, "distributed", types.SimpleNamespace(
            rank=lambda rank=rank: rank, size=lambda: ranks, gathered=gathered))
        work = fakes.Work(Shells(), Data(), CPU, batch, 0, False)
        got = list(work.chunks(count, "", lambda first, end: torch.arange(first, end)[:, None].float()))
        assert sum(map(len, got)) == count
    rounds = [torch.cat(parts) for parts in zip(*sent.values())]
    assert all(part.shape == (batch, 1) for parts in sent.values() for part in parts)
    assert torch.cat(rounds)[:count, 0].tolist() == list(range(count))


TWO_RANKS = """
import json, sys, torch
sys.path[:0] = [{root!r}, {root!r} + "/tests", {root!r} + "/tests/eg3d"]
from torch_utils import distributed
from eg3d import metrics
from test_metrics_evaluation import Shells, Data
torch.set_num_threads(1)
distributed.start(torch.device("cpu"))
found = metrics.evaluate({names!r}, Shells(), Data(), torch.device("cpu"), {places!r}, batch=3)
open({folder!r} + "/rank" + str(distributed.rank()), "w").write(json.dumps([distributed.size(), found]))
distributed.stop()
"""


@pytest.mark.slow
def test_two_ranks(places, tmp_path):
    """What two processes find together is what one finds alone, on both of them."""
    names = ["fid10_full", "kid10_full", "is10", "ppl2_wend_4", "swd_20", "flatness_4", "raw_agreement_4", "reprojection_2"]
    code = TWO_RANKS.format(root=str(ROOT), names=names, places=places, folder=str(tmp_path))
    (tmp_path / "both.py").write_text(code)
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "both.py"],
                          cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    both = [json.loads((tmp_path / f"rank{rank}").read_text()) for rank in range(2)]
    assert both[0] == both[1] and both[0][0] == 2
    os.environ["EG3D_CACHE_DIR"] += "-other"  # the fixture puts it back
    alone = metrics.evaluate(names, Shells(), Data(), CPU, places, batch=3)
    for name in names:
        assert both[0][1][name] == pytest.approx(alone[name], rel=1e-9)  # float64 sums in another order


# ------------------------------------------------------------------------------------------------ the command

@pytest.fixture
def run(monkeypatch, capsys):
    """Runs `eg3d metrics`: (exit code, lines of standard output, lines of standard error)."""
    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["eg3d", "metrics", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            options.run(main.eg3d)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out.splitlines(), err.splitlines()
    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "heads.zip"
    scene.write_zip(path, 4, 128)
    return path


def test_command(run, tiny_path, data, places, tmp_path):
    """A line a metric, and a file a metric beside the network."""
    network = tmp_path / "run" / "network-snapshot-000012.pkl"
    network.parent.mkdir()
    network.write_bytes(tiny_path.read_bytes())
    arguments = [f"--network={network}", f"--data={data}", "--metrics=fid2_full,flatness_1",
                 f"--detector=inception={places['inception']}", "--batch=2", "--device=cpu"]
    code, out, _ = run(*arguments)
    assert code == 0 and [line.split(":")[0] for line in out] == ["fid2_full", "flatness_1"]
    entry = json.loads((network.parent / "metric-fid2_full.jsonl").read_text())
    assert entry["snapshot_pkl"] == network.name and entry["num_gpus"] == 1
    assert out[0] == f"fid2_full: fid2_full {entry['results']['fid2_full']:.4f}"
    code, mirrored, _ = run(*arguments, "--mirror", f"--outdir={tmp_path / 'out'}")
    assert code == 0 and mirrored[0] != out[0]
    assert json.loads((tmp_path / "out" / "metric-flatness_1.jsonl").read_text())["snapshot_pkl"] == os.path.join(
        "..", "run", network.name)


def test_command_leaves_packages_alone(run, tiny_path, data):
    """A network that is named, not given as a file, has no folder to write to."""
    before = sorted(os.listdir(tiny_path.parent))
    code, out, _ = run("--network=tiny-random", f"--data={data}", "--metrics=flatness_1", "--device=cpu")
    assert code == 0 and len(out) == 1 and sorted(os.listdir(tiny_path.parent)) == before


@pytest.mark.parametrize("arguments, problem", [
    (["--metrics=fid50"], "heads.txt: No such file or directory; give --detector=inception=FILE"),
    (["--metrics=swd_4,fd50k"], "metric 'fd50k' is unknown: choose from fid50k_full"),
    (["--metrics=swd_4", "--data=nowhere.zip"], "nowhere.zip"),
    (["--metrics=swd_4", "--detector=vgg"], "--detector is 'vgg': write it like inception=FILE or vgg=FILE"),
    (["--metrics=swd_4", "--detector=inception=b"], "--detector=inception=... is given twice"),
    (["--metrics=swd_4", "--batch=0"], "--batch")])
def test_mistakes_are_one_line(run, data, arguments, problem):
    given = [] if any(one.startswith("--data") for one in arguments) else [f"--data={data}"]
    code, out, err = run("--network=tiny-random", "--device=cpu", "--detector=inception=heads.txt", *given, *arguments)
    assert code == 2 and out == [] and len(err) == 1 and err[0].startswith("Error: ") and problem in err[0]


def test_bad_data_is_one_line(run, tmp_path):
    """Pictures of another size than the network's; those it learnt from, which are not here."""
    code, _, err = run("--network=tiny-random", "--device=cpu", "--metrics=swd_2")
    assert code == 2 and "faces.zip, which tiny-random learnt from, is not here: give --data" in err[-1]
    scene.write_zip(tmp_path / "small.zip", 2, 32)
    code, _, err = run("--network=tiny-random", "--device=cpu", f"--data={tmp_path / 'small.zip'}", "--metrics=swd_2")
    assert code == 2 and len(err) == 1 and "is 32 x 32, expected 128 x 128" in err[0]
