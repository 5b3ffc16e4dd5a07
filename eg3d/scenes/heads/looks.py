"""What heads look like: every random choice, drawn from a seed. Lengths are in units of the world, colours linear RGB."""

from __future__ import annotations

import dataclasses
import math
from typing import Dict, Tuple

import numpy as np

from eg3d.scenes.heads.anatomy import CHANGES, PAIRED_CHANGES

Colour = Tuple[float, float, float]

CHANGE_STD, UNEVEN_STD, CHANGE_MOST = 0.18, 0.03, 0.6  # of local changes; left from right
# sRGB, from pale to dark
SKINS = ((246, 220, 204), (238, 200, 178), (222, 176, 149), (198, 148, 118), (162, 114, 86), (120, 82, 62), (84, 57, 45))
HAIRS = ((28, 22, 20), (48, 33, 26), (76, 50, 35), (107, 72, 45), (146, 104, 62), (196, 158, 104), (222, 196, 150),
         (140, 66, 34), (168, 84, 44))
GREY, WHITE = (150, 146, 142), (222, 218, 212)
IRISES = ((58, 36, 22), (84, 54, 30), (112, 82, 44), (98, 112, 66), (84, 122, 126), (86, 126, 164), (118, 134, 146))
CLOTHES = ((40, 44, 52), (92, 98, 108), (214, 212, 206), (52, 78, 122), (128, 44, 48), (52, 96, 76), (176, 140, 84),
           (104, 76, 112), (206, 126, 92), (120, 160, 182))
DYED = 0.03  # this share of the hair
STYLES = ("bald", "shaved", "crop", "short", "volume", "afro", "bob", "long", "tied")
STYLE_OF_MEN = (0.07, 0.12, 0.25, 0.25, 0.16, 0.07, 0.02, 0.04, 0.02)
STYLE_OF_WOMEN = (0.0, 0.01, 0.04, 0.13, 0.08, 0.08, 0.25, 0.27, 0.14)


def linear(colour) -> np.ndarray:
    """sRGB in 0..255 -> linear RGB in 0..1 (IEC 61966-2-1)."""
    value = np.asarray(colour, dtype=np.float64) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


@dataclasses.dataclass(frozen=True)
class Hair:
    """A style, and its colour."""

    style: str
    colour: Colour
    thickness: float  # of the hair on top
    side: float  # and on the sides
    end: float  # height where long hair ends
    fringe: float  # radians that it hangs over the forehead
    recede: float  # radians that the temples and the forehead go up
    peak: float  # radians that the middle of the hairline comes down
    parting: float  # azimuth of the parting, where it is thin; radians
    curl: float  # 0 straight .. 1 curly
    seed: int  # of its strands


@dataclasses.dataclass(frozen=True)
class Light:
    """A soft key light, and what comes from all around."""

    direction: Tuple[float, float, float]  # towards it, a unit vector
    softness: float  # radius of the source at distance 1
    key: Colour
    sky: Colour
    ground: Colour


@dataclasses.dataclass(frozen=True)
class Look:
    """One head. phenotypes, changes, actions are Anatomy's."""

    phenotypes: Dict[str, float]
    changes: Dict[str, float]
    actions: Dict[str, float]
    skin: Colour
    flush: float  # redness of cheeks, nose and ears
    lips: Colour
    irises: Colour
    gaze: Tuple[float, float]  # yaw and pitch of the eyes, radians
    natural: Colour  # of brows and beard; hair may be dyed
    brow_weight: float
    lashes: float
    beard: float  # 0 none .. 1 full
    stubble: float
    hair: Hair
    clothes: Colour
    light: Light
    background: Colour

    def numbers(self) -> np.ndarray:
        """What makes the shape, float32: phenotypes, changes and actions in the order of their names."""
        return np.array([value for part in (self.phenotypes, self.changes, self.actions) for _, value in sorted(part.items())],
                        dtype=np.float32)


def drawn(random: np.random.RandomState) -> Look:
    """A random look."""
    phenotypes = _phenotypes(random)
    age, man = phenotypes["age"], phenotypes["gender"] > 0.5
    tone = _tone(random, phenotypes)
    skin = _between(SKINS, tone) * random.uniform(0.9, 1.1) * random.uniform(0.975, 1.025, 3)
    grey = np.clip((age - 0.82) / 0.15 + random.normal(0, 0.2), 0, 1) if age > 0.78 else 0.0
    natural = _hair_colour(random, tone)
    natural = (1 - grey) * natural + grey * linear(GREY if random.rand() < 0.6 else WHITE)
    hair_colour = linear(random.uniform((60, 20, 40), (200, 110, 190))) if random.rand() < DYED else natural
    adult = age > 0.55
    beard = random.uniform(0.5, 1) if man and adult and random.rand() < 0.25 else 0.0
    lips = skin * np.array([0.84, 0.54, 0.52]) if man else skin * np.array([0.88, 0.44, 0.45])
    if not man and random.rand() < 0.3:  # lipstick
        lips = 0.4 * lips + 0.6 * linear((random.uniform(140, 190), random.uniform(40, 80), random.uniform(50, 90)))
    return Look(
        phenotypes=phenotypes, changes=_changes(random), actions=_actions(random), skin=_tuple(skin),
        flush=random.uniform(0.05, 0.3),
        lips=_tuple(lips), irises=_tuple(_iris(random, tone)), gaze=_tuple(random.normal(0, (0.08, 0.05))),
        natural=_tuple(natural), brow_weight=random.uniform(0.6, 1.3 if man else 0.9),
        lashes=random.uniform(0.3, 0.6) if man else random.uniform(0.6, 1.0),
        beard=beard, stubble=random.uniform(0, 0.5) if man and adult else 0.0,
        hair=_hair(random, hair_colour, man, age, tone), clothes=_tuple(linear(CLOTHES[random.randint(len(CLOTHES))])),
        light=_light(random), background=_background(random))


def _tuple(values) -> tuple:
    return tuple(float(value) for value in values)


def _between(palette, place: float) -> np.ndarray:
    """The colour at `place` in 0..1 of a palette, linear RGB."""
    colours = linear(palette)
    return np.array([np.interp(place * (len(colours) - 1), np.arange(len(colours)), channel) for channel in colours.T])


def _phenotypes(random) -> Dict[str, float]:
    shares = random.dirichlet((0.6, 0.6, 0.8))
    return dict(
        gender=float(np.clip(random.rand() < 0.5, 0.08, 0.92) + random.uniform(-0.08, 0.08)),
        age=float(random.uniform(0.38, 0.6) if random.rand() < 0.12 else random.uniform(0.6, 1.0)),
        muscle=random.uniform(0.3, 0.8), weight=random.uniform(0.25, 0.85), height=random.uniform(0.35, 0.65),
        proportions=random.uniform(0.4, 0.9), african=float(shares[0]), asian=float(shares[1]), caucasian=float(shares[2]))


def _tone(random, phenotypes) -> float:
    """0 pale .. 1 dark."""
    middle = 0.82 * phenotypes["african"] + 0.34 * phenotypes["asian"] + 0.16 * phenotypes["caucasian"]
    return float(np.clip(middle + random.normal(0, 0.1), 0, 1))


def _changes(random) -> Dict[str, float]:
    def one(middle=0.0, std=CHANGE_STD) -> float:
        return float(np.clip(random.normal(middle, std), -CHANGE_MOST, CHANGE_MOST))

    changes = {name: one() for name in CHANGES}
    for name in PAIRED_CHANGES:
        middle = one()
        changes.update({f"{side}-{name}": one(middle, UNEVEN_STD) for side in "lr"})
    return changes


def _actions(random) -> Dict[str, float]:
    """A neutral face, a smile of some width, or another small expression."""
    actions: Dict[str, float] = {}

    def both(name: str, value: float) -> None:
        for side in ("Left", "Right"):
            actions[name + side] = float(np.clip(value + random.normal(0, 0.03), 0, 1))

    kind = random.rand()
    smile = random.uniform(0.2, 1.0) if kind < 0.6 else 0.0
    both("mouthSmile", smile)
    both("cheekSquint", 0.5 * smile * random.rand())
    both("eyeSquint", 0.4 * smile * random.rand())
    both("mouthFrown", random.uniform(0, 0.35) if 0.6 <= kind < 0.67 else 0.0)
    both("browDown", random.uniform(0, 0.5) if 0.6 <= kind < 0.72 else 0.0)
    both("browOuterUp", random.uniform(0, 0.5) if kind > 0.85 else 0.0)
    both("eyeWide", random.uniform(0, 0.4) if kind > 0.85 else 0.0)
    both("eyeBlink", random.uniform(0, 0.12))
    actions["browInnerUp"] = random.uniform(0, 0.5) if kind > 0.8 else 0.0
    actions["jawOpen"] = random.uniform(0.0, 0.12) if random.rand() < 0.3 else 0.0
    actions["mouthPucker"] = random.uniform(0, 0.3) if 0.7 < kind < 0.78 else 0.0
    return actions


def _hair_colour(random, tone: float) -> np.ndarray:
    lightest = np.interp(tone, [0.0, 0.3, 0.55], [len(HAIRS) - 0.01, 4.5, 2.5])
    colours = linear(HAIRS)[int(random.uniform(0, lightest))]
    return colours * random.uniform(0.8, 1.2)


def _iris(random, tone: float) -> np.ndarray:
    lightest = np.interp(tone, [0.0, 0.25, 0.5], [len(IRISES) - 0.01, 4.0, 2.0])
    return linear(IRISES[int(random.uniform(0, lightest))]) * random.uniform(0.8, 1.3)


def _hair(random, colour, man: bool, age: float, tone: float) -> Hair:
    style = STYLES[random.choice(len(STYLES), p=STYLE_OF_MEN if man and age > 0.5 else STYLE_OF_WOMEN)]
    if style == "bald" and age < 0.62:
        style = "shaved"
    if style == "afro" and tone < 0.45:
        style = "volume"
    top = {"bald": (0, 0), "shaved": (0.004, 0.008), "crop": (0.015, 0.035), "short": (0.03, 0.06), "volume": (0.06, 0.11),
           "afro": (0.08, 0.17), "bob": (0.035, 0.06), "long": (0.03, 0.055), "tied": (0.018, 0.03)}[style]
    thickness = random.uniform(*top)
    side = thickness * {"afro": 0.95, "shaved": 1.0, "tied": 0.8, "bob": 1.0, "long": 1.0}.get(style, random.uniform(0.3, 0.7))
    ends = {"bob": (-0.2, -0.05), "long": (-0.65, -0.3)}.get(style, (0, 0))
    peak = random.normal(0, 0.04)
    fringe = random.uniform(0.1, 0.38) if style in ("short", "volume", "bob", "long") and random.rand() < 0.4 else 0.0
    recede = random.uniform(0, 0.5) if man and age > 0.7 and fringe == 0 else 0.0
    parting = random.normal(0, 0.5) if style in ("short", "volume", "bob", "long", "tied") else 0.0
    curl = random.uniform(0.7, 1) if style == "afro" else random.uniform(0, 0.6) ** 1.5
    return Hair(style, _tuple(colour), thickness, side, random.uniform(*ends), fringe, recede, float(peak), float(parting),
                float(curl), int(random.randint(2**31 - 1)))


def _light(random) -> Light:
    azimuth, height = float(np.clip(random.normal(0, 0.6), -1.3, 1.3)), random.uniform(0.15, 1.0)
    direction = (math.sin(azimuth) * math.cos(height), math.sin(height), math.cos(azimuth) * math.cos(height))
    warmth = random.normal(0, 0.06)
    key = random.uniform(0.5, 0.95) * np.array([1 + warmth, 1, 1 - warmth])
    sky = random.uniform(0.36, 0.52) * np.array([1 - warmth, 1, 1 + warmth])
    ground = sky * random.uniform(0.4, 0.75) * np.array([1.04, 1.0, 0.95])
    return Light(direction, random.uniform(0.15, 0.5), _tuple(key), _tuple(sky), _tuple(ground))


def _background(random) -> Colour:
    """Plain, rather pale, of every hue."""
    grey = random.uniform(60, 235)
    return _tuple(linear(np.clip(grey + random.normal(0, 16, 3), 20, 250)))
