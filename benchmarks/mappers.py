"""Time and errors of COLMAP's three mappers, on rendered views whose poses are known exactly.

    python benchmarks/mappers.py OUT [--images 200] [--width 400] [--refinement on]

The views are of the demo's square, from arcs at five distances and heights; each is matched with
the 20 nearest by retrieval. All mappers start from one verified database. OUT keeps the images,
features and matches, so that the same command goes on from them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from d2_hloc.app.scene import Camera, take
from d2_hloc.app.scene.demo import JPEG, DemoView, around, ground_truth, intrinsics
from d2_hloc.core.listing import list_images
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files import colmap
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching.options import PairsOptions
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.sfm.cameras.intrinsics import Intrinsics
from d2_hloc.sfm.cameras.sharing import cameras_of
from d2_hloc.sfm.mapping import MAPPERS, map_images
from d2_hloc.sfm.matched import InputImages, match_collection
from d2_hloc.sfm.options import Reconstruct, ReconstructionOptions
from d2_hloc.sfm.pose_errors import align, model_poses, pose_errors
from d2_hloc.sfm.poses_file import read_poses
from d2_hloc.sfm.prepared_database import prepare_database

PLACES = ((4.2, 1.3), (4.7, 1.5), (5.2, 1.8), (5.6, 2.2), (4.5, 1.7))  # distance, height; metres
ARC = 70.0  # degrees to either side
SEED = 0
LEAF = 60  # images of a part of the hierarchical mapper; COLMAP's own is 500


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--width", type=int, default=400)
    parser.add_argument("--refinement", choices=("on", "off"), default="off")
    args = parser.parse_args()
    colmap.quiet()
    scene = args.output / "scene"
    if not (scene / "ground_truth.txt").is_file():
        write_views(scene, args.images, args.width)
    database, conf = verified(scene, args.output / "run", args.refinement == "on")
    truth = read_poses(scene / "ground_truth.txt")
    names = {Path(name).name for name in truth}
    print(f"{len(truth)} images, {args.width} pixels wide, refinement {args.refinement}")
    times, errors = ("clock, s", "processor, s"), ("median, mm", "largest, mm", "degrees")
    titles = (*times, "images", "points", *errors)
    print(f"{'mapper':22}" + "".join(f"{title:>14}" for title in titles))
    rows = {mapper: (mapper, 0) for mapper in MAPPERS}
    for name, (mapper, leaf) in (rows | {f"in parts of {LEAF}": ("hierarchical", LEAF)}).items():
        options = replace(conf.reconstruction, mapper=mapper)
        folder = args.output / name.replace(" ", "-")
        clock, processor = time.perf_counter(), time.process_time()
        with parts_of(leaf):
            model = map_images(options, database, scene / "images", folder, names)
        spent = time.perf_counter() - clock, time.process_time() - processor
        poses = model_poses(model)
        errors = np.array(list(pose_errors(poses, truth, align(poses, truth)).values()))
        of_placed = errors[np.isfinite(errors[:, 0])]
        values = (
            *(f"{seconds:.1f}" for seconds in spent),
            len(poses),
            model.num_points3D(),
            f"{1000 * np.median(of_placed[:, 0]):.2f}",
            f"{1000 * of_placed[:, 0].max():.1f}",
            f"{np.median(of_placed[:, 1]):.3f}",
        )
        print(f"{name:22}" + "".join(f"{value:>14}" for value in values), flush=True)


@contextmanager
def parts_of(leaf: int) -> Iterator[None]:
    """Let the hierarchical mapper divide the images into parts of so many; 0 leaves it alone."""
    original = pycolmap.HierarchicalPipelineOptions

    def with_parts(**settings: Any) -> Any:
        options = original(**settings)
        if leaf:
            options.clustering_options.leaf_max_num_images = leaf
        return options

    with mock.patch.object(pycolmap, "HierarchicalPipelineOptions", with_parts):
        yield


def write_views(scene: Path, count: int, width: int) -> None:
    """Render the views, and write their images, cameras and poses."""
    rng, views = np.random.default_rng(SEED), []
    camera = Camera.from_view_angle((width, width * 3 // 4), 62.0)
    for k, turn in enumerate(np.linspace(-ARC, ARC, count).tolist()):
        distance, height = PLACES[k % len(PLACES)]
        aside = float(rng.uniform(-0.4, 0.4))
        pose = around(turn, distance, height, aside=aside)
        views.append(DemoView(name=f"images/view_{k:04}.jpg", camera=camera, pose=pose))
    (scene / "images").mkdir(parents=True, exist_ok=True)
    for view, image in zip(views, take(views), strict=True):
        Image.fromarray(image).save(scene / view.name, **JPEG)
    (scene / "intrinsics.txt").write_text(intrinsics(views))
    (scene / "ground_truth.txt").write_text(ground_truth(views))


def verified(scene: Path, output: Path, is_refined: bool) -> tuple[Path, Reconstruct]:
    """The verified database of the views, of known cameras, and the options that made it."""
    conf = Reconstruct(
        extraction=ExtractionOptions(resize_max=None),
        pairs=PairsOptions(method="retrieval"),
        refinement=RefinementOptions(enabled=is_refined),
        reconstruction=ReconstructionOptions(small_collection=1),
    )
    images, known = scene / "images", Intrinsics.read(scene / "intrinsics.txt")
    inputs = InputImages(
        folder=images,
        names=list_images(images),
        cameras=lambda names: cameras_of(images, names, known, "SIMPLE_RADIAL", "auto"),
    )
    record = RunRecord(output, {"images": str(images.resolve()), "refinement": is_refined})
    matched = match_collection(conf, inputs, record)
    return prepare_database(matched).path, conf


if __name__ == "__main__":
    main()
