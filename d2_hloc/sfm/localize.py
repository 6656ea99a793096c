"""The second main job, from query images to their poses in a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from d2_hloc.core import config
from d2_hloc.core.listing import ImageError, list_images
from d2_hloc.core.photographs.masks import check_masks
from d2_hloc.features.changes import refuse_changed
from d2_hloc.features.extracted import Extracted
from d2_hloc.features.extraction import (
    extraction_configuration,
    recorded_options,
)
from d2_hloc.features.names import DETECTED, reach_of
from d2_hloc.features.on_cluster import extract_on
from d2_hloc.features.options import ExtractionOptions
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import ModelError, pycolmap, read_model
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.provenance import differences
from d2_hloc.files.ray import Engine
from d2_hloc.files.run_record import RunRecord, read_made_by
from d2_hloc.files.shards import Shard, end_of_shards
from d2_hloc.matching import choose_pairs, pairs
from d2_hloc.matching.match_pairs import MatchedPairs, feature_of
from d2_hloc.matching.on_cluster import match_on
from d2_hloc.matching.quarter_turns import turns_of_new, upright_files
from d2_hloc.refinement.matches import FeaturedImages, QueryRefiner
from d2_hloc.refinement.options import RefinementOptions
from d2_hloc.sfm.cameras.guess import check_camera_model
from d2_hloc.sfm.cameras.intrinsics import Intrinsics, check_camera_sizes
from d2_hloc.sfm.cameras.sharing import cameras_of
from d2_hloc.sfm.options import Localize, Reconstruct, matching_of
from d2_hloc.sfm.pnp import FeaturedModel, Localized, MatchedQueries, count_found, localize
from d2_hloc.sfm.pose_errors import model_poses
from d2_hloc.sfm.reconstruct import triangulate_known

WEIGHTS = ("weights_sha256", "projection_sha256")  # digests of what options name by a path


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """The output of a reconstruction, to localize in.

    `has_given_poses`: its poses were given, as of a data set, so that its frame is that one's.
    """

    folder: Path
    images: Path
    has_given_poses: bool
    model: Path  # the folder of COLMAP's files

    @cached_property
    def reconstruction(self) -> pycolmap.Reconstruction:
        """The model, read when it is first asked for; ModelError if it cannot be used."""
        return read_model(self.model)

    @property
    def outputs(self) -> Outputs:
        """The paths of the reconstruction's files."""
        return Outputs(self.folder)

    @property
    def features(self) -> Path:
        """The file of the features that the model was made from."""
        return self.outputs.features


@dataclass(frozen=True, kw_only=True)
class LocalizationRun:
    """A finished localization: what became of the queries, and all that led to it."""

    record: RunRecord
    found: list[Localized]
    model: pycolmap.Reconstruction
    cameras: dict[str, pycolmap.Camera]
    features: Extracted  # of the queries
    matches: MatchedPairs
    max_error: float  # pixels
    source: ModelSource
    queries: Path

    @property
    def outputs(self) -> Outputs:
        """The paths of the run's files."""
        return self.record.outputs


def localize_queries(
    conf: Localize,
    model: Path,
    queries: Path,
    output: Path,
    images: Path | None = None,
    engine: Engine = None,
) -> LocalizationRun:
    """Queries in, camera poses out: OUT/{features.h5, matches.h5, poses.txt, run.json}.

    `model` is the output of reconstruct() or triangulate_known(), or sparse/ in it; `images` is the
    folder of its photographs, if they were moved since. Queries are extracted and matched on a
    cluster, or in shards, where that is asked for.

    Raises:
        ShardDone: of a shard, when it is made.
        ValueError: in one sentence that names the file, whatever cannot be used.
    """
    source = find_model_source(model, images)
    names = check_queries(conf, source, queries, output)
    record = _record_of(conf, source, queries, output, engine)
    reconstruction = source.reconstruction
    options = replace(extraction_of(source.features), masks=conf.masks)
    with record.timed("extract"):
        check_same_weights(options, source.features)
        made = record.outputs.features
        features = extract_queries(options, queries, names, made, source, engine)
    cameras = _cameras_of_queries(conf, queries, features, reconstruction)
    matches = match_queries(conf, record, features, reconstruction, source, engine)
    end_of_shards(engine, output)
    refinement = conf.refinement.reaching(reach_of(options.feature))
    matched = MatchedQueries(
        cameras=cameras, pairs=matches.pairs, features=features.path, matches=matches.path
    )
    with record.timed("localize"):
        found = localize(
            conf.localization,
            FeaturedModel(reconstruction=reconstruction, features=source.features),
            matched,
            record.outputs,
            query_refiner(refinement, source, FeaturedImages(queries, features.path)),
        )
    record.counts = count_found(found) | {
        "queries": len(found) + len(features.failures),
        "failed_images": features.failures,
        "failed_pairs": matches.failures_by_text,
    }
    record.write()
    return LocalizationRun(
        record=record,
        found=found,
        model=reconstruction,
        cameras=cameras,
        features=features,
        matches=matches,
        max_error=conf.localization.max_error,
        source=source,
        queries=queries,
    )


def _query_intrinsics(path: Path | None, model: pycolmap.Reconstruction) -> Intrinsics:
    """Known cameras of queries, from a file that may name the model's images too."""
    of_model = frozenset(image.name for image in model.images.values())
    return replace(Intrinsics.read(path), elsewhere=of_model)


def _cameras_of_queries(
    conf: Localize, queries: Path, features: Extracted, model: pycolmap.Reconstruction
) -> dict[str, pycolmap.Camera]:
    known = _query_intrinsics(conf.intrinsics, model)
    cameras = cameras_of(queries, features.names, known, conf.camera_model, conf.cameras)
    check_camera_sizes(cameras, features.sizes)
    return cameras


def _record_of(
    conf: Localize, source: ModelSource, queries: Path, output: Path, engine: Engine
) -> RunRecord:
    asked = {"model": str(source.folder.resolve()), "queries": str(queries.resolve())}
    return RunRecord(output, asked | config.to_dict(conf), shared=isinstance(engine, Shard))


def extract_queries(
    options: ExtractionOptions,
    queries: Path,
    names: Sequence[str],
    output: Path,
    source: ModelSource,
    engine: Engine = None,
) -> Extracted:
    """Extract the queries, turned as the model's images are where the options ask for that."""
    turns: dict[str, int] = {}
    if options.rotations == "auto":
        in_model = model_poses(source.reconstruction)
        upright = upright_files(source.images, source.features, in_model)
        turns = turns_of_new(options, queries, names, output, upright)
    return extract_on(engine, options, queries, output, names, turns)


def match_queries(
    conf: Localize,
    record: RunRecord,
    features: Extracted,
    model: pycolmap.Reconstruction,
    source: ModelSource,
    engine: Engine = None,
) -> MatchedPairs:
    """Match the queries with images of the model, as many as the options say."""
    in_model = Extracted.read(source.features, model_poses(model)).names
    listed = choose_pairs.of_queries(
        conf.pairs, features.names, features.path, in_model, source.features
    )
    pairs.write_pairs(record.outputs.pairs, listed)
    with record.timed("match"):
        matches = record.outputs.matches
        rule = matching_of(feature_of(source.features), conf.matching)
        return match_on(engine, rule, listed, features.path, matches, source.features)


def check_queries(conf: Localize, source: ModelSource, queries: Path, output: Path) -> list[str]:
    """Names of the queries, after a look at what should not be found out after an hour.

    Raises:
        ValueError: if there are no queries, intrinsics or pairs cannot be read, or the model's
            photographs are needed and not there.
    """
    if output.resolve() == source.folder:
        raise ValueError(f"{output}: is the model's own folder; choose another output.")
    names = list_images(queries)
    check_masks(conf.masks, names)
    if conf.refinement.enabled:
        check_photographs(source)
    Intrinsics.read(conf.intrinsics)
    check_camera_model(conf.camera_model)
    if conf.pairs.is_by_reference:
        raise ValueError(
            f"pairs by {conf.pairs.method} need poses, and queries have none yet; choose another "
            "method of pairs."
        )
    if conf.pairs.file is not None:
        pairs.read_pairs(conf.pairs.file)
    return names


def query_refiner(
    options: RefinementOptions, source: ModelSource, queries: FeaturedImages
) -> QueryRefiner | None:
    """Refiner of the keypoints of queries, where it is asked for."""
    if not options.enabled:
        return None
    return QueryRefiner(options, FeaturedImages(source.images, source.features), queries)


def check_photographs(source: ModelSource) -> None:
    """Check that the photographs of a model are where they are looked for, and as they were.

    Raises:
        ImageError: if the folder is not there, lacks images, or holds others.
    """
    if not source.images.is_dir():
        raise ImageError(
            f"{source.images}: the photographs of {source.folder} are not there any more; name the "
            "folder that they are in now by --images."
        )
    if not source.features.is_file():
        return
    in_model = model_poses(source.reconstruction)  # features may be of more images
    names = Extracted.read(source.features, in_model).names
    gone = [name for name in names if not (source.images / name).is_file()]
    if gone:
        raise ImageError(
            f"{source.images}: lacks {len(gone)} of the {len(names)} photographs of "
            f"{source.folder} (the first: {gone[0]}); name the folder that has them by --images."
        )
    refuse_changed(source.images, names, source.features)


def find_model_source(model: Path, images: Path | None = None) -> ModelSource:
    """Find the parts of a model, by the record of its own run; `images`, if they were moved since.

    Raises:
        ModelError: if the folder is not the output of such a run.
    """
    outputs = Outputs.of_model(model.resolve())
    try:
        made_by = read_made_by(outputs.run_record)
        images, reference = images or Path(made_by["images"]), made_by.get("reference")
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{outputs.run_record}: cannot be read; give the folder of a COLMAP model that "
            "'d2-hloc reconstruct' or 'd2-hloc triangulate' made."
        ) from error
    return ModelSource(
        folder=outputs.folder,
        images=images,
        model=outputs.sparse if model.resolve() == outputs.folder else model.resolve(),
        has_given_poses=reference is not None and not is_own_frame(Path(reference)),
    )


def is_own_frame(model: Path) -> bool:
    """True for a model of reconstruct(), whose poses are in no frame but its own."""
    try:
        return not find_model_source(model).has_given_poses
    except ModelError:  # of a data set
        return False


def triangulate_anew(source: ModelSource, weights: str, output: Path) -> Path:
    """The model, at its poses, with points of D2-Net by other weights, to localize in."""
    options = extraction_of(source.features)
    if options.feature not in DETECTED:
        raise ModelError(f"{source.features}: holds {options.feature}, which has no such weights.")
    options = replace(options, d2net=replace(options.d2net, weights=weights))
    conf = Reconstruct(extraction=options)
    triangulate_known(conf, source.model, source.images, output)
    return output


def check_same_weights(options: ExtractionOptions, features: Path) -> None:
    """Raise ModelError if a model's features were made by other weights than are there now.

    The options name weights by their path, or by a name, and what is there may have changed.
    """
    made_by = features_h5.read_configuration(features) or {}
    now = extraction_configuration(options)
    there, now = differences(*({k: c.get(k) for k in WEIGHTS} for c in (made_by, now)))
    if there != now:
        raise ModelError(
            f"{features}: was extracted with other weights than there are now. There: "
            f"{json.dumps(there)}. Now: {json.dumps(now)}. Put those back, or give those of today "
            "by --weights, which triangulates the model anew."
        )


def extraction_of(features: Path) -> ExtractionOptions:
    """The options that a model's features were extracted with.

    Raises:
        ModelError: if the file does not hold them.
    """
    made_by = features_h5.read_configuration(features)
    if made_by is None:
        raise ModelError(f"{features}: does not say how it was made; reconstruct the model again.")
    return recorded_options(made_by, str(features))
