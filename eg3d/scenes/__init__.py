"""Posed pictures: read from zips, folders, NeRF and COLMAP data, converted for training, and checked."""
