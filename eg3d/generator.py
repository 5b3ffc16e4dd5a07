"""From a name, a path or a URL to a generator that is ready to use."""

from __future__ import annotations

import os
import reprlib
from pathlib import Path
from typing import Any, Callable, Dict, Optional, Union

import torch

from dnnlib.util import is_url, open_url
from torch_utils import pickles, tensor_files
from torch_utils.persistence import CheckpointError
from training import labels

SHIPPED = Path(__file__).parent / "networks"
SHIPPED_NETWORKS = ("demo.safetensors", "tiny-random.pkl")

# NVIDIA's released networks, under its own licence, where NVIDIA publishes them.
RELEASES = "https://api.ngc.nvidia.com/v2/models/nvidia/research/eg3d/versions/1/files/"
RELEASED = ("ffhq512-64", "ffhq512-128", "ffhqrebalanced512-64", "ffhqrebalanced512-128", "afhqcats512-128",
            "shapenetcars128-64")

WRITERS = {".pkl": pickles.save, tensor_files.SUFFIX: tensor_files.save}

MOST = 4096  # samples of a ray, rays along a side
FLATTEST = 1e-6  # determinant of a plane's frame
MOST_SAMPLES = 1 << 30  # of a picture, whose draws alone are 4 GB then


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < labels.LARGEST


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST


def _positive(value: Any) -> bool:
    return _number(value) and value > 0


def _switch(value: Any) -> bool:
    return isinstance(value, int) and value in (0, 1)


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and value in words


def _limit(value: Any) -> bool:
    return _number(value) or _one_of("auto")(value)


def _point(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_number, value))


# Rendering options that are used before anything else would notice what they hold -> whether a value can be.
OPTIONS: Dict[str, Callable[[Any], bool]] = dict(
    ray_start=_limit, ray_end=_limit, box_warp=_positive, depth_resolution=lambda value: _count(value) and value >= 4,
    depth_resolution_importance=_count, c_scale=_number, density_noise=_number, avg_camera_radius=_positive,
    avg_camera_pivot=_point, focal_length=lambda value: _number(value) and value >= labels.SMALLEST_FOCAL,
    white_back=_switch, disparity_space_sampling=_switch, c_gen_conditioning_zero=_switch, clamp_mode=_one_of("softplus"),
    superresolution_noise_mode=_one_of("none", "const", "random"))
NEEDED_OPTIONS = ("ray_start", "ray_end", "box_warp", "depth_resolution", "depth_resolution_importance")
NEEDED = ("mapping", "synthesis", "rendering_kwargs", "neural_rendering_resolution", "z_dim", "backbone", "renderer", "decoder")


def names() -> Dict[str, str]:
    """Names that `load` understands -> path or URL."""
    shipped = {Path(name).stem: str(SHIPPED / name) for name in SHIPPED_NETWORKS}
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


def find(source: Union[str, os.PathLike]) -> str:
    """The path or URL that a path, a URL or a name of `names()` stands for. Raises OSError where there is none."""
    text = os.path.expanduser(os.fspath(source))
    if not os.path.exists(text) and not is_url(text):
        known = names()
        if text not in known:
            raise FileNotFoundError(f"{text}: no such file; known names: {', '.join(known)}")
        text = known[text]
    if os.path.isdir(text):
        raise IsADirectoryError(f"{text}: a folder, not a network file")
    if os.path.exists(text) and not os.path.isfile(text):
        raise OSError(f"{text}: a pipe or device, not a network file: write it to the disk first")
    return text


def load_snapshot(source: Union[str, os.PathLike], trust: bool = False) -> Any:
    """Reads a snapshot, .pkl or .safetensors (a path, a URL or a name of `names()`) with all it holds, on the CPU.

    `trust=True` executes the code in a .pkl: for networks of forks, from people you trust.
    Raises CheckpointError or OSError with one line.
    """
    text = find(source)
    with open_url(text) as file:
        kept = f" (the download is kept as {file.name})" if text.startswith("http") else ""
        if tensor_files.is_tensor_file(file.name):
            return tensor_files.load(file.name, name=f"{source}{kept}")
        return pickles.load(file, trust=trust, name=f"{source}{kept}")


def save_snapshot(snapshot: Any, path: Union[str, os.PathLike], half: bool = False) -> None:
    """Writes a snapshot, or one network, as .pkl (official) or .safetensors; complete, or not at all. half: a .safetensors in
    float16.

    Raises ValueError for another suffix, CheckpointError for what .safetensors does not hold.
    """
    check_suffix(path)
    WRITERS[Path(path).suffix](snapshot, path, **(dict(half=True) if half else {}))


def check_suffix(path: Union[str, os.PathLike]) -> None:
    """Raises ValueError for a suffix that `save_snapshot` does not write."""
    if Path(path).suffix not in WRITERS:
        raise ValueError(f"{path}: networks are written as {' or '.join(WRITERS)}")


def load(source: Union[str, os.PathLike], device: Union[str, torch.device] = "auto", trust: bool = False) -> torch.nn.Module:
    """Loads a generator (G_ema of a snapshot) for inference: eval mode, no gradients, on `device`.

    `source` and `trust` as in `load_snapshot`. Raises CheckpointError or OSError with one line, ValueError for the device.
    """
    device = choose_device(device)
    return generator_of(load_snapshot(source, trust=trust), source).to(device)


def generator_of(snapshot: Any, source: Union[str, os.PathLike]) -> torch.nn.Module:
    """The generator of a snapshot (its G_ema, or the snapshot itself), ready for inference, where it is.

    Raises CheckpointError, which begins with `source`, when there is none that can be rendered.
    """
    G = snapshot.get("G_ema") if isinstance(snapshot, dict) else snapshot
    if G is None:
        held = ", ".join(map(str, snapshot)) if snapshot else "nothing"
        raise CheckpointError(f"{source}: holds {held}, but no G_ema")
    if not isinstance(G, torch.nn.Module) or not all(hasattr(G, name) for name in NEEDED):
        raise CheckpointError(f"{source}: holds a {type(G).__name__}, which is no tri-plane generator")
    problem = _problem(G)
    if problem is not None:
        raise CheckpointError(f"{source}: its {problem}")
    return G.eval().requires_grad_(False)


def _problem(G: torch.nn.Module) -> Optional[str]:
    """What keeps a tri-plane generator from being rendered, or None."""
    options, rays = G.rendering_kwargs, G.neural_rendering_resolution
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        return "rendering_kwargs are no dict of names"
    lacking = [key for key in NEEDED_OPTIONS if key not in options]
    if lacking:
        return f"rendering_kwargs lack {', '.join(lacking)}"
    for key, fits in OPTIONS.items():
        if key in options and not fits(options[key]):
            return f"rendering_kwargs say {key} = {reprlib.repr(options[key])}, which cannot be"
    if not _count(rays) or rays == 0:
        return f"neural_rendering_resolution is {reprlib.repr(rays)}, not a number from 1 to {MOST}"
    samples = options["depth_resolution"] + options["depth_resolution_importance"]
    if rays**2 * samples > MOST_SAMPLES:
        return f"pictures have {rays} x {rays} rays of {samples} samples, more than anything can render"
    axes = getattr(G.renderer, "plane_axes", None)
    if isinstance(axes, torch.Tensor) and not _are_frames(axes):
        return "plane_axes are no frames: one is flat, or holds what is no number"
    return None


def _are_frames(axes: torch.Tensor) -> bool:
    """Whether each plane's axes span space, [P, 3, 3]."""
    return (axes.ndim == 3 and axes.shape[1:] == (3, 3) and axes.is_floating_point() and bool(torch.isfinite(axes).all())
            and bool((torch.linalg.det(axes.double()).abs() > FLATTEST).all()))
