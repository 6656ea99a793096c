"""Database, verification, mapping and triangulation with pycolmap (a step)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from tqdm import tqdm

from d2_hloc import storage
from d2_hloc.adjustment import drop_outliers, settle
from d2_hloc.colmap import ModelError, open_database, pycolmap
from d2_hloc.pairs import Pair, unique, write_pairs
from d2_hloc.pixels import to_colmap
from d2_hloc.tracks import PairMatches

logger = logging.getLogger(__name__)

VERIFY_CHUNK = 200  # pairs a call: progress between them, and a kill loses no more


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """Two-view geometry with COLMAP's RANSAC; distances in pixels."""

    max_error: float = 4.0
    confidence: float = 0.999
    min_num_inliers: int = 15


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions:
    """From verified matches to a model.

    COLMAP's mappers give the same model every time on one thread only. Up to `small_collection`
    images `num_threads` None is one, beyond that it is all there are.

    Mapping depends on the pair it starts from. While images are missing from the model of a small
    collection, it is tried again with another seed, `attempts` times at most; the best is kept.

    In the end observations beyond `outlier_factor` median errors leave the model; None leaves it as
    the mapper made it.
    """

    mapper: Literal["incremental", "global", "hierarchical"] = "incremental"
    camera_model: str = "SIMPLE_RADIAL"  # of cameras without known intrinsics
    verification: VerificationOptions = field(default_factory=VerificationOptions)
    min_num_matches: int = 15
    structure_less_registration_fallback: bool = True
    min_model_size: int = 3
    attempts: int = 3
    small_collection: int = 100
    outlier_factor: float | None = 5.0
    random_seed: int = 0
    num_threads: int | None = None

    def __post_init__(self) -> None:
        known = sorted(set(pycolmap.CameraModelId.__members__) - {"INVALID"})
        if self.camera_model not in known:
            raise ValueError(f"camera_model {self.camera_model!r} is not of {', '.join(known)}.")
        if self.outlier_factor is not None and not self.outlier_factor > 1:
            raise ValueError(f"outlier_factor must be above 1, not {self.outlier_factor}.")

    def for_images(self, count: int) -> ReconstructionOptions:
        """The threads and attempts for a collection of so many images."""
        is_small = count <= self.small_collection
        threads = self.num_threads or (1 if is_small else -1)
        return replace(self, num_threads=threads, attempts=self.attempts if is_small else 1)


@dataclass(frozen=True, kw_only=True)
class ModelStatistics:
    """What a model holds. Reprojection error in pixels, a mean over observations."""

    registered_images: int
    points: int
    observations: int
    mean_track_length: float
    observations_per_image: float
    mean_reprojection_error: float


def statistics(model: pycolmap.Reconstruction) -> ModelStatistics:
    """Count a model's parts."""
    lengths = np.array([p.track.length() for p in model.points3D.values()], dtype=float)
    errors = np.array([p.error for p in model.points3D.values()])
    observations = int(lengths.sum())
    return ModelStatistics(
        registered_images=model.num_reg_images(),
        points=len(lengths),
        observations=observations,
        mean_track_length=float(lengths.mean()) if observations else 0.0,
        observations_per_image=observations / max(1, model.num_reg_images()),
        mean_reprojection_error=float((errors * lengths).sum() / max(1, observations)),
    )


def build_database(
    path: Path,
    cameras: Mapping[str, pycolmap.Camera],
    pairs: Sequence[Pair],
    features: Path,
    matches: Path,
) -> Path:
    """A COLMAP database of images, keypoints and matches; it appears whole or not at all.

    Images without features are left out, and so are pairs with fewer than one match.

    Raises:
        StorageError: if a pair was not matched, or its matches do not belong to the features.
    """
    part = path.with_name(path.name + ".writing")
    _remove_database(part)
    with pycolmap.Database.open(part) as database, storage.open_h5(features) as file:
        names = [name for name in sorted(cameras) if name in file]
        ids = {name: _write_image(database, name, cameras[name]) for name in names}
        counts = {name: _write_keypoints(database, ids[name], file, name) for name in names}
        _write_matches(database, pairs, ids, counts, matches)
    part.replace(path)
    return path


def _remove_database(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _write_image(database: pycolmap.Database, name: str, camera: pycolmap.Camera) -> int:
    camera_id = database.write_camera(camera)
    return database.write_image(pycolmap.Image(name=name, camera_id=camera_id))


def _write_keypoints(database: pycolmap.Database, image_id: int, file: object, name: str) -> int:
    keypoints = storage.keypoints_of(file, name)
    database.write_keypoints(image_id, to_colmap(keypoints).astype(np.float32))
    return len(keypoints)


def _write_matches(
    database: pycolmap.Database,
    pairs: Sequence[Pair],
    ids: Mapping[str, int],
    counts: Mapping[str, int],
    path: Path,
) -> None:
    with storage.open_h5(path) as file:
        for name0, name1 in tqdm(unique(pairs), desc="import matches", unit="pair", leave=False):
            if name0 not in ids or name1 not in ids:
                continue
            if database.exists_matches(ids[name0], ids[name1]):
                continue
            found = storage.matches_of(file, name0, name1).pairs.numpy()
            check_matches(found, counts[name0], counts[name1], f"{path}: {name0} {name1}")
            if len(found):
                database.write_matches(ids[name0], ids[name1], found.astype(np.uint32))


def verified_matches(
    database: Path, matches: Path, wanted: Callable[[Pair], bool] = lambda pair: True
) -> dict[Pair, PairMatches]:
    """The matches of the pairs wanted that fit their two-view geometry, with their similarities."""
    found = {}
    with open_database(database) as db, storage.open_h5(matches) as file:
        names = {image.image_id: image.name for image in db.read_all_images()}
        pair_ids, counts = db.read_two_view_geometry_num_inliers()
        for pair_id, count in zip(pair_ids, counts, strict=True):
            image0, image1 = pycolmap.pair_id_to_image_pair(pair_id)
            pair = names[image0], names[image1]
            if not count or not wanted(pair):
                continue
            index = db.read_two_view_geometry(image0, image1).inlier_matches.astype(np.int64)
            all_matches = storage.matches_of(file, *pair)
            scores = np.zeros(int(all_matches.pairs[:, 0].max()) + 1)
            scores[all_matches.pairs[:, 0]] = all_matches.scores
            found[pair] = PairMatches(pairs=index, scores=scores[index[:, 0]])
    return found


def check_matches(pairs: np.ndarray, count0: int, count1: int, where: str) -> None:
    """Raise StorageError for an index that no keypoint has: COLMAP would crash on it."""
    if len(pairs) and (pairs.min() < 0 or (pairs.max(axis=0) >= (count0, count1)).any()):
        raise storage.StorageError(
            f"{where} are not matches of these features ({count0} and {count1} keypoints); "
            "delete the file and match again."
        )


def verify(
    database: Path, pairs: Sequence[Pair], options: ReconstructionOptions, matches: Path
) -> None:
    """Estimate the two-view geometry of all pairs; those that have one are left alone.

    COLMAP takes a chunk's matches out of the database before it verifies them. What a kill has
    left missing is written again from `matches`.
    """
    with open_database(database) as db:
        ids = {image.name: image.image_id for image in db.read_all_images()}
        counts = {name: db.num_keypoints_for_image(i) for name, i in ids.items()}
        _write_matches(db, pairs, ids, counts, matches)
        todo = [p for p in unique(pairs) if _is_unverified(db, ids, p)]
    wanted = options.verification
    two_view = pycolmap.TwoViewGeometryOptions(
        min_num_inliers=wanted.min_num_inliers,
        compute_relative_pose=True,
        ransac=pycolmap.RANSACOptions(
            max_error=wanted.max_error,
            confidence=wanted.confidence,
            random_seed=options.random_seed,
        ),
    )
    listed = database.with_name(database.name + ".pairs.txt")
    with tqdm(total=len(todo), desc="verify", unit="pair", disable=not todo) as progress:
        for start in range(0, len(todo), VERIFY_CHUNK):
            chunk = todo[start : start + VERIFY_CHUNK]
            pycolmap.verify_matches(database, write_pairs(listed, chunk), two_view)
            progress.update(len(chunk))
    listed.unlink(missing_ok=True)


def _is_unverified(database: pycolmap.Database, ids: Mapping[str, int], pair: Pair) -> bool:
    if pair[0] not in ids or pair[1] not in ids:
        return False
    image0, image1 = ids[pair[0]], ids[pair[1]]
    return database.exists_matches(image0, image1) and not database.exists_two_view_geometry(
        image0, image1
    )


@dataclass(frozen=True, kw_only=True)
class MappingTask:
    """A verified database, its images, and where the mapper writes its models."""

    options: ReconstructionOptions
    database: Path
    images: Path
    work: Path
    constant_cameras: set[int]  # ids whose intrinsics are known
    num_images: int

    @property
    def is_calibrated(self) -> bool:
        return len(self.constant_cameras) == self.num_images


def map_images(
    options: ReconstructionOptions,
    database: Path,
    images: Path,
    output: Path,
    known: set[str] | None = None,
) -> pycolmap.Reconstruction:
    """Reconstruct from a verified database; the model of most images goes to `output`.

    The intrinsics of the images in `known` stay as they are.

    Raises:
        ModelError: if fewer than `min_model_size` images can be reconstructed.
    """
    with open_database(database) as db:
        ids = {image.name: image.camera_id for image in db.read_all_images()}
    work = _empty_folder(output.with_name(output.name + ".mapping"))
    task = MappingTask(
        options=options.for_images(len(ids)),
        database=database,
        images=images,
        work=work,
        constant_cameras={ids[name] for name in (known or set()) & set(ids)},
        num_images=len(ids),
    )
    folder, model = _best_attempt(task)
    if model is None:
        wanted = options.min_model_size
        why = (
            f"a model needs {wanted}."
            if len(ids) < wanted
            else "they may share too little, or move too little."
        )
        raise ModelError(
            f"{database}: no model could be reconstructed from its {len(ids)} images; {why}"
        )
    if options.outlier_factor is not None:
        threads = task.options.num_threads or -1
        left = settle(model, options.outlier_factor, task.constant_cameras, threads)
        logger.info("%d observations that disagreed with the model left it", left)
        model.write(folder)
    _replace_folder(folder, output)
    shutil.rmtree(work)
    return model


def _best_attempt(task: MappingTask) -> tuple[Path, pycolmap.Reconstruction | None]:
    """The model of most images, then of most points, and its folder."""
    found: list[tuple[int, int, Path, pycolmap.Reconstruction]] = []
    for k in range(task.options.attempts):
        folder = _empty_folder(task.work / str(k))
        seeded = replace(task.options, random_seed=task.options.random_seed + k)
        models = MAPPERS[task.options.mapper](replace(task, options=seeded, work=folder))
        sound = {i: m for i, m in models.items() if is_sound(m, task.options)}
        for i, m in sound.items():
            found.append((m.num_reg_images(), m.num_points3D(), folder / str(i), m))
        sizes = sorted((m.num_reg_images() for m in sound.values()), reverse=True)
        if sizes and sizes[0] == task.num_images:
            break
        logger.info("attempt %d: models of %s of %d images", k + 1, sizes or 0, task.num_images)
    return max(found, key=lambda f: f[:2])[2:] if found else (task.work, None)


def is_sound(model: pycolmap.Reconstruction, options: ReconstructionOptions) -> bool:
    """Do its images see enough points on average? A mapper can hold on to almost nothing."""
    seen = sum(p.track.length() for p in model.points3D.values())
    return seen >= options.min_num_matches * max(1, model.num_reg_images())


def _empty_folder(path: Path) -> Path:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _replace_folder(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    source.replace(target)


def _incremental(task: MappingTask) -> dict[int, pycolmap.Reconstruction]:
    with tqdm(total=task.num_images, desc="map", unit="image") as progress:

        def advance(count: int) -> None:  # a pair may be taken back, and counted again
            progress.update(min(count, task.num_images - progress.n))

        return pycolmap.incremental_mapping(
            task.database,
            task.images,
            task.work,
            incremental_options(task.options, task.constant_cameras, task.is_calibrated),
            initial_image_pair_callback=lambda: advance(2),
            next_image_callback=lambda: advance(1),
        )


def _global(task: MappingTask) -> dict[int, pycolmap.Reconstruction]:
    """Where focal lengths are guesses they are first estimated, in a copy of the database."""
    database = task.database
    options = pycolmap.GlobalPipelineOptions(
        min_num_matches=task.options.min_num_matches,
        min_model_size=task.options.min_model_size,
        random_seed=task.options.random_seed,
        num_threads=task.options.num_threads,
    )
    if task.is_calibrated:
        options.mapper.bundle_adjustment.refine_focal_length = False
        options.mapper.bundle_adjustment.refine_extra_params = False
    else:
        logger.info("calibrating the view graph: some focal lengths are not known")
        database = Path(shutil.copyfile(task.database, task.work / "calibrated.db"))
        pycolmap.calibrate_view_graph(
            database, pycolmap.ViewGraphCalibrationOptions(random_seed=task.options.random_seed)
        )
    return pycolmap.global_mapping(database, task.images, task.work, options)


def _hierarchical(task: MappingTask) -> dict[int, pycolmap.Reconstruction]:
    options = pycolmap.HierarchicalPipelineOptions(num_threads=task.options.num_threads)
    options.incremental_options = incremental_options(
        task.options, task.constant_cameras, task.is_calibrated
    )
    try:
        return pycolmap.hierarchical_mapping(task.database, task.images, task.work, options)
    except IndexError:  # its answer where it finds no model
        return {}


MAPPERS: dict[str, Callable[[MappingTask], dict[int, pycolmap.Reconstruction]]] = {
    "incremental": _incremental,
    "global": _global,
    "hierarchical": _hierarchical,
}


def incremental_options(
    options: ReconstructionOptions, constant: set[int], is_all_known: bool
) -> pycolmap.IncrementalPipelineOptions:
    """COLMAP's options; known intrinsics are never refined."""
    conf = pycolmap.IncrementalPipelineOptions(
        min_num_matches=options.min_num_matches,
        min_model_size=options.min_model_size,
        structure_less_registration_fallback=options.structure_less_registration_fallback,
        constant_cameras=constant,
        random_seed=options.random_seed,
        num_threads=options.num_threads,
        ba_use_gpu=False,
    )
    if is_all_known:
        conf.ba_refine_focal_length = conf.ba_refine_extra_params = False
        conf.ba_refine_principal_point = False
        conf.mapper.abs_pose_refine_focal_length = False
        conf.mapper.abs_pose_refine_extra_params = False
    return conf


def triangulate(
    options: ReconstructionOptions,
    reference: pycolmap.Reconstruction,
    database: Path,
    images: Path,
    output: Path,
) -> pycolmap.Reconstruction:
    """A model with new points at the poses and intrinsics of `reference`, which stay as they are.

    Raises:
        ModelError: if no image of the reference is in the database.
    """
    with open_database(database) as db:
        ids = {image.name: (image.image_id, image.camera_id) for image in db.read_all_images()}
    model = with_ids(reference, ids)
    if model.num_reg_images() == 0:
        raise ModelError(f"{database}: holds none of the images of the model.")
    work = _empty_folder(output.with_name(output.name + ".mapping"))
    options = options.for_images(model.num_reg_images())
    conf = incremental_options(options, set(), is_all_known=True)
    model = pycolmap.triangulate_points(
        model, database, images, work, clear_points=True, options=conf, refine_intrinsics=False
    )
    if options.outlier_factor is not None:
        drop_outliers(model, options.outlier_factor)
        model.write(work)
    _replace_folder(work, output)
    return model


def with_ids(
    reference: pycolmap.Reconstruction, ids: Mapping[str, tuple[int, int]]
) -> pycolmap.Reconstruction:
    """The poses and cameras of a model under a database's image and camera ids, without points."""
    model = pycolmap.Reconstruction()
    for image in sorted(reference.images.values(), key=lambda i: i.name):
        if not image.has_pose or image.name not in ids:
            continue
        image_id, camera_id = ids[image.name]
        if not model.exists_camera(camera_id):
            camera = pycolmap.Camera(image.camera.todict() | {"camera_id": camera_id})
            model.add_camera_with_trivial_rig(camera)
        copy = pycolmap.Image(name=image.name, camera_id=camera_id, image_id=image_id)
        model.add_image_with_trivial_frame(copy, image.cam_from_world())
    return model
