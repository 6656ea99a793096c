"""Images -> features -> pairs -> matches: what databases and models are made from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from d2_hloc.features.extracted import Extracted
from d2_hloc.features.on_cluster import extract_on
from d2_hloc.files import features_h5
from d2_hloc.files.atomic import check_space
from d2_hloc.files.colmap import pycolmap
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.provenance import digest, file_checksum
from d2_hloc.files.ray import Engine
from d2_hloc.files.run_record import RunRecord
from d2_hloc.files.shards import end_of_shards
from d2_hloc.matching import choose_pairs, pairs
from d2_hloc.matching.match_pairs import MatchedPairs
from d2_hloc.matching.on_cluster import match_on
from d2_hloc.matching.options import PairsOptions
from d2_hloc.matching.pairs import Pair
from d2_hloc.matching.quarter_turns import turns_of_new
from d2_hloc.sfm.cameras.guess import check_camera_model
from d2_hloc.sfm.cameras.intrinsics import check_camera_sizes
from d2_hloc.sfm.cameras.sharing import count_cameras
from d2_hloc.sfm.options import Reconstruct
from d2_hloc.sfm.pair_reference import read_reference

logger = logging.getLogger(__name__)

Cameras = Mapping[str, pycolmap.Camera]
Choose = Callable[[PairsOptions, Sequence[str], Path], list[Pair]]
T = TypeVar("T")

FEATURES = "features"  # in the record: digests of the features by image

# All that tells one camera from another, beside its parameters.
DESCRIBED = "camera_id", "model_name", "width", "height", "has_prior_focal_length"


@dataclass(frozen=True, kw_only=True)
class InputImages:
    """Images of a run: their folder, their names in it, and how their cameras are found.

    `cameras` gives the cameras of the images that turn out to have features. `queries` are matched
    and verified as the rest are, and are in no track. `model` is a model that the images are of,
    if there is one, and `rigs` the same one if its cameras are known to be fixed to each other.
    """

    folder: Path
    names: Sequence[str]
    cameras: Callable[[Sequence[str]], Cameras]
    queries: frozenset[str] = frozenset()
    model: pycolmap.Reconstruction | None = None
    rigs: pycolmap.Reconstruction | None = None


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Images that were matched, with their features, matches and cameras."""

    conf: Reconstruct
    images: Path
    record: RunRecord
    features: Extracted
    matches: MatchedPairs
    cameras: Cameras
    queries: frozenset[str] = frozenset()
    rigs: pycolmap.Reconstruction | None = None

    @property
    def outputs(self) -> Outputs:
        """The paths of the run's files."""
        return self.record.outputs

    @property
    def keypoints(self) -> Path:
        """The file of the keypoints that the model is made from."""
        return self.outputs.refined if self.conf.refinement.enabled else self.features.path

    @property
    def pairs(self) -> Sequence[Pair]:
        """The pairs that were matched."""
        return self.matches.pairs

    @cached_property
    def fingerprint(self) -> str:
        """Digest of what all stages are made from: pairs, cameras, features and matches."""
        described = [
            [name, *(getattr(camera, value) for value in DESCRIBED), camera.params.tolist()]
            for name, camera in sorted(self.cameras.items())
        ]
        features = self.record.done.get(FEATURES)
        matches = file_checksum(self.matches.path)
        return digest([self.pairs, described, features, matches])

    def once(
        self,
        stage: str,
        make: Callable[[], object],
        read: Callable[[], T],
        *inputs: Any,
    ) -> T:
        """Read what a stage makes; it is made unless it is there, whole, and from the same.

        `inputs` are what else it is made from, beside what the fingerprint is of, as plain values.
        """
        made_from = digest([self.fingerprint, *inputs]) if inputs else self.fingerprint
        if self.record.is_done(stage, made_from):
            try:
                return read()
            except ValueError as error:
                logger.warning("%s is made again: %s", stage, error)
        with self.record.timed(stage):
            make()
        try:
            made = read()
        except ValueError as error:  # COLMAP does not say that its files were cut short
            check_space(self.outputs.folder, error)
            raise
        self.record.mark_done(stage, made_from)
        return made


def listed_poses(model: pycolmap.Reconstruction) -> list[tuple[str, list[float]]]:
    """Poses of a model's images by name, as plain numbers."""
    images = sorted((model.images[i] for i in model.reg_image_ids()), key=lambda i: i.name)
    return [(i.name, i.cam_from_world().matrix().ravel().tolist()) for i in images]


def match_collection(
    conf: Reconstruct,
    inputs: InputImages,
    record: RunRecord,
    choose: Choose | None = None,
    engine: Engine = None,
) -> Matched:
    """Extract and match images, on a cluster or in shards where that is asked for.

    `choose` gives the pairs among the images that have features; None is by the options.

    Raises:
        ShardDone: in the end, of a shard.
        ValueError: in one sentence that names the file, whatever cannot be used.
    """
    check_camera_model(conf.reconstruction.camera_model)
    choose_pairs.check_pairing(conf.pairs, conf.extraction.feature, len(inputs.names))
    reference = read_reference(conf.pairs, inputs.folder, inputs.model)
    choose = choose or partial(choose_pairs.of_images, reference=reference)
    outputs = record.outputs
    with record.timed("extract"):
        given = conf.extraction, inputs.folder
        turns = turns_of_new(*given, inputs.names, outputs.features)
        features = extract_on(engine, *given, outputs.features, inputs.names, turns)
    with features_h5.open_h5(features.path) as file:
        record.mark_done(FEATURES, features_h5.image_digests(file, features.names))
    record.counts["images"] = len(features.names)
    record.counts["failed_images"] = features.failures
    cameras = inputs.cameras(features.names)
    check_camera_sizes(cameras, features.sizes)
    record.counts["cameras"] = count_cameras(cameras)
    listed = pairs.unique(choose(conf.pairs, features.names, features.path))
    if not listed:
        raise ValueError(
            f"{inputs.folder}: there are no two images to match among the {len(features.names)} "
            "that can be used; a model needs 2."
        )
    pairs.write_pairs(outputs.pairs, listed)
    with record.timed("match"):
        matches = match_on(engine, conf.matching_rule, listed, features.path, outputs.matches)
    end_of_shards(engine, outputs.folder)
    record.counts["pairs"] = len(matches.pairs)
    record.counts["failed_pairs"] = matches.failures_by_text
    return Matched(
        conf=conf,
        images=inputs.folder,
        record=record,
        features=features,
        matches=matches,
        cameras=cameras,
        queries=inputs.queries,
        rigs=inputs.rigs,
    )
