"""Several processes as one: going on, a rank that dies, two hosts. All on the CPU, over gloo."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import runs
import scene

from training import checkpoint

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ENVIRONMENT = dict(os.environ, PYTHONPATH=str(ROOT))
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
TINY = ("--cfg=ffhq --batch=4 --gamma=0.3 --cbase=128 --cmax=8 --latent=16 --plane_resolution=16 --plane_channels=4 "
        "--decoder_width=8 --samples=4 --importance=4 --neural_rendering_resolution_initial=16 --metrics=none --grid=2x1 "
        "--workers=1 --mbstd-group=2 --tick=1 --snap=1 --aug=ada --device=cpu").split()


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "heads.zip"
    scene.write_zip(path, 30, 32, seed=0)
    return path


def two_ranks(script, *arguments):
    command = [*TORCHRUN, "--standalone", "--nproc-per-node=2", str(HERE / script), *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, timeout=300).returncode


def test_two_ranks_go_on(data, tmp_path):
    """Killed and going on, two ranks are those that never stopped, each with its own random numbers."""
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    assert two_ranks("runs.py", straight, data, 5) == 0
    assert two_ranks("runs.py", broken, data, 5, "kill=phase:8") != 0
    assert checkpoint.found(broken)
    assert two_ranks("runs.py", broken, data, 5) == 0
    hashes, lines = runs.state(broken)
    assert (hashes, lines) == runs.state(straight)
    assert hashes["rank0"] != hashes["rank1"]


# ------------------------------------------------------------------------------------------------ the command

def train(data, outdir, *arguments):
    command = [sys.executable, str(ROOT / "train.py"), f"--data={data}", f"--outdir={outdir}", *TINY, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)


def first_tick(process):
    """Waits until the first batch is over."""
    for line in process.stdout:
        if line.startswith("tick 0"):
            return
    raise AssertionError(process.stderr.read())


def lines_of(process, timeout=120):
    """Exit code, and what was printed, line by line."""
    out, errors = process.communicate(timeout=timeout)
    return process.returncode, out.splitlines(), [line for line in errors.splitlines() if line]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_asked_to_stop(number, data, tmp_path):
    """Ctrl-C and SIGTERM write a checkpoint and end with 130; the same command goes on."""
    process = train(data, tmp_path, "--kimg=50")
    first_tick(process)
    process.send_signal(number)
    code, out, errors = lines_of(process)
    assert code == 130 and not any("Traceback" in line for line in out + errors)
    assert errors == [] and "Stopping, with a checkpoint ..." in out
    [folder] = tmp_path.glob("0*")
    assert out[-1] == f"Stopped; the state is kept in {folder}. The same command goes on from there."
    [before] = checkpoint.found(folder)
    process = train(data, tmp_path, "--kimg=50")
    assert any(line.startswith("Going on from 0.") for line in iter(process.stdout.readline, ""))
    process.kill()
    process.communicate()
    assert list(tmp_path.glob("0*")) == [folder] and before in checkpoint.found(folder)


@pytest.mark.slow
def test_a_rank_dies(data, tmp_path):
    """All end soon, one line says why, and the same command goes on."""
    options = ("--gpus=2", "--kimg=1", "--checkpoint-minutes=0")
    process = train(data, tmp_path, *options)
    first_tick(process)
    time.sleep(3)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout.split()
    os.kill(int(children[-1]), signal.SIGKILL)
    code, _, errors = lines_of(process, timeout=60)
    assert code == 2
    assert [line for line in errors if line.startswith("Error: ")]
    assert not any("Traceback" in line for line in errors)
    [folder] = tmp_path.glob("0*")
    for path in checkpoint.found(folder):
        checkpoint.load(path)
    code, out, _ = lines_of(train(data, tmp_path, *options), timeout=300)
    assert code == 0 and any(line.startswith("Going on from 0.") for line in out)


# ------------------------------------------------------------------------------------------------ two hosts

ADDRESSES = ("10.77.0.1", "10.77.0.2")


@pytest.fixture
def hosts():
    """Two network namespaces that are joined by a cable."""
    names = [f"eg3d-{os.getpid()}-{number}" for number in (0, 1)]
    ends = [f"{letter}{os.getpid()}" for letter in "ab"]
    commands = [
        *[f"ip netns add {name}" for name in names],
        f"ip link add {ends[0]} netns {names[0]} type veth peer name {ends[1]} netns {names[1]}",
        *[f"ip -n {name} addr add {address}/24 dev {end}" for name, end, address in zip(names, ends, ADDRESSES)],
        *[f"ip -n {name} link set {end} up" for name, end in zip(names, ends)],
        *[f"ip -n {name} link set lo up" for name in names]]
    try:
        if shutil.which("ip") is None:
            pytest.skip("no ip command, so no network namespaces")
        for command in commands:
            if subprocess.run(command.split(), capture_output=True).returncode:
                pytest.skip(f"no permission for network namespaces: {command}")
        yield list(zip(names, ends, ADDRESSES))
    finally:
        for name in names if shutil.which("ip") else ():
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def on_hosts(hosts, data, folders, *settings):
    """One rank on each host; each is told a folder of its own."""
    started = []
    for (name, end, address), folder in zip(hosts, folders):
        command = ["ip", "netns", "exec", name, *TORCHRUN, "--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
                   f"--rdzv-endpoint={ADDRESSES[0]}:29512", f"--local-addr={address}",
                   f"--rdzv-conf=is_host={int(address == ADDRESSES[0])}", str(HERE / "runs.py"), str(folder),
                   str(data), "8", *settings]
        started.append(subprocess.Popen(command, env=dict(ENVIRONMENT, GLOO_SOCKET_IFNAME=end, OMP_NUM_THREADS="1")))
    return [process.wait(timeout=300) for process in started]


@pytest.mark.slow
def test_two_hosts(hosts, data, tmp_path):
    """Two hosts train as two ranks of one do, killed and going on; only rank 0 writes."""
    straight = tmp_path / "straight"
    assert two_ranks("runs.py", straight, data, 8) == 0
    folders = [tmp_path / "host0", tmp_path / "host1"]
    assert 0 not in on_hosts(hosts, data, folders, "kill=phase:14")
    assert [folder.exists() for folder in folders].count(True) == 1
    [used] = [folder for folder in folders if folder.exists()]
    assert checkpoint.found(used)
    assert on_hosts(hosts, data, [used, used]) == [0, 0]
    assert runs.state(used) == runs.state(straight)
