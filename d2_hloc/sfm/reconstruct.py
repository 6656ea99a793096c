"""The first main job, from images to a model: reconstruct a folder, or triangulate known poses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from d2_hloc.core import config
from d2_hloc.core.listing import list_images
from d2_hloc.features.names import reach_of
from d2_hloc.files.colmap import (
    ModelError,
    camera_of,
    check_database,
    other_models,
    pycolmap,
    read_model,
    sparse_folder,
)
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.ray import Engine
from d2_hloc.files.run_record import RunRecord
from d2_hloc.files.shards import Shard
from d2_hloc.matching.pairs import Pair
from d2_hloc.refinement.tracks import RefinedTracks
from d2_hloc.sfm.adjustment.readjustment import (
    RULE,
    RULE_OF_CELLS,
    RULE_OF_COVERED,
    ReadjustmentRule,
)
from d2_hloc.sfm.adjustment.triplets import contradicted_pairs
from d2_hloc.sfm.cameras.intrinsics import Intrinsics
from d2_hloc.sfm.cameras.rigs import has_rigs
from d2_hloc.sfm.cameras.sharing import cameras_of
from d2_hloc.sfm.mappers import mapping_task
from d2_hloc.sfm.mapping import map_images, readjust_model, work_folder
from d2_hloc.sfm.matched import Cameras, InputImages, Matched, listed_poses, match_collection
from d2_hloc.sfm.options import Reconstruct
from d2_hloc.sfm.outcome.statistics import ModelStatistics, model_statistics
from d2_hloc.sfm.outcome.unplaced import UnplacedImage, unplaced_images
from d2_hloc.sfm.pose_errors import model_poses
from d2_hloc.sfm.prepared_database import (
    VerifiedDatabase,
    counted,
    keypoints_identity,
    prepare_database,
)
from d2_hloc.sfm.searching.covering import cover_model
from d2_hloc.sfm.second_look import refined_by_model, second_database
from d2_hloc.sfm.triangulation import triangulate

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelRun:
    """A finished reconstruction: its model, and all that led to it."""

    matched: Matched
    database: VerifiedDatabase
    model: pycolmap.Reconstruction
    statistics: ModelStatistics
    others: Mapping[str, pycolmap.Reconstruction] = field(default_factory=dict)  # by folder
    unplaced: tuple[UnplacedImage, ...] = ()

    @property
    def record(self) -> RunRecord:
        """The run's configuration, counts, timings and scores."""
        return self.matched.record

    @property
    def images(self) -> Path:
        """The folder of the images."""
        return self.matched.images

    @property
    def outputs(self) -> Outputs:
        """The paths of the run's files."""
        return self.record.outputs


def reconstruct(conf: Reconstruct, images: Path, output: Path, engine: Engine = None) -> ModelRun:
    """Photos in, a model out: OUT/{features.h5, matches.h5, database.db, sparse/, run.json}.

    Images are extracted and matched on a cluster, or in shards, where that is asked for.

    Raises:
        ShardDone: of a shard, when it is made.
        ValueError: in one sentence that names the file, whatever cannot be used.
    """
    known = Intrinsics.read(conf.intrinsics)  # first: a mistake in it should not cost an hour
    asked = {"images": str(images.resolve()), **config.to_dict(conf)}
    record = RunRecord(output, asked, shared=isinstance(engine, Shard))

    def cameras(names: Sequence[str]) -> Cameras:
        model = conf.reconstruction.camera_model
        return cameras_of(images, names, known, model, conf.cameras)

    inputs = InputImages(folder=images, names=list_images(images), cameras=cameras)
    matched = match_collection(conf, inputs, record, engine=engine)
    database = prepare_database(matched)
    return map_matched(matched, database, set(known.among(matched.features.names)))


def triangulate_known(
    conf: Reconstruct,
    reference: Path,
    images: Path,
    output: Path,
    engine: Engine = None,
) -> ModelRun:
    """A model's own poses and cameras, with points triangulated from these features.

    Images are extracted and matched on a cluster, or in shards, where that is asked for.

    Raises:
        ShardDone: of a shard, when it is made.
        ValueError: as reconstruct.
    """
    model = read_model(sparse_folder(reference), needs_points=False)
    asked = {"images": str(images.resolve()), "reference": str(reference.resolve())}
    asked |= config.to_dict(conf)
    record = RunRecord(output, asked, shared=isinstance(engine, Shard))
    known = {i.name: camera_of(i) for i in model.images.values() if i.has_pose}
    inputs = InputImages(
        folder=images,
        names=sorted(known),
        cameras=lambda names: {n: known[n] for n in names},
        model=model,
        rigs=model if has_rigs(model) else None,
    )
    matched = match_collection(conf, inputs, record, engine=engine)
    database = prepare_database(matched)
    sparse = record.outputs.sparse
    return finish(
        matched,
        database,
        "triangulate",
        lambda: triangulate(conf.reconstruction, model, database.path, images, sparse),
        listed_poses(model),
    )


def map_matched(
    matched: Matched, database: VerifiedDatabase, known: Set[str] = frozenset()
) -> ModelRun:
    """Make the model; intrinsics of the images in `known` stay.

    Where some are guesses, look again for matches that it leads to, readjust it by these, and both
    once more. A model of cells is readjusted in any case, and where all cameras are known it is
    covered: each cell is searched for where the model says that it is seen.

    Raises:
        ModelError: if no model can be made.
    """
    options, outputs = matched.conf.reconstruction, matched.outputs
    without = disagreeing_pairs(matched, database)

    def map_to(folder: Path) -> pycolmap.Reconstruction:
        given = options, database.path, matched.images, folder, known, without
        return map_images(*given, database.refined_keypoints)

    again, is_of_cells = looks_again(matched, database, known), is_readjusted(matched, database)
    if not (again or is_of_cells):
        return finish(matched, database, "map", lambda: map_to(outputs.sparse))
    model = matched.once(
        "map",
        lambda: map_to(outputs.mapped),
        lambda: read_model(outputs.mapped),
        *keypoints_identity(matched, matched.keypoints),
    )
    others = tuple(other_models(outputs.mapped).values())
    rule = RULE_OF_CELLS if is_of_cells else RULE
    is_covered = is_of_cells and set(matched.features.names) <= known

    def readjust_by(
        by: VerifiedDatabase, before: pycolmap.Reconstruction, folder: Path, rule: ReadjustmentRule
    ) -> None:
        given = options, by.path, matched.images, work_folder(folder), known, by.refined_keypoints
        readjust_model(mapping_task(*given), before, folder, others, rule)

    if not (again or is_covered):
        given = database, model, outputs.sparse, rule
        return finish(matched, database, "readjust", lambda: readjust_by(*given))
    second = second_look(matched, database, model, SecondLook.first(outputs)) if again else database
    readjusted = matched.once(
        "readjust",
        lambda: readjust_by(second, model, outputs.readjusted, rule),
        lambda: read_model(outputs.readjusted),
        *keypoints_identity(matched, matched.keypoints),
    )
    last = second_look(matched, database, readjusted, SecondLook.last(outputs, is_covered))
    given = last, readjusted, outputs.sparse, RULE_OF_COVERED if is_covered else rule
    return finish(matched, last, "readjust again", lambda: readjust_by(*given))


def disagreeing_pairs(matched: Matched, database: VerifiedDatabase) -> list[Pair]:
    """Pairs whose rotation every triplet of images contradicts; the record of the run has them."""
    limit = matched.conf.reconstruction.triplet_error
    found = [] if limit is None else contradicted_pairs(database.path, limit)
    matched.record.counts["contradicted_pairs"] = [
        {"images": list(f.pair), "inliers": f.inliers, "triplets": f.triplets, "degrees": f.error}
        for f in found
    ]
    for f in found:
        text = "%s and %s disagree with all %d triplets by %.0f degrees; %d matches left out"
        logger.info(text, *f.pair, f.triplets, f.error, f.inliers)
    return [f.pair for f in found]


def looks_again(matched: Matched, database: VerifiedDatabase, known: Set[str]) -> bool:
    """Whether more matches are looked for where a model leads: where cameras were guessed."""
    options, names = matched.conf.reconstruction, set(matched.features.names)
    is_wanted = options.second_look and database.refined is not None and not names <= known
    return is_wanted and len(names) <= options.small_collection


def is_readjusted(matched: Matched, database: VerifiedDatabase) -> bool:
    """Whether a model is readjusted in any case: one of thousands of moved cells is."""
    is_small = len(matched.features.names) <= matched.conf.reconstruction.small_collection
    is_of_cells = reach_of(matched.conf.extraction.feature) > 0
    return is_small and is_of_cells and database.refined is not None


@dataclass(frozen=True, kw_only=True)
class SecondLook:
    """One of the looks for matches that a model leads to, and what it makes.

    A model that is bent leads astray, and the one that comes of it less so: hence the last.
    """

    stage: str
    database: Path
    keypoints: Path
    is_cover: bool = False

    @classmethod
    def first(cls, outputs: Outputs) -> SecondLook:
        """The look by the mapper's model."""
        again = outputs.refined_again
        return cls(stage="look again", database=outputs.second_database, keypoints=again)

    @classmethod
    def last(cls, outputs: Outputs, is_cover: bool) -> SecondLook:
        """The look by the model that was readjusted once."""
        last, stage = outputs.refined_last, "cover" if is_cover else "look last"
        return cls(stage=stage, database=outputs.last_database, keypoints=last, is_cover=is_cover)


def second_look(
    matched: Matched, first: VerifiedDatabase, model: pycolmap.Reconstruction, look: SecondLook
) -> VerifiedDatabase:
    """A database of the matches that a model leads to, of keypoints refined by these."""
    features, options = matched.features.path, matched.conf.reconstruction

    def make() -> None:
        if look.is_cover:
            given = matched.conf.refinement, model, features, matched.images, look.keypoints
            found = cover_model(*given)
        else:
            given = model, features, matched.pairs, matched.images, look.keypoints
            found = refined_by_model(matched.conf, *given)
        fewest = options.verification.min_num_inliers
        second_database(first.path, look.keypoints, found, model, look.database, fewest)

    matched.once(
        look.stage,
        make,
        lambda: check_database(look.database),
        *keypoints_identity(matched, matched.keypoints),
    )
    return counted(matched, look.database, RefinedTracks.read(look.keypoints))


def finish(
    matched: Matched,
    database: VerifiedDatabase,
    stage: str,
    make: Callable[[], object],
    *inputs: Any,
) -> ModelRun:
    """Make the model, of further `inputs` as Matched.once() has them; note what it holds.

    Raises:
        ModelError: if the model holds no image.
    """
    sparse = matched.outputs.sparse
    inputs += tuple(keypoints_identity(matched, matched.keypoints))
    model = matched.once(stage, make, lambda: read_model(sparse), *inputs)
    if model.num_reg_images() == 0:
        raise ModelError(f"{sparse}: holds no image; choose another output.")
    statistics, others = model_statistics(model), other_models(sparse)
    unplaced = unplaced_images(matched, database.path, model, others)
    matched.record.scores |= asdict(statistics)
    matched.record.counts["images_left_out"] = {image.name: image.reason for image in unplaced}
    matched.record.counts["other_models"] = {f: sorted(model_poses(m)) for f, m in others.items()}
    matched.record.write()
    return ModelRun(
        matched=matched,
        database=database,
        model=model,
        statistics=statistics,
        others=others,
        unplaced=unplaced,
    )
