"""Rays, sampling along them, and compositing (EG3D, section 4.1; NeRF, Mildenhall et al. 2020)."""
