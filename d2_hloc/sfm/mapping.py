"""Database, verification, mapping and triangulation with pycolmap (a step)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from d2_hloc.files.atomic import empty_folder, replace_folder
from d2_hloc.files.colmap import ModelError, open_database, pycolmap
from d2_hloc.files.outputs import MAPPING, SNAPSHOTS
from d2_hloc.matching.pairs import Pair
from d2_hloc.sfm.adjustment.outliers import (
    adjust_without_outliers,
    drop_absurd,
    drop_wild_images,
)
from d2_hloc.sfm.adjustment.settling import RULE, SettlingRule, SettlingTask, settle
from d2_hloc.sfm.adjustment.triplets import without_pairs
from d2_hloc.sfm.options import ReconstructionOptions

logger = logging.getLogger(__name__)

SNAPSHOTS_OF_MODEL = 20  # while it grows, to be looked at


@dataclass(frozen=True, kw_only=True)
class MappingTask:
    """A verified database, its images, and where the mapper writes its models."""

    options: ReconstructionOptions
    database: Path
    images: Path
    work: Path
    constant_cameras: set[int]  # ids whose intrinsics are known
    num_images: int
    num_cameras: int

    @property
    def is_calibrated(self) -> bool:
        return len(self.constant_cameras) == self.num_cameras


def settling_task(task: MappingTask, work: Path, rule: SettlingRule = RULE) -> SettlingTask:
    """The same database and options, to settle a model of it."""
    return SettlingTask(
        database=task.database,
        images=task.images,
        work=work,
        triangulation=incremental_options(task.options, set(), True, task.num_images),
        constant_cameras=task.constant_cameras,
        outlier_factor=task.options.outlier_factor,
        num_threads=task.options.num_threads or -1,
        rule=rule,
    )


def mapping_task(
    options: ReconstructionOptions, database: Path, images: Path, work: Path, known: Set[str]
) -> MappingTask:
    """All that mapping needs to know of a database; the intrinsics of images in `known` stay."""
    with open_database(database) as db:
        ids = {image.name: image.camera_id for image in db.read_all_images()}
    return MappingTask(
        options=options.for_images(len(ids)),
        database=database,
        images=images,
        work=work,
        constant_cameras={ids[name] for name in known & set(ids)},
        num_images=len(ids),
        num_cameras=len(set(ids.values())),
    )


def map_images(
    options: ReconstructionOptions,
    database: Path,
    images: Path,
    output: Path,
    known: Set[str] = frozenset(),
    without: Collection[Pair] = (),
) -> pycolmap.Reconstruction:
    """Reconstruct from a verified database; the model of most images goes to `output`.

    Models of images that are not in it go to output/1, output/2 and so on. The intrinsics of the
    images in `known` stay as they are. Pairs of `without` are not used.

    Raises:
        ModelError: if fewer than `min_model_size` images can be reconstructed; of two images, two.
    """
    work = empty_folder(output.with_name(output.name + MAPPING))
    used = without_pairs(database, without, work / "agreed.db") if without else database
    task = mapping_task(options, used, images, work, known)
    models = _best_attempt(task).models
    if not models:
        why = (
            "a model needs 2."
            if task.num_images < 2
            else "they may share too little, or move too little, or all show what moves with the "
            "camera, which --masks hides."
        )
        raise ModelError(
            f"{database}: no model could be reconstructed from its {task.num_images} images; {why}"
        )
    for model in models:
        _clean(model, task)
    _put_models(models[0], models[1:], work, output)
    return models[0]


def _clean(model: pycolmap.Reconstruction, task: MappingTask) -> None:
    """Observations that disagree with a model leave it."""
    options = task.options
    if (absurd := drop_absurd(model)) > 0:
        logger.info("%d observations behind their camera, or far off, left the model", absurd)
    if options.outlier_factor is not None:
        threads = task.options.num_threads or -1
        constant = task.constant_cameras
        left = adjust_without_outliers(model, options.outlier_factor, constant, threads)
        logger.info("%d observations that disagreed with the model left it", left)


def _put_models(
    model: pycolmap.Reconstruction,
    others: Sequence[pycolmap.Reconstruction],
    work: Path,
    output: Path,
) -> None:
    """Write a model and others of its images, whole or not at all; `work` is deleted."""
    folder = empty_folder(work / "models")
    model.write(folder)
    for k, other in enumerate(others, 1):
        other.write(empty_folder(folder / str(k)))
    replace_folder(folder, output)
    shutil.rmtree(work)


def settle_anew(
    options: ReconstructionOptions,
    model: pycolmap.Reconstruction,
    database: Path,
    images: Path,
    output: Path,
    known: Set[str],
    others: Sequence[pycolmap.Reconstruction] = (),
    rule: SettlingRule = RULE,
) -> None:
    """Settle a model by the matches of another database of its images; it goes to `output`.

    `others`, models of further images, go there as they are.
    """
    work = empty_folder(output.with_name(output.name + MAPPING))
    task = mapping_task(options, database, images, work, known)
    model = settle(model, settling_task(task, work / "settling", rule))
    _put_models(model, others, work, output)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Models that a mapper made, the largest first, and by how much focal lengths were multiplied.

    Each further model has images that those before it have not.
    """

    models: list[pycolmap.Reconstruction]
    start: float

    @property
    def size(self) -> tuple[int, int]:
        """Images, then points, of the largest model: by these attempts are compared."""
        return _size(self.models[0]) if self.models else (0, 0)


def _size(model: pycolmap.Reconstruction) -> tuple[int, int]:
    return model.num_reg_images(), model.num_points3D()


def _best_attempt(task: MappingTask) -> Attempt:
    """The attempt of the largest model: the first from several focal lengths, others the best's.

    The first that holds all images is taken.
    """
    best = Attempt(models=[], start=1.0)
    starts = (1.0,) if task.is_calibrated else task.options.focal_starts
    for k in range(task.options.attempts):
        for start in starts:
            best = max(best, _attempt(task, k, start), key=lambda attempt: attempt.size)
            if best.size[0] == task.num_images:
                return best
        if best.models:
            starts = (best.start,)
    return best


def _attempt(task: MappingTask, number: int, start: float) -> Attempt:
    """Sound models of one run of the mapper."""
    options, attempts = task.options, task.options.attempts
    folder = empty_folder(task.work / f"{number}-from-{start:g}")
    database = task.database
    if start != 1:
        database = with_other_focals(task.database, start, task.constant_cameras, folder)
    seeded = replace(
        options,
        random_seed=options.random_seed + number,
        hold_distortion=options.hold_distortion and number < max(1, attempts - 1),
    )
    inputs = replace(task, options=seeded, work=folder, database=database)
    # Of two images, the global mapper makes none.
    mapper = options.mapper if task.num_images > 2 else "incremental"
    models = MAPPERS[mapper](inputs)
    for model in models.values():
        if names := drop_wild_images(model, task.constant_cameras):
            logger.info("no camera explains %s; left out", ", ".join(names))
    sound = sorted((m for m in models.values() if is_sound(m, options)), key=_size, reverse=True)
    sizes = [m.num_reg_images() for m in sound]
    if sizes[:1] != [task.num_images]:
        text = "attempt %d, from %g times the focal lengths: models of %s of %d images"
        logger.info(text, number + 1, start, sizes or 0, task.num_images)
    return Attempt(models=_apart(sound), start=start)


def _apart(models: Sequence[pycolmap.Reconstruction]) -> list[pycolmap.Reconstruction]:
    """Leave out models without an image that those before them have not."""
    seen: set[int] = set()
    found = []
    for model in models:
        if not seen.issuperset(model.reg_image_ids()):
            found.append(model)
        seen.update(model.reg_image_ids())
    return found


def with_other_focals(database: Path, factor: float, constant: Set[int], folder: Path) -> Path:
    """Copy a database into a folder, with guessed focal lengths times `factor`."""
    copy = Path(shutil.copyfile(database, folder / "start.db"))
    with open_database(copy) as db:
        for camera in db.read_all_cameras():
            if camera.camera_id in constant:
                continue
            params = np.array(camera.params)
            params[list(camera.focal_length_idxs())] *= factor
            camera.params = params.tolist()
            db.update_camera(camera)
    return copy


def is_sound(model: pycolmap.Reconstruction, options: ReconstructionOptions) -> bool:
    """True if its images see enough points on average: a mapper can hold on to almost nothing."""
    seen = sum(p.track.length() for p in model.points3D.values())
    return seen >= options.min_num_matches * max(1, model.num_reg_images())


def _incremental(task: MappingTask) -> dict[int, pycolmap.Reconstruction]:
    conf = mapper_options(task)
    conf.snapshot_path = empty_folder(task.work / SNAPSHOTS)
    conf.snapshot_frames_freq = max(2, task.num_images // SNAPSHOTS_OF_MODEL)
    with tqdm(total=task.num_images, desc="map", unit="image") as progress:

        def advance(count: int) -> None:  # a pair may be taken back, and counted again
            progress.update(min(count, task.num_images - progress.n))

        return pycolmap.incremental_mapping(
            task.database,
            task.images,
            task.work,
            conf,
            initial_image_pair_callback=lambda: advance(2),
            next_image_callback=lambda: advance(1),
        )


def _global(task: MappingTask) -> dict[int, pycolmap.Reconstruction]:
    """Map globally; guessed focal lengths are first estimated, in a copy of the database."""
    database = task.database
    options = pycolmap.GlobalPipelineOptions(
        min_num_matches=task.options.min_num_matches,
        min_model_size=task.options.min_model_size,
        random_seed=task.options.random_seed,
        num_threads=task.options.num_threads,
    )
    if task.options.hold_distortion:
        options.mapper.bundle_adjustment.refine_extra_params = False
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
    options.incremental_options = mapper_options(task)
    try:
        return pycolmap.hierarchical_mapping(task.database, task.images, task.work, options)
    except IndexError:  # its answer where it finds no model
        return {}


MAPPERS: dict[str, Callable[[MappingTask], dict[int, pycolmap.Reconstruction]]] = {
    "incremental": _incremental,
    "global": _global,
    "hierarchical": _hierarchical,
}


def mapper_options(task: MappingTask) -> pycolmap.IncrementalPipelineOptions:
    """COLMAP's options for a task."""
    return incremental_options(
        task.options, task.constant_cameras, task.is_calibrated, task.num_images
    )


def incremental_options(
    options: ReconstructionOptions, constant: set[int], is_all_known: bool, num_images: int
) -> pycolmap.IncrementalPipelineOptions:
    """COLMAP's options; known intrinsics are never refined, and two images have two-view tracks."""
    conf = pycolmap.IncrementalPipelineOptions(
        min_num_matches=options.min_num_matches,
        min_model_size=options.min_model_size,
        structure_less_registration_fallback=options.structure_less_registration_fallback,
        constant_cameras=constant,
        random_seed=options.random_seed,
        num_threads=options.num_threads,
        ba_use_gpu=False,
    )
    conf.mapper.abs_pose_min_num_inliers = options.min_pose_inliers
    conf.triangulation.ignore_two_view_tracks = num_images > 2
    if options.hold_distortion:
        conf.ba_refine_extra_params = conf.mapper.abs_pose_refine_extra_params = False
    if is_all_known:
        conf.ba_refine_focal_length = conf.ba_refine_extra_params = False
        conf.ba_refine_principal_point = False
        conf.mapper.abs_pose_refine_focal_length = False
        conf.mapper.abs_pose_refine_extra_params = False
    else:
        conf.mapper.init_min_tri_angle = options.initial_angle
    return conf
