"""How good pixel matches are: right ones, and poses of pairs with known cameras or homographies.

    python benchmarks/dense_pairs.py --images IMAGES --calibrations FOLDER
    python benchmarks/dense_pairs.py --images IMAGES --pairs PAIRS.txt
    python benchmarks/dense_pairs.py --hpatches HPATCHES

Pairs with known poses are those of benchmarks/geometry.py. A match is right within so many pixels
of its epipolar lines; `by a pose` are the matches that a pose by PoseLib explains to so many
pixels, and poses are those. Of all matches no pose is made. On HPatches a match is right within so
many pixels of where the homography leads, all are counted that come back, and shares are means over
pairs. Seconds are processor time, from two prepared images to their matches, on one thread.
"""

from __future__ import annotations

import argparse
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from geometry import DEGREES, Inputs, Row, calibrated_pairs, score

from d2_hloc.benchmarks.hpatches.data import kind_of, read_hpatches
from d2_hloc.benchmarks.relative_pose.data import read_posed_pairs
from d2_hloc.benchmarks.relative_pose.scores import pinhole_camera
from d2_hloc.core.homography_metrics import transfer
from d2_hloc.core.images import read_image
from d2_hloc.core.pixels import to_colmap
from d2_hloc.files.colmap import pycolmap, quiet
from d2_hloc.matching.pairs import Pair
from d2_hloc.refinement.image_matches import ImageMatcher, ImageMatchingOptions, PixelMatches
from d2_hloc.sfm.options import VerificationOptions
from d2_hloc.sfm.two_view import verify_pair
from d2_hloc.sfm.verification import PairToVerify

PIXELS = (1, 2, 4)
ACCURACIES = (1, 3, 5)
IMAGES_HELD = 12
POSES = {
    f"by a pose to {error:g} px": VerificationOptions(estimator="poselib", max_error=error)
    for error in (2.0, 1.0)
}


class Pairs:
    """Matches pairs of images by their paths; prepared images are held while they are in use."""

    def __init__(self, options: ImageMatchingOptions) -> None:
        self._matcher = ImageMatcher(options)
        self._prepared = lru_cache(IMAGES_HELD)(self._prepare)

    def _prepare(self, path: Path):
        image = read_image(path)[0]
        return self._matcher.prepare(image), (image.shape[2], image.shape[1])

    def match(self, path0: Path, path1: Path) -> tuple[PixelMatches, tuple, float]:
        """Matches, both sizes (w, h), and seconds."""
        (image0, size0), (image1, size1) = self._prepared(path0), self._prepared(path1)
        begin = time.process_time()
        found = self._matcher.match(image0, image1)
        return found, (size0, size1), time.process_time() - begin


def posed(matcher: Pairs, args: argparse.Namespace) -> None:
    """Print the table of pairs with known poses."""
    names = sorted(p.name for p in args.images.iterdir())
    pairs = (
        read_posed_pairs(args.pairs) if args.pairs else calibrated_pairs(args.calibrations, names)
    )
    raw: list[Row] = []
    fitting: dict[str, list[Row]] = {name: [] for name in POSES}
    for pair in pairs:
        found, sizes, seconds = matcher.match(*(args.images / n for n in pair.names))
        matrices = pair.intrinsics0, pair.intrinsics1
        cameras = pinhole_camera(matrices[0], sizes[0]), pinhole_camera(matrices[1], sizes[1])
        for camera in cameras:
            camera.has_prior_focal_length = True
        xy0, xy1 = (k.numpy().astype(float) for k in (found.keypoints0, found.keypoints1))
        every = np.stack([np.arange(len(found))] * 2, axis=1)
        to_verify = PairToVerify(
            keypoints=(to_colmap(xy0), to_colmap(xy1)), cameras=cameras, pairs=every
        )
        inputs = Inputs(posed=pair, pair=to_verify, refine=unmoved)
        for name, options in POSES.items():
            geometry = verify_pair(xy0, xy1, every, cameras, options)
            fitting[name].append(score(inputs, to_verify, geometry, seconds))
        geometry = pycolmap.TwoViewGeometry()
        geometry.inlier_matches = every.astype(np.uint32)
        raw.append(score(inputs, to_verify, geometry, seconds))
    print("|matches|number|<1 px|<2 px|<4 px|precision|<5°|<10°|<20°|s a pair|")
    print("|---|" + "---:|" * 9)
    for name, rows in {"all": raw, **fitting}.items():
        print(line(name, rows))


def unmoved(
    _: Pair, __: np.ndarray, xy1: np.ndarray, ___: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Places as they are: pixel matches need no refinement."""
    return xy1, np.ones(len(xy1), bool)


def line(name: str, rows: list[Row]) -> str:
    """Means over pairs, as a row of the table."""
    numbers = [f"{np.mean([len(r.errors) for r in rows]):.0f}"]
    numbers += [f"{np.mean([(r.errors < p).sum() for r in rows]):.0f}" for p in PIXELS]
    shares = [(r.errors < 2).mean() if len(r.errors) else 0.0 for r in rows]
    numbers += [f"{np.mean(shares):.3f}"]
    numbers += [f"{np.mean([r.pose_error < d for r in rows]):.2f}" for d in DEGREES]
    return f"|{name}|{'|'.join(numbers)}|{np.mean([r.seconds for r in rows]):.2f}|"


def planar(matcher: Pairs, folder: Path) -> None:
    """Print the table of HPatches' pairs."""
    rows: dict[str, list[list[float]]] = {"illumination": [], "viewpoint": []}
    for pair in read_hpatches(folder).pairs:
        found, _, seconds = matcher.match(*(folder / name for name in pair.names))
        xy0, xy1 = found.keypoints0.numpy(), found.keypoints1.numpy()
        errors = np.linalg.norm(transfer(xy0, pair.homography) - xy1, axis=1)
        shares = [float((errors < p).mean()) if len(errors) else 0.0 for p in ACCURACIES]
        rows[kind_of(pair.sequence)].append([len(found), *shares, seconds])
    rows["all"] = [row for some in rows.values() for row in some]
    print("|pairs|number|matches|1 px|3 px|5 px|s a pair|\n|---|" + "---:|" * 6)
    for name, values in rows.items():
        mean = np.mean(values, axis=0)
        numbers = f"{mean[0]:.0f}|" + "|".join(f"{m:.3f}" for m in mean[1:4])
        print(f"|{name}|{len(values)}|{numbers}|{mean[4]:.2f}|")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--calibrations", type=Path, help="folder of calibration_NAME.h5")
    parser.add_argument("--pairs", type=Path, help="list with poses, as pipelines/relative_pose.py")
    parser.add_argument("--hpatches", type=Path, help="HPatches, or a folder of its form")
    parser.add_argument("--resize-max", type=int, default=1024)
    args = parser.parse_args()
    if args.hpatches is None and (args.images is None or not (args.pairs or args.calibrations)):
        parser.error("give --hpatches, or --images with --pairs or --calibrations")
    quiet()
    torch.set_num_threads(1)
    matcher = Pairs(ImageMatchingOptions(resize_max=args.resize_max))
    if args.hpatches is not None:
        planar(matcher, args.hpatches)
    else:
        posed(matcher, args)


if __name__ == "__main__":
    main()
