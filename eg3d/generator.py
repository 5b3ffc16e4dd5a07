"""From a name, a path or a URL to a generator that is ready to use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Dict, Union

import torch

from dnnlib.util import is_url, open_url
from torch_utils import pickles
from torch_utils.persistence import CheckpointError

SHIPPED = Path(__file__).parent / "networks"

# NVIDIA's released networks, under its own licence, where NVIDIA publishes them.
RELEASES = "https://api.ngc.nvidia.com/v2/models/nvidia/research/eg3d/versions/1/files/"
RELEASED = ("ffhq512-64", "ffhq512-128", "ffhqrebalanced512-64", "ffhqrebalanced512-128", "afhqcats512-128",
            "shapenetcars128-64")

NEEDED_OPTIONS = ("ray_start", "ray_end", "box_warp", "depth_resolution", "depth_resolution_importance")
NEEDED = ("mapping", "synthesis", "rendering_kwargs", "z_dim", "backbone", "renderer", "decoder")


def names() -> Dict[str, str]:
    """Names that `load` understands -> path or URL."""
    shipped = {path.stem: str(path) for path in sorted(SHIPPED.glob("*.pkl"))}
    return {**shipped, **{name: f"{RELEASES}{name}.pkl" for name in RELEASED}}


def choose_device(name: Union[str, torch.device] = "auto") -> torch.device:
    """'auto' is CUDA where there is one, else the CPU. Raises ValueError for a device that this machine lacks."""
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r} is unknown: choose auto, cpu, cuda or mps") from error
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(device.type, False) or (device.index or 0) >= max(torch.cuda.device_count(), 1):
        raise ValueError(f"device {name} is not available here: choose auto or cpu")
    return device


def load_snapshot(source: Union[str, os.PathLike], trust: bool = False) -> dict:
    """Reads a snapshot (a path, a URL or a name of `names()`) with all it holds; every tensor is on the CPU.

    `trust=True` executes the code in the file: for networks of forks, from people you trust.
    Raises CheckpointError or OSError with one line.
    """
    text = os.fspath(source)
    if not os.path.exists(text) and not is_url(text):
        known = names()
        if text not in known:
            raise FileNotFoundError(f"{text}: no such file; known names: {', '.join(known)}")
        text = known[text]
    if os.path.isdir(text):
        raise IsADirectoryError(f"{text}: a folder, not a network file")
    with open_url(text) as file:
        kept = f" (the download is kept as {file.name})" if text.startswith("http") else ""
        return pickles.load(file, trust=trust, name=f"{source}{kept}")


def load(source: Union[str, os.PathLike], device: Union[str, torch.device] = "auto", trust: bool = False) -> torch.nn.Module:
    """Loads a generator (G_ema of a snapshot) for inference: eval mode, no gradients, on `device`.

    `source` and `trust` as in `load_snapshot`. Raises CheckpointError or OSError with one line, ValueError for the device.
    """
    device = choose_device(device)
    snapshot = load_snapshot(source, trust=trust)
    G = snapshot.get("G_ema") if isinstance(snapshot, dict) else snapshot
    if G is None:
        held = ", ".join(map(str, snapshot)) if snapshot else "nothing"
        raise CheckpointError(f"{source}: holds {held}, but no G_ema")
    if not isinstance(G, torch.nn.Module) or not all(hasattr(G, name) for name in NEEDED):
        raise CheckpointError(f"{source}: holds a {type(G).__name__}, which is no tri-plane generator")
    lacking = [key for key in NEEDED_OPTIONS if key not in G.rendering_kwargs]
    if lacking:
        raise CheckpointError(f"{source}: its rendering_kwargs lack {', '.join(lacking)}")
    return G.eval().requires_grad_(False).to(device)
