"""A wall, a slanted floor and a ball with a texture of waves, seen from around: exact depth."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from d2_hloc.mvs.views import StereoView

WALL = np.array([0.15, 0.1, 1.0]), 6.0  # normal . X = distance
FLOOR = np.array([0.0, 1.0, 0.25]), 1.9
BALL = np.array([0.2, 0.1, 4.2]), 0.8  # centre and radius
CENTRES = ([0, 0, 0], [0.6, 0.05, 0], [-0.6, 0, 0.1], [0.1, -0.5, 0], [-0.1, 0.4, 0.1])
TARGET = np.array([0, 0.2, 5.0])  # all look there


@dataclass(frozen=True)
class Rendered:
    """A view with its exact depth."""

    view: StereoView
    depth: Float[np.ndarray, "H W"]
    rgb: Float[np.ndarray, "H W 3"]


def render(centre, width=211, height=160, focal=190.0) -> Rendered:
    """The scene from a place in the world; pixel centres at integers."""
    K = np.array([[focal, 0, width / 2 - 1.3], [0, focal * 1.01, height / 2 + 2.1], [0, 0, 1]])
    R, centre = looking_at(np.asarray(centre, float)), np.asarray(centre, float)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(K).T @ R
    depth = nearest(centre, rays)
    rgb = texture(centre + depth[..., None] * rays)
    view = StereoView(
        image=torch.from_numpy(rgb.mean(axis=-1)).float().to(torch.get_default_device()),
        K=torch.from_numpy(K),
        cam_from_world=torch.from_numpy(np.column_stack([R, -R @ centre])),
    )
    return Rendered(view, depth, rgb)


def looking_at(centre):
    forward = (TARGET - centre) / np.linalg.norm(TARGET - centre)
    right = np.cross([0.05, 1, 0], forward)
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(forward, right), forward])


def nearest(centre, rays):
    """Depth along rays whose z in the camera is 1."""
    depth = np.full(rays.shape[:2], np.inf)
    for normal, distance in (WALL, FLOOR):
        t = (distance - normal @ centre) / (rays @ normal)
        depth = np.where((t > 0) & (t < depth), t, depth)
    middle, radius = BALL
    a, b = (rays**2).sum(-1), rays @ (centre - middle)
    root = b**2 - a * (((centre - middle) ** 2).sum() - radius**2)
    t = (-b - np.sqrt(np.maximum(root, 0))) / a
    return np.where((root > 0) & (t < depth), t, depth)


def texture(points):
    """Waves in space of 0.1 to 0.6 units, three colours of them."""
    random = np.random.default_rng(0)
    colours = []
    for _ in range(3):
        directions = random.normal(size=(24, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        waves = directions * 2 * np.pi / random.uniform(0.1, 0.6, (24, 1))
        colours.append(np.cos(points @ waves.T + random.uniform(0, 2 * np.pi, 24)).mean(axis=-1))
    return np.clip(0.5 + np.stack(colours, axis=-1), 0, 1)
