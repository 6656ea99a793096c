"""Database, verification, mapping and triangulation with pycolmap (a step)."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from d2_hloc.files.atomic import empty_folder, replace_folder
from d2_hloc.files.colmap import ModelError, open_database, pycolmap
from d2_hloc.files.outputs import MAPPING
from d2_hloc.matching.pairs import Pair
from d2_hloc.sfm.adjustment.outliers import (
    adjust_without_outliers,
    drop_absurd,
    drop_wild_images,
)
from d2_hloc.sfm.adjustment.readjustment import RULE, ReadjustmentRule, readjust
from d2_hloc.sfm.adjustment.triplets import without_pairs
from d2_hloc.sfm.mappers import MAPPERS, MappingTask, continued, mapping_task, readjustment_task
from d2_hloc.sfm.options import ReconstructionOptions

logger = logging.getLogger(__name__)

LEAST_HELD = 0.1  # observations of a readjusted model a match: sound ones have .24 to .78


def work_folder(output: Path) -> Path:
    """The folder beside a model's in which it is made."""
    return output.with_name(output.name + MAPPING)


def map_images(
    options: ReconstructionOptions,
    database: Path,
    images: Path,
    output: Path,
    known: Set[str] = frozenset(),
    without: Collection[Pair] = (),
    refined: Path | None = None,
) -> pycolmap.Reconstruction:
    """Reconstruct from a verified database; the model of most images goes to `output`.

    Models of images that are not in it go to output/1, output/2 and so on. The intrinsics of the
    images in `known` stay as they are. Pairs of `without` are not used. `refined` is the file of
    the keypoints, where they were refined: in the end they count by their uncertainty.

    Raises:
        ModelError: if fewer than `min_model_size` images can be reconstructed; of two images, two.
    """
    work = empty_folder(work_folder(output))
    used = without_pairs(database, without, work / "agreed.db") if without else database
    task = mapping_task(options, used, images, work, known, refined)
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
    model, *others = _apart([_with_images_left(models[0], task), *models[1:]])
    if not model.num_points3D():
        raise ModelError(f"{database}: no point of its model agrees with the images that see it.")
    _put_models(model, others, work, output)
    return model


def _with_images_left(model: pycolmap.Reconstruction, task: MappingTask) -> pycolmap.Reconstruction:
    """Offer a model the images that the mapper left out, where guessed cameras misled it.

    The model is readjusted first: images whose matches a bent model cannot use find their places
    then. What it was is returned where none does, and where there is to be no second look.
    """
    options = task.options
    is_guessed = not task.is_calibrated and options.mapper == "incremental"
    is_small = task.num_images <= options.small_collection
    missing = task.num_images - model.num_reg_images()
    if not (missing and options.second_look and is_guessed and is_small):
        return model
    copy = pycolmap.Reconstruction(model)
    readjusted = readjust(copy, readjustment_task(task, task.work / "left-readjusting"))
    found = continued(readjusted, replace(task, work=empty_folder(task.work / "left")))
    drop_wild_images(found, task.constant_cameras)
    if found.num_reg_images() <= model.num_reg_images() or not is_sound(found, options):
        return model
    _clean(found, task)
    logger.info(
        "%d of %d images left out found a place in the readjusted model",
        *(found.num_reg_images() - model.num_reg_images(), missing),
    )
    return found


def _clean(model: pycolmap.Reconstruction, task: MappingTask) -> None:
    """Observations that disagree with a model leave it."""
    options = task.options
    if (absurd := drop_absurd(model)) > 0:
        logger.info("%d observations behind their camera, or far off, left the model", absurd)
    if options.outlier_factor is not None:
        threads = task.options.num_threads or -1
        constant = task.constant_cameras
        given = options.outlier_factor, constant, threads, task.deviations
        left = adjust_without_outliers(model, *given)
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


def readjust_model(
    task: MappingTask,
    model: pycolmap.Reconstruction,
    output: Path,
    others: Sequence[pycolmap.Reconstruction] = (),
    rule: ReadjustmentRule = RULE,
) -> None:
    """Readjust a model by the matches of a task's database of its images; it goes to `output`.

    `others`, models of further images, go there as they are. A model that holds hardly any of these
    matches was wrong, or they are: it stays as it was then. The task's `work` is deleted.
    """
    copy, given = pycolmap.Reconstruction(model), empty_folder(task.work) / "readjusting"
    readjusted = readjust(copy, readjustment_task(task, given, rule))
    with open_database(task.database) as db:
        matches = db.num_inlier_matches()
    held = readjusted.compute_num_observations()
    if held < LEAST_HELD * matches:
        text = "of %d matches the readjusted model holds %d: it stays as it was, and is doubtful"
        logger.warning(text, matches, held)
        readjusted = model
    _put_models(readjusted, others, task.work, output)


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
