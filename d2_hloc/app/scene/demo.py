"""The demo's data: views of the square, the truth about them, and the folder that holds both."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from d2_hloc.app.scene.camera import Camera
from d2_hloc.app.scene.pose import Pose
from d2_hloc.app.scene.renderer import Scene, render
from d2_hloc.app.scene.square import DAY, NIGHT, market_square
from d2_hloc.core.threads import one_thread_an_operation
from d2_hloc.files.atomic import empty_folder

SIZE = (640, 480)
NUM_VIEWS = 12  # by day
NOISE = 5.0  # of the night, standard deviation in grey levels
TARGET = (0.0, 1.2, 1.25)  # metres; what the views look at
JPEG: dict[str, Any] = {"quality": 95, "subsampling": 0}
FOLDERS = ("images", "queries")
INTRINSICS, GROUND_TRUTH = "intrinsics.txt", "ground_truth.txt"  # files of the demo


@dataclass(frozen=True, kw_only=True)
class DemoView:
    """A photograph to be taken."""

    name: str  # relative to the demo's folder
    camera: Camera
    pose: Pose
    night: bool = False


def around(
    degrees: float, distance: float, height: float, roll: float = 0.0, aside: float = 0.0
) -> Pose:
    """A pose on a circle about TARGET: 0 degrees is in front of it, 90 to its right.

    `distance` along the ground and `height` above it in metres, `roll` in degrees; it looks
    `aside` metres to the right of TARGET.
    """
    turn = np.radians(degrees)
    right = np.array([np.cos(turn), np.sin(turn), 0])
    away = np.array([-np.sin(turn), np.cos(turn), 0])
    target = np.array(TARGET)
    centre = target - distance * away
    centre[2] = height
    return Pose.looking_at(centre, target + aside * right, np.radians(roll))


def mapping_views() -> tuple[DemoView, ...]:
    """Views by day on an arc of 84 degrees; near and low, far and high by turns."""
    camera = Camera.from_view_angle(SIZE, 62.0)
    places = [(4.7, 1.45), (5.3, 1.95)]
    return tuple(
        DemoView(name=f"images/view_{k:02}.jpg", camera=camera, pose=around(turn, *places[k % 2]))
        for k, turn in enumerate(np.linspace(-42, 42, NUM_VIEWS).tolist())
    )


def query_views() -> tuple[DemoView, ...]:
    """Two views by day and one by night, by another camera, between and before the others."""
    camera = Camera.from_view_angle(SIZE, 56.0)
    day_1, day_2 = around(-19.0, 4.4, 1.6, aside=0.3), around(6.0, 4.9, 1.3, roll=4.0)
    night = around(20.0, 5.3, 1.7, aside=-0.3)
    return (
        DemoView(name="queries/day_1.jpg", camera=camera, pose=day_1),
        DemoView(name="queries/day_2.jpg", camera=camera, pose=day_2),
        DemoView(name="queries/night_1.jpg", camera=camera, pose=night, night=True),
    )


def write_demo(folder: Path) -> None:
    """Write the demo's data, whole or not at all; nothing is done where it is there already.

    images/*.jpg and queries/*.jpg; intrinsics.txt (`name PINHOLE w h fx fy cx cy`, COLMAP's pixels)
    and ground_truth.txt (`name qw qx qy qz tx ty tz`, world to camera, metres), with names relative
    to the folder of images or of queries.

    Raises:
        ValueError: if the folder holds something else.
    """
    views = mapping_views() + query_views()
    texts = {INTRINSICS: intrinsics(views), GROUND_TRUTH: ground_truth(views)}
    if is_whole(folder, views, texts):
        return
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder}: holds something else; choose another folder, or delete it.")
    part = folder.with_name(folder.name + ".writing")
    empty_folder(part)
    for name in FOLDERS:
        (part / name).mkdir(parents=True)
    for view, image in zip(views, take(views), strict=True):
        Image.fromarray(image).save(part / view.name, **JPEG)
    for name, text in texts.items():
        (part / name).write_text(text)
    if folder.exists():
        folder.rmdir()
    part.replace(folder)


def is_whole(folder: Path, views: Sequence[DemoView], texts: dict[str, str]) -> bool:
    """Whether the folder holds all images, and the texts as they are now."""
    files = [folder / name for name in (*texts, *(view.name for view in views))]
    return all(file.is_file() for file in files) and all(
        (folder / name).read_text() == text for name, text in texts.items()
    )


def take(views: Sequence[DemoView]) -> list[UInt8[np.ndarray, "H W 3"]]:
    """Render the views, each in its light; those by night are noisy."""
    surfaces = market_square()
    with one_thread_an_operation(), ThreadPoolExecutor(2) as pool:
        day, night = pool.map(lambda light: Scene.lit(surfaces, light), (DAY, NIGHT))
        return list(pool.map(lambda view: _take(night if view.night else day, view), views))


def _take(scene: Scene, view: DemoView) -> UInt8[np.ndarray, "H W 3"]:
    image, _ = render(scene, view.camera, view.pose)
    return noisy(image) if view.night else image


def noisy(image: UInt8[np.ndarray, "H W 3"]) -> np.ndarray:
    """Image as a sensor with little light sees it."""
    noise = np.random.default_rng(0).normal(0, NOISE, image.shape)
    return np.rint(image + noise).clip(0, 255).astype(np.uint8)


def intrinsics(views: Sequence[DemoView]) -> str:
    """Text of one line per view with its camera, as hloc's lists of queries."""
    return "".join(f"{Path(v.name).name} {v.camera.colmap()}\n" for v in views)


def ground_truth(views: Sequence[DemoView]) -> str:
    """Text of one line per view with its pose, as results of localization are written."""
    lines = []
    for view in views:
        numbers = [*view.pose.quaternion.tolist(), *view.pose.translation.tolist()]
        lines.append(" ".join([Path(view.name).name, *map(repr, numbers)]) + "\n")
    return "".join(lines)
