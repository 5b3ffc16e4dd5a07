"""What a checkpoint is and whether it works here, line by line, for people who hold one."""

from __future__ import annotations

import os
import reprlib
import time
from pathlib import Path
from typing import Any, Dict, Generator, Iterator, Set, Tuple, Union

import numpy as np
import torch

from dnnlib.util import checksum, open_url
from eg3d import cameras, generator, sampling
from eg3d.session import Session
from torch_utils import images, persistence, pickles, tensor_files
from torch_utils.misc import is_out_of_memory
from torch_utils.persistence import CheckpointError, Record
from training.volumetric_rendering import renderer

PSI = 0.7  # truncation of the picture: what most people look at
AXES = ((renderer.OFFICIAL_AXES, "official: (x, y), (x, z), (z, x)"),
        (renderer.CORRECTED_AXES, "corrected: (x, y), (x, z), (z, y)"))

Line = Tuple[str, str]  # title and text


def report(source: Union[str, os.PathLike], picture: Path, seed: int, device: torch.device,
           trust: bool = False) -> Iterator[Line]:
    """Yields lines as they become known, and writes `picture`: what the network shows of `seed`, and its depth.

    Raises CheckpointError or OSError at the first thing that does not work.
    """
    with open_url(generator.find(source)) as file:
        path = file.name
    tensors = tensor_files.is_tensor_file(path)
    yield "file", f"{path}, {os.path.getsize(path) / 1e6:.1f} MB"
    yield "sha256", checksum(path)
    began = time.perf_counter()
    if tensors:
        snapshot = tensor_files.load(path, str(source))
        yield "format", "safetensors with EG3D's configuration"
    else:
        snapshot = yield from _read(path, str(source), trust)
    how = "with its own code executed (--trust)" if trust and not tensors else "as data: nothing in it was executed"
    yield "loads", f"{how}, {time.perf_counter() - began:.1f} s"
    held = snapshot if isinstance(snapshot, dict) else {"a network": snapshot}
    for key, value in held.items():
        yield "holds", f"{_printable(str(key))[:100]}: {_content(value)}"
        if isinstance(value, torch.nn.Module):
            _require_finite(value, f"{source}: {key}")
    G = generator.generator_of(snapshot, source).to(device)
    yield from _network(G)
    try:
        yield "picture", _render(G, picture, seed, source)
    except CheckpointError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError) as error:  # settings that fit no network
        if is_out_of_memory(error):
            raise
        raise CheckpointError(f"{source}: does not render ({error})") from error


def _read(path: str, name: str, trust: bool) -> Generator[Line, None, Any]:
    """Reads a pickle and tells what it carries; with `trust` also whether that was needed."""
    try:
        content = pickles.read(path, name)
        yield "format", "pickle"
        yield from _carried(content)
        snapshot = pickles.finish(content, name)
    except CheckpointError as error:
        if not trust:
            raise
        yield "as data", f"no: {error}"
    else:
        if not trust:
            return snapshot
        yield "as data", "yes, without --trust too"
    return pickles.load(path, trust=True, name=name)


def _carried(content: Any) -> Iterator[Line]:
    """Whether a pickle's source texts are this project's own."""
    sources: Dict[str, Set[str]] = {}
    for value in content.values() if isinstance(content, dict) else [content]:
        if isinstance(value, Record) and value.meta is not None:
            sources.setdefault(value.class_name, set()).add(value.meta["module_src"])
    for name, texts in sources.items():
        home = persistence.OFFICIAL_CLASSES.get(name)
        if home is None:
            yield "carries", f"source of {_printable(name)[:100]}, which is no class of EG3D"
        else:
            __import__(home)
            own = all(text == persistence.module_source(home) for text in texts)
            version = "this very version" if own else "of other code"
            yield "carries", f"source of {name}, {version}; only --trust executes it"


def _content(value: Any) -> str:
    if isinstance(value, torch.nn.Module):
        return f"{type(value).__name__}, {sum(p.numel() for p in value.parameters()) / 1e6:.2f} M parameters"
    # In at most 200 characters that a terminal can show.
    return "nothing" if value is None else _printable(_Brief().repr(value)[:200])


class _Brief(reprlib.Repr):
    """Few items of few levels: a value may unfold without end."""

    repr_EasyDict = repr_OrderedDict = reprlib.Repr.repr_dict

    def __init__(self):
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple, self.maxstring, self.maxother = 3, 20, 20, 20, 100, 100


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _require_finite(network: torch.nn.Module, where: str) -> None:
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}.{name} holds NaN or infinity: its training diverged, or the file is damaged")


def _network(G: torch.nn.Module) -> Iterator[Line]:
    options, rays = G.rendering_kwargs, G.neural_rendering_resolution
    yield "pictures", f"{G.img_resolution}x{G.img_resolution}, from {rays}x{rays} rays"
    yield "latents", f"z {G.z_dim}, w {G.w_dim} x {G.backbone.num_ws}"
    yield "samples", ("{depth_resolution} + {depth_resolution_importance} from {ray_start} to {ray_end}, "
                      "in a box of {box_warp}").format(**options)
    told = "its own" if "focal_length" in options else "inferred"
    yield "camera", f"{options.get('avg_camera_radius', 2.7)} from the centre, looks at " \
                    f"{options.get('avg_camera_pivot', [0, 0, 0])}, focal length {cameras.focal_length(options)} ({told})"
    found = np.asarray(G.renderer.plane_axes.tolist()) if hasattr(G.renderer, "plane_axes") else None
    names = [name for axes, name in AXES if found is not None and np.array_equal(found, axes)]
    yield "plane axes", names[0] if names else f"of its own: {None if found is None else found.tolist()}"
    yield "enlarged by", type(getattr(G, "superresolution", None)).__name__


def _render(G: torch.nn.Module, path: Path, seed: int, source) -> str:
    began = time.perf_counter()
    session = Session(G, sampling.styles(G, seed, PSI), seed)
    shown = session.render(cameras.view(G.rendering_kwargs))
    seconds = time.perf_counter() - began
    picture = shown["image"].float().cpu()
    if not torch.isfinite(picture).all():
        raise CheckpointError(f"{source}: the picture holds NaN or infinite numbers")
    depth = images.viridis(images.depth_image(shown["image_depth"].float().cpu()))
    depth = torch.nn.functional.interpolate(depth, size=picture.shape[-2:])
    images.save_png(images.grid(torch.cat([picture, depth]), columns=2), path)
    flat = "; it is almost flat: are these random weights?" if picture.std() < 0.02 else ""
    return f"{path}, seed {seed}, {seconds:.1f} s, values {picture.min():.2f} to {picture.max():.2f}{flat}"
