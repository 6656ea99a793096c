"""The first main job, from images to a model: reconstruct a folder, or triangulate known poses."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from d2_hloc.core import config
from d2_hloc.core.images import list_images
from d2_hloc.features.extraction import ExtractionOptions
from d2_hloc.features.on_cluster import extract_on
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import (
    ModelError,
    check_database,
    open_database,
    pycolmap,
    read_model,
    sparse_folder,
)
from d2_hloc.files.ray import Cluster
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching import choose_pairs, pairs
from d2_hloc.matching.choose_pairs import PairsOptions
from d2_hloc.matching.nearest import MatchingOptions
from d2_hloc.matching.on_cluster import match_on
from d2_hloc.matching.pairs import Pair
from d2_hloc.refinement.patches import RefinementOptions
from d2_hloc.refinement.tracks import refine_tracks
from d2_hloc.sfm.cameras import cameras_of, check_sizes, known_names
from d2_hloc.sfm.database import build_database, verified_matches, verify
from d2_hloc.sfm.mapping import map_images, statistics
from d2_hloc.sfm.options import ReconstructionOptions
from d2_hloc.sfm.triangulation import triangulate

logger = logging.getLogger(__name__)

# The rule that each feature's authors match with when there is a model to build; of the others,
# the mutual nearest neighbours are taken.
MATCHING = {
    "d2net": MatchingOptions(ratio_threshold=0.95),
    "d2net-ms": MatchingOptions(ratio_threshold=0.95),
    "sift": MatchingOptions(ratio_threshold=0.8),
}

Cameras = Mapping[str, pycolmap.Camera]
Choose = Callable[[PairsOptions, Sequence[str], Path], list[Pair]]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Options of a reconstruction. `matching`: None is the feature's own rule."""

    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    pairs: PairsOptions = field(default_factory=PairsOptions)
    matching: MatchingOptions | None = None
    refinement: RefinementOptions = field(default_factory=lambda: RefinementOptions(enabled=True))
    reconstruction: ReconstructionOptions = field(default_factory=ReconstructionOptions)
    intrinsics: Path | None = None


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """A finished reconstruction: its model, and where its parts are."""

    record: RunRecord
    model: pycolmap.Reconstruction
    images: Path
    output: Path


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Images that were matched: what databases and models are made from."""

    conf: Reconstruct
    images: Path
    output: Path
    record: RunRecord
    pairs: list[Pair]
    cameras: Cameras
    queries: frozenset[str] = frozenset()  # images that are matched, and are in no track

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the pairs and cameras."""
        described = [
            [n, c.model.name, c.width, c.height, c.params.tolist(), c.has_prior_focal_length]
            for n, c in sorted(self.cameras.items())
        ]
        return hashlib.sha256(json.dumps([self.pairs, described]).encode()).hexdigest()

    def once(self, stage: str, make: Callable[[], object], read: Callable[[], T]) -> T:
        """Read what a stage makes; it is made unless it is there, whole, and from the same."""
        if self.record.is_done(stage, self.fingerprint):
            try:
                return read()
            except ValueError as error:
                logger.warning("%s is made again: %s", stage, error)
        with self.record.timed(stage):
            make()
        self.record.mark_done(stage, self.fingerprint)
        return read()


def reconstruct(
    conf: Reconstruct, images: Path, output: Path, cluster: Cluster | None = None
) -> ModelRun:
    """Photos in, a model out: OUT/{features.h5, matches.h5, database.db, sparse/, run.json}.

    Images are extracted and matched on the cluster, where one is given.

    Raises:
        ValueError: in one sentence that names the file, whatever cannot be used.
    """
    known = known_names(conf.intrinsics)  # first: a mistake in it should not cost an hour
    record = RunRecord(output, {"images": str(images.resolve()), **config.to_dict(conf)})

    def cameras(names: Sequence[str]) -> Cameras:
        return cameras_of(images, names, conf.intrinsics, conf.reconstruction.camera_model)

    names = list_images(images)
    matched = match_images(conf, images, output, record, names, cameras, cluster=cluster)
    database = prepare_database(matched)
    return finish(
        matched,
        "map",
        lambda: map_images(conf.reconstruction, database, images, output / "sparse", known),
    )


def triangulate_known(
    conf: Reconstruct,
    reference: Path,
    images: Path,
    output: Path,
    cluster: Cluster | None = None,
) -> ModelRun:
    """A model's own poses and cameras, with points triangulated from these features.

    Images are extracted and matched on the cluster, where one is given.

    Raises:
        ValueError: as reconstruct.
    """
    model = read_model(sparse_folder(reference), needs_points=False)
    record = RunRecord(
        output,
        {
            "images": str(images.resolve()),
            "reference": str(reference.resolve()),
            **config.to_dict(conf),
        },
    )
    known = {i.name: i.camera for i in model.images.values() if i.has_pose}
    matched = match_images(
        conf,
        images,
        output,
        record,
        sorted(known),
        lambda names: {n: known[n] for n in names},
        cluster=cluster,
    )
    database = prepare_database(matched)
    return finish(
        matched,
        "triangulate",
        lambda: triangulate(conf.reconstruction, model, database, images, output / "sparse"),
    )


def match_images(
    conf: Reconstruct,
    images: Path,
    output: Path,
    record: RunRecord,
    names: Sequence[str],
    cameras: Callable[[Sequence[str]], Cameras],
    choose: Choose = choose_pairs.of_images,
    cluster: Cluster | None = None,
) -> Matched:
    """Extract and match these images, on the cluster where one is given.

    `cameras` gives those of the images that have features, `choose` the pairs among them.
    """
    choose_pairs.check(conf.pairs, conf.extraction.feature, len(names))
    with record.timed("extract"):
        features = extract_on(cluster, conf.extraction, images, output / "features.h5", names)
    present = features_h5.image_names(features, names)
    record.counts["images"] = len(present)
    record.counts["failed_images"] = features_h5.failures(features)
    found = cameras(present)
    check_sizes(found, features)
    listed = pairs.unique(choose(conf.pairs, present, features))
    pairs.write_pairs(output / "pairs.txt", listed)
    with record.timed("match"):
        rule = conf.matching or MATCHING.get(conf.extraction.feature, MatchingOptions())
        matches = match_on(cluster, rule, listed, features, output / "matches.h5")
    skipped = features_h5.failures(matches)
    record.counts["pairs"], record.counts["failed_pairs"] = len(listed) - len(skipped), skipped
    return Matched(
        conf=conf,
        images=images,
        output=output,
        record=record,
        pairs=[p for p in listed if " ".join(p) not in skipped],
        cameras=found,
    )


def prepare_database(run: Matched) -> Path:
    """A verified database, of refined keypoints where they are asked for.

    Tracks need verified matches, so refinement has a database of its own before.
    """
    keypoints = run.output / "features.h5"
    if run.conf.refinement.enabled:
        raw = verified_database(run, "database-raw", keypoints)
        keypoints = run.output / "refined.h5"
        run.once(
            "refine", lambda: refine(run, raw, keypoints), lambda: features_h5.failures(keypoints)
        )
    database = verified_database(run, "database", keypoints)
    with open_database(database) as db:
        run.record.counts["matches"] = db.num_matches()
        run.record.counts["inlier_pairs"] = db.num_verified_image_pairs()
        run.record.counts["inlier_matches"] = db.num_inlier_matches()
    return database


def verified_database(run: Matched, stage: str, keypoints: Path) -> Path:
    """OUT/<stage>.db, with the two-view geometry of every pair."""
    database, matches = run.output / f"{stage}.db", run.output / "matches.h5"

    run.once(
        stage,
        lambda: build_database(database, run.cameras, run.pairs, keypoints, matches),
        lambda: check_database(database),
    )
    with run.record.timed("verify"):
        verify(database, run.pairs, run.conf.reconstruction, matches)
    return database


def refine(run: Matched, verified: Path, output: Path) -> None:
    """Move keypoints by tracks, into a file of their own."""
    output.unlink(missing_ok=True)  # of other matches
    found = verified_matches(verified, run.output / "matches.h5", run.queries.isdisjoint)
    _, run.record.counts["refined_keypoints"] = refine_tracks(
        run.conf.refinement, run.images, run.output / "features.h5", found, output
    )


def finish(run: Matched, stage: str, make: Callable[[], object]) -> ModelRun:
    """Make the model and note its statistics."""
    model = run.once(stage, make, lambda: read_model(run.output / "sparse"))
    if model.num_reg_images() == 0:
        raise ModelError(f"{run.output / 'sparse'}: holds no image; choose another output.")
    run.record.scores |= vars(statistics(model))
    run.record.write()
    return ModelRun(record=run.record, model=model, images=run.images, output=run.output)
