"""Images of a reconstruction that have no pose in the model, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass

from d2_hloc.files import features_h5
from d2_hloc.reports.pair_graph import verified_links
from d2_hloc.sfm import pose_errors
from d2_hloc.sfm.reconstruct import ModelRun


@dataclass(frozen=True, kw_only=True)
class UnplacedImage:
    """An image that has features and no pose."""

    name: str
    keypoints: int
    pairs: int  # that it was matched in
    verified_pairs: int
    verified_matches: int
    reason: str


def unplaced_images(run: ModelRun) -> list[UnplacedImage]:
    """The images that have features and no pose in the model, by name."""
    registered = set(pose_errors.model_poses(run.model))
    names = [name for name in run.matched.features.names if name not in registered]
    if not names:
        return []
    links = verified_links(run.database.path)
    with features_h5.open_h5(run.matched.features.path) as file:
        counts = {name: len(file[name]["keypoints"]) for name in names}
    num_pairs = Counter(name for pair in run.matched.pairs for name in pair)
    unplaced = []
    for name in names:
        pairs, found = num_pairs[name], links.get(name, {})
        unplaced.append(
            UnplacedImage(
                name=name,
                keypoints=counts[name],
                pairs=pairs,
                verified_pairs=len(found),
                verified_matches=sum(found.values()),
                reason=reason_without_pose(counts[name], pairs, found, registered),
            )
        )
    return unplaced


def reason_without_pose(
    keypoints: int, pairs: int, links: Mapping[str, int], registered: Set[str]
) -> str:
    """Why an image has no pose: the first of the steps that it did not pass.

    `links` are its verified matches by the other image.
    """
    inside = {name: count for name, count in links.items() if name in registered}
    if not keypoints:
        return "it has no keypoints"
    if not pairs:
        return "it is in no pair"
    if not links:
        return "none of its pairs was verified"
    if not inside:
        return "its verified pairs are with images that have no pose either"
    images = "1 image" if len(inside) == 1 else f"{len(inside)} images"
    return (
        f"its {sum(inside.values())} verified matches with {images} of the model did not give "
        "a pose"
    )
