"""The same pictures on a GPU as on the CPU. Skipped, with the reason, where there is no GPU."""

import imageio.v3 as imageio
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from eg3d import cameras, generator, sampling
from eg3d.cli.samples import samples
from eg3d.session import Session

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

SINGLE = 1e-3  # float32 in another order, TF32 off; depths near a step of the distribution function move a little
HALF = 2e-2  # super-resolution runs in half precision there: 11 bits, a dozen layers


def test_tf32_shows_the_same_to_its_precision(tmp_path):
    """gen_samples --precision=tf32: other numbers than in full precision, by less than half precision's errors."""
    pictures = {}
    for precision in ("full", "tf32"):
        out = tmp_path / precision
        done = CliRunner().invoke(samples, [
            "--network=tiny-random", "--device=cuda", "--seeds=0", f"--precision={precision}", f"--outdir={out}"])
        assert done.exit_code == 0, done.output
        pictures[precision] = imageio.imread(out / "seed0000.png").astype(float)
        assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
    assert np.abs(pictures["tf32"] - pictures["full"]).max() <= HALF * 255


def test_pictures_on_cpu_and_gpu(monkeypatch):
    """One session on each: the jitter comes from the same generator, so only rounding differs."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    pictures = {}
    for device in ("cpu", "cuda"):
        G = generator.load("tiny-random", device=device)
        shown = Session(G, sampling.styles(G, 0), seed=0).render(cameras.view(G.rendering_kwargs))
        pictures[device] = {key: value.float().cpu() for key, value in shown.items()}
    for key, expected in pictures["cpu"].items():
        scale = expected.abs().max()
        assert (pictures["cuda"][key] - expected).abs().max() <= (HALF if key == "image" else SINGLE) * scale, key
