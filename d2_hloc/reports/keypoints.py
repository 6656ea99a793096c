"""Keypoints of a reconstruction's images, by how far each one came on its way into the model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from d2_hloc.core.pixels import from_colmap
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import open_database, verified_pairs
from d2_hloc.matching.pairs import Pair
from d2_hloc.reports.drawing import BLUE, GREEN, YELLOW, draw_keypoints, open_or_blank
from d2_hloc.sfm.reconstruct import ModelRun

HEIGHT = 400  # pixels of a picture


class Fate(IntEnum):
    """The last step that a keypoint passed."""

    UNMATCHED = 0
    MATCHED = 1
    VERIFIED = 2
    IN_MODEL = 3


COLOURS = {
    Fate.UNMATCHED: (215, 215, 215, 110),
    Fate.MATCHED: (*BLUE, 255),
    Fate.VERIFIED: (*YELLOW, 255),
    Fate.IN_MODEL: (*GREEN, 255),
}
LEGEND = (
    "Green: in the model. Yellow: in a verified match, and in no point of the model. Blue: "
    "matched, and the match was not verified. Grey: matched with nothing."
)


@dataclass(frozen=True, kw_only=True)
class FatedKeypoints:
    """Keypoints of one image, in pixels of it, and the fate of each."""

    name: str
    xy: Float[np.ndarray, "N 2"]
    fates: Int[np.ndarray, " N"]


def keypoint_fates(run: ModelRun, names: Sequence[str]) -> list[FatedKeypoints]:
    """Fates of the keypoints of images, at the places that the model was made from."""
    matched, verified = keypoints_with_match(run, names), keypoints_with_verified_match(run, names)
    images = {image.name: image for image in run.model.images.values()}
    found = []
    with open_database(run.database.path) as db:
        ids = {image.name: image.image_id for image in db.read_all_images()}
        for name in names:
            xy = from_colmap(np.asarray(db.read_keypoints(ids[name]), float)[:, :2])
            fates = np.full(len(xy), int(Fate.UNMATCHED))
            fates[matched[name]] = Fate.MATCHED
            fates[verified[name]] = Fate.VERIFIED
            if name in images:
                seen = [i for i, p in enumerate(images[name].points2D) if p.has_point3D()]
                fates[np.array(seen, dtype=int)] = Fate.IN_MODEL
            found.append(FatedKeypoints(name=name, xy=xy, fates=fates))
    return found


def keypoints_with_match(run: ModelRun, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Indices of the keypoints of images that have a match, with repetitions."""
    with features_h5.open_h5(run.matched.matches.path) as file:
        return _by_image(
            names,
            run.matched.pairs,
            lambda pair: features_h5.matches_of(file, *pair).pairs.numpy(),
        )


def keypoints_with_verified_match(run: ModelRun, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Indices of the keypoints of images that are in a verified match, with repetitions."""
    with open_database(run.database.path) as db:
        of_ids = {image.image_id: image.name for image in db.read_all_images()}
        ids = {(of_ids[i], of_ids[j]): (i, j) for i, j, _ in verified_pairs(db)}
        return _by_image(
            names,
            ids,
            lambda pair: db.read_two_view_geometry(*ids[pair]).inlier_matches.astype(int),
        )


def _by_image(
    names: Sequence[str], pairs: Iterable[Pair], matches_of: Callable[[Pair], np.ndarray]
) -> dict[str, np.ndarray]:
    """Indices of the images' keypoints in the matches (K, 2) of pairs; others are not read."""
    found: dict[str, list[np.ndarray]] = {name: [np.empty(0, int)] for name in names}
    for pair in pairs:
        if found.keys() & set(pair):
            index = matches_of(pair)
            for k, name in enumerate(pair):
                if name in found:
                    found[name].append(index[:, k])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def draw_fates(run: ModelRun, names: Sequence[str]) -> list[tuple[Image.Image, str]]:
    """Pictures of images with their keypoints coloured by their fates, and captions."""
    pictures = []
    for found in keypoint_fates(run, names):
        order = np.argsort(found.fates, kind="stable")
        colours = [COLOURS[Fate(fate)] for fate in found.fates[order]]
        image = open_or_blank(run.images / found.name)
        drawn = draw_keypoints(image, found.xy[order], colours, HEIGHT)
        pictures.append((drawn, f"{found.name}: {counted_fates(found.fates)}"))
    return pictures


def counted_fates(fates: np.ndarray) -> str:
    """Numbers of keypoints by fate, in words."""
    in_model, verified, matched, rest = ((fates == fate).sum() for fate in reversed(Fate))
    return (
        f"{in_model:,} in the model, {verified:,} more verified, {matched:,} more matched, "
        f"{rest:,} others"
    )
