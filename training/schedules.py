"""What changes while training, as pure functions of the number of real images seen (`nimg`). 1 kimg is 1000 images."""

from __future__ import annotations

from typing import Optional


def faded(nimg: float, fade_kimg: float) -> float:
    """How far a fade over `fade_kimg` has come, 0 to 1; a fade of 0 is over at once."""
    return min(nimg / (fade_kimg * 1000), 1.0) if fade_kimg > 0 else 1.0


def swap_probability(nimg: float, final: Optional[float], fade_kimg: float) -> Optional[float]:
    """Probability of conditioning G on another sample's pose (EG3D, section 4.4): from 1 to `final`; None: no pose at all."""
    if final is None:
        return None
    done = faded(nimg, fade_kimg)
    return (1 - done) + done * final


def blur_sigma(nimg: float, initial: float, fade_kimg: float) -> float:
    """Deviation, in pixels, of the blur on everything D sees: from `initial` to 0."""
    return initial * (1 - faded(nimg, fade_kimg))


def rendering_resolution(nimg: float, initial: int, final: Optional[int], fade_kimg: float) -> int:
    """Neural rendering resolution: from `initial` to `final`, rounded; `initial` throughout without a final one."""
    if final is None:
        return initial
    done = faded(nimg, fade_kimg)
    return round(initial * (1 - done) + final * done)


def ema_decay(nimg: float, batch: int, half_life_kimg: float, rampup: Optional[float]) -> float:
    """What the moving average keeps of itself after a batch; the half-life is at most `rampup` of the images seen so far."""
    half_life = half_life_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, nimg * rampup)
    return 0.5 ** (batch / half_life) if half_life > 0 else 0.0
