"""Dense stereo in shards of its views, for arrays of jobs and on a cluster.

Maps are a file each in the one workspace, so there is nothing to merge; but every view's depth map
has to be there before any is compared with the others.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from d2_hloc.files.colmap import ModelError
from d2_hloc.files.lock import FileLock, holding_output
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.ray import Cluster, run_shards
from d2_hloc.files.shards import MOST, Shard
from d2_hloc.mvs.options import STAGES, DenseOptions, Stage
from d2_hloc.mvs.reconstruct import (
    check_depth_maps,
    choose_backend,
    has_map,
    open_workspace,
    reconstruct_dense,
    sweep_depth_maps,
)
from d2_hloc.mvs.statistics import DenseStatistics
from d2_hloc.mvs.workspace import Workspace

MAPS = 4  # of a shard


def dense_shard(
    options: DenseOptions,
    model_folder: Path,
    images: Path,
    output: Path,
    stage: Stage,
    shard: Shard,
) -> Path:
    """Do a part of dense stereo; reconstruct_dense() does what is left when all parts are done.

    'prepare' is for one process alone; then come all shards of 'maps', then all of 'consistency'.

    Raises:
        ModelError: if the stage before is not done.
        Busy: if another process is at work on the shard.
        ModelError, ImageError, ConfigurationChanged, DiskFull: as reconstruct_dense().
    """
    options = _own_maps(options)
    if stage != "prepare" and not Outputs(output).workspace_record.is_file():
        raise ModelError(f"{output}: is not prepared; run the stage 'prepare' once, then shards.")
    prepare = partial(open_workspace, options, options.backend, model_folder, images, output)
    if stage == "prepare":
        with holding_output(output):
            prepare()
    else:
        make_maps(options, prepare(), stage, shard)
    return output


def reconstruct_dense_on(
    cluster: Cluster, options: DenseOptions, model_folder: Path, images: Path, output: Path
) -> DenseStatistics:
    """Make a dense cloud; the cluster makes the maps, this process the rest.

    Raises:
        ClusterError: as ray.run_shards().
        ModelError, ImageError, ConfigurationChanged, DiskFull: as reconstruct_dense().
    """
    options = _own_maps(options)
    with holding_output(output):
        workspace = open_workspace(options, options.backend, model_folder, images, output)
        shards = Shard.all(min(-(-len(workspace.views) // MAPS), MOST))
        sizes = {shard: len(shard.of(list(workspace.views))) for shard in shards}
        for stage in STAGES[1:]:
            if not all(_is_done(workspace, stage)):
                work = partial(make_maps, options, workspace, stage)
                run_shards(cluster, work, sizes, f"{stage} on the cluster", "map")
        return reconstruct_dense(options, model_folder, images, output)


def make_maps(options: DenseOptions, workspace: Workspace, stage: Stage, shard: Shard) -> None:
    """Make a shard's maps of one stage.

    Raises:
        ModelError, Busy: as dense_shard().
    """
    folder = workspace.outputs.stereo_shards
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{stage}-{shard.index:04d}-of-{shard.count:04d}.lock"):
        if stage == "maps":
            sweep_depth_maps(options, workspace, shard)
            return
        _check_swept(workspace)
        check_depth_maps(options.consistency, workspace, shard)


def _own_maps(options: DenseOptions) -> DenseOptions:
    """Options with the backend that can make one view's map without the others'."""
    if choose_backend(options.backend) == "colmap" and options.backend != "auto":
        raise ValueError(
            "backend: 'colmap' makes all maps in one process; take 'torch' for shards."
        )
    return replace(options, backend="torch")


def _is_done(workspace: Workspace, stage: Stage) -> list[bool]:
    """Whether each view has what the stage makes last."""
    made = "photometric" if stage == "maps" else "geometric"
    return [has_map(workspace, view, made) for view in workspace.views.values()]


def _check_swept(workspace: Workspace) -> None:
    missing = [
        n for n, done in zip(workspace.views, _is_done(workspace, "maps"), strict=True) if not done
    ]
    if missing:
        raise ModelError(
            f"{workspace.folder}: {missing[0]} has no depth map yet; finish all shards of the "
            "stage 'maps', then run 'consistency'."
        )
