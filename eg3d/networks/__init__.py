"""Networks that ship with the project.

demo.safetensors learnt synthetic heads; demo.md is its card. heads-regressor.safetensors sees their cameras and depth
(eg3d/metrics/regressor.py).
tiny-random.pkl is a real official object graph (128x128, ShapeNet's modules at a few channels) with RANDOM weights: it shows
that the format is understood, not what a trained network looks like.
"""
