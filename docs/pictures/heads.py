"""Draws heads.jpg, a contact sheet of synthetic heads: python docs/pictures/heads.py"""

import sys
from pathlib import Path

import numpy as np
import PIL.Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from eg3d.scenes.heads import Studio, collection

ROWS, COLUMNS, SIDE, SEED = 4, 10, 128, 0

studio = Studio()
pictures = []
for index in range(ROWS * COLUMNS):
    look, label = collection.picture(SEED, index)
    pictures.append(studio.head_of(look).view(label, SIDE).image)
rows = [np.concatenate(pictures[start:start + COLUMNS], axis=1) for start in range(0, len(pictures), COLUMNS)]
PIL.Image.fromarray(np.concatenate(rows)).save(Path(__file__).with_suffix(".jpg"), quality=90)
