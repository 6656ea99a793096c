"""Dense multi-view stereo: undistort -> depth maps -> consistency -> fusion -> mesh (a step).

Depth maps come from the package's own plane sweep, which needs no GPU and uses one where there is
one, or from COLMAP's PatchMatch, which needs CUDA.
"""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from d2_hloc.core import config
from d2_hloc.core.devices import chosen_device
from d2_hloc.files.atomic import DiskFull, clear_unfinished_of, write_whole
from d2_hloc.files.colmap import ModelError, pycolmap
from d2_hloc.files.lock import holding_output
from d2_hloc.files.outputs import Outputs
from d2_hloc.files.shards import WHOLE, Shard
from d2_hloc.mvs import poisson
from d2_hloc.mvs.cloud import num_vertices
from d2_hloc.mvs.consistency import consistent_depth
from d2_hloc.mvs.map_files import is_stereo_map, read_stereo_map, write_stereo_map
from d2_hloc.mvs.normals import normals
from d2_hloc.mvs.options import (
    ConsistencyOptions,
    DenseOptions,
    FusionOptions,
    MeshOptions,
)
from d2_hloc.mvs.plane_sweep import sweep
from d2_hloc.mvs.statistics import DenseStatistics, dense_statistics
from d2_hloc.mvs.workspace import (
    DenseView,
    Workspace,
    WorkspaceReader,
    prepare_workspace,
    read_workspace,
)

logger = logging.getLogger(__name__)

FUSION_CACHE = 8.0  # GiB of maps and images that fusion holds at a time
SMALL_COLLECTION = 100  # images; COLMAP's fusion gives the same cloud every time on one thread only
MESH_PROGRAM = poisson.__name__
MIN_MESH_POINTS = 1000  # COLMAP's Poisson reconstruction crashes on almost empty clouds


def reconstruct_dense(
    options: DenseOptions, model_folder: Path, images: Path, output: Path
) -> DenseStatistics:
    """Make a dense cloud, `output`/fused.ply, and what leads to it, of a model and its images.

    `output` is a workspace in COLMAP's layout: images/, sparse/, stereo/. A run that was killed
    goes on from where it was. Fusion and mesh are made anew, so their options may change.

    Raises:
        ModelError: if the model has no points, or its images are missing or of another size.
        ImageError: if an image cannot be read.
        Busy: if another process is at work on `output`.
        ConfigurationChanged: if `output` was made from another model or with other options.
        DiskFull: if there is no space.
    """
    backend = choose_backend(options.backend)
    with holding_output(output):
        workspace = open_workspace(options, backend, model_folder, images, output)
        BACKENDS[backend](options, workspace)
        check_depth_maps(options.consistency, workspace)
        fuse(options.fusion, workspace)
        if options.mesh.enabled:
            make_mesh(options.mesh, output)
        return dense_statistics(workspace)


def open_workspace(
    options: DenseOptions, backend: str, model_folder: Path, images: Path, output: Path
) -> Workspace:
    """Read the workspace of a model; make it unless it is there already.

    Raises:
        ModelError, ImageError, ConfigurationChanged, DiskFull: as reconstruct_dense.
    """
    values = config.to_dict(options) | {"backend": backend}
    others = ("max_image_size", "fusion", "mesh") + ("masks",) * (not options.masks.are_asked_for)
    made_by = {k: v for k, v in values.items() if k not in others}
    given = model_folder, images, output, options.max_image_size, made_by
    prepare_workspace(*given, options.masks)
    return read_workspace(output, max(options.num_sources, options.consistency.num_views))


def choose_backend(backend: Literal["auto", "colmap", "torch"]) -> Literal["colmap", "torch"]:
    """The backend that 'auto' stands for here.

    Raises:
        ValueError: if 'colmap' is asked for where it cannot run: COLMAP would abort the process.
    """
    can_colmap = pycolmap.has_cuda and torch.cuda.is_available()
    if backend == "colmap" and not can_colmap:
        raise ValueError(
            "backend: 'colmap' needs a pycolmap that was built with CUDA, and a GPU; "
            "take 'torch' or 'auto'."
        )
    if backend == "auto":
        return "colmap" if can_colmap and chosen_device().type == "cuda" else "torch"
    return backend


def sweep_depth_maps(options: DenseOptions, workspace: Workspace, shard: Shard = WHOLE) -> None:
    """Write the photometric depth map of every view of the shard that has none yet."""
    reader = WorkspaceReader(workspace, chosen_device())
    views = shard.of(list(workspace.views.values()))
    todo = [v for v in views if not has_map(workspace, v, "photometric")]
    clear_unfinished_of(workspace.map_path(v.name, "depth", "photometric") for v in todo)
    for view in tqdm(todo, desc="depth maps", unit="map", disable=not todo):
        depth = sweep_view(options, reader, view)
        write_stereo_map(workspace.map_path(view.name, "depth", "photometric"), depth.cpu().numpy())


def sweep_view(options: DenseOptions, reader: WorkspaceReader, view: DenseView) -> torch.Tensor:
    """Depth of one view (H, W); all 0 where no other view shares points with it."""
    sources = [reader.view(name) for name in view.sources[: options.num_sources]]
    if not sources:
        logger.warning("%s: shares no points with another image; it has no depth.", view.name)
        return torch.zeros(view.size)
    depth, _ = sweep(reader.view(view.name), sources, view.near, view.far, options.sweep)
    return depth


def _patch_match(options: DenseOptions, workspace: Workspace) -> None:
    """Make COLMAP's maps. It takes a half-written one for whole, so those go first."""
    todo = [v for v in workspace.views.values() if not has_map(workspace, v, "photometric")]
    for view in todo:
        for kind in ("depth", "normal"):
            workspace.map_path(view.name, kind, "photometric").unlink(missing_ok=True)
    if todo:
        pycolmap.patch_match_stereo(
            workspace.folder,
            options=pycolmap.PatchMatchOptions(
                max_image_size=options.max_image_size, geom_consistency=False
            ),
        )


BACKENDS = {"torch": sweep_depth_maps, "colmap": _patch_match}


def has_map(workspace: Workspace, view: DenseView, stage: str, kind: str = "depth") -> bool:
    """Tell whether a view's map is there, whole."""
    channels = 3 if kind == "normal" else 1
    return is_stereo_map(workspace.map_path(view.name, kind, stage), *view.size, channels)


def check_depth_maps(
    options: ConsistencyOptions, workspace: Workspace, shard: Shard = WHOLE
) -> None:
    """Write what other views confirm of each depth map of the shard, and its normals."""
    reader = WorkspaceReader(workspace, chosen_device())
    todo = [
        view
        for view in shard.of(list(workspace.views.values()))
        if not all(has_map(workspace, view, "geometric", kind) for kind in ("depth", "normal"))
    ]
    for kind in ("depth", "normal"):
        clear_unfinished_of(workspace.map_path(v.name, kind, "geometric") for v in todo)
    for view in tqdm(todo, desc="consistency", unit="map", disable=not todo):
        others = ((reader.depth(n), reader.view(n)) for n in view.sources[: options.num_views])
        reference = reader.view(view.name)
        depth = consistent_depth(reader.depth(view.name), reference, others, options)
        found = _normals(workspace, view, depth, reference.K)
        write_stereo_map(workspace.map_path(view.name, "normal", "geometric"), found.cpu().numpy())
        write_stereo_map(workspace.map_path(view.name, "depth", "geometric"), depth.cpu().numpy())


def _normals(
    workspace: Workspace, view: DenseView, depth: torch.Tensor, intrinsics: torch.Tensor
) -> torch.Tensor:
    """COLMAP's normals where its PatchMatch made them, otherwise those of the depth."""
    if has_map(workspace, view, "photometric", "normal"):
        path = workspace.map_path(view.name, "normal", "photometric")
        return torch.from_numpy(read_stereo_map(path)).nan_to_num(0)
    return normals(depth, intrinsics)


def fuse(options: FusionOptions, workspace: Workspace) -> Path:
    """Fuse the geometric maps to a coloured cloud, `fused.ply`; it may be empty.

    Raises:
        DiskFull: if the cloud was cut short.
    """
    names = "".join(f"{name}\n" for name in workspace.views)
    write_whole(workspace.outputs.fusion_list, names.encode())
    workspace.outputs.mesh.unlink(missing_ok=True)  # of an earlier cloud
    target = workspace.outputs.cloud
    part = target.with_name(f"{target.stem}.writing.ply")
    visibility = Path(f"{part}.vis")
    for path in (part, visibility):  # or whatever a link there leads to would be written
        path.unlink(missing_ok=True)
    pixels = sum(v.size[0] * v.size[1] for v in workspace.views.values())
    pycolmap.stereo_fusion(
        part,
        workspace.folder,
        input_type="geometric",
        output_type="PLY",
        options=pycolmap.StereoFusionOptions(
            min_num_pixels=options.min_num_pixels,
            max_reproj_error=options.max_reproj_error,
            max_depth_error=options.max_depth_error,
            max_normal_error=options.max_normal_error,
            num_threads=1 if len(workspace.views) <= SMALL_COLLECTION else -1,
            use_cache=20 * pixels > FUSION_CACHE * 2**30,
            cache_size=FUSION_CACHE,
        ),
    )
    try:
        num_vertices(part)
    except ValueError as error:
        raise DiskFull(f"{target}: the disk is full; free some space and run again.") from error
    if num_vertices(part) == 0:
        logger.warning("%s: no pixel is seen alike often enough; the cloud is empty.", target)
    part.replace(target)
    if visibility.is_file():
        visibility.replace(f"{target}.vis")
    return target


def make_mesh(options: MeshOptions, folder: Path) -> Path:
    """Make `mesh.ply`, a surface through a workspace's cloud, by Poisson reconstruction.

    It runs in a process of its own: on some clouds it crashes.

    Raises:
        ModelError: if the cloud has too few points, or no surface was found.
    """
    cloud, target = Outputs(folder).cloud, Outputs(folder).mesh
    if (count := num_vertices(cloud)) < MIN_MESH_POINTS:
        raise ModelError(f"{cloud}: {count} points are too few for a mesh; see the depth maps.")
    part = target.with_name(f"{target.stem}.writing.ply")
    part.unlink(missing_ok=True)  # or whatever a link there leads to would be written
    # More threads than OMP_NUM_THREADS allows wait for each other: tenfold the time.
    threads = torch.get_num_threads()
    arguments = [str(v) for v in (cloud, part, options.depth, options.trim, threads)]
    command = [sys.executable, "-m", MESH_PROGRAM, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not part.is_file():
        raise ModelError(f"{cloud}: no mesh could be made of its points; lower trim or depth.")
    part.replace(target)
    return target
