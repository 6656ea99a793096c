"""Verification of pairs in parallel: the matches of a database -> two-view geometries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from d2_hloc.core.images import enlargement
from d2_hloc.core.threads import in_threads, one_thread_an_operation
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import open_database, pycolmap
from d2_hloc.matching.consistency import TOLERANCE
from d2_hloc.matching.guided import guided_matches
from d2_hloc.matching.pairs import Pair
from d2_hloc.refinement.shallow_maps import resize_max_of
from d2_hloc.sfm.options import VerificationOptions
from d2_hloc.sfm.two_view import Config, degenerate, estimate_two_view, supported
from d2_hloc.sfm.two_views.epipolar import MatchedPoints, focal_matrix, fundamental_of, rays

FLAT = Config.PLANAR, Config.PANORAMIC  # a homography explains nearly all
GUIDED_BAND = 2.0  # times the error, where refinement follows and tells right from wrong


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where a verification finds what the database does not hold.

    `features` with descriptors are for guided matching; None: there is none. `first` is a database
    of the same images whose keypoints have moved since: its inliers and geometries are the start.
    `is_refined_later` says that keypoints are going to be moved; `reach`, that they are off by so
    many pixels until then, of the images that features were extracted from. `is_chosen_from` says
    that the database holds some of the inliers of `first` and no other matches.
    """

    features: Path | None = None
    first: Path | None = None
    is_refined_later: bool = False
    reach: float = 0.0
    is_chosen_from: bool = False

    @cached_property
    def resize_max(self) -> int | None:
        """Longest edge at which features were extracted; read once for all chunks of pairs."""
        return resize_max_of(self.features) if self.features else None


@dataclass(frozen=True, kw_only=True)
class PairToVerify:
    """All that the verification of one pair needs."""

    keypoints: tuple[np.ndarray, np.ndarray]  # (N0, 2), (N1, 2), COLMAP's pixels
    cameras: tuple[pycolmap.Camera, pycolmap.Camera]
    pairs: np.ndarray  # (K, 2) keypoint indices
    noise: float = 1.0  # pixels of the images in one of those that features were extracted from
    reach: float = 0.0  # pixels of the images that keypoints may be off
    start: pycolmap.TwoViewGeometry | None = None
    descriptors: tuple[np.ndarray, np.ndarray] | None = None  # (N0, D), (N1, D)

    def points(self, pairs: np.ndarray) -> MatchedPoints:
        """Places of matches (K, 2)."""
        xy0, xy1 = (xy[index] for xy, index in zip(self.keypoints, pairs.T, strict=True))
        return MatchedPoints(xy0=xy0, xy1=xy1, camera0=self.cameras[0], camera1=self.cameras[1])


def verify_one(
    options: VerificationOptions, pair: PairToVerify, seed: int, band: float
) -> pycolmap.TwoViewGeometry:
    """The geometry of a pair with its inlier matches; `band` in pixels is for guided matching."""
    if pair.start is not None:
        error = options.refined_max_error * pair.noise
        options = replace(options, max_error=min(options.max_error, error))
    elif pair.reach:
        options = replace(options, max_error=max(options.max_error, pair.reach))
    points = pair.points(pair.pairs)
    noise = max(pair.noise, pair.reach / TOLERANCE)
    first = supported(options, points, noise) if pair.start is None else None
    geometry, mask = estimate_two_view(options, points, seed=seed, first=first, start=pair.start)
    inliers = pair.pairs[mask]
    if pair.descriptors is not None and geometry.config != Config.DEGENERATE:
        inliers = look_again(options, pair, pair.descriptors, geometry, inliers, band)
    geometry.inlier_matches = inliers.astype(np.uint32)
    return geometry


def look_again(
    options: VerificationOptions,
    pair: PairToVerify,
    descriptors: tuple[np.ndarray, np.ndarray],
    geometry: pycolmap.TwoViewGeometry,
    inliers: np.ndarray,
    band: float,
) -> np.ndarray:
    """Inliers (K, 2) and what guided matching adds to them, (M, 2).

    Where a guided match has a keypoint of an inlier, it replaces it.
    """
    keypoints, guide = guide_of(pair, geometry)
    found, _ = guided_matches(
        options.guided,
        keypoints,
        descriptors,
        (keypoints[0][inliers[:, 0]], keypoints[1][inliers[:, 1]]),
        guide,
        band,
        pair.noise,
    )
    is_free = ~(np.isin(inliers[:, 0], found[:, 0]) | np.isin(inliers[:, 1], found[:, 1]))
    joined = np.concatenate([inliers[is_free], found])
    return joined[np.argsort(joined[:, 0], kind="stable")]


def guide_of(
    pair: PairToVerify,
    geometry: pycolmap.TwoViewGeometry,
    by_homography: tuple[pycolmap.TwoViewGeometryConfiguration, ...] = FLAT,
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[str, np.ndarray]]:
    """Keypoints of both images, and the matrix by which matches are looked for among them.

    Of a plane, or a camera that only turned, it is the homography. Where both focal lengths are
    known, keypoints are those of an image without distortion, about its principal point.
    """
    if geometry.config in by_homography and geometry.H is not None:
        return pair.keypoints, ("H", np.asarray(geometry.H))
    camera0, camera1 = pair.cameras
    are_known = camera0.has_prior_focal_length and camera1.has_prior_focal_length
    has_pose = geometry.config in (Config.CALIBRATED, Config.PLANAR)
    pose = geometry.cam2_from_cam1 if has_pose else None
    if not are_known or pose is None:
        return pair.keypoints, ("F", np.asarray(geometry.F))
    undistorted = rays(camera0, pair.keypoints[0]), rays(camera1, pair.keypoints[1])
    return undistorted, ("F", fundamental_of(pose, focal_matrix(camera0), focal_matrix(camera1)))


def verify_pairs(
    options: VerificationOptions,
    database: Path,
    pairs: Sequence[Pair],
    sources: Sources,
    seed: int = 0,
    num_threads: int | None = None,
) -> Iterator[tuple[Pair, pycolmap.TwoViewGeometry]]:
    """Geometries of pairs that are in the database, in order, whatever the number of threads."""
    band = options.max_error * (GUIDED_BAND if sources.is_refined_later else 1.0)
    todo = read_pairs_to_verify(options, database, pairs, sources)

    def work(pair: PairToVerify) -> pycolmap.TwoViewGeometry:
        if not len(pair.pairs):
            return degenerate()
        return verify_one(options, pair, seed, band)

    with one_thread_an_operation() as count:
        workers = num_threads if num_threads and num_threads > 0 else count
        with closing(in_threads(work, todo, workers)) as geometries:
            yield from zip(pairs, geometries, strict=True)


def read_pairs_to_verify(
    options: VerificationOptions, database: Path, pairs: Sequence[Pair], sources: Sources
) -> list[PairToVerify]:
    """Keypoints, cameras, matches, and what `sources` add to them."""
    guides = sources.features if options.guided.enabled and sources.first is None else None
    names = sorted({name for pair in pairs for name in pair})
    descriptors: dict[str, np.ndarray] = {}
    with ExitStack() as stack:
        db = stack.enter_context(open_database(database))
        first = stack.enter_context(open_database(sources.first)) if sources.first else None
        if guides:
            file = stack.enter_context(features_h5.open_h5(guides))
            for name in names:
                descriptors[name] = features_h5.descriptors_of(file, name).float().numpy()
        ids = {n: _image_named(db, n) for n in names}
        cameras = {n: db.read_camera(ids[n].camera_id) for n in names}
        keypoints = {n: db.read_keypoints(ids[n].image_id)[:, :2].astype(float) for n in names}
        enlargement = enlargements(cameras, sources.resize_max)
        found = []
        for name0, name1 in pairs:
            noise = (enlargement[name0] + enlargement[name1]) / 2
            matches, start = _matches_and_start(db, first, ids, (name0, name1), sources)
            found.append(
                PairToVerify(
                    keypoints=(keypoints[name0], keypoints[name1]),
                    cameras=(cameras[name0], cameras[name1]),
                    pairs=matches,
                    noise=noise,
                    reach=sources.reach * noise,
                    start=start,
                    descriptors=(descriptors[name0], descriptors[name1]) if guides else None,
                )
            )
    return found


def _matches_and_start(
    db: pycolmap.Database,
    first: pycolmap.Database | None,
    ids: dict[str, pycolmap.Image],
    pair: Pair,
    sources: Sources,
) -> tuple[np.ndarray, pycolmap.TwoViewGeometry | None]:
    """Matches (K, 2) to verify, and the geometry that they had before their keypoints moved."""
    if first is None:
        return _matches_of(db, ids, pair), None
    images = (first.read_image_with_name(name) for name in pair)
    image0, image1 = (image.image_id for image in images if image is not None)
    if not first.exists_two_view_geometry(image0, image1):
        return np.empty((0, 2), np.int64), None
    geometry = first.read_two_view_geometry(image0, image1)
    found = geometry.inlier_matches.astype(np.int64).reshape(-1, 2)
    if sources.is_chosen_from:
        found = _matches_of(db, ids, pair)
    return found, geometry if len(found) else None


def _matches_of(db: pycolmap.Database, ids: dict[str, pycolmap.Image], pair: Pair) -> np.ndarray:
    found = db.read_matches(*(ids[name].image_id for name in pair))
    return found.astype(np.int64).reshape(-1, 2)


def _image_named(database: pycolmap.Database, name: str) -> pycolmap.Image:
    image = database.read_image_with_name(name)
    if image is None:
        raise ValueError(f"the database holds no image {name}.")
    return image


def enlargements(
    cameras: Mapping[str, pycolmap.Camera], resize_max: int | None
) -> dict[str, float]:
    """Pixels of each image in one of the size at which its features were extracted."""
    return {n: enlargement((c.width, c.height), resize_max) for n, c in cameras.items()}
