"""Training on a GPU. Skipped, with the reason, where there is none."""

import pytest
import runs
import scene
import torch

from training import checkpoint

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "heads.zip"
    scene.write_zip(path, 12, 32, seed=0)
    return path


@pytest.mark.parametrize("settings", [{}, dict(bf16=True), dict(channels_last=True), dict(tf32=True, bf16=True)])
def test_trains_and_goes_on(settings, data, tmp_path):
    """R1 and augmentation included; weights stay finite, and a second process's worth of batches follows the first."""
    assert runs.run(tmp_path / "run", data, 4, device="cuda", **settings)
    assert runs.run(tmp_path / "run", data, 20, device="cuda", **settings)
    [newest, _] = checkpoint.found(tmp_path / "run")
    content = checkpoint.load(newest)
    assert content["common"]["counters"]["step"] == 20 and "cuda" in content["ranks"][0]["random"]
    for tensors in content["common"]["networks"].values():
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
