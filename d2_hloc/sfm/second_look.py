"""A second look for matches, led by a model: its poses and points say where they have to be.

Of two images that hardly match, others have the points of both. Near where the model's points
fall a keypoint has few candidates, so that more of the most similar are right; and with the model's
focal lengths a relative pose is estimated from them, which is surer than the fundamental matrix
that guesses leave. A model that may still be bent does not decide: its epipolar lines are not used.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from d2_hloc.core.pixels import to_colmap
from d2_hloc.core.threads import in_threads, one_thread_an_operation
from d2_hloc.features.names import reach_of
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import unfinished_name
from d2_hloc.files.colmap import open_database, pycolmap
from d2_hloc.matching.guided import GuidedOptions, guided_matches
from d2_hloc.matching.pairs import Pair
from d2_hloc.matching.tracks import PairMatches
from d2_hloc.refinement.tracks import refine_tracks
from d2_hloc.sfm.moved_matches import AgreementOptions, RefinedKeypoints
from d2_hloc.sfm.options import Reconstruct, VerificationOptions
from d2_hloc.sfm.searching.views import ModelView, model_views, seen_by
from d2_hloc.sfm.two_view import Config
from d2_hloc.sfm.verification import PairToVerify, verify_one

MAX_ERROR = 3.0  # pixels of the images that features were extracted from
WINDOW = GuidedOptions(enabled=True, radius=48.0, ratio_threshold=0.95)
FEWEST_ANCHORS = 8  # points of the model that both images could see


def matches_by_model(
    options: VerificationOptions,
    model: pycolmap.Reconstruction,
    features: Path,
    pairs: Iterable[Pair],
    seed: int = 0,
    max_error: float = MAX_ERROR,
) -> dict[Pair, PairMatches]:
    """Verified matches of the pairs whose images are in the model and could see the same of it.

    `features` is the file that the model was made from; keypoints as they were extracted count.
    They may be `max_error` off an epipolar line, in pixels of the images that they were found in.
    """
    views = model_views(model, features)
    with features_h5.open_h5(features) as file:
        descriptors = {n: features_h5.descriptors_of(file, n).float().numpy() for n in views}
    todo = [p for p in pairs if p[0] in views and p[1] in views]

    def work(pair: Pair) -> PairMatches:
        both = views[pair[0]], views[pair[1]]
        of_both = descriptors[pair[0]], descriptors[pair[1]]
        return _matches_of_pair(options, both, of_both, seed, max_error)

    with one_thread_an_operation() as workers, closing(in_threads(work, todo, workers)) as found:
        shown = tqdm(zip(todo, found, strict=True), "look again", len(todo), unit="pair")
        return {pair: matches for pair, matches in shown if len(matches.pairs)}


def _matches_of_pair(
    options: VerificationOptions,
    views: tuple[ModelView, ModelView],
    descriptors: tuple[np.ndarray, np.ndarray],
    seed: int,
    max_error: float,
) -> PairMatches:
    _, first = np.unique(np.concatenate([v.point_ids for v in views]), return_index=True)
    xyz = np.concatenate([v.xyz for v in views])[first]
    (places0, is_seen0), (places1, is_seen1) = (seen_by(v.image, v.camera, xyz) for v in views)
    both = is_seen0 & is_seen1
    if both.sum() < FEWEST_ANCHORS:
        return PairMatches(pairs=np.empty((0, 2), np.int64), scores=np.empty(0, np.float32))
    noise = (views[0].noise + views[1].noise) / 2
    keypoints = to_colmap(views[0].keypoints), to_colmap(views[1].keypoints)
    anchors = places0[both], places1[both]
    found, cosines = guided_matches(WINDOW, keypoints, descriptors, anchors, None, 0.0, noise)
    pair = PairToVerify(
        keypoints=keypoints, cameras=(views[0].camera, views[1].camera), pairs=found, noise=noise
    )
    strict = replace(options, max_error=max_error * noise)
    inliers = verify_one(strict, pair, seed, 0.0).inlier_matches.astype(np.int64).reshape(-1, 2)
    is_inlier = np.isin(found[:, 0], inliers[:, 0])  # a keypoint has one match
    return PairMatches(pairs=found[is_inlier], scores=cosines[is_inlier].astype(np.float32))


def refined_by_model(
    conf: Reconstruct,
    model: pycolmap.Reconstruction,
    features: Path,
    pairs: Iterable[Pair],
    images: Path,
    output: Path,
) -> dict[Pair, PairMatches]:
    """Matches that a model leads to; their keypoints, refined by these, go to `output`.

    Of cells, those remain whose keypoints moved, or were moved to, and that agree.
    """
    reach, options = reach_of(conf.extraction.feature), conf.reconstruction
    error = max(MAX_ERROR, reach)
    found = matches_by_model(
        options.verification, model, features, pairs, options.random_seed, error
    )
    output.unlink(missing_ok=True)  # of other matches
    refine_tracks(conf.refinement_rule, images, features, found, output)
    if not reach:
        return found
    refined = RefinedKeypoints.read(output, features, conf.refinement_rule.searched)
    kept = {p: refined.holds(AgreementOptions(), p, f.pairs) for p, f in found.items()}
    return {
        p: PairMatches(pairs=f.pairs[kept[p]], scores=f.scores[kept[p]]) for p, f in found.items()
    }


def second_database(
    first: Path,
    keypoints: Path,
    matches: Mapping[Pair, PairMatches],
    model: pycolmap.Reconstruction,
    output: Path,
    fewest: int,
) -> None:
    """The images of a database with other keypoints, and matches that count as verified.

    Pairs of fewer than `fewest` matches are left out. It appears whole or not at all.
    """
    part = unfinished_name(output)
    shutil.copyfile(first, part)
    poses = {model.images[i].name: model.images[i].cam_from_world() for i in model.reg_image_ids()}
    with open_database(part) as db, features_h5.open_h5(keypoints) as file:
        db.clear_matches()
        db.clear_two_view_geometries()
        ids = {image.name: image.image_id for image in db.read_all_images()}
        for name, image_id in ids.items():
            xy = to_colmap(features_h5.keypoints_of(file, name)).astype(np.float32)
            db.update_keypoints(image_id, xy)
        for (name0, name1), found in matches.items():
            if len(found.pairs) < fewest:
                continue
            geometry = pycolmap.TwoViewGeometry()
            geometry.config = Config.CALIBRATED
            geometry.cam2_from_cam1 = poses[name1] * poses[name0].inverse()
            geometry.inlier_matches = found.pairs.astype(np.uint32)
            db.write_matches(ids[name0], ids[name1], geometry.inlier_matches)
            db.write_two_view_geometry(ids[name0], ids[name1], geometry)
    part.replace(output)
