"""COLMAP's mappers: what they are asked, and their models of a verified database."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from d2_hloc.files.atomic import empty_folder
from d2_hloc.files.colmap import open_database, pycolmap
from d2_hloc.files.outputs import SNAPSHOTS
from d2_hloc.refinement.tracks import read_deviations
from d2_hloc.sfm.adjustment.readjustment import RULE, ReadjustmentRule, ReadjustmentTask
from d2_hloc.sfm.options import ReconstructionOptions

logger = logging.getLogger(__name__)

SNAPSHOTS_OF_MODEL = 20  # while it grows, to be looked at


@dataclass(frozen=True, kw_only=True)
class MappingTask:
    """A verified database, its images, and where the mapper writes its models.

    `deviations` (N,) of keypoints by image, in pixels, are those of a file of refined ones.
    """

    options: ReconstructionOptions
    database: Path
    images: Path
    work: Path
    constant_cameras: set[int]  # ids whose intrinsics are known
    num_images: int
    num_cameras: int
    deviations: Mapping[str, np.ndarray] | None = None

    @property
    def is_calibrated(self) -> bool:
        return len(self.constant_cameras) == self.num_cameras


def readjustment_task(
    task: MappingTask, work: Path, rule: ReadjustmentRule = RULE
) -> ReadjustmentTask:
    """The same database and options, to readjust a model of it."""
    return ReadjustmentTask(
        database=task.database,
        images=task.images,
        work=work,
        triangulation=incremental_options(task.options, set(), True, task.num_images),
        constant_cameras=task.constant_cameras,
        outlier_factor=task.options.outlier_factor,
        num_threads=task.options.num_threads or -1,
        rule=rule,
        deviations=task.deviations,
    )


def mapping_task(
    options: ReconstructionOptions,
    database: Path,
    images: Path,
    work: Path,
    known: Set[str],
    refined: Path | None = None,
) -> MappingTask:
    """All that mapping needs to know of a database; the intrinsics of images in `known` stay.

    `refined` is the file of its keypoints, where they were refined: these count by their
    uncertainty where all cameras are known. Guessed ones are off by more than any keypoint.
    """
    with open_database(database) as db:
        ids = {image.name: image.camera_id for image in db.read_all_images()}
    task = MappingTask(
        options=options.for_images(len(ids)),
        database=database,
        images=images,
        work=work,
        constant_cameras={ids[name] for name in known & set(ids)},
        num_images=len(ids),
        num_cameras=len(set(ids.values())),
    )
    if refined is None or not (options.by_uncertainty and task.is_calibrated):
        return task
    return replace(task, deviations=read_deviations(refined))


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


def continued(model: pycolmap.Reconstruction, task: MappingTask) -> pycolmap.Reconstruction:
    """Let the incremental mapper go on from a model; what it holds then."""
    conf = mapper_options(task)
    conf.multiple_models = False
    model.write(empty_folder(task.work / "from"))
    given = task.database, task.images, empty_folder(task.work / "to"), conf
    models = pycolmap.incremental_mapping(*given, input_path=task.work / "from")
    return max(models.values(), key=lambda found: found.num_reg_images(), default=model)


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
