"""From seeds to identities to pictures."""

from __future__ import annotations

from typing import Iterator, Optional, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from eg3d import cameras
from eg3d.session import Session

# What gen_samples shows of each seed (radians from the frontal view): from one side, in front, from the other.
SAMPLE_YAWS = (0.4, 0.0, -0.4)
SAMPLE_PITCH = -0.2
DEFAULT_CUTOFF = 14  # layers that truncation reaches: all of a 256x256 backbone's


def latent(G: torch.nn.Module, seed: int) -> Tensor:
    """The latent [1, z_dim] that a seed has stood for since StyleGAN: NumPy's RandomState."""
    z = np.random.RandomState(seed).randn(1, G.z_dim).astype(np.float32)
    return torch.from_numpy(z).to(next(G.parameters()).device)


@torch.no_grad()  # not inference mode: who inverts a picture goes on from here with gradients
def styles(G: torch.nn.Module, seed: int, psi: float = 1.0, cutoff: Optional[int] = DEFAULT_CUTOFF,
           condition: Optional[Tensor] = None) -> Tensor:
    """Styles ws [1, L, W] of a seed, truncated by `psi` in the first `cutoff` layers.

    `condition` is the camera label [1, 25] that the mapping sees; by default the frontal one.
    """
    z = latent(G, seed)
    if condition is None:
        condition = cameras.view(G.rendering_kwargs)
    return G.mapping(z, condition.to(z.device), truncation_psi=psi, truncation_cutoff=cutoff)


def sample_views(G: torch.nn.Module, seeds: Sequence[int], psi: float = 1.0, cutoff: Optional[int] = DEFAULT_CUTOFF,
                 fov_degrees: Optional[float] = None) -> Iterator[Tuple[int, Session, Tensor]]:
    """Yields, for each seed, its session and its three views [3, 3, R, R] in [-1, 1].

    `fov_degrees` is the diagonal field of view, by default the data's.
    """
    focal = None if fov_degrees is None else cameras.FOV_to_intrinsics(fov_degrees)[0, 0].item()
    labels = [cameras.view(G.rendering_kwargs, yaw, SAMPLE_PITCH, focal) for yaw in SAMPLE_YAWS]
    condition = cameras.view(G.rendering_kwargs, focal=focal)  # as the original: this field of view, not the data's
    for seed in seeds:
        session = Session(G, styles(G, seed, psi, cutoff, condition), seed=seed)
        yield seed, session, torch.cat([session.render(c)["image"] for c in labels])
