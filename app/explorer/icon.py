"""The explorer's own icon: a named one would be fetched from a server elsewhere."""

import numpy as np

SIDE = 8


def icon() -> np.ndarray:
    """A causal map: a triangle of blues, [height, width, 4]."""
    row, column = np.mgrid[0:SIDE, 0:SIDE]
    near = np.where(column <= row, 0.35 + 0.65 * (column == row) + 0.4 * (column == 0), 0.0).clip(
        0, 1
    )
    blue = np.array([31, 106, 165], np.float32)
    picture = np.zeros((SIDE, SIDE, 4), np.float32)
    picture[..., :3], picture[..., 3] = blue, 255 * near
    return picture.repeat(8, 0).repeat(8, 1).astype(np.uint8)
