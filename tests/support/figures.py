"""A model to draw: random points and a ring of cameras."""

import numpy as np


def model(num_points: int = 200, num_cameras: int = 5) -> dict:
    """A wall of points and cameras in front of it that look along z, y down."""
    rng = np.random.default_rng(0)
    return {
        "xyz": rng.uniform(-1, 1, (num_points, 3)) * (2, 1, 0.2) + (0, 0, 4),
        "rgb": rng.integers(0, 256, (num_points, 3), dtype=np.uint8),
        "centres": np.stack([np.linspace(-1, 1, num_cameras), *np.zeros((2, num_cameras))], 1),
        "rotations": np.tile(np.eye(3), (num_cameras, 1, 1)),
        "names": [f"{i}.jpg" for i in range(num_cameras)],
    }
