"""Networks that look at pictures: Inception for FID, KID, precision and recall, IS; VGG for PPL.

They are files that this project does not bring along: TorchScript (a program over tensors without access to Python), or for
Inception the state dict of pytorch-fid. A wrong or missing one is an error, never replaced by another.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from typing import Dict, Mapping, Optional

import torch
from torch import Tensor

from dnnlib.util import checksum, open_url
from eg3d.metrics import inception
from torch_utils.misc import is_out_of_memory

PUBLISHED = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/"
ADDRESSES = dict(inception=f"{PUBLISHED}inception-2015-12-05.pt", vgg=f"{PUBLISHED}vgg16.pt")
TRIAL = 64  # pixels along a side of the pictures that a detector is tried on


class DetectorError(ValueError):
    """A detector cannot be had or does not what it should; one line that names the file or URL."""


class Detector:
    """An opened detector. `source` is its file or URL, `sha256` the file's checksum."""

    def __init__(self, kind: str, source: str, device: torch.device):
        self.kind, self.source, self.device = kind, source, device
        try:
            with open_url(source) as file:
                path = file.name
            self.sha256 = checksum(path)
        except OSError as error:
            text = f"{source}: {error.strerror}" if error.strerror else str(error)
            raise DetectorError(f"{text}; {remedy(kind)}") from error
        self._network = self._opened(path)

    def _opened(self, path: str) -> torch.nn.Module:
        try:
            if _is_script(path):
                return torch.jit.load(path, map_location=self.device).eval()
            state = torch.load(path, map_location=self.device, weights_only=True)
        except (RuntimeError, ValueError, TypeError, LookupError, AttributeError, EOFError, OSError,
                pickle.UnpicklingError) as error:
            raise self._wrong("is neither TorchScript nor a state dict that loads without running code") from error
        if self.kind != "inception" or not isinstance(state, dict):
            raise self._wrong("is no TorchScript file")
        try:
            return inception.from_state_dict(state).to(self.device)
        except ValueError as error:
            raise self._wrong(f"holds no Inception of FID: {error}") from error

    def features(self, pictures: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> what Inception's last pooling gives, [N, F]."""
        return self._called(pictures, return_features=True)

    def probabilities(self, pictures: Tensor) -> Tensor:
        """uint8 [N, 3, H, W] -> probabilities of Inception's classes [N, C], without its last bias."""
        return self._called(pictures, no_output_bias=True)

    def perceptual(self, pictures: Tensor) -> Tensor:
        """[N, 3, H, W] in 0..255 -> [N, F], whose squared differences sum up to LPIPS."""
        return self._called(pictures, resize_images=False, return_lpips=True)

    def _called(self, pictures: Tensor, **how: bool) -> Tensor:
        try:
            found = self._network(pictures.to(self.device), **how)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            # TorchScript tells a long story, whose last line is the matter.
            story = str(error).strip() or type(error).__name__
            raise self._wrong(f"cannot be called with {', '.join(how)} ({story.splitlines()[-1].strip()})") from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != len(pictures):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise self._wrong(f"gives {shape} for {len(pictures)} pictures, expected [{len(pictures)}, features]")
        return found

    def check(self, name: str) -> None:
        """Tries what metrics need (`name`: the method) on two pictures. Raises DetectorError."""
        pictures = torch.arange(2 * 3 * TRIAL**2, device=self.device).remainder(251).reshape(2, 3, TRIAL, TRIAL)
        with torch.no_grad():
            found = getattr(self, name)(pictures.float() if name == "perceptual" else pictures.to(torch.uint8))
        if not found.is_floating_point() or not torch.isfinite(found).all():
            raise self._wrong("gives numbers that are not finite")
        if name == "probabilities" and not torch.allclose(found.sum(1), torch.ones_like(found[:, 0]), atol=1e-3):
            raise self._wrong("gives probabilities that do not sum up to 1")

    def _wrong(self, what: str) -> DetectorError:
        return DetectorError(f"{self.source}: {what}; {remedy(self.kind)}")


def remedy(kind: str) -> str:
    """What a user without this detector can do."""
    return (f"give --detector={kind}=FILE, or metrics that need no such file (swd, reprojection, flatness, raw_agreement), "
            "or train with --metrics=none")


def opened(kind: str, sources: Optional[Mapping[str, str]], device: torch.device) -> Detector:
    """The detector of a kind, from where `sources` say, else from NVIDIA's address. Raises DetectorError."""
    chosen: Dict[str, str] = dict(ADDRESSES, **(sources or {}))
    unknown = [name for name in chosen if name not in ADDRESSES]
    if unknown:
        raise DetectorError(f"--detector={unknown[0]}: there are {' and '.join(ADDRESSES)}")
    return Detector(kind, os.path.expanduser(chosen[kind]), device)


def _is_script(path: str) -> bool:
    """Whether a file is TorchScript: a zip with code in it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
