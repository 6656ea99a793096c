"""Quarter turns of images whose EXIF does not tell, found by matching their thumbnails.

Two thumbnails are matched with one of them in all four turns: one of these matches far better,
where both show the same. The surest pairs are joined to trees, along which all images are turned
alike; which way is up, the most of a tree's images tell by their EXIF.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from d2_hloc.core.exif import read_header
from d2_hloc.core.images import read_image
from d2_hloc.core.orientation import UPRIGHT, turned
from d2_hloc.core.structs import Features
from d2_hloc.features.extracted import Extracted
from d2_hloc.features.extraction import create_extractor, on_device_of
from d2_hloc.features.options import ExtractionOptions, FeatureOptions
from d2_hloc.matching.consistency import local_consistency
from d2_hloc.matching.nearest import match_descriptors
from d2_hloc.matching.options import MatchingOptions
from d2_hloc.matching.pairs import from_retrieval
from d2_hloc.matching.prepared import PreparedDescriptors, prepare_descriptors

logger = logging.getLogger(__name__)

QUARTERS = range(4)
EDGE = 400  # pixels, the longest of a thumbnail
KEYPOINTS = 500  # of a thumbnail
SUPPORT = 15.0  # of a match by those around it (consistency.local_consistency)
ENOUGH = 12  # supported matches of two thumbnails that show the same
CERTAIN = 60  # of two that are turned alike
FAR_BETTER = 2.0  # times the matches of the next best turn
EXHAUSTIVE = 30  # images, all of whose pairs are matched
NEAREST = 10  # images that each is matched with in larger collections
MOST_KNOWN = 20  # images that are upright, which others are matched with

Views = Mapping[Path, int]  # orientations, as EXIF's, by file


@dataclass(frozen=True)
class Thumbnail:
    """Features of a small view, ready to be matched."""

    features: Features
    area: float

    @cached_property
    def descriptors(self) -> PreparedDescriptors:
        """Descriptors, prepared once."""
        return prepare_descriptors(self.features.descriptors)


class ThumbnailMatcher:
    """Extracts and matches thumbnails by D2-Net, each view extracted once."""

    def __init__(self, options: ExtractionOptions) -> None:
        self._extractor = create_extractor(FeatureOptions(d2net=options.d2net))
        self.thumbnail = lru_cache(maxsize=None)(self._thumbnail)

    def _thumbnail(self, path: Path, orientation: int) -> Thumbnail | None:
        """The thumbnail of a view; None for an image that cannot be used, or shows nothing."""
        try:
            image, _ = read_image(path, EDGE, orientation)
            features = self._extractor(on_device_of(self._extractor, image[None]))[0].best(
                KEYPOINTS
            )
        except ValueError as error:  # no image, or too small
            logger.debug("%s", error)
            return None
        is_empty = len(features) < 3
        return None if is_empty else Thumbnail(features, float(image.shape[1] * image.shape[2]))

    def count(self, first: Thumbnail, second: Thumbnail) -> int:
        """Matches of two views that those around them agree with, without a turn."""
        matches = match_descriptors(first.descriptors, second.descriptors, MatchingOptions())
        xy0, xy1 = (
            t.features.keypoints[index].cpu().double().numpy()
            for t, index in zip((first, second), matches.pairs.T, strict=True)
        )
        found = local_consistency(xy0, xy1, second.area)
        angles = np.abs(np.angle(found.similarities[found.support > SUPPORT], deg=True))
        return int((angles < 45).sum())

    def relative_turn(self, view0: tuple[Path, int], view1: tuple[Path, int]) -> tuple[int, int]:
        """Quarter turns clockwise that bring view 1 to view 0, and matches then; 0 if unsure."""
        first, counts = self.thumbnail(*view0), []
        for q in QUARTERS:
            second = self.thumbnail(view1[0], turned(view1[1], q))
            if first is None or second is None:
                return 0, 0
            counts.append(self.count(first, second))
            if counts[0] >= CERTAIN:  # the other turns are not worth their time
                return 0, counts[0]
        best = int(np.argmax(counts))
        others = max(count for q, count in enumerate(counts) if q != best)
        is_sure = counts[best] >= max(ENOUGH, FAR_BETTER * others)
        return (best, counts[best]) if is_sure else (0, 0)


def find_turns(options: ExtractionOptions, views: Views, known: Views) -> dict[Path, int]:
    """Orientations, as EXIF's, of those views that are turned otherwise than theirs says.

    `known` are views of the same place that are upright. Without any, most of the images of a group
    that match each other are.
    """
    matcher = ThumbnailMatcher(options)
    upright = dict(list(known.items())[:: -(-len(known) // MOST_KNOWN)] if known else [])
    every = {**upright, **views}
    found = []
    for path0, path1 in tqdm(_pairs(matcher, every, upright), desc="try turns", unit="pair"):
        turn, count = matcher.relative_turn((path0, every[path0]), (path1, every[path1]))
        if count:
            found.append((count, path0, path1, turn))
    turns = absolute_turns(found, upright)
    return {path: turned(views[path], q) for path, q in turns.items() if q and path in views}


def absolute_turns(
    pairs: Iterable[tuple[int, Path, Path, int]], upright: Iterable[Path] = ()
) -> dict[Path, int]:
    """Quarter turns clockwise that make images upright.

    `pairs` are (matches, image 0, image 1, turns that bring image 1 to image 0); of them the
    maximum spanning trees count. `upright` images are not turned.
    """
    fixed = set(upright)
    tree_of: dict[Path, dict[Path, int]] = {}  # the turns of an image's tree, to its first
    known = dict.fromkeys(fixed, 0)
    tree_of |= dict.fromkeys(fixed, known)
    for _, path0, path1, turn in sorted(pairs, key=lambda pair: pair[0], reverse=True):
        tree0, tree1 = (tree_of.setdefault(path, {path: 0}) for path in (path0, path1))
        if tree0 is tree1:
            continue
        more = tree0[path0] + turn - tree1[path1]
        for path, own in tree1.items():
            tree0[path] = (own + more) % 4
            tree_of[path] = tree0
    found: dict[Path, int] = {}
    for tree in {id(tree): tree for tree in tree_of.values()}.values():
        anchors = [turn for path, turn in tree.items() if path in fixed] or list(tree.values())
        up = Counter(anchors).most_common(1)[0][0]
        found |= {path: (turn - up) % 4 for path, turn in tree.items()}
    return found


def _pairs(matcher: ThumbnailMatcher, views: Views, known: Views) -> list[tuple[Path, Path]]:
    """Pairs of images to try, none of two that are known to be upright."""
    found = {p: matcher.thumbnail(p, o) for p, o in tqdm(views.items(), "thumbnails", unit="image")}
    paths = [path for path, thumbnail in found.items() if thumbnail is not None]
    pooled = [t.features.global_descriptor for t in found.values() if t is not None]
    chosen = list(combinations(paths, 2))
    if len(paths) > EXHAUSTIVE:
        stacked = torch.stack([p for p in pooled if p is not None]).cpu().float().numpy()
        names = {str(path): path for path in paths}
        listed = from_retrieval(list(names), stacked, NEAREST)
        chosen = [(names[a], names[b]) for a, b in listed]
    return [pair for pair in chosen if not known.keys() >= set(pair)]


def turns_of_new(
    options: ExtractionOptions,
    images: Path,
    names: Sequence[str],
    features: Path,
    known: Views | None = None,
) -> dict[str, int]:
    """Orientations of the images that `features` still lacks, where the options ask for them.

    Images that it holds already are upright as they were extracted, and so are those `known`.
    """
    if options.rotations != "auto":
        return {}
    done = upright_files(images, features, names) if features.is_file() else {}
    left = [name for name in names if images / name not in done]
    headers = {name: read_header(images / name) for name in left}
    views = {images / name: h.orientation for name, h in headers.items() if h is not None}
    found = find_turns(options, views, {**done, **(known or {})}) if views else {}
    turns = {name: found[images / name] for name in left if images / name in found}
    if turns:
        logger.info("turned, for their EXIF does not say so: %s", ", ".join(sorted(turns)))
    return turns


def upright_files(images: Path, features: Path, names: Iterable[str]) -> dict[Path, int]:
    """Files of those of the images that have features, with the orientation that these are of."""
    found = Extracted.read(features, names)
    return {images / name: found.orientations.get(name, UPRIGHT) for name in found.names}
