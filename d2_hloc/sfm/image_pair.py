"""Two images: what matches, and the geometry that the matches agree on."""

from __future__ import annotations

import csv
import io
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from d2_hloc.core.exif import read_orientation
from d2_hloc.core.images import enlargement, open_image, read_image
from d2_hloc.core.orientation import UPRIGHT, to_stored, upright_size
from d2_hloc.core.pixels import from_colmap, rescale, to_colmap
from d2_hloc.features.extracted import Extracted, read_orientations
from d2_hloc.features.extraction import extract
from d2_hloc.features.names import reach_of
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.outputs import Outputs
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.pairs import Pair
from d2_hloc.refinement.coarse_to_fine import CoarseToFineOptions
from d2_hloc.refinement.image_matches import ImageMatcher, ImageMatchingOptions
from d2_hloc.refinement.matches import PairRefiner
from d2_hloc.sfm.cameras.guess import guess_camera
from d2_hloc.sfm.options import PairMatchingOptions, VerificationOptions
from d2_hloc.sfm.two_view import verify_pair
from d2_hloc.sfm.two_views.refined_pair import RefinedPair, verify_refined
from d2_hloc.sfm.verification import PairToVerify

Cameras = tuple[pycolmap.Camera, pycolmap.Camera]
COLUMNS = "x0", "y0", "x1", "y1", "score", "inlier"


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """Matches of two images, the best first, and their two-view geometry.

    Places are pixels of the images as they are stored; (0, 0) is the centre of the first one. Those
    of inliers are refined where that was asked for.
    """

    paths: tuple[Path, Path]
    num_keypoints: tuple[int, int]
    xy0: np.ndarray  # (K, 2)
    xy1: np.ndarray  # (K, 2)
    scores: np.ndarray  # (K,), higher is better
    inliers: np.ndarray  # (K,) mask
    geometry: pycolmap.TwoViewGeometry  # from image 0 to image 1

    @property
    def num_inliers(self) -> int:
        """Number of matches that agree with the geometry."""
        return int(self.inliers.sum())

    def to_csv(self) -> str:
        """A table of the matches: x0, y0, x1, y1, score, and 1 for inliers."""
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(COLUMNS)
        columns = self.xy0, self.xy1, self.scores, self.inliers
        for (x0, y0), (x1, y1), score, inlier in zip(*columns, strict=True):
            places = (f"{value:.3f}" for value in (x0, y0, x1, y1))
            writer.writerow([*places, f"{score:.4f}", int(inlier)])
        return buffer.getvalue()


def match_pair(
    image0: Path | str, image1: Path | str, options: PairMatchingOptions | None = None
) -> ImagePair:
    """Extract, match, verify and refine two images.

    Args:
        image0: a photograph's path.
        image1: another one's, or the same.
        options: of each step; the defaults where there are none.

    Raises:
        ImageError: for a file that is no image, or too small a one.
        WeightsError: if the feature's weights are not here.
    """
    options, paths = options or PairMatchingOptions(), (Path(image0), Path(image1))
    for path in paths:
        open_image(path)  # names the file, if it is none
    cameras = guess_camera(paths[0]), guess_camera(paths[1])
    if _is_of_pixels(options):
        return _match_pixels(options, paths, cameras)
    with tempfile.TemporaryDirectory(prefix="d2-hloc-") as folder:
        return _match_copies(options, paths, cameras, Path(folder))


def _is_of_pixels(options: PairMatchingOptions) -> bool:
    """Whether matches go from coarse to fine, as those of refined dense features do."""
    is_of_cells = reach_of(options.extraction.feature) > 0
    return is_of_cells and options.refinement.enabled and options.matching_rule.matcher == "grown"


def _match_pixels(
    options: PairMatchingOptions, paths: tuple[Path, Path], cameras: Cameras
) -> ImagePair:
    """Match two images from coarse to fine (refinement.coarse_to_fine)."""
    extraction = options.extraction
    levels = CoarseToFineOptions(coarse=options.matching_rule)
    matching = ImageMatchingOptions(
        resize_max=None, d2net=extraction.d2net, cells=extraction.cells, levels=levels
    )
    matcher, prepared, to_paths, noises = ImageMatcher(matching), [], [], []
    for path in paths:
        orientation = UPRIGHT if extraction.rotations == "none" else read_orientation(path)
        image, size = read_image(path, extraction.resize_max, orientation)
        scale = np.array(upright_size(size, orientation)) / [image.shape[2], image.shape[1]]
        prepared.append(matcher.prepare(image))
        to_paths.append(partial(_to_path, scale=scale, orientation=orientation, size=size))
        noises.append(enlargement(size, extraction.resize_max))
    found = matcher.match(*prepared)
    order = np.argsort(-found.confidences.numpy(), kind="stable")
    xy0, xy1 = (
        to_path(xy.numpy().astype(float)[order])
        for to_path, xy in zip(to_paths, (found.keypoints0, found.keypoints1), strict=True)
    )
    pair = ImagePair(
        paths=paths,
        num_keypoints=(len(prepared[0].stages.cells), len(prepared[1].stages.cells)),
        xy0=xy0,
        xy1=xy1,
        scores=found.confidences.numpy()[order],
        inliers=np.zeros(len(order), bool),
        geometry=pycolmap.TwoViewGeometry(),
    )
    return _verified(pair, cameras, options.verification.for_moved(float(np.mean(noises))))


def _to_path(
    xy: np.ndarray, scale: np.ndarray, orientation: int, size: tuple[int, int]
) -> np.ndarray:
    """Pixels of an upright, reduced image -> those of the file, whose size (w, h) is given."""
    return to_stored(rescale(xy, scale), orientation, size)


def _match_copies(
    options: PairMatchingOptions, paths: tuple[Path, Path], cameras: Cameras, folder: Path
) -> ImagePair:
    """Match copies of two images, under names that files of features can hold."""
    copies, images = Outputs(folder), folder / "images"
    features, matches = copies.features, copies.matches
    images.mkdir()
    names = f"0{paths[0].suffix.lower()}", f"1{paths[1].suffix.lower()}"
    for name, path in zip(names, paths, strict=True):
        shutil.copyfile(path, images / name)
    extracted = extract(options.extraction, images, features, names)
    _refuse_failures(extracted, dict(zip(names, paths, strict=True)))
    match(options.matching_rule, [names], features, matches)
    found = features_h5.read_matches(matches, *names)
    order = np.argsort(-np.asarray(found.scores), kind="stable")
    index = np.asarray(found.pairs)[order]
    keypoints = [features_h5.read_keypoints(features, name) for name in names]
    pair = ImagePair(
        paths=paths,
        num_keypoints=(len(keypoints[0]), len(keypoints[1])),
        xy0=keypoints[0][index[:, 0]],
        xy1=keypoints[1][index[:, 1]],
        scores=np.asarray(found.scores)[order],
        inliers=np.zeros(len(index), bool),
        geometry=pycolmap.TwoViewGeometry(),
    )
    resize_max = options.extraction.resize_max

    def refiner() -> PairRefiner:  # reads the network's weights: made where it is used
        return PairRefiner(options.refinement, images, resize_max, read_orientations(features))

    if options.refinement.enabled and options.spreading.enabled:
        sizes = [features_h5.read_image_size(features, name) for name in names]
        given = PairToVerify(
            keypoints=(_in_colmap(keypoints[0]), _in_colmap(keypoints[1])),
            cameras=cameras,
            pairs=index.astype(np.int64),
            noise=float(np.mean([enlargement(size, resize_max) for size in sizes])),
        )
        rules = options.verification, options.spreading
        return _spread(pair, given, verify_refined(*rules, given, partial(refiner().search, names)))
    pair = _verified(pair, cameras, options.verification)
    if not options.refinement.enabled or not pair.num_inliers:
        return pair
    return _verified(_refined(pair, names, refiner()), cameras, options.verification)


def _refuse_failures(extracted: Extracted, paths: dict[str, Path]) -> None:
    for name, reason in extracted.failures.items():
        raise ValueError(f"{paths[name]}: {reason}")


def _verified(pair: ImagePair, cameras: Cameras, options: VerificationOptions) -> ImagePair:
    every = np.arange(len(pair.xy0))
    geometry = verify_pair(pair.xy0, pair.xy1, np.stack([every, every], axis=1), cameras, options)
    inliers = np.zeros(len(every), bool)
    inliers[np.asarray(geometry.inlier_matches).reshape(-1, 2)[:, 0].astype(int)] = True
    return replace(pair, geometry=geometry, inliers=inliers)


def _refined(pair: ImagePair, names: Pair, refiner: PairRefiner) -> ImagePair:
    """Move the second place of each inlier to where the first one's patch is seen."""
    xy1 = pair.xy1.copy()
    _, xy1[pair.inliers] = refiner(names, pair.xy0[pair.inliers], xy1[pair.inliers])
    return replace(pair, xy1=xy1)


def _in_colmap(keypoints: np.ndarray) -> np.ndarray:
    return to_colmap(np.asarray(keypoints, dtype=float))


def _spread(pair: ImagePair, given: PairToVerify, found: RefinedPair) -> ImagePair:
    """The matches with their refined places, then those that spread, which no network scored."""
    rows = {key: row for row, key in enumerate(map(tuple, given.pairs.tolist()))}
    row_of = np.array([rows.get(key, -1) for key in map(tuple, found.inliers.tolist())], np.int64)
    is_own = row_of >= 0
    own, more = found.inliers[is_own], found.inliers[~is_own]
    places0, places1 = from_colmap(given.keypoints[0]), from_colmap(found.keypoints1)
    inliers, xy1 = np.zeros(len(rows), bool), pair.xy1.astype(float)
    inliers[row_of[is_own]], xy1[row_of[is_own]] = True, places1[own[:, 1]]
    return replace(
        pair,
        xy0=np.concatenate([pair.xy0, places0[more[:, 0]]]),
        xy1=np.concatenate([xy1, places1[more[:, 1]]]),
        scores=np.concatenate([pair.scores, np.zeros(len(more))]),
        inliers=np.concatenate([inliers, np.ones(len(more), bool)]),
        geometry=found.geometry,
    )
