"""A data set of heads: picture i of a seed shows a head of its own from a camera of its own, always the same.

What is rendered is kept in DEST.unfinished until all of it is there, so that a run that was stopped goes on; then the data set
appears at once. With truth every picture NAME.png has a NAME.npz beside it:

    depth float16 [R, R]   units along the ray through the pixel's centre (to 0.002); NaN beside the head
    mask  uint8 [R, R]     0 to 255: how much of the pixel the head covers
    shape float32 [P]      phenotypes, changes and facial actions of the body model, in the order of their names
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import shutil
from pathlib import Path
from typing import Iterator, Optional, Tuple

import numpy as np
import tqdm

from dnnlib.util import written_beside
from eg3d.cameras import FFHQ_FOCAL, FRONTAL, LookAtPoseSampler, intrinsics
from eg3d.scenes import conversion, pictures
from eg3d.scenes.heads.looks import Look, drawn
from eg3d.scenes.heads.studio import Studio
from eg3d.scenes.workers import in_order
from training import labels
from training.config import PRESETS
from training.dataset import LABELS

YAW_STD, PITCH_STD = 0.35, 0.15  # radians: FFHQ's
TAIL, TAIL_YAW_STD, TAIL_PITCH_STD = 0.2, 0.65, 0.25  # this share of the cameras is spread wider
MOST_YAW, MOST_PITCH = 1.3, 0.6
PLAN = "plan.json"
MEANING = 1  # of a seed: counts up when the same seed gives other pictures


def picture(seed: int, index: int) -> Tuple[Look, np.ndarray]:
    """The look and the label [25] float32 of a picture."""
    random = np.random.RandomState([seed, index])
    yaw_std, pitch_std = (TAIL_YAW_STD, TAIL_PITCH_STD) if random.rand() < TAIL else (YAW_STD, PITCH_STD)
    yaw = np.clip(random.normal(0, yaw_std), -MOST_YAW, MOST_YAW)
    pitch = np.clip(random.normal(0, pitch_std), -MOST_PITCH, MOST_PITCH)
    return drawn(random), label(float(yaw), float(pitch))


def label(yaw: float, pitch: float) -> np.ndarray:
    """The label [25] float32 of the ffhq preset's camera, turned from the front by so many radians: to the left and down."""
    preset = PRESETS["ffhq"]
    pose = LookAtPoseSampler.sample(FRONTAL + yaw, FRONTAL + pitch, preset.pivot, radius=preset.radius)
    return labels.pack(pose, intrinsics(FFHQ_FOCAL))[0].numpy()


def make(dest: str, count: int, resolution: int, seed: int, workers: int, with_truth: bool) -> None:
    """Renders `count` heads into `dest`, a .zip or a new folder that must not be there yet.

    Raises ValueError and OSError, with one line.
    """
    path = Path(dest)  # without a slash at the end
    if path.exists():
        raise ValueError(f"{dest}: is there already: delete it, or give another --dest")
    Studio()  # prepares the model once, and says what is missing
    kept = path.with_name(f"{path.name}.unfinished")
    _begin(kept, dict(meaning=MEANING, resolution=resolution, seed=seed, with_truth=with_truth))
    missing = [index for index in range(count) if not (kept / f"{_stem(index)}.png").exists()]
    jobs = ((seed, index, resolution, with_truth) for index in missing)
    try:
        with contextlib.closing(in_order(_rendered, jobs, workers)) as results:
            progress = tqdm.tqdm(results, total=count, initial=count - len(missing), unit="picture")
            for index, (png, truth) in zip(missing, progress):
                _keep(kept, index, png, truth)
        with conversion.store(dest) as add:
            pairs = []
            for index in range(count):
                for file in _files(kept, index, with_truth):
                    add(f"{Path(_stem(index)).parent}/{file.name}", file.read_bytes())
                pairs.append([f"{_stem(index)}.png", picture(seed, index)[1].tolist()])
            add(LABELS, json.dumps({"labels": pairs}).encode())
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{kept} keeps what is rendered; the same command goes on.") from error
    shutil.rmtree(kept)


def _stem(index: int) -> str:
    return conversion.stem(index)


def _begin(kept: Path, plan: dict) -> None:
    """Makes the folder, or sees that it holds the same pictures."""
    path = kept / PLAN
    if path.exists():
        try:
            found = dict(json.loads(path.read_text()))
        except (ValueError, TypeError):
            raise ValueError(f"{path}: is damaged: delete the folder {kept}") from None
        if found != plan:
            told = ", ".join(f"{key} {found.get(key)}" for key in plan if found.get(key) != plan[key])
            raise ValueError(f"{kept}: holds a part of another data set ({told}): finish that one, or delete the folder")
        return
    kept.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as temporary:
        Path(temporary).write_text(json.dumps(plan))


def _keep(kept: Path, index: int, png: bytes, truth: Optional[bytes]) -> None:
    """The picture comes last: it says that both are there."""
    path = kept / f"{_stem(index)}.png"
    path.parent.mkdir(exist_ok=True)
    for place, data in ((path.with_suffix(".npz"), truth), (path, png)):
        if data is not None:
            with written_beside(place) as temporary:
                Path(temporary).write_bytes(data)


def _files(kept: Path, index: int, with_truth: bool) -> Iterator[Path]:
    path = kept / f"{_stem(index)}.png"
    yield path
    if with_truth:
        yield path.with_suffix(".npz")


# ------------------------------------------------------------------------------------------------ in a worker

@functools.cache
def _studio() -> Studio:
    return Studio()


def _rendered(seed: int, index: int, resolution: int, with_truth: bool) -> Tuple[bytes, Optional[bytes]]:
    """A picture's PNG, and its truth."""
    look, camera = picture(seed, index)
    view = _studio().head_of(look).view(camera, resolution)
    png = pictures.encoded(view.image)
    if not with_truth:
        return png, None
    buffer = io.BytesIO()
    np.savez_compressed(buffer, depth=view.depth.astype(np.float16), mask=np.round(view.mask * 255).astype(np.uint8),
                        shape=look.numbers())
    return png, buffer.getvalue()
