"""Images that a reconstruction could not use, for want of a pose or of points, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from d2_hloc.files import features_h5
from d2_hloc.files.colmap import pycolmap
from d2_hloc.sfm.database import verified_links
from d2_hloc.sfm.matched import Matched
from d2_hloc.sfm.pose_errors import model_poses


@dataclass(frozen=True, kw_only=True)
class UnplacedImage:
    """An image that has features, and no pose or no points."""

    name: str
    keypoints: int
    pairs: int  # that it was matched in
    verified_pairs: int
    verified_matches: int
    reason: str


def unplaced_images(
    matched: Matched,
    database: Path,
    model: pycolmap.Reconstruction,
    others: Mapping[str, pycolmap.Reconstruction],
) -> tuple[UnplacedImage, ...]:
    """The images that have features and no pose in the model, or no point of it, by name.

    `database` is the verified one that the model was made from; `others` are further models of the
    images, by folder.
    """
    seeing = {i.name for i in model.images.values() if i.has_pose and i.num_points3D}
    names = [name for name in matched.features.names if name not in seeing | matched.queries]
    if not names:
        return ()
    links, posed = verified_links(database), model_poses(model)
    elsewhere = {name: folder for folder, other in others.items() for name in model_poses(other)}
    with features_h5.open_h5(matched.features.path) as file:
        counts = {name: len(file[name]["keypoints"]) for name in names}
    num_pairs = Counter(name for pair in matched.pairs for name in pair)
    unplaced = []
    for name in names:
        pairs, found = num_pairs[name], links.get(name, {})
        reason = reason_left_out(counts[name], pairs, found, seeing)
        if name in posed:
            reason = f"it has a pose, and sees no point: {reason}"
        elif name in elsewhere:
            reason = f"it is in another model, {elsewhere[name]}, that shares too little with this"
        unplaced.append(
            UnplacedImage(
                name=name,
                keypoints=counts[name],
                pairs=pairs,
                verified_pairs=len(found),
                verified_matches=sum(found.values()),
                reason=reason,
            )
        )
    return tuple(unplaced)


def reason_left_out(keypoints: int, pairs: int, links: Mapping[str, int], placed: Set[str]) -> str:
    """Why a model does not show an image: the first of the steps that it did not pass.

    `links` are its verified matches by the other image, `placed` the images that have a pose.
    """
    inside = {name: count for name, count in links.items() if name in placed}
    if not keypoints:
        return "it has no keypoints"
    if not pairs:
        return "it is in no pair"
    if not links:
        return "none of its pairs was verified: it may show nothing that another image shows"
    if not inside:
        return "its verified pairs are with images that have no pose either"
    images = "1 image" if len(inside) == 1 else f"{len(inside)} images"
    return (
        f"its {sum(inside.values())} verified matches with {images} of the model were too few or "
        "did not agree"
    )
