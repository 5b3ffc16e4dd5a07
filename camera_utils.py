"""Kept for notebooks and forks that `import camera_utils`: the samplers of camera poses under their old address.

New code imports them from eg3d.cameras, which has more: labels, views as a network's own data have them, paths of films.
"""

from eg3d.cameras import FOV_to_intrinsics, GaussianCameraPoseSampler, LookAtPoseSampler, UniformCameraPoseSampler

__all__ = ["FOV_to_intrinsics", "GaussianCameraPoseSampler", "LookAtPoseSampler", "UniformCameraPoseSampler"]
