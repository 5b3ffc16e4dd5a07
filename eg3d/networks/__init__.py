"""Networks that ship with the project.

tiny-random.pkl is a real official object graph (128x128, ShapeNet's modules at a few channels) with RANDOM weights: it shows
that the format is understood, not what a trained network looks like.
"""
