"""Verified matches of keypoints that could be refined: what models of dense features are made of.

A cell's keypoint may be 8 pixels off until it is moved. One that the search could not move, or not
tell apart, says too little to be an observation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from d2_hloc.core.images import enlargement
from d2_hloc.core.ranges import MANY, check_ranges
from d2_hloc.core.structs import Matches
from d2_hloc.files import features_h5
from d2_hloc.files.staged_h5 import Staged
from d2_hloc.matching.consistency import local_consistency
from d2_hloc.matching.pairs import Pair, unique
from d2_hloc.matching.tracks import PairMatches
from d2_hloc.refinement.patches import Outcome
from d2_hloc.refinement.shallow_maps import resize_max_of
from d2_hloc.sfm.database import verified_matches


@dataclass(frozen=True, kw_only=True)
class AgreementOptions:
    """How matches have to agree with those around them once keypoints have moved.

    A search moves a wrong match anywhere in its window, and `support` (local consistency) is held
    to that chance. `noise` is in units of 4 pixels of the images that features were extracted from.
    """

    support: float = 15.0
    noise: float = 0.25
    neighbours: int = 16

    def __post_init__(self) -> None:
        check_ranges(self, support=(0, MANY), noise=(0.01, 100), neighbours=(3, 1000))


def keep_moved(
    pairs: Sequence[Pair],
    database: Path,
    matches: Path,
    refined: RefinedKeypoints,
    output: Path,
    options: AgreementOptions | None = None,
    refines_both: Callable[[Pair], bool] = lambda pair: True,
) -> Path:
    """Write the verified matches whose keypoints were moved, or that others were moved to.

    Args:
        pairs: all that were matched.
        database: of the keypoints before they moved, verified.
        matches: the file that it was made from.
        refined: the keypoints, and what became of each.
        output: a file of hloc's form; pairs without a verified match have none there.
        options: how matches have to agree.
        refines_both: tells the pairs both of whose images' keypoints are refined; of others, as of
            queries, all verified matches of keypoints that are not known to be unmoved are kept.

    Raises:
        StorageError: if a file cannot be used, or they do not belong together.
        DiskFull: if there is no space.
    """
    output.unlink(missing_ok=True)  # of other matches
    options = options or AgreementOptions()
    verified = verified_matches(database, matches)
    made_by = {"matches": features_h5.read_configuration(matches), "kept": asdict(options)}
    with Staged(output, made_by, "matches0") as staged:
        for name0, name1 in unique(pairs):
            found = _in_order(verified, (name0, name1))
            pair = name0, name1
            keep = refined.holds(options if refines_both(pair) else None, pair, found.pairs)
            kept = Matches(
                pairs=torch.from_numpy(found.pairs[keep].copy()),
                scores=torch.from_numpy(found.scores[keep]),
            )
            record = features_h5.matches_record(kept, len(refined.keypoints[name0]))
            staged.add(features_h5.pair_key(name0, name1), record)
    return output


@dataclass(frozen=True, kw_only=True)
class RefinedKeypoints:
    """Keypoints by image after their refinement, in original pixels."""

    keypoints: Mapping[str, np.ndarray]  # (N, 2)
    outcomes: Mapping[str, np.ndarray]  # (N,) as Outcome; -1: in no track, or a reference
    enlargements: Mapping[str, float]  # pixels in one of the image that features are of
    window: float  # pixels of that image, the side of the square that was searched

    @classmethod
    def read(cls, refined: Path, features: Path, window: float) -> RefinedKeypoints:
        """Read what refine_tracks() wrote of the images of a features file.

        Raises:
            StorageError: if a file cannot be used.
        """
        resize_max = resize_max_of(features)
        with features_h5.open_h5(refined) as file, features_h5.open_h5(features) as first:
            names = sorted(file.keys_with("outcomes"))
            sizes = {name: features_h5.image_size_of(first, name) for name in names}
            return cls(
                keypoints={n: features_h5.keypoints_of(file, n).astype(float) for n in names},
                outcomes={n: file[n]["outcomes"][()] for n in names},
                enlargements={n: enlargement(s, resize_max) for n, s in sizes.items()},
                window=window,
            )

    def holds(self, options: AgreementOptions | None, pair: Pair, pairs: np.ndarray) -> np.ndarray:
        """Mask of the matches (K, 2) of moved keypoints that agree; None does not ask for that."""
        keep = ~(self.is_unmoved(pair[0], pairs[:, 0]) | self.is_unmoved(pair[1], pairs[:, 1]))
        if options is not None:
            keep[keep] = self.agree(options, pair, pairs[keep])
        return keep

    def is_unmoved(self, name: str, index: np.ndarray) -> np.ndarray:
        """Mask of the keypoints that were searched for and not found."""
        outcomes = self.outcomes[name][index]
        return (outcomes == Outcome.BORDER) | (outcomes == Outcome.FLAT)

    def agree(self, options: AgreementOptions, pair: Pair, pairs: np.ndarray) -> np.ndarray:
        """Mask of the matches (K, 2) that agree with those around them."""
        xy0, xy1 = (self.keypoints[n][i] for n, i in zip(pair, pairs.T, strict=True))
        scale = self.enlargements[pair[1]]
        found = local_consistency(
            xy0,
            xy1,
            (self.window * scale) ** 2,
            neighbours=options.neighbours,
            noise=options.noise * scale,
        )
        return found.support > options.support


def _in_order(verified: Mapping[Pair, PairMatches], pair: Pair) -> PairMatches:
    """Matches of a pair, in its order; none where it has no geometry."""
    if pair in verified:
        return verified[pair]
    reverse = verified.get((pair[1], pair[0]))
    if reverse is None:
        return PairMatches(pairs=np.empty((0, 2), np.int64), scores=np.empty(0))
    return PairMatches(pairs=reverse.pairs[:, ::-1], scores=reverse.scores)
