"""Options of a run: the original's resolved configurations, and what contradicts itself."""

import json
import shlex
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner

from eg3d import cameras
from eg3d.cli.train import train
from training import config as configs
from training.labels import pack

ROOT = Path(__file__).parents[2]
OFFICIAL = json.loads((ROOT / "tests" / "data" / "train_options.json").read_text())

RENAMED = {"resume_pkl": "init_from"}
# What the original leaves to its loop's defaults, or does not have.
ADDED = {
    "D_reg_interval", "init_from", "ema_rampup", "augment_kwargs", "augment_p", "ada_target", "ada_kimg", "cond",
    "camera_kwargs", "checkpoint_minutes", "grid", "cudnn_benchmark", "tf32", "bf16", "compile", "channels_last", "device",
    "detectors", "run_name"}
PATHS = ("run_dir",)  # there relative to the folder of runs


def write_zip(path, resolution, labels=True):
    """Four grey pictures of the official format."""
    c = pack(cameras.GaussianCameraPoseSampler.sample(np.pi / 2, np.pi / 2, 0.2, 0.1, 2.7, 4), cameras.intrinsics(4.2647))
    names = [f"00000/img{index:08d}.png" for index in range(4)]
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            file = BytesIO()
            PIL.Image.new("RGB", (resolution, resolution), (128, 128, 128)).save(file, "PNG")
            archive.writestr(name, file.getvalue())
        if labels:
            archive.writestr("dataset.json", json.dumps(dict(labels=[[n, row.tolist()] for n, row in zip(names, c)])))


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for resolution in (128, 256, 512):
        write_zip(f"data{resolution}.zip", resolution)


def dry_run(arguments):
    ran = CliRunner().invoke(train, [*shlex.split(arguments), "--outdir=runs", "--dry-run"], catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return json.loads(ran.stdout)


@pytest.mark.parametrize("resume", ["--init-from", "--resume"])
@pytest.mark.parametrize("name", OFFICIAL)
def test_official_commands(name, resume):
    """The published commands resolve to the original's configuration, key by key; ours has more keys, which are listed."""
    found = dry_run(OFFICIAL[name]["command"].replace("--resume", resume) + " --faithful")
    official = dict(OFFICIAL[name]["options"])
    for theirs, ours in RENAMED.items():
        if theirs in official:
            official[ours] = official.pop(theirs)
    for key in PATHS:
        found[key] = str(Path(found[key]).relative_to("runs"))
    assert {key: found[key] for key in official} == official
    assert set(found) - set(official) <= ADDED


def test_what_is_corrected():
    """Without --faithful the planes' axes and the density's points differ, and nothing else."""
    command = OFFICIAL["shapenetcars128-64"]["command"]
    found, faithful = dry_run(command), dry_run(command + " --faithful")
    assert found["G_kwargs"].pop("plane_axes")[2] == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]
    assert found["loss_kwargs"].pop("density_extent") == 0.8  # half of the box
    assert found == faithful


BASE = "--outdir=runs --cfg=ffhq --data=data512.zip --batch=8 --gamma=1 --dry-run"


@pytest.mark.parametrize("arguments, named", [
    ("--c-noise=1", "No such option"), ("--sr_first_cutoff=2", "No such option"), ("--sr_first_stopband=2", "No such option"),
    ("--reg_type=l1-alt", "reg_type"), ("--reg_type=total-variation", "reg_type"),
    ("--batch=6 --gpus=4", "--batch (6) must be a multiple of --gpus (4)"),
    ("--batch-gpu=3", "--gpus x --batch-gpu (1 x 3)"),
    ("--batch-gpu=2", "takes 2 pictures at once, which must be a multiple of --mbstd-group (4)"),
    ("--cfg=custom", "--ray_start, --ray_end, --box_warp, --radius, --pivot, --focal"), ("--gamma=nan", "nan"),
    ("--gamma=-1", "gamma"), ("--kimg=0", "kimg"), ("--p=2", "--p"), ("--ray_start=4", "--ray_start (4) must be less"),
    ("--pivot=1,2", "0,0,0.2"), ("--grid=8", "8x4"), ("--plane_resolution=100", "power of two"),
    ("--p=0.5", "--p needs --aug=fixed"), ("--target=0.5", "--target needs --aug=ada"), ("--yaw_std=1", "--yaw_std needs"),
    ("--box_warp=0", "--box_warp is 0"), ("--cbase=8", "--cbase (8)"), ("--grid=0x2", "--grid is 0x2"),
    ("--desc=a/b", "--desc"),
    ("--sr-module=torch.nn.Linear", "--sr-module"), ("--resume=runs --init-from=a.pkl", "give one of them"),
    ("--gen_pose_cond=true --cond=false", "--gen_pose_cond needs"), ("--resume_blur", "--resume_blur needs --init-from"),
    ("--detector=nothing", "inception=FILE"), ("--resume=a.pkl --init-from=b.pkl", "acts as --init-from"),
    ("--data=nowhere.zip", "nowhere.zip: no such"), ("--device=tpu", "tpu"), ("--sr-module=nonsense", "--sr-module"),
])
def test_mistakes(arguments, named, monkeypatch, capsys):
    """One line that names the culprit, exit code 2."""
    monkeypatch.setattr(sys, "argv", ["train.py", *BASE.split(), *arguments.split()])
    from eg3d.cli import train as command

    with pytest.raises(SystemExit) as stopped:
        command.main()
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if line]
    assert stopped.value.code == 2
    assert len(lines) == 1 and lines[0].startswith("Error: ") and named in lines[0]
    assert printed.out == ""


def test_both_spellings():
    """Words of an option are joined by - or _."""
    assert dry_run("--cfg=ffhq --data=data512.zip --batch=8 --gamma=1 --batch_gpu=4 --gen-pose-cond=1 --checkpoint_minutes=3"
                   ) == dry_run(
        "--cfg=ffhq --data=data512.zip --batch=8 --gamma=1 --batch-gpu=4 --gen_pose_cond=1 --checkpoint-minutes=3")


def test_custom_views():
    """--cfg=custom says how the data are seen; snapshots know the focal length."""
    found = dry_run("--cfg=custom --data=data128.zip --batch=8 --gamma=1 --ray_start=1 --ray_end=2 --box_warp=1.5 --radius=1.5 "
                    "--pivot=0,0.5,-1 --focal=1.25 --samples=20 --importance=0 --white_back")
    rendering = found["G_kwargs"]["rendering_kwargs"]
    expected = dict(ray_start=1, ray_end=2, box_warp=1.5, avg_camera_radius=1.5, avg_camera_pivot=[0, 0.5, -1],
                    focal_length=1.25, depth_resolution=20, depth_resolution_importance=0, white_back=True)
    assert {key: rendering[key] for key in expected} == expected
    assert found["loss_kwargs"]["density_extent"] == 0.75


def test_without_density_regularization():
    """One phase of G, at full rate (SPEC: density_reg 0)."""
    assert dry_run("--cfg=ffhq --data=data512.zip --batch=8 --gamma=1 --density_reg=0")["G_reg_interval"] is None


def test_unlabelled_data():
    """Without labels only --cond=false trains; cameras are the preset's."""
    write_zip("bare.zip", 128, labels=False)
    camera = dry_run("--cfg=afhq --data=bare.zip --batch=8 --gamma=1 --cond=false --yaw_std=0.5")["camera_kwargs"]
    assert camera == dict(yaw_std=0.5, pitch_std=0.15, radius=2.7, pivot=[0, 0, -0.06], focal=4.2647)


def test_differing():
    """Settings that may change, a moved data set, and those that may not."""
    one = json.loads(json.dumps(dry_run("--cfg=ffhq --data=data128.zip --batch=8 --gamma=1")))
    other = json.loads(json.dumps(dict(one, total_kimg=1, metrics=[], training_set_kwargs=dict(
        one["training_set_kwargs"], path="elsewhere.zip"))))
    assert configs.differing(one, other) == {}
    other["loss_kwargs"]["r1_gamma"] = 2
    other["batch_gpu"] = 4
    assert configs.differing(one, other) == {"batch_gpu": (8, 4), "loss_kwargs.r1_gamma": (1, 2)}
    assert configs.differing(one, dict(one, batch_gpu="auto")) == {}


def test_help_is_quick():
    """It does not wait for PyTorch."""
    code = "import sys; from eg3d.cli.train import train; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_preset_of_heads():
    """--cfg=heads brings its own small sizes; what is typed has its say; other presets keep the official numbers."""
    write_zip("data64.zip", 64)
    own = dry_run("--cfg=heads --data=data64.zip")
    assert (own["batch_size"], own["loss_kwargs"]["r1_gamma"], own["G_kwargs"]["plane_resolution"]) == (8, 0.3, 64)
    assert own["G_kwargs"]["rendering_kwargs"]["avg_camera_pivot"] == [0, 0, 0.2] and own["metrics"] == []
    assert own["training_set_kwargs"]["xflip"] is True
    typed = dry_run("--cfg=heads --data=data64.zip --batch=4 --plane_resolution=256 --mirror=false --metrics=swd")
    assert typed["batch_size"] == 4 and "plane_resolution" not in typed["G_kwargs"] and typed["metrics"] == ["swd"]
    assert typed["training_set_kwargs"]["xflip"] is False
    faces = dry_run("--cfg=ffhq --data=data512.zip --batch=8 --gamma=1")
    assert faces["total_kimg"] == 25000 and faces["metrics"] == ["fid50k_full"]


def test_batch_and_gamma_are_needed():
    """Where no preset knows them."""
    for given, lacking in (("--batch=8", "--gamma"), ("--gamma=1", "--batch")):
        ran = CliRunner().invoke(train, ["--outdir=runs", "--cfg=ffhq", "--data=data512.zip", given, "--dry-run"])
        assert ran.exit_code == 2 and f"{lacking} is needed" in ran.output
