"""The two main jobs, from images to results: reconstruct a folder, localize queries in a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from d2_hloc import config, pairs, storage
from d2_hloc.cameras import cameras_of, known_names
from d2_hloc.colmap import ModelError, pycolmap, read_model
from d2_hloc.extraction import ExtractionOptions, extract, options_of
from d2_hloc.keypoint_refinement import refine_tracks
from d2_hloc.localization import LocalizationOptions, Localized, localize
from d2_hloc.matching import MatchingOptions
from d2_hloc.pair_matching import match
from d2_hloc.pairs import Pair
from d2_hloc.reconstruction import (
    ReconstructionOptions,
    build_database,
    map_images,
    statistics,
    triangulate,
    verified_matches,
    verify,
)
from d2_hloc.record import RunRecord
from d2_hloc.refinement import RefinementOptions

# The rule that each feature's authors match with when there is a model to build; of the others,
# the mutual nearest neighbours are taken.
MATCHING = {
    "d2net": MatchingOptions(ratio_threshold=0.95),
    "d2net-ms": MatchingOptions(ratio_threshold=0.95),
    "sift": MatchingOptions(ratio_threshold=0.8),
}


@dataclass(frozen=True, kw_only=True)
class PairsOptions:
    """Which images are matched. 'auto' is exhaustive up to `max_exhaustive` images, else retrieval.

    `count` is the number of retrieved images for each.
    """

    method: Literal["auto", "exhaustive", "retrieval"] = "auto"
    count: int = 20
    max_exhaustive: int = 200
    file: Path | None = None  # a pair list instead


@dataclass(frozen=True, kw_only=True)
class Reconstruct:
    """Options of a reconstruction. `matching`: None is the feature's own rule."""

    extraction: ExtractionOptions = field(default_factory=ExtractionOptions)
    pairs: PairsOptions = field(default_factory=PairsOptions)
    matching: MatchingOptions | None = None
    refinement: RefinementOptions = field(default_factory=RefinementOptions)
    reconstruction: ReconstructionOptions = field(default_factory=ReconstructionOptions)
    intrinsics: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Localize:
    """Options of a localization; features are extracted as the model's were."""

    pairs: PairsOptions = field(default_factory=PairsOptions)
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    localization: LocalizationOptions = field(default_factory=LocalizationOptions)
    intrinsics: Path | None = None


def reconstruct(conf: Reconstruct, images: Path, output: Path) -> RunRecord:
    """Photos in, a model out: OUT/{features.h5, matches.h5, database.db, sparse/, run.json}.

    Raises:
        ValueError: in one sentence that names the file, whatever cannot be used.
    """
    known = known_names(conf.intrinsics)  # first: a mistake in it should not cost an hour
    record = RunRecord(output, {"images": str(images), **config.to_dict(conf)})
    listed = match_images(conf, images, output, record)
    model = conf.reconstruction.camera_model
    cameras = sized_cameras(images, output / "features.h5", conf.intrinsics, model)
    prepare_database(conf, cameras, listed, images, output, record)
    made_from = fingerprint(listed, cameras)
    if not (record.is_done("map", made_from) and (output / "sparse").is_dir()):
        with record.timed("map"):
            map_images(
                conf.reconstruction, output / "database.db", images, output / "sparse", known
            )
        record.mark_done("map", made_from)
    record_model(record, output)
    return record


def triangulate_known(conf: Reconstruct, reference: Path, images: Path, output: Path) -> RunRecord:
    """A model's own poses and cameras, with points triangulated from these features."""
    record = RunRecord(
        output, {"images": str(images), "reference": str(reference), **config.to_dict(conf)}
    )
    model = read_model(reference)
    cameras = {i.name: i.camera for i in model.images.values() if i.has_pose}
    listed = match_images(conf, images, output, record, sorted(cameras))
    prepare_database(conf, cameras, listed, images, output, record)
    made_from = fingerprint(listed, cameras)
    if not (record.is_done("triangulate", made_from) and (output / "sparse").is_dir()):
        with record.timed("triangulate"):
            triangulate(
                conf.reconstruction, model, output / "database.db", images, output / "sparse"
            )
        record.mark_done("triangulate", made_from)
    record_model(record, output)
    return record


def match_images(
    conf: Reconstruct,
    images: Path,
    output: Path,
    record: RunRecord,
    names: Sequence[str] | None = None,
) -> list[Pair]:
    """Extract and match; the pairs that were matched."""
    with record.timed("extract"):
        features = extract(conf.extraction, images, output / "features.h5", names)
    record.counts["images"] = len(storage.image_names(features))
    record.counts["failed_images"] = storage.failures(features)
    listed = make_pairs(conf.pairs, features)
    pairs.write_pairs(output / "pairs.txt", listed)
    with record.timed("match"):
        rule = conf.matching or MATCHING.get(conf.extraction.feature, MatchingOptions())
        matches = match(rule, listed, features, output / "matches.h5")
    skipped = storage.failures(matches)
    record.counts["pairs"], record.counts["failed_pairs"] = len(listed) - len(skipped), skipped
    return [p for p in listed if " ".join(p) not in skipped]


def make_pairs(options: PairsOptions, features: Path, queries: Path | None = None) -> list[Pair]:
    """Pairs of the images of a features file, or of queries with them.

    Raises:
        ValueError: where retrieval is asked of features without global descriptors.
    """
    if options.file is not None:
        return pairs.read_pairs(options.file)
    names = storage.image_names(features)
    query_names = storage.image_names(queries) if queries else None
    # A query has the count of images that an exhaustive search has for each image.
    is_small = len(names) <= (options.count if queries else options.max_exhaustive)
    if options.method == "exhaustive" or (options.method == "auto" and is_small):
        return pairs.between(query_names, names) if query_names else pairs.exhaustive(names)
    return pairs.from_retrieval(
        names,
        storage.read_global_descriptors(features, names),
        options.count,
        query_names,
        storage.read_global_descriptors(queries, query_names) if query_names else None,
    )


def sized_cameras(
    images: Path, features: Path, intrinsics: Path | None, model: str = "SIMPLE_RADIAL"
) -> dict[str, pycolmap.Camera]:
    """Cameras of all images with features.

    Raises:
        ModelError: if a known camera's size is not its image's.
    """
    cameras = cameras_of(images, storage.image_names(features), intrinsics, model)
    with storage.open_h5(features) as file:
        sizes = {name: storage.image_size_of(file, name) for name in cameras}
    for name, camera in cameras.items():
        width, height = sizes[name]
        if (camera.width, camera.height) != (width, height):
            raise ModelError(
                f"{intrinsics}: {name} is {width} x {height} pixels, but its camera "
                f"{camera.width} x {camera.height}; give intrinsics of the images as they are."
            )
    return cameras


def prepare_database(
    conf: Reconstruct,
    cameras: dict[str, pycolmap.Camera],
    listed: list[Pair],
    images: Path,
    output: Path,
    record: RunRecord,
) -> None:
    """A verified database, of refined keypoints where they are asked for.

    Tracks need verified matches, so refinement has a database of its own before.
    """
    keypoints = output / "features.h5"
    if conf.refinement.enabled:
        raw = output / "database-raw.db"
        _verified_database(conf, raw, cameras, listed, keypoints, record)
        keypoints = output / "refined.h5"
        made_from = fingerprint(listed, cameras)
        if not (record.is_done("refine", made_from) and keypoints.is_file()):
            keypoints.unlink(missing_ok=True)  # of other matches
            with record.timed("refine"):
                found = verified_matches(raw, output / "matches.h5")
                _, record.counts["refined_keypoints"] = refine_tracks(
                    conf.refinement, images, output / "features.h5", found, keypoints
                )
            record.mark_done("refine", made_from)
    database = output / "database.db"
    _verified_database(conf, database, cameras, listed, keypoints, record)
    with pycolmap.Database.open(database) as db:
        record.counts["matches"] = db.num_matches()
        record.counts["inlier_pairs"] = db.num_verified_image_pairs()
        record.counts["inlier_matches"] = db.num_inlier_matches()


def _verified_database(
    conf: Reconstruct,
    database: Path,
    cameras: dict[str, pycolmap.Camera],
    listed: list[Pair],
    keypoints: Path,
    record: RunRecord,
) -> None:
    matches = keypoints.parent / "matches.h5"
    made_from = fingerprint(listed, cameras)
    if not (record.is_done(database.name, made_from) and database.is_file()):
        with record.timed("database"):
            build_database(database, cameras, listed, keypoints, matches)
        record.mark_done(database.name, made_from)
    with record.timed("verify"):
        verify(database, listed, conf.reconstruction, matches)


def fingerprint(listed: list[Pair], cameras: dict[str, pycolmap.Camera]) -> str:
    """Digest of what a database and a model are made from: pairs and cameras."""
    described = [
        [n, c.model.name, c.width, c.height, c.params.tolist(), c.has_prior_focal_length]
        for n, c in sorted(cameras.items())
    ]
    return hashlib.sha256(json.dumps([listed, described]).encode()).hexdigest()


def record_model(record: RunRecord, output: Path) -> None:
    """Note the model's statistics."""
    record.scores |= vars(statistics(read_model(output / "sparse")))
    record.write()


@dataclass(frozen=True, kw_only=True)
class LocalizationRun:
    """A finished localization: what it found, and where its parts are."""

    record: RunRecord
    found: list[Localized]
    model: pycolmap.Reconstruction
    cameras: dict[str, pycolmap.Camera]
    max_error: float  # pixels
    images: Path  # of the model
    queries: Path
    model_folder: Path
    output: Path


def localize_queries(
    conf: Localize, model_folder: Path, queries: Path, output: Path
) -> LocalizationRun:
    """Queries in, camera poses out: OUT/{features.h5, matches.h5, poses.txt, run.json}.

    `model_folder` is the output of reconstruct() or triangulate_known().
    """
    record = RunRecord(
        output, {"model": str(model_folder), "queries": str(queries), **config.to_dict(conf)}
    )
    model, model_features = read_model(model_folder / "sparse"), model_folder / "features.h5"
    known_names(conf.intrinsics)
    with record.timed("extract"):
        options = extraction_of(model_features)
        features = extract(options, queries, output / "features.h5")
    listed = make_pairs(conf.pairs, model_features, features)
    pairs.write_pairs(output / "pairs.txt", listed)
    with record.timed("match"):
        matches = match(conf.matching, listed, features, output / "matches.h5", model_features)
    cameras = sized_cameras(queries, features, conf.intrinsics)
    with record.timed("localize"):
        found = localize(
            conf.localization,
            model,
            model_features,
            cameras,
            listed,
            features,
            matches,
            output / "poses.txt",
        )
    record.counts = {
        "queries": len(found) + len(storage.failures(features)),
        "localized": sum(r.cam_from_world is not None for r in found),
        "not_localized": {r.name: r.reason for r in found if r.cam_from_world is None},
        "failed_images": storage.failures(features),
    }
    record.write()
    return LocalizationRun(
        record=record,
        found=found,
        model=model,
        cameras=cameras,
        max_error=conf.localization.max_error,
        images=images_of(model_folder),
        queries=queries,
        model_folder=model_folder,
        output=output,
    )


def extraction_of(features: Path) -> ExtractionOptions:
    """The options that a model's features were extracted with.

    Raises:
        ModelError: if the file does not hold them.
    """
    made_by = storage.configuration(features)
    if made_by is None:
        raise ModelError(f"{features}: does not say how it was made; reconstruct the model again.")
    return options_of(made_by, str(features))


def images_of(model_folder: Path) -> Path:
    """The folder of a model's images, as its run recorded it."""
    record = model_folder / "run.json"
    return Path(json.loads(record.read_text())["configuration"]["images"])
