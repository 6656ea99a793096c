"""The second main job, from query images to their poses in a model."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

from d2_hloc.core import config
from d2_hloc.core.images import list_images
from d2_hloc.features.extraction import ExtractionOptions, extract, options_of
from d2_hloc.files import features_h5
from d2_hloc.files.colmap import ModelError, pycolmap, read_model
from d2_hloc.files.run_record import RunRecord
from d2_hloc.matching import choose_pairs, pairs
from d2_hloc.matching.choose_pairs import PairsOptions
from d2_hloc.matching.match_pairs import match
from d2_hloc.matching.nearest import MatchingOptions
from d2_hloc.refinement.matches import QueryRefiner
from d2_hloc.refinement.patches import RefinementOptions
from d2_hloc.refinement.shallow_maps import resize_max_of
from d2_hloc.sfm.cameras import cameras_of, check_sizes, known_names
from d2_hloc.sfm.pnp import LocalizationOptions, Localized, count_found, localize
from d2_hloc.sfm.pose_errors import model_poses
from d2_hloc.sfm.reconstruct import Reconstruct, triangulate_known


@dataclass(frozen=True, kw_only=True)
class Localize:
    """Options of a localization; features are extracted as the model's were."""

    pairs: PairsOptions = field(default_factory=PairsOptions)
    matching: MatchingOptions = field(default_factory=MatchingOptions)
    refinement: RefinementOptions = field(default_factory=lambda: RefinementOptions(enabled=True))
    localization: LocalizationOptions = field(default_factory=LocalizationOptions)
    intrinsics: Path | None = None


@dataclass(frozen=True, kw_only=True)
class LocalizationRun:
    """A finished localization: what it found, and where its parts are."""

    record: RunRecord
    found: list[Localized]
    model: pycolmap.Reconstruction
    cameras: dict[str, pycolmap.Camera]
    max_error: float  # pixels
    source: ModelSource
    queries: Path
    output: Path


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """The output of a reconstruction, to localize in.

    `has_given_poses`: its poses were given, as of a data set, so that its frame is that one's.
    """

    folder: Path
    images: Path
    has_given_poses: bool

    @property
    def features(self) -> Path:
        return self.folder / "features.h5"


def localize_queries(conf: Localize, model: Path, queries: Path, output: Path) -> LocalizationRun:
    """Queries in, camera poses out: OUT/{features.h5, matches.h5, poses.txt, run.json}.

    `model` is the output of reconstruct() or triangulate_known(), or sparse/ in it.
    """
    source = source_of(model)
    names = check(conf, source, queries, output)
    record = RunRecord(
        output,
        {
            "model": str(source.folder.resolve()),
            "queries": str(queries.resolve()),
            **config.to_dict(conf),
        },
    )
    sparse = read_model(source.folder / "sparse")
    options = extraction_of(source.features)
    with record.timed("extract"):
        features = extract(options, queries, output / "features.h5", names)
    names = features_h5.image_names(features, names)
    cameras = cameras_of(queries, names, conf.intrinsics)
    check_sizes(cameras, features)
    in_model = features_h5.image_names(source.features, sorted(model_poses(sparse)))
    listed = choose_pairs.of_queries(conf.pairs, names, features, in_model, source.features)
    pairs.write_pairs(output / "pairs.txt", listed)
    with record.timed("match"):
        matches = match(conf.matching, listed, features, output / "matches.h5", source.features)
    with record.timed("localize"):
        found = localize(
            conf.localization,
            sparse,
            source.features,
            cameras,
            listed,
            features,
            matches,
            output / "poses.txt",
            query_refiner(conf.refinement, source, queries),
        )
    failed = features_h5.failures(features)
    record.counts = count_found(found) | {
        "queries": len(found) + len(failed),
        "failed_images": failed,
        "failed_pairs": features_h5.failures(matches),
    }
    record.write()
    return LocalizationRun(
        record=record,
        found=found,
        model=sparse,
        cameras=cameras,
        max_error=conf.localization.max_error,
        source=source,
        queries=queries,
        output=output,
    )


def check(conf: Localize, source: ModelSource, queries: Path, output: Path) -> list[str]:
    """The queries' names, and a look at what should not be found out after an hour.

    Raises:
        ValueError: if there are no queries, or intrinsics or pairs cannot be read.
    """
    if output.resolve() == source.folder:
        raise ValueError(f"{output}: is the model's own folder; choose another output.")
    names = list_images(queries)
    known_names(conf.intrinsics)
    if conf.pairs.file is not None:
        pairs.read_pairs(conf.pairs.file)
    return names


def query_refiner(
    options: RefinementOptions, source: ModelSource, queries: Path
) -> QueryRefiner | None:
    """What moves keypoints of queries, where it is asked for."""
    if not options.enabled:
        return None
    return QueryRefiner(options, source.images, queries, resize_max_of(source.features))


def source_of(model: Path) -> ModelSource:
    """What a model's own run says of it.

    Raises:
        ModelError: if the folder is not the output of such a run.
    """
    folder = model.resolve()
    if folder.name == "sparse" and (folder.parent / "features.h5").is_file():
        folder = folder.parent
    record = folder / "run.json"
    try:
        made = json.loads(record.read_text())["configuration"]
        images, reference = Path(made["images"]), made.get("reference")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{record}: cannot be read; give the folder of a COLMAP model that "
            "'d2-hloc reconstruct' or 'd2-hloc triangulate' made."
        ) from error
    return ModelSource(
        folder=folder,
        images=images,
        has_given_poses=reference is not None and not is_own_frame(Path(reference)),
    )


def is_own_frame(model: Path) -> bool:
    """Is this a model of reconstruct(), whose poses are in no frame but its own?"""
    try:
        return not source_of(model).has_given_poses
    except ModelError:  # of a data set
        return False


def triangulate_anew(model: Path, weights: str, output: Path) -> Path:
    """The model, at its poses, with points of D2-Net by other weights, to localize in."""
    source = source_of(model)
    options = extraction_of(source.features)
    if options.feature not in ("d2net", "d2net-ms"):
        raise ModelError(f"{source.features}: holds {options.feature}, which has no such weights.")
    options = replace(options, d2net=replace(options.d2net, weights=weights))
    conf = Reconstruct(extraction=options)
    triangulate_known(conf, source.folder / "sparse", source.images, output)
    return output


def extraction_of(features: Path) -> ExtractionOptions:
    """The options that a model's features were extracted with.

    Raises:
        ModelError: if the file does not hold them.
    """
    made_by = features_h5.configuration(features)
    if made_by is None:
        raise ModelError(f"{features}: does not say how it was made; reconstruct the model again.")
    return options_of(made_by, str(features))
