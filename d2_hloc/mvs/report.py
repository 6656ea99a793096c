"""Report of dense stereo: a table, the cloud, depth maps."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import matplotlib
import numpy as np
import plotly.graph_objects as go
from PIL import Image

from d2_hloc.files.colmap import read_model
from d2_hloc.files.outputs import Outputs
from d2_hloc.mvs.cloud import read_coloured_cloud
from d2_hloc.mvs.map_files import read_stereo_map
from d2_hloc.mvs.statistics import DenseStatistics
from d2_hloc.reports.model_figure import model_figure
from d2_hloc.reports.page import Report
from d2_hloc.reports.terminal import print_table
from d2_hloc.sfm.pose_errors import centre, model_poses

SHOWN_POINTS = 60_000  # of a dense cloud
SHOWN_MAPS = 6


def report_dense(found: DenseStatistics, folder: Path) -> None:
    """Print the statistics of a workspace that was fused, and write its report."""
    print_table(dense_rows(found))
    report = Report("Dense stereo", subtitle=str(folder))
    add_dense(report, found, folder)
    print(f"\n{report.write(Outputs(folder).report)}")


def dense_rows(found: DenseStatistics) -> list[tuple[str, float | str]]:
    """Names and values of the statistics; a dash where there was nothing to compare."""
    return [(k.replace("_", " "), "-" if v is None else v) for k, v in asdict(found).items()]


def add_dense(report: Report, found: DenseStatistics, folder: Path) -> None:
    """Add the statistics, the dense cloud, thinned, and a few depth maps to a report."""
    outputs = Outputs(folder)
    report.table("Dense stereo", dense_rows(found), columns=("", "value"))
    report.figure("The dense cloud", *cloud_figure(outputs))
    maps = sorted(outputs.depth_maps.rglob("*.geometric.bin"))
    pictures = [
        (draw_depth(read_stereo_map(path)), path.name.removesuffix(".geometric.bin"))
        for path in maps[:: max(1, len(maps) // SHOWN_MAPS)]
    ]
    if pictures:
        report.picture("Depth maps", pictures)


def cloud_figure(outputs: Outputs) -> tuple[go.Figure, str]:
    """Figure of the dense cloud, thinned, with the model's cameras, and a note about it."""
    xyz, rgb = read_coloured_cloud(outputs.cloud)
    step = max(1, len(xyz) // SHOWN_POINTS)
    poses = model_poses(read_model(outputs.sparse))
    figure = model_figure(
        xyz[::step],
        rgb[::step],
        np.array([centre(p) for p in poses.values()]).reshape(-1, 3),
        np.array([p.rotation.matrix() for p in poses.values()]).reshape(-1, 3, 3),
        list(poses),
    )
    return figure, f"One point in {step} is shown."


def draw_depth(depth: np.ndarray) -> Image.Image:
    """Picture of a depth map: near is bright, far is dark, black has no depth."""
    known = depth > 0
    shade = np.zeros(depth.shape)
    if known.any():
        near, far = np.percentile(1 / depth[known], [98, 2])
        inverse = 1 / np.where(known, depth, 1)
        shade = np.clip((inverse - far) / max(near - far, 1e-9), 0, 1)
    colours = matplotlib.colormaps["viridis"](shade)[:, :, :3] * known[:, :, None]
    return Image.fromarray((255 * colours).astype(np.uint8))
