"""What dense stereo made: a table, the cloud, depth maps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from d2_hloc.files.colmap import read_model
from d2_hloc.mvs.map_files import read_map
from d2_hloc.mvs.statistics import DenseStatistics, read_coloured_cloud
from d2_hloc.reports.model_figure import model_figure
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm.pose_errors import centre, model_poses

SHOWN_POINTS = 60_000  # of a dense cloud
SHOWN_MAPS = 6
Scores = Mapping[str, float | None]


def present_dense(found: DenseStatistics, folder: Path) -> None:
    """Print and report a workspace that was fused."""
    scores = asdict(found)
    print_table(dense_rows(scores))
    report = Report("Dense stereo", subtitle=str(folder))
    add_dense(report, scores, folder)
    report.write(folder / "report.html")
    print(f"\n{folder / 'report.html'}")


def dense_rows(scores: Scores) -> list[tuple[str, float | str]]:
    """Statistics to read."""
    return [(k.replace("_", " "), "-" if v is None else v) for k, v in scores.items()]


def add_dense(report: Report, scores: Scores, folder: Path) -> None:
    """Statistics, the dense cloud, thinned, and a few depth maps."""
    report.table("Dense stereo", dense_rows(scores), columns=("", "value"))
    xyz, rgb = read_coloured_cloud(folder / "fused.ply")
    step = max(1, len(xyz) // SHOWN_POINTS)
    poses = model_poses(read_model(folder / "sparse"))
    figure = model_figure(
        xyz[::step],
        rgb[::step],
        np.array([centre(p) for p in poses.values()]).reshape(-1, 3),
        np.array([p.rotation.matrix() for p in poses.values()]).reshape(-1, 3, 3),
        list(poses),
        set(),
    )
    report.figure("The dense cloud", figure, note=f"One point in {step} is shown.")
    maps = sorted((folder / "stereo" / "depth_maps").rglob("*.geometric.bin"))
    pictures = [
        (draw_depth(read_map(path)), path.name.removesuffix(".geometric.bin"))
        for path in maps[:: max(1, len(maps) // SHOWN_MAPS)]
    ]
    if pictures:
        report.picture("Depth maps", pictures)


def draw_depth(depth: np.ndarray) -> Image.Image:
    """Near is bright, far is dark, black has no depth."""
    known = depth > 0
    shade = np.zeros(depth.shape)
    if known.any():
        near, far = np.percentile(1 / depth[known], [98, 2])
        inverse = 1 / np.where(known, depth, 1)
        shade = np.clip((inverse - far) / max(near - far, 1e-9), 0, 1)
    colours = matplotlib.colormaps["viridis"](shade)[:, :, :3] * known[:, :, None]
    return Image.fromarray((255 * colours).astype(np.uint8))
