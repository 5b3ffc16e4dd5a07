"""A small network that sees from where a head is looked at and how deep it is: the truth's deputy on generated pictures.

It learns from rendered heads, whose cameras and depth are known (dataset_tool.py --source=heads --with-truth); `eg3d
train-regressor` makes the file that ships again. It knows these synthetic heads and nothing else.

Notation: N pictures; a direction is the unit vector from the world's origin to the camera, as the label has it.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from pathlib import Path
from typing import Dict, NamedTuple, Tuple

import numpy as np
import torch
import torch.nn.functional as F
import tqdm
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dnnlib.util import checksum, written_beside
from training import labels
from training.dataset import ImageFolderDataset, open_files

SHIPPED = Path(__file__).parents[1] / "networks" / "heads-regressor.safetensors"
SHA256 = "4e2e841271ff3aacd7507c85e4c3926ed25a57ba5d2e14e917df5ab417c49e33"  # of the shipped file
SIZE = 64  # pixels along a side of what it sees
DEPTH_SIZE = 32  # and of the depth that it gives
WIDTHS = (32, 64, 128, 128)  # channels at 32, 16, 8 and 4 pixels
GROUPS, SLOPE = 8, 0.1  # of GroupNorm, of leaky ReLU
FEATURES = 128
DISTANCE, SCALE = 2.7, 0.2  # depth is told as (depth - DISTANCE) / SCALE
LEAST = 16  # pixels of a head, or there is none
HELD_OUT = 10  # every tenth picture is not learnt from
BATCH, RATE = 64, 2e-3
FEWEST_STEPS = 40  # of which the first twentieth warms up
# Cameras that look at a pivot before the origin show a turned head beside the picture's middle. A network that may look at
# the place learns that alone, and would believe a head that moves without turning: so it learns from moved pictures.
MOST_MOVED = 6  # pixels of the depth, each way
CONTRAST, BRIGHTNESS, COLOUR, NOISE = 0.15, 0.1, 0.06, 0.06  # how pictures vary beside that
DIRECTION_WEIGHT, HEAD_WEIGHT = 20, 0.3  # of the loss, where the depth's is 1
KEY = "regressor"
REMEDY = "make it by dataset_tool.py --source=heads --with-truth"


class Sight(NamedTuple):
    """What it says of pictures."""

    direction: Tensor  # [N, 3]
    depth: Tensor  # [N, DEPTH_SIZE, DEPTH_SIZE]: distance along the unit rays
    head: Tensor  # the same shape: logit of the head being there
    features: Tensor  # [N, FEATURES]


def _layer(channels: int, more: int, kernel: int = 3, stride: int = 1) -> torch.nn.Sequential:
    # Its norm is of one picture: what is said of it does not depend on the others.
    return torch.nn.Sequential(torch.nn.Conv2d(channels, more, kernel, stride, padding=kernel // 2, bias=False),
                               torch.nn.GroupNorm(GROUPS, more), torch.nn.LeakyReLU(SLOPE))


class Regressor(torch.nn.Module):
    """Convolutions down to 4 x 4 give the features; these, and what is seen at 16 x 16, give the depth."""

    def __init__(self):
        super().__init__()
        a, b, c, d = WIDTHS
        self.near = torch.nn.Sequential(_layer(3, a, 5, stride=2), _layer(a, b, stride=2), _layer(b, b))
        self.wide = torch.nn.Sequential(_layer(b, c, stride=2), _layer(c, c), _layer(c, d, stride=2))
        self.features = torch.nn.Linear(d * 4 * 4, FEATURES)
        self.direction = torch.nn.Linear(FEATURES, 3)
        self.coarse = torch.nn.Linear(FEATURES, 16 * 16)
        self.shape = torch.nn.Sequential(*_layer(b + 1, b), torch.nn.Conv2d(b, 2 * 4, 3, padding=1), torch.nn.PixelShuffle(2))

    def forward(self, pictures: Tensor) -> Sight:
        """pictures: float [N, 3, SIZE, SIZE] in [-1, 1]."""
        near = self.near(pictures)
        features = F.leaky_relu(self.features(self.wide(near).flatten(1)), SLOPE)
        coarse = self.coarse(features).unflatten(1, (1, 16, 16))
        shape = self.shape(torch.cat([near, coarse], dim=1))
        return Sight(F.normalize(self.direction(features), dim=1), DISTANCE + SCALE * shape[:, 0], shape[:, 1], features)


def prepared(pictures: Tensor) -> Tensor:
    """uint8 [N, 3, R, R] -> what the network takes; larger pictures are averaged, smaller ones enlarged."""
    x = pictures.float() / 127.5 - 1
    if x.shape[-1] == SIZE:
        return x
    return F.interpolate(x, (SIZE, SIZE), mode="bilinear", align_corners=False, antialias=True)


def direction_of(c: Tensor) -> Tensor:
    """The directions [N, 3] of labels [N, 25]."""
    pose, _ = labels.unpack(c)
    return F.normalize(pose[:, :3, 3], dim=1)


def angle(one: Tensor, other: Tensor) -> Tensor:
    """Degrees between unit vectors [N, 3]."""
    return torch.rad2deg(2 * torch.asin(((one - other).norm(dim=1) / 2).clamp(max=1)))


# ------------------------------------------------------------------------------------------------ files

def load(path=SHIPPED, device="cpu") -> Regressor:
    """The network of a file; the one that ships must have the checksum that stands here.

    Raises ValueError, with one line.
    """
    remedy = "check the project out anew, or make it by eg3d train-regressor"
    try:
        if Path(path) == SHIPPED and checksum(path) != SHA256:
            raise ValueError(f"{path}: is not the file that shipped (its SHA-256 differs): {remedy}")
        with safe_open(path, "pt") as file:
            if KEY not in (file.metadata() or {}):
                raise ValueError(f"{path}: is no regressor of heads")
            state = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
        network = Regressor()
        network.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: cannot be read as a regressor of heads ({error}): {remedy}") from error
    return network.to(device).eval().requires_grad_(False)


def save(network: Regressor, path, about: dict) -> str:
    """Writes it in float16, with what the figures are; returns the SHA-256. Raises OSError."""
    state = {key: tensor.half().contiguous() for key, tensor in sorted(network.state_dict().items())}
    with written_beside(path) as temporary:
        save_file(state, temporary, metadata={KEY: json.dumps(about, sort_keys=True)})
    return checksum(path)


# ------------------------------------------------------------------------------------------------ learning

class Truth(NamedTuple):
    """A data set with truth, in memory."""

    pictures: Tensor  # uint8 [N, 3, SIZE, SIZE]
    directions: Tensor  # [N, 3]
    depths: Tensor  # [N, DEPTH_SIZE, DEPTH_SIZE]; NaN beside the head


def read(path: str) -> Truth:
    """A zip or folder of dataset_tool.py --source=heads --with-truth. Raises ValueError for what is none, with one line."""
    dataset = ImageFolderDataset(path, use_labels=True)
    if dataset.num_channels != 3 or dataset.resolution < DEPTH_SIZE:
        raise ValueError(f"{path}: expected pictures in colour, {DEPTH_SIZE} or more pixels wide")
    files = open_files(path)
    names = sorted(name for name in files.sizes if name.endswith(".npz"))
    if len(names) != len(dataset):
        raise ValueError(f"{path}: holds {len(dataset)} pictures and the truth of {len(names)}: {REMEDY}")
    if len(names) < 2:
        raise ValueError(f"{path}: holds one picture, which is held out: nothing is left to learn from")
    depths = [_shrunk(_depth(files.read(name), f"{path}: {name}", dataset.resolution)) for name in names]
    pictures = torch.from_numpy(np.stack([dataset[index][0] for index in range(len(dataset))]))
    if dataset.resolution != SIZE:
        pictures = torch.cat([((prepared(part) + 1) * 127.5).round().to(torch.uint8) for part in pictures.split(256)])
    return Truth(pictures, direction_of(torch.from_numpy(dataset.labels())), torch.from_numpy(np.stack(depths)))


def _depth(data: bytes, where: str, side: int) -> np.ndarray:
    try:
        with np.load(io.BytesIO(data)) as truth:
            depth = truth["depth"].astype(np.float32)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{where} holds no depth ({error}): {REMEDY}") from error
    if depth.shape != (side, side):
        raise ValueError(f"{where} holds depth of shape {depth.shape}, expected that of the pictures, {(side, side)}: {REMEDY}")
    return depth


def _shrunk(depth: np.ndarray) -> np.ndarray:
    """[DEPTH_SIZE, DEPTH_SIZE]: the mean over what the head covers of each block; NaN where that is less than half."""
    block = len(depth) // DEPTH_SIZE
    blocks = depth.reshape(DEPTH_SIZE, block, DEPTH_SIZE, block).transpose(0, 2, 1, 3).reshape(DEPTH_SIZE, DEPTH_SIZE, -1)
    covered = np.isfinite(blocks)
    mean = np.where(covered, blocks, 0).sum(axis=-1) / np.maximum(covered.sum(axis=-1), 1)
    return np.where(covered.mean(axis=-1) >= 0.5, mean, np.nan).astype(np.float32)


def train(truth: Truth, kimg: float, seed: int, progress: bool = False) -> Regressor:
    """A regressor that learnt from all but every tenth picture, and their mirror images, rounded to float16 as its file is.
    The same seed gives the same bits on one machine."""
    random = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Regressor()
    learnt = torch.arange(len(truth.pictures))
    learnt = learnt[learnt % HELD_OUT != 0]
    steps = max(round(kimg * 1000 / BATCH), FEWEST_STEPS)
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps, pct_start=0.05)
    for _ in tqdm.trange(steps, unit="batch", disable=None if progress else True):
        chosen = learnt[torch.randint(len(learnt), (BATCH,), generator=random)]
        pictures, directions, depths = truth.pictures[chosen], truth.directions[chosen], truth.depths[chosen]
        flipped = torch.rand(BATCH, generator=random) < 0.5
        pictures = torch.where(flipped[:, None, None, None], pictures.flip(3), pictures)
        depths = torch.where(flipped[:, None, None], depths.flip(2), depths)
        directions = torch.where(flipped[:, None], directions * directions.new_tensor([-1.0, 1.0, 1.0]), directions)
        shift = torch.randint(-MOST_MOVED, MOST_MOVED + 1, (BATCH, 2), generator=random)
        pictures, depths = moved(pictures, shift * (SIZE // DEPTH_SIZE)), moved(depths[:, None], shift)[:, 0]
        loss = _loss(network(_varied(prepared(pictures), random)), directions, depths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.half().float().eval().requires_grad_(False)


def moved(maps: Tensor, shift: Tensor) -> Tensor:
    """Maps [N, C, R, R], each moved by so many pixels [N, 2] down and to the right; their edges fill what comes in."""
    side = torch.arange(maps.shape[-1])
    rows, columns = (side - shift[..., None]).clamp(0, len(side) - 1).unbind(1)
    which = torch.arange(len(maps))[:, None, None]
    return maps[which, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _loss(seen: Sight, directions: Tensor, depths: Tensor) -> Tensor:
    there = torch.isfinite(depths)
    wrong = ((seen.depth - depths.nan_to_num()) / SCALE).abs()
    return (DIRECTION_WEIGHT * (seen.direction - directions).square().sum(dim=1).mean() + wrong[there].mean()
            + HEAD_WEIGHT * F.binary_cross_entropy_with_logits(seen.head, there.float()))


def _varied(x: Tensor, random: torch.Generator) -> Tensor:
    """What generated pictures have and rendered ones have not: other brightness, contrast and colours, blur, noise."""
    def drawn(*shape: int) -> Tensor:
        return torch.randn((len(x), *shape), generator=random)

    x = x * (1 + CONTRAST * drawn(1, 1, 1)) + BRIGHTNESS * drawn(1, 1, 1) + COLOUR * drawn(3, 1, 1)
    blur = torch.rand((len(x), 1, 1, 1), generator=random)
    x = x + blur * (F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False) - x)
    return x + NOISE * torch.rand((len(x), 1, 1, 1), generator=random) * drawn(*x.shape[1:])


def judged(network: Regressor, truth: Truth) -> Dict[str, float]:
    """Its errors on the pictures it did not learn from; and those of a blind guess, the mean direction and depth."""
    held = torch.arange(0, len(truth.pictures), HELD_OUT)
    seen = [network(prepared(part)) for part in truth.pictures[held].split(256)]
    direction, depth = (torch.cat([getattr(some, name) for some in seen]) for name in ("direction", "depth"))
    wrong = angle(direction, truth.directions[held])
    blind = angle(F.normalize(truth.directions.mean(dim=0, keepdim=True), dim=1), truth.directions[held])
    correlation, error = _mean_depth_errors(depth, truth.depths[held])
    mean = truth.depths.nanmean(dim=0).nan_to_num(DISTANCE)
    blind_correlation, blind_error = _mean_depth_errors(mean.expand_as(depth), truth.depths[held])
    return dict(pose_median=float(wrong.median()), pose_p90=float(wrong.quantile(0.9)), blind_pose_median=float(blind.median()),
                depth_correlation=correlation, blind_depth_correlation=blind_correlation,
                depth_error=error, blind_depth_error=blind_error)


def _mean_depth_errors(depths: Tensor, truths: Tensor) -> Tuple[float, float]:
    pairs = [depth_errors(one, other, torch.isfinite(other)) for one, other in zip(depths, truths)]
    correlation, error = np.nanmean(np.array(pairs), axis=0)
    return float(correlation), float(error)


def depth_errors(one: Tensor, other: Tensor, there: Tensor) -> Tuple[float, float]:
    """Two depth maps [R, R] over the pixels that are `there`: their correlation (0 where one is all the same), and the mean
    absolute difference after the median difference is taken away, in world units. NaN for less than LEAST pixels."""
    if int(there.sum()) < LEAST:
        return float("nan"), float("nan")
    a, b = one[there].double(), other[there].double()
    apart = a - b
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1].nan_to_num()), float((apart - apart.median()).abs().mean())


def fingerprint(truth: Truth) -> str:
    """A hash of what was learnt from."""
    found = hashlib.sha256()
    for part in truth:
        found.update(part.numpy().tobytes())
    return found.hexdigest()
