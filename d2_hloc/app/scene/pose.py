"""Poses of cameras: world to camera, as COLMAP has it (x right, y down, z forward)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

UP = np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Pose:
    """cam_from_world: a point x of the world is at `rotation` x + `translation` in the camera."""

    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]  # metres

    @classmethod
    def looking_at(
        cls, centre: Float[np.ndarray, " 3"], target: Float[np.ndarray, " 3"], roll: float = 0.0
    ) -> Pose:
        """A camera at `centre` that sees `target` in its middle, turned by `roll` radians.

        Raises:
            ValueError: if it looks straight up or down, or at itself.
        """
        forward = np.asarray(target, float) - np.asarray(centre, float)
        right = np.cross(forward, UP)
        if np.linalg.norm(right) < 1e-9:
            raise ValueError(f"A camera at {centre} that looks at {target} has no upright pose.")
        axes = np.stack([right, np.cross(forward, right), forward])
        axes /= np.linalg.norm(axes, axis=1, keepdims=True)
        cos, sin = np.cos(roll), np.sin(roll)
        rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) @ axes
        return cls(rotation=rotation, translation=-rotation @ np.asarray(centre, float))

    @property
    def quaternion(self) -> Float[np.ndarray, " 4"]:
        """Rotation as a quaternion (w, x, y, z) of unit length with w >= 0."""
        r = self.rotation
        # Each row of this symmetric matrix is the quaternion times one of its parts, times 4.
        outer = np.empty((4, 4))
        outer[0, 0] = 1 + np.trace(r)
        outer[0, 1:] = outer[1:, 0] = r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]
        outer[1:, 1:] = r + r.T + (1 - np.trace(r)) * np.eye(3)
        best = outer[np.argmax(np.diag(outer))]
        unit = best / np.linalg.norm(best)
        return -unit if unit[0] < 0 else unit

    @property
    def centre(self) -> Float[np.ndarray, " 3"]:
        """Centre of the camera in the world, metres."""
        return -self.rotation.T @ self.translation

    def apply(self, points: Float[np.ndarray, "*N 3"]) -> Float[np.ndarray, "*N 3"]:
        """Points of the world in the camera's frame."""
        return points @ self.rotation.T + self.translation
