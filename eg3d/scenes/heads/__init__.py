"""Synthetic heads with exact cameras and depth, rendered on the CPU. No photograph is in them."""

from eg3d.scenes.heads.studio import Head, Studio, View

__all__ = ["Head", "Studio", "View"]
