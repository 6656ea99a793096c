"""A small run from images to a model, in seconds: what tests of whole commands begin with."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from d2_hloc.app.scene import Camera, mapping_views, query_views, take
from d2_hloc.app.scene.demo import JPEG, ground_truth, intrinsics

SIZE = (320, 240)
CLI = (sys.executable, "-m", "d2_hloc.app.cli")
ARGUMENTS = ("--resize-max", "240", "--refinement", "off")


@dataclass(frozen=True)
class SmallRun:
    """FOLDER/{images, queries, intrinsics.txt, ground_truth.txt}, and OUT, its reconstruction."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def queries(self) -> Path:
        return self.folder / "queries"

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def intrinsics(self) -> list[str]:
        return ["--intrinsics", str(self.folder / "intrinsics.txt")]

    @property
    def truth(self) -> list[str]:
        return ["--ground-truth", str(self.folder / "ground_truth.txt")]

    def arguments(self, output: Path) -> list[str]:
        """Reconstruct the scene."""
        return ["reconstruct", str(self.images), str(output), *ARGUMENTS, *self.intrinsics]


def write_scene(folder: Path) -> None:
    """Four views of the square by day, and a query between them."""
    views = [
        replace(view, camera=Camera.from_view_angle(SIZE, 62.0))
        for view in (*mapping_views()[4:8], query_views()[1])
    ]
    for view, image in zip(views, take(views), strict=True):
        (folder / view.name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / view.name, **JPEG)
    (folder / "intrinsics.txt").write_text(intrinsics(views))
    (folder / "ground_truth.txt").write_text(ground_truth(views))
