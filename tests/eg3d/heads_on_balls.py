"""A stand-in for the body model of synthetic heads: a ball with two eyeballs, so that tests need no large package."""

import numpy as np

from eg3d.scenes.heads.anatomy import EYE, EYES, SKIN

RADIUS = 0.25
MIDDLE = np.array([0.0, 0.03, 0.02])
BALL, APART = 0.05, 0.085  # radius of the eyeballs, and how far from the middle plane they are
PIXELS = 64  # of the masks


def ball(centre, radius, rows=24, columns=48):
    """Vertices [V, 3], triangles [F, 3] and their uv [F, 3, 2] of a sphere; v goes up."""
    theta, phi = np.meshgrid(np.linspace(0, np.pi, rows), np.linspace(0, 2 * np.pi, columns), indexing="ij")
    points = np.stack([np.sin(theta) * np.sin(phi), np.cos(theta), np.sin(theta) * np.cos(phi)], axis=-1) * radius + centre
    uv = np.stack([phi / (2 * np.pi), 1 - theta / np.pi], axis=-1).reshape(-1, 2)
    corner = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = (part.ravel() for part in (corner[:-1, :-1], corner[1:, :-1], corner[1:, 1:], corner[:-1, 1:]))
    triangles = np.concatenate([np.stack([a, b, c], axis=1), np.stack([a, c, d], axis=1)])
    return points.reshape(-1, 3), triangles, uv[triangles]


class Balls:
    """What Anatomy is to the studio. The phenotype `weight` makes the ball larger."""

    def __init__(self):
        parts = [ball(MIDDLE, RADIUS), ball(EYES - [APART, 0, 0], BALL), ball(EYES + [APART, 0, 0], BALL)]
        starts = np.cumsum([0] + [len(vertices) for vertices, _, _ in parts])
        self.template = np.concatenate([vertices for vertices, _, _ in parts]).astype(np.float32)
        self.triangles = np.concatenate([triangles + start for (_, triangles, _), start in zip(parts, starts)])
        self.uv = np.concatenate([uv for _, _, uv in parts]).astype(np.float32)
        self.part = np.concatenate([np.full(len(triangles), kind)
                                    for (_, triangles, _), kind in zip(parts, (SKIN, EYE, EYE))])
        self.eyeballs = [np.arange(starts[1], starts[2]), np.arange(starts[2], starts[3])]
        self.masks = {name: np.zeros((PIXELS, PIXELS), dtype=np.float32) for name in ("lips", "ears")}

    def shaped(self, phenotypes, changes, actions):
        grown = self.template.copy()
        grown[:self.eyeballs[0][0]] = MIDDLE + (self.template[:self.eyeballs[0][0]] - MIDDLE) * (
            0.9 + 0.2 * phenotypes.get("weight", 0.5))
        return grown.astype(np.float32)
