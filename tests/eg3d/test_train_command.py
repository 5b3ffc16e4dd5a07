"""train.py as it is used: what a run leaves, what it can be asked for, and how it ends when something is wrong."""

import json
import signal
import sys
import zipfile

import numpy as np
import PIL.Image
import pytest
import scene
import torch

from eg3d import generator
from eg3d.cli import train as command
from training import checkpoint, loss, run_folder
from training import config as configs

OFFICIAL_STATISTICS = """
    Loss/scores/fake Loss/scores/real Loss/signs/fake Loss/signs/real Loss/G/loss Loss/D/loss Loss/D/reg Loss/r1_penalty
    Progress/tick Progress/kimg Progress/augment Timing/total_sec Timing/sec_per_tick Timing/sec_per_kimg
    Timing/maintenance_sec Timing/total_hours Timing/total_days Timing/Gmain Timing/Greg Timing/Dmain Timing/Dreg
    Resources/cpu_mem_gb Resources/peak_gpu_mem_gb Resources/peak_gpu_mem_reserved_gb timestamp"""
BATCHES = 3
TINY = ("--cfg=ffhq --batch=4 --gamma=0.3 --cbase=128 --cmax=8 --latent=16 --plane_resolution=16 --plane_channels=4 "
        "--decoder_width=8 --samples=4 --importance=4 --neural_rendering_resolution_initial=16 --metrics=none --grid=2x2 "
        "--workers=0 --mbstd-group=2 --device=cpu").split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "heads.zip"
    scene.write_zip(path, 12, 32, seed=0)
    return path


@pytest.fixture
def run(data, tmp_path, monkeypatch, capsys):
    """run(*options) trains for three batches; returns exit code, printed lines, error lines."""
    resolve = configs.resolve
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def short(*args):
        return configs.EasyDict(resolve(*args), total_kimg=4 * run.batches / 1000)

    monkeypatch.setattr(configs, "resolve", short)
    monkeypatch.chdir(tmp_path)

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["train.py", f"--data={data}", "--outdir=runs", *TINY, *options])
        with pytest.raises(SystemExit) as ended:
            command.main()
        printed = capsys.readouterr()
        return ended.value.code, printed.out.splitlines(), [line for line in printed.err.splitlines() if line]

    run.batches = BATCHES
    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


def newest(tmp_path):
    runs = run_folder.numbered(tmp_path / "runs")
    return runs[max(runs)]


def weights(folder, network="G"):
    return checkpoint.load(checkpoint.found(folder)[0])["common"]["networks"][network]


def statistics(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def test_what_a_run_leaves(run, tmp_path):
    """The official files by their official names, and ours."""
    code, out, errors = run()
    assert (code, errors) == (0, [])
    folder = newest(tmp_path)
    assert folder.name == "00000-ffhq-heads-gpus1-batch4-gamma0.3"
    found = {path.name for path in folder.iterdir()}
    assert {"training_options.json", "log.txt", "stats.jsonl", "reals.png", "fakes000000.png", "fakes000000_raw.png",
            "fakes000000_depth.png", "network-snapshot-000000.pkl", "index.html", "checkpoint-000000012.pt"} <= found
    assert (folder / "log.txt").read_text().splitlines() == out
    status = [line.split() for line in out if line.startswith("tick")]
    words = ["tick", "kimg", "time", "sec/tick", "sec/kimg", "maintenance", "cpumem", "gpumem", "reserved", "augment"]
    assert [word for word in status[0] if word in words] == words and [line[1] for line in status] == ["0", "1"]
    expected = set(OFFICIAL_STATISTICS.split())
    lines = statistics(folder)
    assert len(lines) == 2 and expected <= set(lines[0]) and set(lines[0]["Loss/G/loss"]) == {"num", "mean", "std"}
    assert lines[0]["Loss/G/loss"]["num"] == 4 and lines[1]["Loss/G/loss"]["num"] == 8
    for name, size in (("reals", 32), ("fakes000000", 32), ("fakes000000_raw", 16), ("fakes000000_depth", 16)):
        with PIL.Image.open(folder / f"{name}.png") as image:
            assert image.size == (2 * size, 2 * size)
            assert np.array(image).std() > 0


def test_snapshots(run, tmp_path, data):
    """A snapshot is the official dict; its networks are those of the last batch."""
    run()
    folder = newest(tmp_path)
    snapshot = generator.load_snapshot(folder / "network-snapshot-000000.pkl")
    assert set(snapshot) == {"G", "D", "G_ema", "augment_pipe", "training_set_kwargs"}
    assert snapshot["training_set_kwargs"]["path"] == str(data)
    assert torch.equal(snapshot["G_ema"].state_dict()["decoder.net.0.weight"], weights(folder, "G_ema")["decoder.net.0.weight"])
    assert snapshot["G_ema"].dataset_label_std.shape == (25,)


def test_first_row_of_reals(run, tmp_path, data):
    """Each row begins with a picture of the data."""
    run()
    sheet = np.asarray(PIL.Image.open(newest(tmp_path) / "reals.png"))
    pictures = scene.pictures(12, 32, seed=0)[0]
    for row in range(2):
        assert any(np.array_equal(sheet[32 * row : 32 * row + 32, :32], picture) for picture in pictures)


def test_the_same_command_goes_on(run, tmp_path):
    """An unfinished run goes on, a finished one does not; --resume says otherwise."""
    run("--seed=1")
    run.batches = 5
    _, out, _ = run("--seed=1")
    assert any(line.startswith("Going on from 0.012 kimg") for line in out)
    assert [path.name[:5] for path in (tmp_path / "runs").iterdir()] == ["00000"]
    assert len(statistics(newest(tmp_path))) == 3
    run("--seed=1")  # finished, so a new one
    assert newest(tmp_path).name.startswith("00001")
    run.batches = 6
    run("--seed=1", "--resume=none")
    assert newest(tmp_path).name.startswith("00002")
    code, _, errors = run("--seed=2", "--resume=latest")
    assert code == 2 and len(errors) == 1 and "random_seed" in errors[0]
    run.batches = 7
    _, out, _ = run("--seed=1", f"--resume={tmp_path / 'runs' / newest(tmp_path).name}")
    assert any("Going on from 0.024 kimg" in line for line in out)
    run.batches = 8
    _, out, _ = run("--seed=1", f"--resume={checkpoint.found(newest(tmp_path))[0]}")
    assert any("Going on from 0.028 kimg" in line for line in out)


def test_a_run_in_use(run, tmp_path):
    """Another process's run is left alone."""
    run()
    run.batches = 5
    with run_folder.lock(newest(tmp_path)):
        for options in ([], ["--resume=latest"]):
            code, _, errors = run(*options)
            assert code == 2 and len(errors) == 1 and "another process is training this run" in errors[0]
    assert newest(tmp_path).name.startswith("00000") and run()[0] == 0


def test_changed_data(run, tmp_path, data):
    """A run does not go on with other pictures."""
    other = tmp_path / "heads.zip"
    other.write_bytes(data.read_bytes())
    run(f"--data={other}")
    run.batches = 5
    for count in (12, 11):
        scene.write_zip(other, count, 32, seed=1)
        code, _, errors = run(f"--data={other}")
        assert code == 2 and len(errors) == 1 and "the data set is not the one" in errors[0]


@pytest.mark.parametrize("options", [
    "--cond=false", "--mirror", "--aug=ada", "--aug=fixed --p=1", "--style_mixing_prob=0.9 --density_reg_every=1",
    "--reg_type=monotonic-detach --density_reg_every=1", "--reg_type=monotonic-fixed --density_reg_every=1", "--bf16",
    "--channels-last", "--density_reg=0", "--gen_pose_cond --disc_c_noise=1 --sr_noise_mode=random", "--faithful --freezed=2",
    "--neural_rendering_resolution_final=32 --neural_rendering_resolution_fade_kimg=0", "--batch-gpu=2",
    "--cfg=custom --ray_start=2 --ray_end=3.5 --box_warp=1.2 --radius=2.7 --pivot=0,0,0.2 --focal=4.2647 --white_back"])
def test_asked_for(options, run, tmp_path):
    """It trains, and everything stays finite."""
    code, _, errors = run(*options.split())
    assert (code, errors) == (0, [])
    for network in ("G", "D", "G_ema"):
        assert all(torch.isfinite(tensor).all() for tensor in weights(newest(tmp_path), network).values())


@pytest.mark.slow
def test_compiled(run, tmp_path):
    """torch.compile, R1 included."""
    assert run("--compile", "--aug=ada")[0] == 0


def test_without_labels(run, tmp_path, data):
    """Pictures alone train with --cond=false, and not without."""
    bare = tmp_path / "bare.zip"
    with zipfile.ZipFile(data) as source, zipfile.ZipFile(bare, "w") as archive:
        for name in source.namelist():
            if name.endswith(".png"):
                archive.writestr(name, source.read(name))
    assert run(f"--data={bare}", "--cond=false")[0] == 0
    code, _, errors = run(f"--data={bare}")
    assert code == 2 and len(errors) == 1 and "--cond=False" in errors[0]


def test_begin_with_a_network(run, tmp_path):
    """--init-from begins with its weights, average and axes; --resume=X.pkl is the same, and says so."""
    run("--faithful")
    first = newest(tmp_path)
    network = first / "network-snapshot-000000.pkl"
    run.batches = 1
    _, out, _ = run(f"--init-from={network}", "--glr=0", "--dlr=0")  # nothing is learnt
    assert any("official plane axes" in line for line in out)
    second = newest(tmp_path)
    assert second != first
    for name in ("G", "D", "G_ema"):
        before, after = dict(generator.load_snapshot(network)[name].named_parameters()), weights(second, name)
        if name != "G_ema":
            assert all(torch.equal(tensor, after[key]) for key, tensor in before.items())
    stored = json.loads((second / "training_options.json").read_text())
    assert "plane_axes" not in stored["G_kwargs"] and stored["ema_rampup"] is None and stored["ada_kimg"] == 100
    assert stored["loss_kwargs"]["blur_init_sigma"] == 0 and stored["loss_kwargs"]["gpc_reg_fade_kimg"] == 0
    code, _, errors = run(f"--resume={network}", "--resume_blur")
    assert code == 0 and len(errors) == 1 and "acts as --init-from" in errors[0]
    assert json.loads((newest(tmp_path) / "training_options.json").read_text())["loss_kwargs"]["blur_init_sigma"] == 10
    code, _, errors = run(f"--init-from={network}", "--latent=32")
    assert code == 2 and len(errors) == 1 and "has other sizes" in errors[0]


def test_batch_gpu_auto(run, tmp_path, monkeypatch):
    """It takes what fits: half, where the whole share is too much."""
    run("--batch-gpu=auto")
    assert json.loads((newest(tmp_path) / "training_options.json").read_text())["batch_gpu"] == 4
    learn = loss.StyleGAN2Loss.accumulate_gradients

    def tight(self, phase, real_img, **kwargs):
        if len(real_img) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")
        return learn(self, phase, real_img=real_img, **kwargs)

    monkeypatch.setattr(loss.StyleGAN2Loss, "accumulate_gradients", tight)
    run("--batch-gpu=auto", "--seed=1")
    folder = newest(tmp_path)
    assert json.loads((folder / "training_options.json").read_text())["batch_gpu"] == 2
    run.batches = 4
    run("--batch-gpu=auto", "--seed=1")  # the same command goes on with what was found
    assert newest(tmp_path) == folder
    code, _, errors = run("--resume=none")
    assert code == 2 and len(errors) == 1 and "--batch-gpu=auto" in errors[0]
    code, _, errors = run("--batch-gpu=auto", "--mbstd-group=4", "--resume=none")
    assert code == 2 and len(errors) == 1 and "not even 4 pictures at once fit" in errors[0]


def test_metrics_of_a_run(run, tmp_path):
    """At every snapshot, in the official file."""
    assert run("--metrics=flatness_4,raw_agreement_4")[0] == 0
    folder = newest(tmp_path)
    for name in ("flatness_4", "raw_agreement_4"):
        [first, last] = [json.loads(line) for line in (folder / f"metric-{name}.jsonl").read_text().splitlines()]
        assert last["metric"] == name and last["snapshot_pkl"] == "network-snapshot-000000.pkl" and last["num_gpus"] == 1
    code, _, errors = run("--metrics=nonsense")
    assert code == 2 and len(errors) == 1 and "nonsense" in errors[0]


@pytest.mark.parametrize("options, words", [
    (["--resume=nonsense"], "--resume=nonsense: no such run or checkpoint"), (["--resume=."], "no checkpoint in this folder"),
    (["--init-from=nowhere.pkl"], "nowhere.pkl"), (["--metrics=fid5k_full", "--detector=inception=nowhere.pt"], "nowhere.pt"),
    (["--outdir=file"], "file"), (["--data=cut.zip"], "cut.zip: is no complete zip")])
def test_mistakes(options, words, run, tmp_path, data):
    """One line, exit code 2, and no run is begun."""
    (tmp_path / "file").touch()
    (tmp_path / "cut.zip").write_bytes(data.read_bytes()[:9000])
    code, _, errors = run(*options)
    assert code == 2 and len(errors) == 1 and errors[0].startswith("Error: ") and words in errors[0]
    assert not list(tmp_path.glob("runs/*"))
