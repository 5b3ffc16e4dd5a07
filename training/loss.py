"""EG3D's training objective (section 4; StyleGAN2's non-saturating logistic loss, R1, ADA).

`StyleGAN2Loss.accumulate_gradients` is the official call: it adds one phase's gradients to the networks' `.grad`. Pictures
are dicts of image [N, 3, R, R] and image_raw [N, 3, r, r] in [-1, 1]; labels [N, 25].
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Dict, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_utils import training_stats
from torch_utils.ops import upfirdn2d
from training import regularizers, schedules
from training.dual_discriminator import filtered_resizing

BLUR_REACH = 3  # the blur's kernel ends at this many sigmas
Picture = Dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Phase:
    """Which network a phase teaches, and by what."""

    network: str  # G or D
    adversarial: bool
    regularized: bool


# The names are part of the official interface.
PHASES = {
    "Gmain": Phase("G", True, False), "Greg": Phase("G", False, True), "Gboth": Phase("G", True, True),
    "Dmain": Phase("D", True, False), "Dreg": Phase("D", False, True), "Dboth": Phase("D", True, True),
}


@dataclasses.dataclass(frozen=True)
class Batch:
    """One micro-batch and where the schedules stand."""

    real: Picture
    real_c: Tensor
    gen_z: Tensor
    gen_c: Tensor
    gain: float
    swap: Optional[float]  # probability of a swapped pose; None: G gets no pose
    resolution: int  # of the raw rendering
    blur: float  # sigma in pixels


class StyleGAN2Loss:
    """The objective of a generator and a discriminator.

    r1_gamma: weight of R1 (0 leaves it out). blur_init_sigma, blur_fade_kimg; neural_rendering_resolution_initial, _final,
    _fade_kimg; gpc_reg_prob, gpc_reg_fade_kimg: see schedules. style_mixing_prob: of a second latent for the later layers.
    dual_discrimination: R1 also at image_raw. filter_mode: how real pictures become image_raw (filtered_resizing).
    density_extent: density is regularized in [-extent, extent]^3, in world units; 1 is official whatever the box.
    bf16: networks, not the renderer, compute in bfloat16. compile: by torch.compile, but for D where R1 is taken, which needs
    second derivatives.
    """

    def __init__(self, device, G, D, augment_pipe=None, r1_gamma=10, style_mixing_prob=0, blur_init_sigma=0, blur_fade_kimg=0,
                 neural_rendering_resolution_initial=64, neural_rendering_resolution_final=None,
                 neural_rendering_resolution_fade_kimg=0, gpc_reg_prob=None, gpc_reg_fade_kimg=1000,
                 dual_discrimination=False, filter_mode="antialiased", density_extent=1.0, bf16=False, compile=False):
        self.device = torch.device(device)
        self.G, self.D, self.augment_pipe = G, D, augment_pipe
        self.r1_gamma = r1_gamma
        self.style_mixing_prob = style_mixing_prob
        self.blur_init_sigma, self.blur_fade_kimg = blur_init_sigma, blur_fade_kimg
        self.resolution_initial = neural_rendering_resolution_initial
        self.resolution_final = neural_rendering_resolution_final
        self.resolution_fade_kimg = neural_rendering_resolution_fade_kimg
        self.gpc_reg_prob, self.gpc_reg_fade_kimg = gpc_reg_prob, gpc_reg_fade_kimg
        self.dual_discrimination = dual_discrimination
        self.filter_mode = filter_mode
        self.density_extent = density_extent
        self.bf16 = bf16
        self._synthesis, self._judge = (torch.compile(G.synthesis), torch.compile(D)) if compile else (G.synthesis, D)
        self.resample_filter = upfirdn2d.setup_filter([1, 3, 3, 1], device=self.device)

    def accumulate_gradients(self, phase: str, real_img: Tensor, real_c: Tensor, gen_z: Tensor, gen_c: Tensor, gain: float,
                             cur_nimg: int) -> None:
        """Adds the gradients of one phase (a key of PHASES), times `gain`; real_img [N, 3, R, R], cur_nimg real images seen."""
        if phase not in PHASES:
            raise ValueError(f"phase={phase!r}: choose one of {', '.join(PHASES)}")
        batch = self._batch(real_img, real_c, gen_z, gen_c, gain, cur_nimg)
        plan = PHASES[phase]
        if plan.network == "G":
            if plan.adversarial:
                self._teach_generator(batch)
            if plan.regularized:
                self._regularize_density(batch)
        else:
            regularized = plan.regularized and self.r1_gamma > 0
            fake_loss = self._show_fakes(batch) if plan.adversarial else None
            if plan.adversarial or regularized:
                self._show_reals(batch, fake_loss, regularized)

    def _batch(self, real_img, real_c, gen_z, gen_c, gain, cur_nimg) -> Batch:
        resolution = schedules.rendering_resolution(
            cur_nimg, self.resolution_initial, self.resolution_final, self.resolution_fade_kimg)
        blur = schedules.blur_sigma(cur_nimg, self.blur_init_sigma, self.blur_fade_kimg)
        raw = blurred(filtered_resizing(real_img, resolution, self.resample_filter, self.filter_mode), blur)
        swap = schedules.swap_probability(cur_nimg, self.gpc_reg_prob, self.gpc_reg_fade_kimg)
        return Batch({"image": real_img, "image_raw": raw}, real_c, gen_z, gen_c, gain, swap, resolution, blur)

    # -------------------------------------------------------------------------------------------- G

    def _teach_generator(self, batch: Batch) -> None:
        logits = self._score(self._seen(self._generate(batch), batch.blur), batch.gen_c)
        _report_scores("fake", logits)
        loss = F.softplus(-logits)
        training_stats.report("Loss/G/loss", loss)
        (loss.mean() * batch.gain).backward()

    def _regularize_density(self, batch: Batch) -> None:
        """Adds each term's gradients on its own: the second graph need not wait for the first."""
        options = self.G.rendering_kwargs
        weight = options.get("density_reg", 0)
        if weight <= 0:
            return
        kind = options["reg_type"]
        step = options["box_warp"] / regularizers.VOXELS
        if kind == "l1":
            distance = options["density_reg_p_dist"]
        elif kind in ("monotonic-detach", "monotonic-fixed"):
            distance = step
            loss = regularizers.monotonicity(
                self._density_field(batch), len(batch.gen_z), step, self.density_extent, self.device,
                detach=kind == "monotonic-detach")
            (loss * batch.gain).backward()
        else:
            raise ValueError(f"reg_type={kind!r}: choose l1, monotonic-detach or monotonic-fixed")
        loss = regularizers.smoothness(
            self._density_field(batch), len(batch.gen_z), distance, self.density_extent, self.device) * weight
        (loss * batch.gain).backward()

    def _density_field(self, batch: Batch) -> regularizers.Field:
        """Densities of freshly mapped styles, one draw of the pose swap for the whole batch."""
        ws = self._styles(batch, one_draw=True)

        def sigma_at(points: Tensor) -> Tensor:
            with self._precision():
                return self.G.sample_mixed(points, torch.randn_like(points), ws, update_emas=False)["sigma"]

        return sigma_at

    def _generate(self, batch: Batch, update_emas: bool = False) -> Picture:
        ws = self._styles(batch, update_emas=update_emas)
        with self._precision():
            picture = self._synthesis(ws, batch.gen_c, neural_rendering_resolution=batch.resolution, update_emas=update_emas)
        return {key: part.float() if self.bf16 else part for key, part in picture.items()}

    def _precision(self):
        """The networks'; what they return is turned back at once."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def _styles(self, batch: Batch, one_draw: bool = False, update_emas: bool = False) -> Tensor:
        """ws [N, L, W], conditioned on the sample's own pose or, with the scheduled probability, on its neighbour's."""
        c = batch.gen_c
        if batch.swap is None:
            condition = torch.zeros_like(c)
        else:
            draw = torch.rand([] if one_draw else (len(c), 1), device=c.device)
            condition = torch.where(draw < batch.swap, c.roll(1, 0), c)
        ws = self.G.mapping(batch.gen_z, condition, update_emas=update_emas)
        return self._mixed(ws, batch) if self.style_mixing_prob > 0 else ws

    def _mixed(self, ws: Tensor, batch: Batch) -> Tensor:
        """With probability style_mixing_prob, another latent's styles from a random layer on (StyleGAN 2019, section 3.1)."""
        layers = ws.shape[1]
        cutoff = torch.empty([], dtype=torch.int64, device=ws.device).random_(1, layers)
        cutoff = torch.where(torch.rand([], device=ws.device) < self.style_mixing_prob, cutoff, layers)
        other = self.G.mapping(torch.randn_like(batch.gen_z), batch.gen_c, update_emas=False)
        return torch.where((torch.arange(layers, device=ws.device) >= cutoff)[:, None], other, ws)

    # -------------------------------------------------------------------------------------------- D

    def _show_fakes(self, batch: Batch) -> Tensor:
        """Returns the loss, for the statistics."""
        fakes = self._generate(batch, update_emas=True)
        logits = self._score(self._seen(fakes, batch.blur), batch.gen_c, update_emas=True)
        _report_scores("fake", logits)
        loss = F.softplus(logits)
        (loss.mean() * batch.gain).backward()
        return loss.detach()

    def _show_reals(self, batch: Batch, fake_loss: Optional[Tensor], regularized: bool) -> None:
        """The adversarial half if there is a loss of fakes to go with it, and R1."""
        # R1 is taken at what D sees, so its second derivative passes through neither blur nor augmentation.
        seen = self._seen(batch.real, batch.blur)
        seen = {key: picture.detach().requires_grad_(regularized) for key, picture in seen.items()}
        logits = self._score(seen, batch.real_c, twice=regularized)
        _report_scores("real", logits)
        total = torch.zeros([], device=self.device)
        if fake_loss is not None:
            loss = F.softplus(-logits)
            training_stats.report("Loss/D/loss", fake_loss + loss)
            total = total + loss
        if regularized:
            penalty = regularizers.r1_penalty(logits, [seen["image"], seen["image_raw"]][: 1 + self.dual_discrimination])
            training_stats.report("Loss/r1_penalty", penalty)
            training_stats.report("Loss/D/reg", penalty * (self.r1_gamma / 2))
            total = total + (penalty * (self.r1_gamma / 2))[:, None]
        (total.mean() * batch.gain).backward()

    def _seen(self, picture: Picture, blur: float) -> Picture:
        """What D gets to see of a picture: blurred early in training, then augmented, both renderings alike."""
        image, raw = blurred(picture["image"], blur), picture["image_raw"]
        if self.augment_pipe is not None:
            channels = image.shape[1]
            both = self.augment_pipe(torch.cat([image, _resized(raw, image)], dim=1))
            image, raw = both[:, :channels], _resized(both[:, channels:], raw)
        return {"image": image, "image_raw": raw}

    def _score(self, picture: Picture, c: Tensor, update_emas: bool = False, twice: bool = False) -> Tensor:
        """`twice`: it will be differentiated twice."""
        with self._precision():
            logits = (self.D if twice else self._judge)(picture, c, update_emas=update_emas)
        return logits.float() if self.bf16 else logits


def blurred(image: Tensor, sigma: float) -> Tensor:
    """[N, C, R, R] through a normalized kernel 2^-(i / sigma)^2; a sigma below a third of a pixel changes nothing."""
    reach = math.floor(sigma * BLUR_REACH)
    if reach <= 0:
        return image
    kernel = torch.exp2(-(torch.arange(-reach, reach + 1, device=image.device) / sigma).square())
    return upfirdn2d.filter2d(image, kernel / kernel.sum())


def _resized(image: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(image, size=like.shape[2:], mode="bilinear", align_corners=False, antialias=True)


def _report_scores(kind: str, logits: Tensor) -> None:
    training_stats.report(f"Loss/scores/{kind}", logits)
    training_stats.report(f"Loss/signs/{kind}", logits.sign())
